"""What Whisper writes of sounds of any length (Radford et al. 2022): 30 seconds at a time, each from where the last times end.

What is unlikely, or repeats itself, is written again at a higher temperature; what is no speech is left out. How a text begins
is `generate.speech`'s, when a token was said is `generate.alignment`'s.
"""

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.generate import GenerateOutput, generate
from jaxformers.generate.alignment import STEP, token_times
from jaxformers.generate.config import config_for
from jaxformers.generate.run import perceive
from jaxformers.generate.speech import beginnings, chance_of, processors

STRIDE = 2  # frames of a spectrum for each of the encoder's states
CERTAIN = 0.5  # what was drawn at this temperature or a higher one is nothing to go on from


@dataclasses.dataclass(frozen=True)
class Segment:
    """A piece of what is said.

    Args:
      start, end: seconds of the sound.
      tokens: [T], what was written, with the tokens of times.
      times: [T], when each token ends, in seconds of the sound; None unless asked for.
    """

    start: float
    end: float
    tokens: np.ndarray
    times: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What is said in a sound.

    Args:
      begin: [P], what the text was told to begin with.
      segments: one after the other.
    """

    begin: np.ndarray
    segments: list[Segment]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is good enough; None asks for nothing.

    Args:
      logprob_threshold: the least mean log-probability of a token.
      compression_ratio_threshold: how much smaller zlib may make the tokens, at most.
      no_speech_threshold: how likely the token for no speech must be, where the former is not reached, to leave a piece out.
    """

    logprob_threshold: float | None = None
    compression_ratio_threshold: float | None = None
    no_speech_threshold: float | None = None


def transcribe_long(
    model: Model,
    input_features: Any,
    frames: Sequence[int] | None = None,
    *,
    heard: Sequence[int] | None = None,
    language: str | Sequence[str] | None = None,
    task: str | None = None,
    return_timestamps: bool | None = None,
    return_token_timestamps: bool = False,
    condition_on_prev_tokens: bool | None = None,
    temperature: float | Sequence[float] | None = 0.0,
    rng: jax.Array | int | None = None,
    **options: Any,
) -> list[Transcript]:
    """Writes what is said in sounds of any length.

    Args:
      model: Whisper with the head `speech-seq2seq`.
      input_features: spectra [B, bands, T], of at least 30 seconds.
      frames: [B], those of each that count; all by default.
      heard: [B], those that are of sound, for the times of tokens; as `frames` by default.
      language, task: as of `speech.transcribe`; a language that is not given is told by the first 30 seconds.
      return_timestamps: whether to write when phrases begin and end; sounds of more than 30 seconds need it, and get it.
      return_token_timestamps: also when each token was said, which needs `alignment_heads` in generation_config.json.
      condition_on_prev_tokens: whether what was written before is read again (half of the places at most).
      temperature: 0 takes the likeliest; of several, the next is taken where a piece is not good enough.
      rng: key (or seed) for what is drawn.
      **options: `logprob_threshold`, `compression_ratio_threshold`, `no_speech_threshold` (see `Limits`), and those of
        `jaxformers.generate`.

    Returns:
      A `Transcript` for each sound.

    Raises:
      InputError: a language, task or option that cannot be, or times of tokens by a model that does not know how.
    """
    said, config = {**model.generation}, model.config
    features = np.asarray(input_features)
    rows, whole = len(features), config.frames
    limits = np.asarray([features.shape[2]] * rows if frames is None else frames)
    sounding = limits if heard is None else np.asarray(heard)
    good = Limits(**{name: options.pop(name, said.get(name)) for name in Limits.__dataclass_fields__})
    times = (said.get("return_timestamps", False) if return_timestamps is None else return_timestamps) or (
        limits.max(initial=0) > whole
    )
    goes_on = (
        said.get("condition_on_prev_tokens", False) if condition_on_prev_tokens is None else condition_on_prev_tokens
    )
    heads = said.get("alignment_heads") or ()
    if return_token_timestamps and not heads:
        raise InputError("times of words need alignment_heads in generation_config.json, which has none")
    own = (*processors(model, said, bool(times)), *options.pop("logits_processor", ()))
    warmer: list[float] = [*temperature] if isinstance(temperature, Sequence) else [temperature or 0.0]
    key = jax.random.key(rng or 0) if rng is None or isinstance(rng, int) else rng

    if not rows:
        return []
    seek, found = np.zeros(rows, int), [list[Segment]() for _ in range(rows)]
    sure, begins = np.full(rows, bool(goes_on)), None
    while len(active := np.flatnonzero(seek < limits)):
        filled = np.resize(active, next(4**k for k in range(32) if 4**k >= len(active)))
        counts = np.minimum(limits - seek, whole)
        states = perceive(model, jnp.asarray(_pieces(features, filled, seek, counts, whole)))
        if begins is None:  # all sounds are there yet
            begins = beginnings(model, states[:rows], said, language, task, bool(times))
        before = [_before(found[row], said, config) if sure[row] else [] for row in filled]
        prompts, mask = _prompts(before, begins[filled], config.pad_token_id)
        left: list[int] = [*range(len(active))]
        chosen: dict[int, tuple[np.ndarray, bool]] = {}
        quiet = None
        for warmth in warmer:
            key, draw = jax.random.split(key)
            output, ends = _write(model, states, prompts, mask, own, warmth, draw, good, options)
            if good.no_speech_threshold is not None and quiet is None:
                quiet = chance_of(model, states, prompts, mask, prompts.shape[1] - begins.shape[1], _no_speech(said))
            again = []
            for place in left:
                sure[active[place]] = goes_on and warmth < CERTAIN
                if not _settled(output, place, ends, good, quiet, config, warmth, chosen):
                    again.append(place)
            left = again
            if not left:
                break
        for place, row in enumerate(active):
            tokens, skip = chosen[place]
            offset, count = seek[row] * STEP / STRIDE, int(counts[row])
            seek[row] += count
            if skip:
                continue
            moments = None
            if return_token_timestamps:
                states_1SD, real = states[place : place + 1], mask[place] != 0
                sound = int(sounding[row] - (seek[row] - count)) // STRIDE
                moments = token_times(model, states_1SD, prompts[place][real], tokens, heads, sound) + offset
            tokens = tokens[:-1] if len(tokens) and tokens[-1] in ends else tokens
            segments, used = _segments(tokens, moments, offset, count, _first_time(said, config))
            found[row] += segments
            seek[row] += max(used, STRIDE) - count
    assert begins is not None
    return [Transcript(begin, segments) for begin, segments in zip(begins, found, strict=True)]


