"""The pipelines of sound: what it is (audio-classification), and what is said in it (automatic-speech-recognition).

A sound is a path, an address, bytes, an array at the model's rate, or a dict with its rate (`preprocess.audio.read_audio`). Waves
are normalised one by one and padded to one of few lengths; what is computed does not depend on the padding.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.generate import speech
from jaxformers.pipelines.base import HOST, Batch, Forward, Pipeline, Preprocess, Row, fetch
from jaxformers.pipelines.inputs import WHOLE, Parts, as_float32
from jaxformers.pipelines.text import scores_of
from jaxformers.preprocess.audio import read_audio
from jaxformers.preprocess.feature_extractors import FeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

# lengths of batches; then multiples of the last
SECONDS = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
BATCH_SECONDS = 64.0  # that a batch has at most, so that its convolutions fit into memory


def _reader(extractor: FeatureExtractor) -> Any:
    def read(value: Any, where: str) -> np.ndarray:
        return read_audio(value, extractor.sampling_rate, where)

    return read


def _slots(samples: int, rate: int) -> int:
    """The samples that a batch is padded to whose longest wave has so many."""
    for seconds in SECONDS:
        if samples <= seconds * rate:
            return int(seconds * rate)
    return math.ceil(samples / (SECONDS[-1] * rate)) * int(SECONDS[-1] * rate)


def _waves(parts: Parts, encode: Any) -> Preprocess:
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

    return Preprocess(_reader(extractor), encode, collate, parts.devices, most_rows=most_rows)


def _wave_row(extractor: FeatureExtractor, wave: np.ndarray) -> Row:
    return {"input_values": extractor.batch([wave])["input_values"][0]}


def _spectrum_key(parts: Parts) -> str:
    return "input_features" if "input_features" in parts.model.family.inputs else "input_values"


def _spectra(parts: Parts, encode: Any) -> Preprocess:
    """A first stage whose rows are spectra of one size."""
    key = _spectrum_key(parts)

    def collate(rows: list[Row]) -> Batch:
        return {key: np.stack([row[key] for row in rows]) if rows else np.zeros((0, 0, 0), np.float32)}

    return Preprocess(_reader(parts.feature_extractor), encode, collate, parts.devices)


# -- what it is --------------------------------------------------------------------------------------------------------


def audio_classification(parts: Parts) -> Pipeline:
    """Which class a sound belongs to: for each a list of `{"score", "label"}`, the likeliest first.

    Options of a call: `top_k` (5; None means all labels), `function_to_apply` ("softmax", "sigmoid" or "none"; by default what
    the model's problem asks for).
    """
    model, extractor = parts.model, parts.feature_extractor
    waves, key = isinstance(extractor, Wav2Vec2FeatureExtractor), _spectrum_key(parts)

    def encode(items: list[np.ndarray]) -> tuple[list[Row], dict[str, Any]]:
        if waves:
            return [_wave_row(extractor, item) for item in items], {}
        return [{key: extractor.batch([item])[key][0]} for item in items], {}

    def compute(params: Tree, batch: Batch) -> Batch:
        more: dict[str, Any] = {"norm_padding": False} if waves else {}
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

    return Pipeline((_waves if waves else _spectra)(parts, encode), Forward(model, compute, parts.mesh), postprocess)


# -- what is said ------------------------------------------------------------------------------------------------------


def automatic_speech_recognition(parts: Parts) -> Pipeline:
    """What is said: `{"text"}`, and with `return_timestamps` "chunks" of `{"text", "timestamp": (start, end)}` in seconds.

    A model with the head `ctc` says a letter a frame; options of a call are then `return_timestamps` ("char" or "word"), and
    `chunk_length_s` with `stride_length_s` (one number, or left and right; a sixth by default): long sounds are heard in
    overlapping pieces, of which the strides are left out. Whisper hears pieces of 30 seconds: see `_whisper`.
    """
    return _whisper(parts) if parts.model.head == "speech-seq2seq" else _ctc(parts)


def pieces_of(samples: int, size: int, left: int, right: int) -> list[tuple[int, int, int, int]]:
    """Where overlapping pieces of a sound stand: (start, end, samples left out at the start, at the end).

    >>> pieces_of(10, 6, 1, 1)
    [(0, 6, 0, 1), (4, 10, 1, 0)]
    """
    found = []
    for start in range(0, samples, size - left - right):
        last = start + size >= samples
        end, before = min(start + size, samples), 0 if start == 0 else left
        if end - start > before:
            found.append((start, end, before, 0 if last else right))
        if last:
            break
    return found


def _strides(chunk_length_s: float, stride_length_s: Any, rate: int, unit: int) -> tuple[int, int, int]:
    """The samples of a piece and of its strides, multiples of `unit`."""
    stride = chunk_length_s / 6 if stride_length_s is None else stride_length_s
    both = (stride, stride) if isinstance(stride, int | float) else tuple(stride)
    size, left, right = (round(seconds * rate / unit) * unit for seconds in (chunk_length_s, *both))
    if size <= left + right:
        raise InputError(
            f"chunk_length_s ({chunk_length_s}) must be longer than both strides ({both[0]} and {both[1]})"
        )
    return size, left, right


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
                places = pieces_of(len(wave), *_strides(chunk_length_s, stride_length_s, rate, unit))
                places = [place for place in places if config.frames(place[1] - place[0]) > 0]
            for start, end, left, right in places:
                rows.append(_wave_row(extractor, wave[start:end]))
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

    return Pipeline(_waves(parts, encode), Forward(model, compute, parts.mesh), postprocess)


def _whisper(parts: Parts) -> Pipeline:
    """Whisper: pieces of at most 30 seconds, each written by itself, and joined where two say the same.

    Options of a call: `language`, `task` ("transcribe" or "translate"), `return_timestamps` (True: when each phrase begins and
    ends), `chunk_length_s` (30) and `stride_length_s` for longer sounds, and `generate_kwargs`, options of `jf.generate`.
    """
    model, extractor, tokenizer = parts.model, parts.feature_extractor, parts.tokenizer
    assert isinstance(extractor, WhisperFeatureExtractor)
    rate = extractor.sampling_rate

    def encode(
        items: list[np.ndarray],
        *,
        chunk_length_s: float = 0,
        stride_length_s: float | tuple[float, float] | None = None,
    ) -> tuple[list[Row], dict[str, Any]]:
        longest = extractor.n_samples
        if chunk_length_s * rate > longest:
            raise InputError(
                f"this model hears {longest / rate:g} seconds at a time, found chunk_length_s {chunk_length_s}"
            )
        rows, pieces = [], []
        for number, wave in enumerate(items):
            places = [(0, len(wave), 0, 0)]
            if chunk_length_s or len(wave) > longest:
                size, left, right = _strides(chunk_length_s or longest / rate, stride_length_s, rate, 1)
                places = pieces_of(len(wave), size, left, right)
            for start, end, left, right in places:
                rows.append({"input_features": extractor.batch([wave[start:end]])["input_features"][0]})
                pieces.append((number, start / rate, (end - start) / rate, left / rate, right / rate))
        return rows, {"pieces": pieces, "sounds": len(items)}

    def forward(
        batch: Batch, *, language: str | None = None, task: str | None = None, return_timestamps: bool = False,
        generate_kwargs: Mapping[str, Any] | None = None,
    ) -> Batch:  # fmt: skip
        if not isinstance(return_timestamps, bool):
            raise InputError(f"return_timestamps of Whisper must be True or False, found {return_timestamps!r}")
        named = {"language": language, "task": task, **(generate_kwargs or {})}
        limits = {"max_new_tokens", "max_length"} & {*named, *model.generation}
        if not limits and "generation_config" not in named:
            named["max_length"] = model.config.max_position_embeddings
        found = speech.transcribe(model, batch["input_features"], return_timestamps=return_timestamps, **named)
        outputs: Batch = {"tokens": found.sequences}
        return {**outputs, HOST: batch[HOST]} if HOST in batch else outputs

    def postprocess(outputs: Batch, *, return_timestamps: bool = False) -> Any:
        columns, host = fetch(outputs)
        special, first = {*tokenizer.all_special_ids}, model.generation.get("no_timestamps_token_id")
        first = len(tokenizer) if first is None else first + 1
        step = extractor.chunk_length / model.config.max_source_positions
        said: list[list[int]] = [[] for _ in range(host["sounds"])]
        phrases: list[list[dict[str, Any]]] = [[] for _ in range(host["sounds"])]
        for tokens, (number, start, length, left, right) in zip(columns["tokens"], host["pieces"], strict=True):
            ids = [int(token) for token in tokens]
            words = [token for token in ids if token not in special and token < first]
            said[number] = joined(said[number], words)
            for phrase, begin, end in spoken(ids, special, first, step):
                middle = (begin + (length if end is None else end)) / 2
                if not return_timestamps or middle < left or (right and middle >= length - right):
                    continue  # of a stride, which the neighbour hears better
                until = None if end is None else start + end
                phrases[number].append({"text": tokenizer.decode(phrase), "timestamp": (start + begin, until)})
        results: list[dict[str, Any]] = []
        for ids, chunks in zip(said, phrases, strict=True):
            whole = "".join(chunk["text"] for chunk in chunks) if return_timestamps else tokenizer.decode(ids)
            results.append({"text": whole, **({"chunks": chunks} if return_timestamps else {})})
        return results if host["given"] == "many" else results[0]

    return Pipeline(_spectra(parts, encode), forward, postprocess)


def joined(before: list[int], after: list[int]) -> list[int]:
    """Two rows of tokens whose ends say the same, as one: by the overlap of which the largest share agrees, at least two tokens.

    >>> joined([1, 2, 3, 4], [3, 4, 5])
    [1, 2, 3, 4, 5]
    """
    best, overlap = 0.0, 0
    for size in range(1, min(len(before), len(after)) + 1):
        same = sum(a == b for a, b in zip(before[-size:], after[:size], strict=True))
        share = same / size + size / 10000  # of two that agree as well, the longer
        if same > 1 and share > best:
            best, overlap = share, size
    return before + after[overlap:]


def spoken(ids: list[int], special: set[int], first: int, step: float) -> list[tuple[list[int], float, float | None]]:
    """The phrases between the tokens of times: (tokens, when it begins, when it ends or None), in seconds of the piece.

    Args:
      ids: what was written.
      special: tokens that say nothing.
      first: the token of the time 0; those that follow it count in steps.
      step: seconds.
    """
    found: list[tuple[list[int], float, float | None]] = []
    begin, words = 0.0, list[int]()
    for token in ids:
        if token >= first:
            at = (token - first) * step
            if words:
                found.append((words, begin, at))
            begin, words = at, []
        elif token not in special:
            words.append(token)
    return [*found, (words, begin, None)] if words else found
