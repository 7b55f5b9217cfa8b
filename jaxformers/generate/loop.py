"""The compiled programs of greedy decoding and sampling: `start` reads the prompt and chooses the first token, `go_on` loops.

Both are pure. A program is compiled for the shapes (rows, slots of the prompt, slots in all), the `Rules`, and which knobs
there are; not for a prompt's length, for `max_new_tokens` or for a temperature. Rows do not depend on each other, nor does
what is drawn for one depend on how many there are.
"""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxformers.core.cache import Cache, by_layer, pick_rows
from jaxformers.core.params import Tree
from jaxformers.families import Family
from jaxformers.families.model import ANSWERS
from jaxformers.generate.processors import Rules, chain
from jaxformers.generate.written import Knobs, Source, Written
from jaxformers.parallel.mesh import activate

# head -> what the arrays are called that it goes on from
DECODER = ("decoder_input_ids", "decoder_attention_mask")
READS = {"causal-lm": ("input_ids", "attention_mask"), **dict.fromkeys(ANSWERS, DECODER)}
# and, of an encoder-decoder, what its encoder's are called: a text; or what it made of a sound or an image, and which samples
# of a sound were heard
SOURCES = {
    **dict.fromkeys(ANSWERS, ("encoder_outputs", "attention_mask")),
    "seq2seq-lm": ("input_ids", "attention_mask"),
}
Key = tuple[Family, str | None, Any, Any]  # family, head, config, mesh: what a model is but for its parameters


@flax.struct.dataclass
class State:
    """Everything that goes around the loop (a pytree). R rows, S slots, T steps, V vocabulary.

    Args:
      cache: of all tokens but the newest.
      tokens: [R, S]; the newest stands in slot `cache.length`.
      done: [R], rows that have ended.
      steps: how many tokens were generated.
      prompt: slots of the prompt.
      given: length of the prompt as it was handed over.
      keys: [R], for what is drawn.
      scores: [T, R, V], what each token was chosen by; None unless asked for.
      logits: [T, R, V], the model's; None unless asked for.
      source: of an encoder-decoder, what the encoder reads.
    """

    cache: Cache
    tokens: jax.Array
    done: jax.Array
    steps: jax.Array
    prompt: jax.Array
    given: jax.Array
    keys: jax.Array
    scores: jax.Array | None = None
    logits: jax.Array | None = None
    source: Source | None = None

    @property
    def written(self) -> Written:
        """What the processors look at."""
        return Written(self.tokens, self.cache.mask, self.cache.length, self.prompt, self.given, self.source)


def read_prompt(
    model: Key, params: Tree, ids_BP: jax.Array, mask_BP: jax.Array, slots: int, source: Source | None
) -> tuple[Cache, jax.Array]:
    """The cache after a prompt (and what the encoder has read), and the logits [B, V] (float32) of what comes next."""
    family, head, config, mesh = model
    assert family.cache is not None
    given: dict[str, Any] = dict(zip(READS[str(head)], (ids_BP, mask_BP), strict=True))
    if source is not None:
        given |= {name: each for name, each in zip(SOURCES[str(head)], source, strict=True) if each is not None}
    with activate(mesh):
        cache = family.cache(config, ids_BP.shape[0], slots, params["embeddings"]["word"].dtype)
        cache = by_layer(cache) if isinstance(params.get("decoder", params)["layers"], tuple) else cache
        output = family.forward(head)(params, **given, config=config, cache=cache, logits_to_keep=1)
    return output.cache, output.logits[:, -1].astype(jnp.float32)  # type: ignore[return-value, index]


def read_tokens(model: Key, params: Tree, cache: Cache, tokens_RS: jax.Array, count: int) -> tuple[Cache, jax.Array]:
    """The cache after `count` more tokens, those from slot `cache.length` on, and the logits [R, count, V] (float32) of what
    comes after each."""
    family, head, config, mesh = model
    tokens_RL = jax.lax.dynamic_slice_in_dim(tokens_RS, cache.length, count, axis=1)
    with activate(mesh):
        output = family.forward(head)(params, **{READS[str(head)][0]: tokens_RL}, config=config, cache=cache)
    return output.cache, output.logits.astype(jnp.float32)  # type: ignore[return-value, union-attr]


