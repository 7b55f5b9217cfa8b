"""What the text decoders share: a forward pass that looks back only, with or without a cache, and the heads over it.

A family is a config class, the names of its parameters, how it embeds, and one block; see `families.gpt2`. A block is
`block(layer, (x_BLD, cache), *, view, config, rng, maps, kernel) -> ((x_BLD, cache), weights)` out of core pieces;
`look_back` is the part of it that knows of caches.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import heads
from jaxformers.core.attention import Mask, attend, causal_mask, looking_back
from jaxformers.core.cache import Cache, empty_cache, extend, recall, remember
from jaxformers.core.layers import declare_linear, dropout, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Initialiser, Param, Tree
from jaxformers.core.transformer import Execution, stack
from jaxformers.errors import InputError
from jaxformers.families.model import Forward
from jaxformers.families.text_encoder import Text, TextConfig

INPUTS = ("input_ids", "attention_mask", "position_ids", "inputs_embeds")
FIXED = {
    "is_encoder_decoder": (False, "an encoder-decoder"),
    "add_cross_attention": (False, "cross-attention"),
}

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(TextConfig):
    """The numbers of a decoder each of whose layers looks at everything before a token."""

    hidden_dropout_prob: float = 0.1
    embedding_dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = None  # type: ignore[assignment]

    LOOKS_BACK = True
    sliding_window = None

    @property
    def layer_types(self) -> tuple[str, ...]:
        """Every layer is of one kind."""
        return (FULL,) * self.num_hidden_layers


# -- what it owns ------------------------------------------------------------------------------------------------------


def declare_heads(config: Any, head: str | None, init: Initialiser, token_layer: str) -> Tree:
    """The parameters of a head, beyond the trunk; `token_layer` is what the layer that classifies tokens is called."""
    D = config.hidden_size
    match head:
        case "causal-lm" if not config.tie_word_embeddings:
            return {"masked_lm": {"decoder": Param((config.vocab_size, D), ("vocab", "table"), init, "lm_head.weight")}}
        case "sequence-classification":
            return {"classifier": declare_linear(D, config.num_labels, "score", init, bias=False)}
        case "token-classification":
            return {"classifier": declare_linear(D, config.num_labels, token_layer, init)}
        case "question-answering":
            return {"classifier": declare_linear(D, 2, "qa_outputs", init)}
    return {}


def cache_for(config: Any, batch: int, slots: int, dtype: Any) -> Cache:
    """An empty cache of a decoder: [N, B, G, S, K] twice."""
    H = config.num_attention_heads
    G, K = getattr(config, "num_key_value_heads", H), getattr(config, "head_dim", config.hidden_size // H)
    return empty_cache(config.num_hidden_layers, batch, G, slots, K, dtype)


# -- how it computes ---------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """What the layers know of a batch of tokens beside their states.

    Args:
      turn: what the family made of the positions for its layers, such as rotations; None where they need nothing.
      mask: where a query may look.
      near: where it may look in layers that see near tokens only; None where all layers are of one kind.
    """

    turn: Any
    mask: Mask
    near: Mask | None


def look_back(
    q_BLHK: jax.Array,
    k_BLGK: jax.Array,
    v_BLGK: jax.Array,
    cache: Cache | None,
    layer: Tree,
    view: View,
    **options: Any,
) -> tuple[jax.Array, jax.Array | None, Cache | None]:
    """Attention over these tokens and those in the cache; `options` are those of `attend`.

    Returns:
      The attended values [B, L, H, K], the weights (if asked for), and the cache with these tokens in it.
    """
    if cache is not None:
        cache = remember(cache, layer["number"], k_BLGK, v_BLGK)
        k_BLGK, v_BLGK = recall(cache, layer["number"])
    mask: Mask | jax.Array = view.mask
    if view.near is not None:
        near, far = (each.booleans(q_BLHK.shape[1], k_BLGK.shape[1]) for each in (view.near, view.mask))
        mask = jnp.where(layer["sliding"], near, far)  # type: ignore[arg-type]
    a_BLHK, weights_BHLS = attend(q_BLHK, k_BLGK, v_BLGK, mask, **options)
    return a_BLHK, weights_BHLS, cache


def decode(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    position_ids: jax.Array | None = None,
    inputs_embeds: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
    *,
    config: Any,
    rng: jax.Array | None = None,
    cache: Cache | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
    embed: Callable[[Tree, Text, Any, jax.Array | None], jax.Array],
    block: Callable[..., Any],
    norm: Callable[[Tree, jax.Array, Any], jax.Array] | None = None,
    turn: Callable[[jax.Array, Any], Any] = lambda position_ids, config: None,
) -> Output:
    """A text decoder's hidden states.

    Args:
      params: the tree of the family's `declare`; `layers` may also be a sequence of single layers.
      input_ids: [B, L] token ids.
      attention_mask: [B, L], 1 for tokens and 0 for padding; None means no padding. With a cache it is that of these tokens.
      position_ids: [B, L]; None counts all columns from 0, as PyTorch does, and with a cache the real tokens of each row.
      inputs_embeds: [B, L, D] in place of `input_ids`.
      token_type_ids: [B, L], where the family has them.
      config: the model's numbers.
      rng: key for dropout; None means none.
      cache: what came before (`core.cache`); it must have L slots left.
      output_hidden_states: also return every layer's output.
      output_attentions: also return every layer's attention weights.
      execution: scan or loop, rematerialisation, kernel.
      embed: the family's embeddings: (params, text, config, rng) -> [B, L, D].
      block: the family's block, see the module's docstring.
      norm: the norm after the last layer: (params, x, config) -> x; None where there is none.
      turn: what the layers need to know of positions: (position_ids, config) -> `View.turn`.

    Returns:
      `Output` with `last_hidden_state` [B, L, D], and `cache` where one was given.

    Raises:
      InputError: both or neither of `input_ids` and `inputs_embeds`, or a text longer than the model.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("give either input_ids or inputs_embeds")
    L = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]  # type: ignore[union-attr]
    sliding = np.array([kind != FULL for kind in config.layer_types])
    real = attention_mask
    if cache is not None:
        cache, positions_BL = extend(cache, attention_mask, L)
        position_ids = positions_BL if position_ids is None else position_ids
        real = cache.mask
    text = Text(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)

    def visible(window: int | None) -> Mask:
        if cache is None:
            return looking_back(real, window)
        return Mask(real, pairs=causal_mask(L, cache.mask.shape[1], cache.length, window))

    view = View(
        turn(jnp.arange(L)[None] if position_ids is None else position_ids, config),
        visible(config.sliding_window if sliding.all() else None),
        visible(config.sliding_window) if sliding.any() and not sliding.all() else None,
    )
    rng_embed, rng_layers = split_rng(rng, 2)
    carried, states, maps = stack(
        params["layers"],
        partial(block, view=view, config=config),
        (embed(params["embeddings"], text, config, rng_embed), cache),
        beside={"number": np.arange(len(sliding)), "sliding": sliding},
        rng=rng_layers,
        output_hidden_states=output_hidden_states,
        output_attentions=output_attentions,
        execution=execution,
    )
    x_BLD, cache = carried
    x_BLD = x_BLD if norm is None else norm(params["final_norm"], x_BLD, config)
    if cache is not None:
        cache = dataclasses.replace(cache, length=cache.length + L)
    states = states if states is None else (*states[:-1], x_BLD)
    return Output(last_hidden_state=x_BLD, cache=cache, hidden_states=states, attentions=maps)


