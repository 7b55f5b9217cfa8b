"""The pipeline of what is said (automatic-speech-recognition): by letters of frames (CTC), or by a model that writes.

Sounds are read and batched as in `pipelines.audio`; what Whisper needs beside that is in `pipelines.whisper`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.generate import generate
from jaxformers.generate.run import perceive
from jaxformers.pipelines.audio import read_waves, wave_row
from jaxformers.pipelines.base import HOST, Batch, Forward, Pipeline, Row, fetch
from jaxformers.pipelines.generation import with_defaults
from jaxformers.pipelines.inputs import WHOLE, Parts
from jaxformers.pipelines.whisper import pieces_of, strides, whisper
from jaxformers.preprocess.feature_extractors import WhisperFeatureExtractor

DEFAULTS = {"max_new_tokens": 256, "num_beams": 5}  # where neither caller nor model says, as transformers has it


def automatic_speech_recognition(parts: Parts) -> Pipeline:
    """What is said: `{"text"}`, and with `return_timestamps` "chunks" of `{"text", "timestamp": (start, end)}` in seconds.

    A model with the head `ctc` says a letter a frame; options of a call are then `return_timestamps` ("char" or "word"), and
    `chunk_length_s` with `stride_length_s` (one number, or left and right; a sixth by default): long sounds are heard in
    overlapping pieces, of which the strides are left out. What Whisper can: `pipelines.whisper`; other models that write
    (SpeechT5) take `generate_kwargs`, options of `jf.generate`.
    """
    if parts.model.head == "ctc":
        return _ctc(parts)
    return whisper(parts) if isinstance(parts.feature_extractor, WhisperFeatureExtractor) else _written(parts)


def _ctc(parts: Parts) -> Pipeline:
    model, extractor, tokenizer = parts.model, parts.feature_extractor, parts.tokenizer
    config, rate = model.config, extractor.sampling_rate
    unit = config.samples_a_frame

    def encode(
        items: list[np.ndarray],
        *,
        chunk_length_s: float = 0,
        stride_length_s: float | tuple[float, float] | None = None,
    ) -> tuple[list[Row], dict[str, Any]]:
        rows, pieces = [], []
        for number, wave in enumerate(items):
            if config.frames(len(wave)) < 1:
                raise InputError(f"sound {number} has {len(wave)} samples, too few for a single frame of this model")
            places = [(0, len(wave), 0, 0)]
            if chunk_length_s:
                places = pieces_of(len(wave), *strides(chunk_length_s, stride_length_s, rate, unit))
                places = [place for place in places if config.frames(place[1] - place[0]) > 0]
            for start, end, left, right in places:
                rows.append(wave_row(extractor, wave[start:end]))
                pieces.append((number, end - start, left, right))
        return rows, {"pieces": pieces, "sounds": len(items), "cut": bool(chunk_length_s)}

    def compute(params: Tree, batch: Batch) -> Batch:
        output = model.apply(params, execution=WHOLE, norm_padding=False, **batch)
        assert output.logits is not None
        return {"tokens": output.logits.argmax(-1)}

    def postprocess(outputs: Batch, *, return_timestamps: str | bool = False) -> Any:
        if return_timestamps not in (False, None, "char", "word"):
            raise InputError(
                f"return_timestamps of a model with CTC must be 'char' or 'word', found {return_timestamps!r}"
            )
        columns, host = fetch(outputs)
        said: list[list[int]] = [[] for _ in range(host["sounds"])]
        for tokens, (number, samples, left, right) in zip(columns["tokens"], host["pieces"], strict=True):
            frames, first = config.frames(samples), 0
            if host["cut"]:  # as transformers counts, by the share of samples
                total = round(samples / unit)
                first, frames = round(left / samples * total), min(frames, total - round(right / samples * total))
            said[number] += np.asarray(tokens)[first:frames].tolist()
        results: list[dict[str, Any]] = []
        for ids in said:
            if not return_timestamps:
                results.append({"text": tokenizer.decode(ids)})
                continue
            found: Any = tokenizer.decode(ids, **{"output_char_offsets": True, "output_word_offsets": True})
            offsets = found.char_offsets if return_timestamps == "char" else found.word_offsets
            chunks = [
                {
                    "text": each[return_timestamps],
                    "timestamp": (each["start_offset"] * unit / rate, each["end_offset"] * unit / rate),
                }
                for each in offsets
            ]
            results.append({"text": found.text, "chunks": chunks})
        return results if host["given"] == "many" else results[0]

    return Pipeline(read_waves(parts, encode), Forward(model, compute, parts.mesh), postprocess)


def _written(parts: Parts) -> Pipeline:
    model, tokenizer = parts.model, parts.tokenizer

    def encode(items: list[np.ndarray]) -> tuple[list[Row], dict[str, Any]]:
        return [wave_row(parts.feature_extractor, wave) for wave in items], {}

    def forward(batch: Batch, *, generate_kwargs: Mapping[str, Any] | None = None) -> Batch:
        mask = batch["attention_mask"]
        states = perceive(model, batch["input_values"], mask, norm_padding=False)  # as each sound alone would be heard
        named = dict(generate_kwargs or {})
        options = with_defaults(model, named, DEFAULTS, named.get("generation_config"))
        outputs: Batch = {"tokens": generate(model, None, mask, encoder_outputs=states, **options).sequences}
        return {**outputs, HOST: batch[HOST]} if HOST in batch else outputs

    def postprocess(outputs: Batch) -> Any:
        columns, host = fetch(outputs)
        texts = [tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True) for ids in columns["tokens"]]
        results = [{"text": text} for text in texts]
        return results if host["given"] == "many" else results[0]

    return Pipeline(read_waves(parts, encode), forward, postprocess)
