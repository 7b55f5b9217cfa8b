"""What is done to the logits of the next token before one is chosen: pure functions `(logits, written) -> logits` that compose.

A factory here is `knobs -> processor`; `chain` makes one processor of all that `knobs` ask for. The knobs are arrays, so
that another temperature needs no other program; whether there is a knob, and the few numbers in `Rules`, are what a program
is compiled for. A processor of one's own is any such function, given as `logits_processor=[...]`.

R rows (a batch, or its beams), S slots, V vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.generate import cuts
from jaxformers.generate.config import GenerationConfig
from jaxformers.generate.written import Knobs, Processor, Written

NEVER = -jnp.inf


class Rules(NamedTuple):
    """The numbers of a program that are no arrays.

    Args:
      sample: whether tokens are drawn.
      top_k: tokens that a draw is from; 0 means all.
      ngram: the size of what must not come twice; 0 means no such rule.
      read_ngram: the size of what was read and must not come again; 0 means no such rule.
      keep: tokens that truncation leaves at least.
      beams: sequences a row is followed by.
      early: `early_stopping`.
      scores: whether scores are kept.
      logits: whether logits are kept.
      invalid: `remove_invalid_values`.
      normal: `renormalize_logits`.
      own: the caller's processors.
    """

    sample: bool
    top_k: int
    ngram: int
    read_ngram: int
    keep: int
    beams: int
    early: bool | str
    scores: bool
    logits: bool
    invalid: bool
    normal: bool
    own: tuple[Processor, ...]


def rules_of(config: GenerationConfig, vocab: int, own: tuple[Processor, ...]) -> Rules:
    """The rules of a config for a vocabulary of V tokens."""
    ends = len(config.eos_token_id or ())
    return Rules(
        sample=config.do_sample,
        top_k=min(config.top_k, vocab) if config.do_sample else 0,
        ngram=config.no_repeat_ngram_size,
        read_ngram=config.encoder_no_repeat_ngram_size,
        keep=ends + 1 if config.num_beams > 1 else 1,
        beams=config.num_beams,
        early=config.early_stopping,
        scores=config.output_scores,
        logits=config.output_logits,
        invalid=config.remove_invalid_values,
        normal=config.renormalize_logits,
        own=own,
    )


def knobs_of(config: GenerationConfig, most: int) -> dict[str, Any]:
    """The knobs of a config, where `most` is how many tokens may be generated; what changes nothing is left out."""
    number = lambda value: np.float32(value)  # noqa: E731
    ids = lambda values: np.array(values, np.int32)  # noqa: E731
    ends = config.eos_token_id or ()
    knobs: dict[str, Any] = {"most": np.int32(most), "eos": ids(ends)}
    knobs["pad"] = np.int32(max(0, (ends[0] if ends else 0) if config.pad_token_id is None else config.pad_token_id))
    if config.sequence_bias:
        knobs["sequence_bias"] = _sequences([words for words, _ in config.sequence_bias])
        knobs["sequence_bias"]["bias"] = np.array([bias for _, bias in config.sequence_bias], np.float32)
    for name in ("encoder_repetition_penalty", "repetition_penalty"):
        if getattr(config, name) != 1.0:
            knobs[name] = number(getattr(config, name))
    if words := [word for word in config.bad_words_ids or () if word not in [(end,) for end in ends]]:
        knobs["bad_words"] = _sequences(words)
    if ends and config.min_length:
        knobs["min_length"] = np.int32(config.min_length)
    if ends and config.min_new_tokens:
        knobs["min_new_tokens"] = np.int32(config.min_new_tokens)
    for name in ("forced_bos_token_id", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id"):
        if (value := getattr(config, name)) is not None and value != ():
            knobs[name.removesuffix("_token_id")] = ids(value)
    if ends and config.exponential_decay_length_penalty:
        start, factor = config.exponential_decay_length_penalty
        knobs["decay"] = (np.int32(start), number(factor))
    if config.num_beams > 1:
        knobs["length_penalty"] = number(config.length_penalty)
    if config.do_sample:
        asked = {"temperature": 1.0, "top_p": 1.0, "min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0,
                 "eta_cutoff": 0.0}  # fmt: skip
        knobs |= {name: number(value) for name, off in asked.items() if (value := getattr(config, name)) != off}
    return knobs


def _sequences(words: list[tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Sequences of several lengths as arrays: what comes before the last token [W, n], how much of it counts, the last one."""
    longest = max(len(word) for word in words) - 1
    before = np.zeros((len(words), longest), np.int32)
    for row, word in zip(before, words, strict=True):
        row[longest - len(word) + 1 :] = word[:-1]
    length = np.array([len(word) - 1 for word in words], np.int32)
    return {"before": before, "length": length, "last": np.array([word[-1] for word in words], np.int32)}


