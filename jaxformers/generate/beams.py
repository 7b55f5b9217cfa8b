"""Beam search, as one compiled loop: the M likeliest sequences of a row are followed at a time, those that end are set aside.

A row is over when none that goes on can come before those set aside; how sure that must be, `early_stopping` says. What is
kept, merged and when it stops is transformers' search to the letter, so that the results are, too.

B rows, M beams, S slots, V vocabulary; R = B · M.
"""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxformers.core.cache import Cache, pick_rows
from jaxformers.core.params import Tree
from jaxformers.generate.loop import Key, keep, read_prompt, read_token
from jaxformers.generate.processors import Rules, chain
from jaxformers.generate.written import Knobs, Source, Written

NEVER = -1e9  # a score that every other is above


@flax.struct.dataclass
class Beams:
    """M sequences of each row (a pytree).

    Args:
      tokens: [B, M, S].
      scores: [B, M], the sum of their log-probabilities; of those set aside over their length.
      origin: [B, M, T], the beam that each step went on from; -1 where there was none.
    """

    tokens: jax.Array
    scores: jax.Array
    origin: jax.Array

    def pick(self, index_BM: jax.Array) -> "Beams":
        """Some of the sequences, by number."""
        return jax.tree.map(lambda array: _pick(array, index_BM), self)


@flax.struct.dataclass
class State:
    """Everything that goes around the loop (a pytree); what is not told here is as in `loop.State`.

    Args:
      running: those that go on.
      ended: those set aside, best first.
      full: [B, M], which of these there are.
      open: [B, 1], whether a better one may still come.
      stuck: whether every sequence that was looked at has ended.
    """

    cache: Cache
    running: Beams
    ended: Beams
    full: jax.Array
    open: jax.Array
    stuck: jax.Array
    steps: jax.Array
    prompt: jax.Array
    given: jax.Array
    keys: jax.Array
    scores: jax.Array | None = None
    logits: jax.Array | None = None
    source: Source | None = None


def _pick(array: jax.Array, index_BM: jax.Array) -> jax.Array:
    index = index_BM.reshape(*index_BM.shape, *[1] * (array.ndim - 2))
    return jnp.take_along_axis(array, index, axis=1)


def best(scores_BM: jax.Array, count: int) -> jax.Array:
    """The numbers of the best, best first: [B, count]."""
    return jax.lax.top_k(scores_BM, count)[1]


def choose(state: State, logits_RV: jax.Array, knobs: Knobs, rules: Rules) -> State:
    """Goes one token on: the best continuations of all beams of a row."""
    (B, M, S), V = state.running.tokens.shape, logits_RV.shape[1]
    end, steps = state.cache.length, state.steps
    written = Written(
        state.running.tokens.reshape(B * M, S), state.cache.mask, end, state.prompt, state.given, state.source
    )
    processed_RV = chain(knobs, rules)(jax.nn.log_softmax(logits_RV), written)
    total_BMV = processed_RV.reshape(B, M, V) + state.running.scores[:, :, None]
    total_BN = total_BMV.reshape(B, M * V)

    # So many that M are left to go on even where the M best all end.
    count = max(2, 1 + knobs["eos"].shape[0]) * M
    order_BN = total_BN
    if rules.sample:  # the largest of these are a draw without replacement (Vieira 2014)
        keys_B = jax.vmap(jax.random.fold_in, (0, None))(state.keys, steps)
        order_BN = total_BN + jax.vmap(lambda key: jax.random.gumbel(key, (M * V,)))(keys_B)
    at_BC = best(order_BN, count)
    origin_BC, token_BC = at_BC // V, (at_BC % V).astype(jnp.int32)
    found = state.running.pick(origin_BC)
    found = Beams(
        tokens=jax.lax.dynamic_update_slice(found.tokens, token_BC[:, :, None], (0, 0, end)),
        scores=jnp.take_along_axis(total_BN, at_BC, axis=1),
        origin=jax.lax.dynamic_update_slice(found.origin, origin_BC.astype(jnp.int32)[:, :, None], (0, 0, steps)),
    )
    ends_BC = jnp.isin(token_BC, knobs["eos"]) | (steps + 1 >= knobs["most"])

    going = changed(found, scores=found.scores + ends_BC * NEVER)
    going = going.pick(best(going.scores, M))

    length = (steps + 1).astype(jnp.float32)
    lost_B1 = state.full.all(1, keepdims=True) if rules.early is True else jnp.zeros((B, 1), bool)
    counts_BC = ends_BC & (jnp.arange(count) < M)[None]
    aside = changed(
        found,
        scores=found.scores / length ** knobs["length_penalty"] + (lost_B1 | ~state.open) * NEVER + ~counts_BC * NEVER,
    )
    both: Any = jax.tree.map(lambda old, new: jnp.concatenate((old, new), axis=1), state.ended, aside)
    kept_BM = best(both.scores, M)
    ended, full = both.pick(kept_BM), _pick(jnp.concatenate((state.full, counts_BC), axis=1), kept_BM)

    far = jnp.where(knobs["length_penalty"] > 0, knobs["most"], steps + 1) if rules.early == "never" else steps + 1
    hope_B1 = going.scores[:, :1] / far.astype(jnp.float32) ** knobs["length_penalty"]
    worst_BM = jnp.where(full, ended.scores.min(1, keepdims=True), NEVER)
    origin_R = (jnp.take_along_axis(going.origin, jnp.full((B, M, 1), steps), axis=2)[..., 0]
                + jnp.arange(B)[:, None] * M).reshape(-1)  # fmt: skip
    return state.replace(  # type: ignore[attr-defined]
        cache=pick_rows(state.cache, origin_R),
        running=going,
        ended=ended,
        full=full,
        open=state.open & (hope_B1 > worst_BM).any(1, keepdims=True),
        stuck=ends_BC.all(),
        steps=steps + 1,
        scores=keep(state.scores, processed_RV[None], steps),
        logits=keep(state.logits, logits_RV[None], steps),
    )