# -- heads -------------------------------------------------------------------------------------------------------------


def predict_next(decode: Forward) -> Forward:
    """The next token after each: logits [B, L, V]. With `logits_to_keep` = n (as in transformers) of the last n tokens alone."""

    def forward(params: Tree, *inputs: Any, config: Any, logits_to_keep: int = 0, **named: Any) -> Output:
        trunk = decode(params, *inputs, config=config, **named)
        assert trunk.last_hidden_state is not None
        last = trunk.replace(last_hidden_state=trunk.last_hidden_state[:, -logits_to_keep:])  # type: ignore[attr-defined]
        fields = heads.over_vocabulary(params, last, config, None)
        return trunk.replace(last_hidden_state=None, **fields)  # type: ignore[attr-defined]

    return forward


def classify_last(decode: Forward) -> Forward:
    """A dense layer over the last token that is not padding: logits [B, C].

    Padding is what `attention_mask` says, and the padding token's id, by which alone PyTorch knows it.
    """

    def forward(params: Tree, *inputs: Any, config: Any, **named: Any) -> Output:
        trunk = decode(params, *inputs, config=config, **named)
        ids, mask = (
            inputs[n] if len(inputs) > n else named.get(name) for n, name in enumerate(("input_ids", "attention_mask"))
        )
        x_BLD = trunk.last_hidden_state
        assert x_BLD is not None
        real_BL = jnp.ones(x_BLD.shape[:2], bool) if mask is None else mask != 0
        if ids is not None and config.pad_token_id is not None:
            real_BL = real_BL & (ids != config.pad_token_id)
        logits_BC = linear(params["classifier"], heads.token_at(x_BLD, heads.last_token(real_BL)))
        return trunk.replace(last_hidden_state=None, logits=logits_BC)  # type: ignore[attr-defined]

    return forward


def classify_tokens(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """Dropout and a dense layer over every token: logits [B, L, C]."""
    rate = 0.1 if config.classifier_dropout is None else config.classifier_dropout
    return {"logits": linear(params["classifier"], dropout(trunk.last_hidden_state, rate, rng))}  # type: ignore[arg-type]


def heads_over(decode: Forward) -> dict[str | None, Forward]:
    """The heads that every decoder has."""
    return {
        None: decode,
        "causal-lm": predict_next(decode),
        "sequence-classification": classify_last(decode),
        "token-classification": heads.attach(decode, classify_tokens),
        "question-answering": heads.attach(decode, heads.find_span),
    }