def chain(knobs: Knobs, rules: Rules) -> Processor:
    """All processors that are asked for, in transformers' order, as one."""
    parts: list[Processor] = [no_repeat_ngram(rules.ngram)] if rules.ngram else []
    parts += [no_ngram_of_source(rules.read_ngram)] if rules.read_ngram else []
    parts += [factory(knobs) for name, factory in BEFORE.items() if name in knobs]
    if rules.invalid:
        parts.append(valid)
    parts += rules.own
    if rules.sample:
        if "temperature" in knobs:
            parts.append(lambda logits_RV, written: logits_RV / knobs["temperature"])
        parts.append(lambda logits_RV, written: cuts.cut(logits_RV, knobs, rules.top_k, rules.keep))
    if rules.normal:
        parts.append(lambda logits_RV, written: jax.nn.log_softmax(logits_RV))

    def process(logits_RV: jax.Array, written: Written) -> jax.Array:
        for part in parts:
            logits_RV = part(logits_RV, written)
        return logits_RV

    return process


# -- by what was written -----------------------------------------------------------------------------------------------


def _some(ids: Any, vocab: int) -> jax.Array:
    """[1, V]: True for these tokens."""
    return jnp.zeros((1, vocab), bool).at[0, jnp.asarray(ids)].set(True)


def _ended(written: Written, words: Mapping[str, jax.Array]) -> jax.Array:
    """[R, W]: does what was written end with all of the sequence but its last token?"""
    longest = words["before"].shape[1]
    if longest == 0:
        return jnp.ones((written.tokens.shape[0], len(words["last"])), bool)
    slots_n = written.end - longest + jnp.arange(longest)
    at_n = jnp.maximum(slots_n, 0)
    tokens_Rn = written.tokens[:, at_n]
    real_Rn = written.real[:, at_n] & (slots_n >= 0)[None]
    counts_Wn = jnp.arange(longest)[None] >= longest - words["length"][:, None]
    same_RWn = (tokens_Rn[:, None] == words["before"][None]) & real_Rn[:, None]
    return (same_RWn | ~counts_Wn[None]).all(-1)


def sequence_bias(knobs: Knobs) -> Processor:
    """Adds to the logit of a sequence's last token where the others stand before it."""
    words = knobs["sequence_bias"]

    def process(logits_RV: jax.Array, written: Written) -> jax.Array:
        bias_RW = jnp.where(_ended(written, words), words["bias"][None], 0.0)
        return logits_RV + jnp.zeros_like(logits_RV).at[:, words["last"]].add(bias_RW)

    return process


def bad_words(knobs: Knobs) -> Processor:
    """Bans the last token of a sequence where the others stand before it."""
    words = knobs["bad_words"]

    def process(logits_RV: jax.Array, written: Written) -> jax.Array:
        banned_RV = jnp.zeros(logits_RV.shape, bool).at[:, words["last"]].max(_ended(written, words))
        return jnp.where(banned_RV, NEVER, logits_RV)

    return process


def _less_likely(logits_RV: jax.Array, tokens_RS: jax.Array, real_RS: jax.Array, penalty: jax.Array) -> jax.Array:
    rows_R1 = jnp.arange(logits_RV.shape[0])[:, None]
    seen_RV = jnp.zeros(logits_RV.shape, bool).at[rows_R1, tokens_RS].max(real_RS)
    return jnp.where(seen_RV, jnp.where(logits_RV < 0, logits_RV * penalty, logits_RV / penalty), logits_RV)


def repetition_penalty(knobs: Knobs) -> Processor:
    """Makes tokens that were there less likely (Keskar et al. 2019): a positive logit is divided, a negative multiplied."""
    penalty = knobs["repetition_penalty"]
    return lambda logits_RV, written: _less_likely(logits_RV, written.tokens, written.real, penalty)


def encoder_repetition_penalty(knobs: Knobs) -> Processor:
    """Makes tokens that were read more likely, above 1: the other way round, against what nobody has said."""
    reward = 1 / knobs["encoder_repetition_penalty"]
    return lambda logits_RV, written: _less_likely(logits_RV, *written.read(), reward)


def _without_ngrams(
    logits_RV: jax.Array, written: Written, tokens_RS: jax.Array, real_RS: jax.Array, size: int
) -> jax.Array:
    """Bans what comes in these tokens after the last `size - 1` that were written."""
    starts = tokens_RS.shape[1] - size + 1
    if starts < 1 or size > written.tokens.shape[1]:
        return logits_RV
    last_Rn, there_R = written.last(size - 1)
    match_Rs = jnp.broadcast_to(there_R[:, None], (len(there_R), starts))
    for n in range(size - 1):
        match_Rs = match_Rs & (tokens_RS[:, n : n + starts] == last_Rn[:, n : n + 1]) & real_RS[:, n : n + starts]
    match_Rs = match_Rs & real_RS[:, size - 1 :]
    rows_R1 = jnp.arange(logits_RV.shape[0])[:, None]
    banned_RV = jnp.zeros(logits_RV.shape, bool).at[rows_R1, tokens_RS[:, size - 1 :]].max(match_Rs)
    return jnp.where(banned_RV, NEVER, logits_RV)