def changed(beams: Beams, **changes: jax.Array) -> Beams:
    """A copy of `beams` with other arrays."""
    return beams.replace(**changes)  # type: ignore[attr-defined]


@partial(jax.jit, static_argnames=("model", "rules", "slots", "most"))
def start(params: Tree, ids_BP: jax.Array, mask_BP: jax.Array, given: jax.Array, keys_B: jax.Array, source: Source | None,
          knobs: Knobs, *, model: Key, rules: Rules, slots: int, most: int) -> State:  # fmt: skip
    """Reads the prompt and takes the first step; arguments as of `loop.start`."""
    cache, logits_BV = read_prompt(model, params, ids_BP, mask_BP, slots, source)
    (B, P), V, M = ids_BP.shape, logits_BV.shape[1], rules.beams
    tokens_BS = jnp.concatenate((ids_BP, jnp.full((B, slots - P), knobs["pad"])), axis=1)
    kept = lambda wanted: jnp.zeros((most, B * M, V), jnp.float32) if wanted else None  # noqa: E731
    empty = Beams(
        tokens=jnp.repeat(tokens_BS[:, None], M, axis=1),
        scores=jnp.full((B, M), NEVER),
        origin=jnp.full((B, M, most), -1, jnp.int32),
    )
    state = State(
        cache=pick_rows(cache, jnp.repeat(jnp.arange(B), M)),
        running=changed(empty, scores=empty.scores.at[:, 0].set(0)),  # they are alike yet: one of them counts
        ended=empty,
        full=jnp.zeros((B, M), bool),
        open=jnp.ones((B, 1), bool),
        stuck=jnp.zeros((), bool),
        steps=jnp.int32(0),
        prompt=jnp.int32(P),
        given=given,
        keys=keys_B,
        scores=kept(rules.scores),
        logits=kept(rules.logits),
        source=source,
    )
    return choose(state, jnp.repeat(logits_BV, M, axis=0), knobs, rules)


def unfinished(state: State, rules: Rules) -> jax.Array:
    """Whether a row may still get better."""
    over = state.full.all() if rules.early is True else jnp.zeros((), bool)
    return state.open.any() & ~over & ~state.stuck


@partial(jax.jit, static_argnames=("model", "rules"), donate_argnames="state")
def go_on(params: Tree, state: State, until: jax.Array, knobs: Knobs, *, model: Key, rules: Rules) -> State:
    """Searches until there are `until` steps, or no row can get better."""

    def more(state: State) -> jax.Array:
        return (state.steps < until) & unfinished(state, rules)

    def step(state: State) -> State:
        B, M, S = state.running.tokens.shape
        cache, logits_RV = read_token(model, params, state.cache, state.running.tokens.reshape(B * M, S))
        return choose(state.replace(cache=cache), logits_RV, knobs, rules)  # type: ignore[attr-defined]

    return jax.lax.while_loop(more, step, state)
