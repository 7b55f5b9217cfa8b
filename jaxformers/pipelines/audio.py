"""The pipelines of sound: what it is (audio-classification), and a text said aloud (text-to-speech).

What is said in it (automatic-speech-recognition) is in `pipelines.speech`, which reads sounds as these do.

A sound is a path, an address, bytes, an array at the model's rate, or a dict with its rate (`preprocess.audio.read_audio`). Waves
are normalised one by one and padded to one of few lengths; what is computed does not depend on the padding.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxformers.checkpoints import load
from jaxformers.core.params import Tree
from jaxformers.data.buckets import bucket_for
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.generate.voice import generate_speech
from jaxformers.pipelines.base import HOST, Batch, Forward, Pipeline, Preprocess, Row, fetch
from jaxformers.pipelines.inputs import WHOLE, Parts, as_float32, batched, read_one_text, rows_of
from jaxformers.pipelines.text import scores_of
from jaxformers.preprocess.audio import read_audio
from jaxformers.preprocess.feature_extractors import (
    FeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    must_be_seen,
)

# The lengths batches are padded to; each is a program.
SECONDS = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, *(1 << n for n in range(7, 16)))
BATCH_SECONDS = 64.0  # that a batch has at most, so that its convolutions fit into memory


def reader(extractor: FeatureExtractor) -> Any:
    def read(value: Any, where: str) -> np.ndarray:
        return read_audio(value, extractor.sampling_rate, where)

    return read


def _slots(samples: int, rate: int) -> int:
    """The samples that a batch is padded to whose longest wave has so many."""
    return bucket_for(samples, [int(seconds * rate) for seconds in SECONDS])


def read_waves(parts: Parts, encode: Any) -> Preprocess:
    """A first stage whose rows are waves."""
    extractor = parts.feature_extractor

    def collate(rows: list[Row]) -> Batch:
        lengths = [len(row["input_values"]) for row in rows]
        slots = _slots(max(lengths, default=1), extractor.sampling_rate)
        values = np.zeros((len(rows), slots), np.float32)
        for line, row in zip(values, rows, strict=True):
            line[: len(row["input_values"])] = row["input_values"]
        return {
            "input_values": values,
            "attention_mask": (np.arange(slots)[None] < np.array(lengths)[:, None]).astype(np.int32),
        }

    def most_rows(samples: int) -> int:
        return max(1, int(BATCH_SECONDS * extractor.sampling_rate) // _slots(samples, extractor.sampling_rate))

    return Preprocess(reader(extractor), encode, collate, parts.devices, most_rows=most_rows)


def wave_row(extractor: FeatureExtractor, wave: np.ndarray) -> Row:
    return {"input_values": extractor.batch([wave])["input_values"][0]}


def _spectrum_key(parts: Parts) -> str:
    return "input_features" if isinstance(parts.feature_extractor, WhisperFeatureExtractor) else "input_values"


def read_spectra(parts: Parts, encode: Any) -> Preprocess:
    """A first stage whose rows are spectra of one size."""
    key = _spectrum_key(parts)

    def collate(rows: list[Row]) -> Batch:
        return {key: np.stack([row[key] for row in rows]) if rows else np.zeros((0, 0, 0), np.float32)}

    return Preprocess(reader(parts.feature_extractor), encode, collate, parts.devices)


# -- what it is --------------------------------------------------------------------------------------------------------


def audio_classification(parts: Parts) -> Pipeline:
    """Which class a sound belongs to: for each a list of `{"score", "label"}`, the likeliest first.

    A classifier of images of one channel sees the spectrum that the feature extractor makes.

    Options of a call: `top_k` (5; None means all labels), `function_to_apply` ("softmax", "sigmoid" or "none"; by default what
    the model's problem asks for).
    """
    model, extractor = parts.model, parts.feature_extractor
    waves, seen = isinstance(extractor, Wav2Vec2FeatureExtractor), "pixel_values" in model.inputs
    key = _spectrum_key(parts)
    if seen:
        must_be_seen(extractor)

    def encode(items: list[np.ndarray]) -> tuple[list[Row], dict[str, Any]]:
        if waves:
            return [wave_row(extractor, item) for item in items], {}
        return [{key: extractor.batch([item])[key][0]} for item in items], {}

    def compute(params: Tree, batch: Batch) -> Batch:
        more: dict[str, Any] = {"norm_padding": False} if waves else {}
        if seen:
            batch = {"pixel_values": batch[key][..., None]}
        return {"logits": as_float32(model.apply(params, execution=WHOLE, **batch, **more).logits)}

    def postprocess(outputs: Batch, *, top_k: int | None = 5, function_to_apply: str | None = None) -> Any:
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise InputError(f"top_k must be a positive int, or None for all labels, found {top_k!r}")
        columns, host = fetch(outputs)
        usual = {"regression": "none", "multi_label_classification": "sigmoid"}
        function = function_to_apply or usual.get(model.config.problem_type, "softmax")
        results = []
        for scores in scores_of(columns["logits"], function):
            order = np.argsort(-scores, kind="stable")[:top_k]
            results.append([{"score": float(scores[i]), "label": model.config.labels[i]} for i in order])
        return results if host["given"] == "many" else results[0]

    return Pipeline(
        (read_waves if waves else read_spectra)(parts, encode), Forward(model, compute, parts.mesh), postprocess
    )


# -- what is to be said ------------------------------------------------------------------------------------------------

VOCODER = "microsoft/speecht5_hifigan"  # where none is given


def text_to_speech(parts: Parts, vocoder: str | os.PathLike[str] | Model | None = None) -> Pipeline:
    """A text said aloud: `{"audio": float32 [samples], "sampling_rate"}`; `preprocess.audio.write_wav` writes it.

    Args:
      parts: the model and its tokenizer.
      vocoder: a folder, a hub id or a `Model`, which makes waves of spectra; the usual one of the hub by default.

    Options of a call: `speaker_embeddings` (who speaks, which SpeechT5 needs: `speaker_embedding_dim` numbers), `threshold`,
    `minlenratio`, `maxlenratio` and `rng` of `generate.voice.generate_speech`; or these in a dict, `forward_params`.
    """
    model, tokenizer = parts.model, parts.tokenizer
    voice = vocoder if isinstance(vocoder, Model) else load(VOCODER if vocoder is None else vocoder)

    def encode(items: list[str]) -> tuple[list[Row], dict[str, Any]]:
        return rows_of(parts, tokenizer(items, return_attention_mask=True)) if items else [], {}

    def forward(
        batch: Batch, *, speaker_embeddings: Any = None, threshold: float = 0.5, minlenratio: float = 0.0,
        maxlenratio: float = 20.0, rng: Any = None, forward_params: Mapping[str, Any] | None = None,
    ) -> Batch:  # fmt: skip
        named = {"speaker_embeddings": speaker_embeddings, "threshold": threshold, "minlenratio": minlenratio,
                 "maxlenratio": maxlenratio, "rng": rng, **(forward_params or {})}  # fmt: skip
        who = named["speaker_embeddings"]
        if who is None:
            raise InputError("say who is to speak: give speaker_embeddings, an x-vector of that voice")
        named["speaker_embeddings"] = np.atleast_2d(np.asarray(who, np.float32))
        found = generate_speech(model, batch["input_ids"], batch["attention_mask"], vocoder=voice, **named)
        outputs: Batch = {"audio": found.waveform, "samples": found.waveform_lengths}
        return {**outputs, HOST: batch[HOST]} if HOST in batch else outputs

    def postprocess(outputs: Batch) -> Any:
        columns, host = fetch(outputs)
        rate = voice.config.sampling_rate
        results = [
            {"audio": np.asarray(wave)[: int(samples)], "sampling_rate": rate}
            for wave, samples in zip(columns["audio"], columns["samples"], strict=True)
        ]
        return results if host["given"] == "many" else results[0]

    return Pipeline(batched(parts, parts.max_length, read_one_text, encode), forward, postprocess)