def no_repeat_ngram(size: int) -> Processor:
    """Bans each token that would make a sequence of `size` tokens come again."""
    return lambda logits_RV, written: _without_ngrams(logits_RV, written, written.tokens, written.real, size)


def no_ngram_of_source(size: int) -> Processor:
    """Bans each token that would make a sequence of `size` tokens come that was read (Roller et al. 2020)."""
    return lambda logits_RV, written: _without_ngrams(logits_RV, written, *written.read(), size)


def _no_end_before(reached: Callable[[Written], jax.Array], knobs: Knobs) -> Processor:
    def process(logits_RV: jax.Array, written: Written) -> jax.Array:
        return jnp.where(_some(knobs["eos"], logits_RV.shape[1]) & ~reached(written), NEVER, logits_RV)

    return process


def min_length(knobs: Knobs) -> Processor:
    """No end before so many tokens, the prompt's included."""
    return _no_end_before(lambda written: written.given + written.new >= knobs["min_length"], knobs)


def min_new_tokens(knobs: Knobs) -> Processor:
    """No end before so many new tokens."""
    return _no_end_before(lambda written: written.new >= knobs["min_new_tokens"], knobs)


def allowed(knobs: Knobs) -> Processor:
    """Nothing but the tokens of a mask [R, V] that the host has made for this step."""
    return lambda logits_RV, written: jnp.where(knobs["allowed"], logits_RV, NEVER)


def _forced(ids: Any, when: Callable[[Written], jax.Array]) -> Processor:
    def process(logits_RV: jax.Array, written: Written) -> jax.Array:
        only_1V = jnp.where(_some(ids, logits_RV.shape[1]), 0.0, NEVER)
        return jnp.where(when(written), only_1V, logits_RV)

    return process


def forced_bos(knobs: Knobs) -> Processor:
    """This token after a prompt of one."""
    return _forced(knobs["forced_bos"], lambda written: written.given + written.new == 1)


def forced_eos(knobs: Knobs) -> Processor:
    """One of these tokens at the last step that there can be."""
    return _forced(knobs["forced_eos"], lambda written: written.new == knobs["most"] - 1)


def valid(logits_RV: jax.Array, written: Written) -> jax.Array:
    """Zero for NaN, and the largest numbers for infinities."""
    return jnp.nan_to_num(logits_RV, nan=0.0)


def decay(knobs: Knobs) -> Processor:
    """Makes the end likelier with each token from a start on."""
    start, factor = knobs["decay"]

    def process(logits_RV: jax.Array, written: Written) -> jax.Array:
        late = written.new - start
        more = jnp.power(factor, jnp.maximum(late, 0).astype(jnp.float32)) - 1
        ends_1V = _some(knobs["eos"], logits_RV.shape[1]) & (late > 0)
        return jnp.where(ends_1V & jnp.isfinite(logits_RV), logits_RV + jnp.abs(logits_RV) * more, logits_RV)

    return process


def suppress(knobs: Knobs) -> Processor:
    """Bans tokens."""
    return lambda logits_RV, written: jnp.where(_some(knobs["suppress_tokens"], logits_RV.shape[1]), NEVER, logits_RV)


def begin_suppress(knobs: Knobs) -> Processor:
    """Bans tokens at the first step, or at the second where the first one's is forced."""

    def process(logits_RV: jax.Array, written: Written) -> jax.Array:
        first = jnp.where(written.given > 1, 0, 1) if "forced_bos" in knobs else 0
        banned_1V = _some(knobs["begin_suppress_tokens"], logits_RV.shape[1]) & (written.new == first)
        return jnp.where(banned_1V, NEVER, logits_RV)

    return process


# knob -> factory, in transformers' order (a ban's place makes no difference before those that force)
BEFORE: dict[str, Callable[[Knobs], Processor]] = {
    "sequence_bias": sequence_bias,
    "encoder_repetition_penalty": encoder_repetition_penalty,
    "repetition_penalty": repetition_penalty,
    "bad_words": bad_words,
    "min_length": min_length,
    "min_new_tokens": min_new_tokens,
    "allowed": allowed,
    "forced_bos": forced_bos,
    "forced_eos": forced_eos,
    "decay": decay,
    "suppress_tokens": suppress,
    "begin_suppress_tokens": begin_suppress,
}