def read_token(model: Key, params: Tree, cache: Cache, tokens_RS: jax.Array) -> tuple[Cache, jax.Array]:
    """The same after one more token: logits [R, V]."""
    cache, logits_R1V = read_tokens(model, params, cache, tokens_RS, 1)
    return cache, logits_R1V[:, 0]


def keep(whole_TRV: jax.Array | None, now_NRV: jax.Array, step: jax.Array) -> jax.Array | None:
    """Writes some steps' scores or logits where they are kept."""
    if whole_TRV is None:
        return None
    return jax.lax.dynamic_update_slice(whole_TRV, now_NRV.astype(whole_TRV.dtype), (step, 0, 0))


def choose(state: State, logits_RV: jax.Array, knobs: Knobs, rules: Rules) -> State:
    """Chooses the next token of every row; one that has ended gets padding."""
    scores_RV = chain(knobs, rules)(logits_RV, state.written)
    if rules.sample:
        keys_R = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.steps)
        token_R = jax.vmap(jax.random.categorical)(keys_R, scores_RV)
    else:
        token_R = jnp.argmax(scores_RV, axis=-1)
    token_R = jnp.where(state.done, knobs["pad"], token_R).astype(jnp.int32)
    return state.replace(  # type: ignore[attr-defined]
        tokens=jax.lax.dynamic_update_slice(state.tokens, token_R[:, None], (0, state.cache.length)),
        done=state.done | jnp.isin(token_R, knobs["eos"]),
        steps=state.steps + 1,
        scores=keep(state.scores, scores_RV[None], state.steps),
        logits=keep(state.logits, logits_RV[None], state.steps),
    )


@partial(jax.jit, static_argnames=("model", "rules", "slots", "most", "times"))
def start(params: Tree, ids_BP: jax.Array, mask_BP: jax.Array, given: jax.Array, keys_B: jax.Array, source: Source | None,
          knobs: Knobs, *, model: Key, rules: Rules, slots: int, most: int, times: int) -> State:  # fmt: skip
    """Reads the prompt and chooses the first token.

    Args:
      params: the model's.
      ids_BP: prompts [B, P], padded on the left.
      mask_BP: [B, P], 1 for tokens.
      given: the prompts' length as they were handed over, padding included.
      keys_B: for what is drawn.
      source: of an encoder-decoder, what the encoder reads.
      knobs: `processors.knobs_of`.
      model: family, head, config, mesh.
      rules: `processors.rules_of`.
      slots: S.
      most: T, steps for which scores and logits are kept, where they are.
      times: rows for each prompt.

    Returns:
      The state after one token.
    """
    cache, logits_BV = read_prompt(model, params, ids_BP, mask_BP, slots, source)
    P, V, R = ids_BP.shape[1], logits_BV.shape[1], ids_BP.shape[0] * times
    kept = lambda wanted: jnp.zeros((most, R, V), jnp.float32) if wanted else None  # noqa: E731
    state = State(
        cache=pick_rows(cache, jnp.repeat(jnp.arange(len(ids_BP)), times)) if times > 1 else cache,
        tokens=jnp.repeat(jnp.pad(ids_BP, ((0, 0), (0, slots - P))), times, axis=0),
        done=jnp.zeros(R, bool),
        steps=jnp.int32(0),
        prompt=jnp.int32(P),
        given=given,
        keys=jax.vmap(jax.random.fold_in)(jnp.repeat(keys_B, times), jnp.arange(R) % times),
        scores=kept(rules.scores),
        logits=kept(rules.logits),
        source=source,
    )
    return choose(state, jnp.repeat(logits_BV, times, axis=0), knobs, rules)


@partial(jax.jit, static_argnames=("model", "rules"), donate_argnames="state")
def go_on(params: Tree, state: State, until: jax.Array, knobs: Knobs, *, model: Key, rules: Rules) -> State:
    """Generates until there are `until` tokens, or every row has ended."""

    def more(state: State) -> jax.Array:
        return (state.steps < until) & ~state.done.all()

    def step(state: State) -> State:
        cache, logits_RV = read_token(model, params, state.cache, state.tokens)
        return choose(state.replace(cache=cache), logits_RV, knobs, rules)  # type: ignore[attr-defined]

    return jax.lax.while_loop(more, step, state)