def _pieces(features: np.ndarray, rows: np.ndarray, seek: np.ndarray, counts: np.ndarray, whole: int) -> np.ndarray:
    """The next 30 seconds of some rows, filled with zeros: [rows, bands, frames]."""
    pieces = np.zeros((len(rows), features.shape[1], whole), np.float32)
    for piece, row in zip(pieces, rows, strict=True):
        piece[:, : counts[row]] = features[row, :, seek[row] : seek[row] + counts[row]]
    return pieces


def _before(segments: list[Segment], said: Mapping[str, Any], config: Any) -> list[int]:
    """What was written before, as it is told to the model; of a pair of times at a segment's end the first alone."""
    first, tokens = _first_time(said, config), list[int]()
    for segment in segments:
        own = segment.tokens.tolist()
        tokens += own[:-1] if len(own) > 2 and own[-2] >= first else own
    if not tokens:
        return []
    start = said.get("prev_sot_token_id")
    if start is None:
        suppressed = [*(said.get("suppress_tokens") or ())]
        start = suppressed[-2] if len(suppressed) > 1 else None
    tokens = tokens[-(config.max_position_embeddings // 2 - 1) :]
    return tokens if start is None else [start, *tokens]


def _prompts(before: list[list[int]], begins: np.ndarray, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """What was written before and how a text begins, padded on the left, and the mask: [R, P]."""
    most = max(map(len, before))
    ids, mask = np.full((len(before), most), pad, np.int32), np.zeros((len(before), most), np.int32)
    for number, tokens in enumerate(before):
        if tokens:
            ids[number, most - len(tokens) :], mask[number, most - len(tokens) :] = tokens, 1
    return np.concatenate((ids, begins), 1), np.concatenate((mask, np.ones_like(begins)), 1)


def _write(
    model: Model, states: jax.Array, prompts: np.ndarray, mask: np.ndarray, own: tuple[Any, ...], warmth: float,
    key: jax.Array, good: Limits, options: Mapping[str, Any],
) -> tuple[GenerateOutput, tuple[int, ...]]:  # fmt: skip
    """Writes at a temperature; and the tokens that end a text."""
    named, places = dict(options), model.config.max_position_embeddings
    room, given = places - prompts.shape[1], prompts.shape[1]
    if warmth:
        named |= {"do_sample": True, "temperature": warmth, "num_beams": 1}
    own_config = named.pop("generation_config", None)
    config = config_for(model, own_config, named)
    longest = places if config.max_length is None else min(places, config.max_length + given)
    named["max_new_tokens"] = min(room, longest - given if config.max_new_tokens is None else config.max_new_tokens)
    named.pop("max_length", None)
    if room < 1:
        raise InputError(f"a text begins with {given} tokens, and this model has places for {places}")
    output = generate(
        model, encoder_outputs=states, decoder_input_ids=prompts, decoder_attention_mask=mask, logits_processor=own,
        rng=key, generation_config=own_config, **{**named, "output_scores": good.logprob_threshold is not None},
    )  # fmt: skip
    new = output.sequences[:, given:]
    return dataclasses.replace(output, sequences=new), config.eos_token_id or ()


def _settled(
    output: GenerateOutput, row: int, ends: tuple[int, ...], good: Limits, quiet: np.ndarray | None, config: Any,
    warmth: float, chosen: dict[int, tuple[np.ndarray, bool]],
) -> bool:  # fmt: skip
    """Notes what was written of a row (with its end), and whether it is left out; tells whether it is good enough."""
    tokens = output.sequences[row]
    over = np.flatnonzero(np.isin(tokens, ends))
    tokens = tokens[: over[0] + 1] if len(over) else tokens
    again = skip = False
    if good.compression_ratio_threshold is not None:
        again = _repetition(tokens, config.vocab_size) > good.compression_ratio_threshold
    if good.logprob_threshold is not None:
        unlikely = _mean_log_prob(output, row, tokens, warmth) < good.logprob_threshold
        again |= unlikely
        if quiet is not None and unlikely and quiet[row] > good.no_speech_threshold:
            again, skip = False, True
    chosen[row] = tokens, skip
    return not again


def _repetition(tokens: np.ndarray, vocabulary: int) -> float:
    """How much smaller zlib makes the tokens, written in as many bytes as the largest needs."""
    size = int(math.log2(vocabulary) / 8) + 1
    data = b"".join(int(token).to_bytes(size, "little") for token in tokens)
    return len(data) / len(zlib.compress(data))


def _mean_log_prob(output: GenerateOutput, row: int, tokens: np.ndarray, warmth: float) -> float:
    """Of a row's tokens, before the temperature."""
    assert output.scores is not None
    total = 0.0
    for step, token in enumerate(tokens[: len(output.scores)]):
        at = row if output.beam_indices is None else output.beam_indices[row, step]
        logits = output.scores[step][at].astype(np.float64) * (warmth or 1)
        peak = logits.max()
        total += logits[token] - peak - np.log(np.exp(logits - peak).sum())
    return total / max(1, len(tokens))


def _no_speech(said: Mapping[str, Any]) -> int:
    if said.get("no_timestamps_token_id") is None:
        raise InputError("no_speech_threshold needs no_timestamps_token_id in generation_config.json, which has none")
    return int(said["no_timestamps_token_id"]) - 1


def _first_time(said: Mapping[str, Any], config: Any) -> int:
    without = said.get("no_timestamps_token_id")
    return config.vocab_size + 1 if without is None else int(without) + 1


def _segments(
    tokens: np.ndarray, times: np.ndarray | None, offset: float, count: int, first: int
) -> tuple[list[Segment], int]:
    """What was written of a piece, cut where one phrase's end is the next one's beginning; and how many frames are done with.

    Args:
      tokens: [T], without the text's end.
      times: [T] or more, when each ends.
      offset: seconds before the piece.
      count: frames of the piece.
      first: the token of the time 0.
    """
    is_time = [token >= first for token in tokens.tolist()]
    at = lambda place: float(tokens[place] - first) * STEP  # noqa: E731
    part = lambda start, stop: None if times is None else times[start:stop]  # noqa: E731
    cuts = [n + 1 for n in range(len(is_time) - 1) if is_time[n] and is_time[n + 1]]
    if not cuts:
        stamps = [n for n, known in enumerate(is_time) if known]
        last = count // STRIDE * STEP
        if stamps and tokens[stamps[-1]] != first:
            last = at(stamps[-1])
        return [Segment(offset, offset + last, tokens, part(0, len(tokens)))], count
    alone = is_time[-2:] == [False, True]  # after a single time at the end nothing is said
    cuts = [*cuts, len(tokens)] if alone else [*cuts[:-1], cuts[-1] + 1]
    segments = []
    for number, (start, stop) in enumerate(zip([0, *cuts], cuts, strict=False)):
        end = stop - 1 if alone or number < len(cuts) - 1 else stop - 2
        segments.append(Segment(offset + at(start), offset + at(end), tokens[start:stop], part(start, stop)))
    return segments, count if alone else int(tokens[cuts[-1] - 2] - first) * STRIDE
