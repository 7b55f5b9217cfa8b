"""Assisted decoding: tokens are guessed ahead, cheaply, and the model reads all guesses at once (Leviathan et al. 2023).

What comes out is what the model alone would write: greedily the very tokens, of draws the distribution. A guess is a small
model's, or what followed the last words where they stood before (Saxena 2023). In each round all rows go on by as many tokens
as the row that goes on least, so that rows share the slots of a cache; a row that has ended holds no other back.

B rows of the batch, R rows in all, S slots, V vocabulary, G guesses a round.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from jaxformers.core.cache import Cache, pick_rows, roll_back
from jaxformers.core.params import Tree
from jaxformers.generate import loop
from jaxformers.generate.loop import Key, keep, read_prompt, read_tokens
from jaxformers.generate.processors import Rules, chain
from jaxformers.generate.written import Knobs, Source, Written


@flax.struct.dataclass
class State(loop.State):
    """What goes around the loop: as of `loop.State`, and

    Args:
      draft: the small model's cache, of the same tokens; None where guesses are looked up.
    """

    draft: Cache | None = None


class Ahead(NamedTuple):
    """How guesses are made; a program is compiled for it.

    Args:
      guesses: G.
      ngram: the most tokens by which what followed them is looked up; 0 asks the small model.
    """

    guesses: int
    ngram: int


Keys = tuple[Key, Key | None]  # of the model, and of the small one
Both = tuple[Tree, Tree | None]


@partial(jax.jit, static_argnames=("model", "rules", "ahead", "slots", "most", "times"))
def start(params: Both, ids_BP: jax.Array, mask_BP: jax.Array, given: jax.Array, keys_B: jax.Array, source: Source | None,
          knobs: Knobs, *, model: Keys, rules: Rules, ahead: Ahead, slots: int, most: int, times: int) -> State:  # fmt: skip
    """Reads the prompt, with both models, and chooses the first token; arguments as of `loop.start`."""
    options: Mapping[str, Any] = {"slots": slots, "most": most, "times": times}
    state = loop.start(params[0], ids_BP, mask_BP, given, keys_B, source, knobs, model=model[0], rules=rules, **options)
    draft = None
    if model[1] is not None:
        assert params[1] is not None
        draft, _ = read_prompt(model[1], params[1], ids_BP, mask_BP, slots, source)
        draft = pick_rows(draft, jnp.repeat(jnp.arange(len(ids_BP)), times)) if times > 1 else draft
    return State(**vars(state), draft=draft)


@partial(jax.jit, static_argnames=("model", "rules", "ahead"), donate_argnames="state")
def go_on(
    params: Both, state: State, until: jax.Array, knobs: Knobs, *, model: Keys, rules: Rules, ahead: Ahead
) -> State:
    """Generates until there are `until` tokens, or every row has ended."""

    def more(state: State) -> jax.Array:
        return (state.steps < until) & ~state.done.all()

    def step(state: State) -> State:
        return once(params, state, until, knobs, model=model, rules=rules, ahead=ahead)

    return jax.lax.while_loop(more, step, state)


def once(
    params: Both, state: State, until: jax.Array, knobs: Knobs, *, model: Keys, rules: Rules, ahead: Ahead
) -> State:
    """One round: guesses, what the model says of them, and up to G + 1 tokens more."""
    if model[1] is None:
        tokens_RS, chances_GRV = look_up(state, ahead), None
    else:
        state, tokens_RS, chances_GRV = guess(params[1], state, knobs, model[1], rules, ahead)
    cache, logits_RNV = read_tokens(model[0], params[0], state.cache, tokens_RS, ahead.guesses + 1)
    return judge(changed(state, cache=cache), tokens_RS, logits_RNV, chances_GRV, until, knobs, rules)


def changed(state: State, **changes: Any) -> State:
    """A copy of `state` with other arrays."""
    return state.replace(**changes)  # type: ignore[attr-defined]


def keys_at(state: State, step: jax.Array) -> jax.Array:
    """Three keys a row for one step: of a guess, of its judgement, of what takes its place: [3, R]."""
    keys_R = jax.vmap(jax.random.fold_in, (0, None))(state.keys, step)
    return jax.vmap(partial(jax.random.split, num=3), out_axes=1)(keys_R)


def scored(state: State, logits_RV: jax.Array, end: jax.Array, tokens_RS: jax.Array, knobs: Knobs, rules: Rules) -> Any:
    """The processed logits of the token that goes into slot `end`, where all slots before are real from the prompt on."""
    slot_S = jnp.arange(tokens_RS.shape[1])
    real_RS = (state.cache.mask | (slot_S >= state.prompt)[None]) & (slot_S < end)[None]
    return chain(knobs, rules)(logits_RV, Written(tokens_RS, real_RS, end, state.prompt, state.given, state.source))


# -- guesses -----------------------------------------------------------------------------------------------------------


def guess(
    params: Tree | None, state: State, knobs: Knobs, model: Key, rules: Rules, ahead: Ahead
) -> tuple[State, jax.Array, jax.Array | None]:
    """The small model's guesses, put behind the newest token, and for draws the chances [G, R, V] each was drawn by.

    It reads its last guess too, so that its cache knows all tokens whatever is kept of them.
    """
    assert params is not None
    assert state.draft is not None

    def one(carried: tuple[Cache, jax.Array], n: jax.Array) -> tuple[tuple[Cache, jax.Array], Any]:
        cache, tokens_RS = carried
        cache, logits_R1V = read_tokens(model, params, cache, tokens_RS, 1)
        scores_RV = scored(state, logits_R1V[:, 0], cache.length, tokens_RS, knobs, rules)
        if rules.sample:
            token_R = jax.vmap(jax.random.categorical)(keys_at(state, state.steps + n)[0], scores_RV)
        else:
            token_R = jnp.argmax(scores_RV, axis=-1)
        tokens_RS = jax.lax.dynamic_update_slice(tokens_RS, token_R[:, None].astype(jnp.int32), (0, cache.length))
        return (cache, tokens_RS), jax.nn.softmax(scores_RV) if rules.sample else None

    (cache, tokens_RS), chances_NRV = jax.lax.scan(one, (state.draft, state.tokens), jnp.arange(ahead.guesses + 1))
    return changed(state, draft=cache), tokens_RS, None if chances_NRV is None else chances_NRV[:-1]


def look_up(state: State, ahead: Ahead) -> jax.Array:
    """The tokens, and behind the newest what followed where the last `ngram` tokens (or fewer) first stood before."""
    R, S = state.tokens.shape
    newest = state.cache.length  # its slot; the cache does not know it yet
    slot_S = jnp.arange(S)
    real_RS = state.cache.mask | (slot_S == newest)[None]
    from_R = jnp.zeros(R, jnp.int32)
    same_RS = (slot_S < newest)[None] & real_RS
    for back in range(ahead.ngram):  # more tokens that are the same go before fewer
        token_R1 = jax.lax.dynamic_slice_in_dim(state.tokens, jnp.maximum(newest - back, 0), 1, axis=1)
        here_RS = jnp.roll((state.tokens == token_R1) & real_RS, back, axis=1) & (slot_S >= back)[None]
        same_RS = same_RS & here_RS
        from_R = jnp.where(same_RS.any(1), jnp.argmax(same_RS, axis=1) + 1, from_R)
    slots_RG = jnp.minimum(from_R[:, None] + jnp.arange(ahead.guesses)[None], S - 1)
    guessed_RG = jnp.take_along_axis(state.tokens, slots_RG, axis=1)
    return jax.lax.dynamic_update_slice(state.tokens, guessed_RG, (0, newest + 1))


# -- judgement ---------------------------------------------------------------------------------------------------------


def judge(
    state: State,
    tokens_RS: jax.Array,
    logits_RNV: jax.Array,
    chances_GRV: jax.Array | None,
    until: jax.Array,
    knobs: Knobs,
    rules: Rules,
) -> State:
    """Keeps of the guesses what the model would have written, and one token of its own behind them.

    Args:
      state: whose cache already holds the newest token and all guesses.
      tokens_RS: with the guesses.
      logits_RNV: the model's, at the newest token and each guess: N = G + 1.
      chances_GRV: what each guess was drawn by; None where it was certain.
      until: no more tokens than so many in all.
      knobs: `processors.knobs_of`.
      rules: `processors.rules_of`.
    """
    _, N, V = logits_RNV.shape
    first, n_N = state.cache.length - N + 1, jnp.arange(N)  # first: the slot behind the newest token's
    guessed_RG = jax.lax.dynamic_slice_in_dim(tokens_RS, first, N - 1, axis=1)
    scores_NRV = jax.vmap(lambda logits_RV, n: scored(state, logits_RV, first + n, tokens_RS, knobs, rules))(
        logits_RNV.swapaxes(0, 1), n_N
    )
    if rules.sample:
        if chances_GRV is None:
            chances_GRV = jax.nn.one_hot(guessed_RG.T, V)
        right_GR, own_NR = drawn(state, guessed_RG.T, jax.nn.softmax(scores_NRV), chances_GRV)
    else:
        own_NR = jnp.argmax(scores_NRV, axis=-1).astype(jnp.int32)
        right_GR = own_NR[:-1] == guessed_RG.T
    kept_R = jnp.cumprod(right_GR, axis=0).sum(0)
    found_RN = jnp.where(n_N[None] < kept_R[:, None], jnp.pad(guessed_RG, ((0, 0), (0, 1))), own_NR.T)
    ends_RN = jnp.isin(found_RN, knobs["eos"])
    before_RN = state.done[:, None] | (jnp.cumsum(ends_RN, axis=1) > ends_RN)  # whether a row ended before this token
    over_RN = before_RN | ends_RN
    found_RN = jnp.where(before_RN, knobs["pad"], found_RN).astype(jnp.int32)

    # The last token that counts: a row that goes on has no more, or all rows have ended, or no more were asked for.
    last = jnp.where(state.done, N - 1, kept_R).min()
    last = jnp.minimum(last, jnp.where(over_RN.all(0), n_N, N - 1).min())
    last = jnp.minimum(last, until - state.steps - 1)
    return changed(
        state,
        cache=roll_back(state.cache, first + last),
        draft=None if state.draft is None else roll_back(state.draft, first + last),
        tokens=jax.lax.dynamic_update_slice(tokens_RS, found_RN, (0, first)),
        done=over_RN[:, last],
        steps=state.steps + last + 1,
        scores=keep(state.scores, scores_NRV, state.steps),
        logits=keep(state.logits, logits_RNV.swapaxes(0, 1), state.steps),
    )


def drawn(
    state: State, guessed_GR: jax.Array, chances_NRV: jax.Array, guess_GRV: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Which guesses stay, each with a chance of the model's over its own: [G, R]; and tokens that may take their places
    [N, R], drawn from where the model's chances are above the guess's. Together a token has the model's chances.

    Args:
      state: before the first of them.
      guessed_GR: the guesses.
      chances_NRV: the model's, of the tokens at their places and one more.
      guess_GRV: what the guesses were drawn by.
    """
    of = lambda all_GRV: jnp.take_along_axis(all_GRV, guessed_GR[..., None], axis=-1)[..., 0]  # noqa: E731
    keys_N3R = jax.vmap(lambda n: keys_at(state, state.steps + n))(jnp.arange(len(chances_NRV)))
    coins_GR = jax.vmap(jax.vmap(jax.random.uniform))(keys_N3R[:-1, 1])
    left_NRV = jnp.maximum(chances_NRV - jnp.pad(guess_GRV, ((0, 1), (0, 0), (0, 0))), 0)
    left_NRV = jnp.where(left_NRV.sum(-1, keepdims=True) > 0, left_NRV, chances_NRV)  # nothing left but by rounding
    own_NR = jax.vmap(jax.vmap(jax.random.categorical))(keys_N3R[:, 2], jnp.log(left_NRV))
    return coins_GR * of(guess_GRV) < of(chances_NRV[:-1]), own_NR.astype(jnp.int32)
