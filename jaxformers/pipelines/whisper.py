"""What Whisper makes of sounds of any length: one 30 seconds after the other, or overlapping pieces, each written by itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxformers.errors import InputError
from jaxformers.generate.longform import transcribe_long
from jaxformers.pipelines.audio import reader
from jaxformers.pipelines.base import HOST, Batch, Pipeline, Preprocess, Row, fetch
from jaxformers.pipelines.generation import with_defaults
from jaxformers.pipelines.inputs import Parts
from jaxformers.pipelines.phrases import Piece, Story
from jaxformers.preprocess.feature_extractors import WhisperFeatureExtractor

DEFAULTS = {"max_new_tokens": 256, "num_beams": 5}  # where neither caller nor model says, as transformers has it


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


def strides(chunk_length_s: float, stride_length_s: Any, rate: int, unit: int) -> tuple[int, int, int]:
    """The samples of a piece and of its strides, multiples of `unit`."""
    stride = chunk_length_s / 6 if stride_length_s is None else stride_length_s
    both = (stride, stride) if isinstance(stride, int | float) else tuple(stride)
    size, left, right = (round(seconds * rate / unit) * unit for seconds in (chunk_length_s, *both))
    if size <= left + right:
        raise InputError(
            f"chunk_length_s ({chunk_length_s}) must be longer than both strides ({both[0]} and {both[1]})"
        )
    return size, left, right


def whisper(parts: Parts) -> Pipeline:
    """Whisper; see `speech.automatic_speech_recognition`.

    Options of a call: `language`, `task` ("transcribe" or "translate"), `return_timestamps` (True: when each phrase begins and
    ends, "word": when each word does), `return_language`, `chunk_length_s` and `stride_length_s` for overlapping pieces (of at
    most 30 seconds) that are written side by side, where else one is written after the other, and `generate_kwargs`: options of
    `generate.longform.transcribe_long` and of `jf.generate`.
    """
    model, extractor, tokenizer = parts.model, parts.feature_extractor, parts.tokenizer
    assert isinstance(extractor, WhisperFeatureExtractor)
    rate, whole = extractor.sampling_rate, model.config.frames

    def encode(
        items: list[np.ndarray],
        *,
        chunk_length_s: float = 0,
        stride_length_s: float | tuple[float, float] | None = None,
    ) -> tuple[list[Row], dict[str, Any]]:
        if chunk_length_s * rate > extractor.n_samples:
            raise InputError(
                f"this model hears {extractor.n_samples / rate:g} seconds at a time, found chunk_length_s {chunk_length_s}"
            )
        rows, pieces = [], []
        for number, wave in enumerate(items):
            places = [(0, len(wave), 0, 0)]
            if chunk_length_s:
                places = pieces_of(len(wave), *strides(chunk_length_s, stride_length_s, rate, 1))
            for start, end, left, right in places:
                longer: Any = {"truncation": False, "padding": "longest"} if end - start > extractor.n_samples else {}
                heard = extractor.batch([wave[start:end]], return_attention_mask=True, **longer)
                # The mask comes first: by the length of what comes first rows are sorted.
                rows.append({"heard": heard["attention_mask"][0], "input_features": heard["input_features"][0]})
                stride = ((end - start) / rate, left / rate, right / rate) if chunk_length_s else None
                pieces.append((number, stride))
        return rows, {"pieces": pieces, "sounds": len(items)}

    def collate(rows: list[Row]) -> Batch:
        most = max((row["input_features"].shape[1] for row in rows), default=whole)
        features = np.zeros((len(rows), model.config.num_mel_bins, most), np.float32)
        for line, row in zip(features, rows, strict=True):
            line[:, : row["input_features"].shape[1]] = row["input_features"]
        counts = {
            "frames": [row["input_features"].shape[1] for row in rows],
            "heard": [int(row["heard"].sum()) for row in rows],
        }
        return {"input_features": features, **{name: np.array(each, np.int32) for name, each in counts.items()}}

    def forward(
        batch: Batch, *, language: str | None = None, task: str | None = None, return_timestamps: bool | str = False,
        generate_kwargs: Mapping[str, Any] | None = None,
    ) -> Batch:  # fmt: skip
        if return_timestamps not in (False, None, True, "word"):
            raise InputError(f"return_timestamps of Whisper must be True, False or 'word', found {return_timestamps!r}")
        named = {"language": language, "task": task, **(generate_kwargs or {})}
        options = with_defaults(model, named, DEFAULTS, named.get("generation_config"))
        found = transcribe_long(
            model, batch["input_features"], batch["frames"], heard=batch["heard"],
            return_timestamps=True if return_timestamps else None, return_token_timestamps=return_timestamps == "word",
            **options,
        )  # fmt: skip
        known = {*(model.generation.get("lang_to_id") or {}).values()}
        rows = []
        for each in found:
            tokens = [token for segment in each.segments for token in segment.tokens.tolist()]
            times = [time for segment in each.segments for time in (segment.times if segment.times is not None else ())]
            spoken = [token for token in each.begin.tolist() if token in known]
            rows.append((tokens, times, spoken[0] if spoken else -1))
        longest = max((len(tokens) for tokens, *_ in rows), default=0)
        outputs: Batch = {
            "tokens": np.array([tokens + [-1] * (longest - len(tokens)) for tokens, *_ in rows], np.int32),
            "times": np.array([times + [0.0] * (longest - len(times)) for _, times, _ in rows]),
            "language": np.array([spoken for *_, spoken in rows], np.int32),
        }
        return {**outputs, HOST: batch[HOST]} if HOST in batch else outputs

    def postprocess(outputs: Batch, *, return_timestamps: bool | str = False, return_language: bool = False) -> Any:
        columns, host = fetch(outputs)
        without = model.generation.get("no_timestamps_token_id")
        first = len(tokenizer) if without is None else without + 1
        step = extractor.chunk_length / model.config.max_source_positions
        timed = return_timestamps or False
        stories = [Story(tokenizer, first, step, timed) for _ in range(host["sounds"])]
        for tokens, times, spoken, (number, stride) in zip(
            columns["tokens"], columns["times"], columns["language"], host["pieces"], strict=True
        ):
            ids = [token for token in np.asarray(tokens).tolist() if token >= 0]
            ends = np.asarray(times).tolist()[: len(ids)] if timed == "word" else None
            if return_language and spoken >= 0:
                ids, ends = [int(spoken), *ids], None if ends is None else [0.0, *ends]
            stories[number].read(Piece(ids, ends, stride))
        results: list[dict[str, Any]] = []
        for story in stories:
            text, chunks = story.told(return_language)
            results.append({"text": text, **({"chunks": chunks} if timed or return_language else {})})
        return results if host["given"] == "many" else results[0]

    return Pipeline(Preprocess(reader(extractor), encode, collate, parts.devices), forward, postprocess)
