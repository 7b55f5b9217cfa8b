"""What the encoder-decoders share: two stacks of one kind of block, the second of which also looks at what the first has read.

A family is a config class, the names of its parameters, and a `Parts`: how it embeds, its block (`block` with its norm and
order), what follows the last layer, and its position biases where it has them; see `families.t5`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import heads
from jaxformers.core.attention import Mask, attend, causal_mask, looking_back, padding_mask
from jaxformers.core.cache import Cache, extend, recall, remember
from jaxformers.core.layers import ACTIVATIONS, declare_linear, dropout, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Initialiser, Tree
from jaxformers.core.transformer import Execution, depth_of, heads_in, heads_out, stack
from jaxformers.errors import InputError
from jaxformers.families.cross_attention import keep_source, look_across
from jaxformers.families.model import Forward
from jaxformers.families.text_encoder import Text
from jaxformers.parallel.mesh import shard

ENCODER_INPUTS = ("input_ids", "attention_mask", "inputs_embeds")
INPUTS = (*ENCODER_INPUTS, "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds", "encoder_outputs")


class View(NamedTuple):
    """What the layers of one stack know of a batch beside its states.

    Args:
      mask: where a query may look; None means everywhere.
      bias: [1, H, L, S], added to the logits, or what gives it [B, H, L, S] for queries [B, L, H, K]; None adds nothing.
      source: [B, S, D], what the encoder has read; None in the encoder, and where a cache holds its keys.
      source_mask: where in it.
    """

    mask: Mask | None = None
    bias: jax.Array | Callable[[jax.Array], jax.Array] | None = None
    source: jax.Array | None = None
    source_mask: Mask | None = None


class Parts(NamedTuple):
    """What a family brings. `side` is "encoder" or "decoder", `stack` its tree under that name.

    Args:
      embed: (params, side, text, config, rng) -> [B, L, D].
      block: one layer, see `block`.
      finish: (stack, x_BLD, config, rng) -> [B, L, D], what follows the last layer.
      bias: (stack, steps [L, S] of key minus query, both_ways, config) -> `View.bias`.
    """

    embed: Callable[[Tree, str, Text, Any, jax.Array | None], jax.Array]
    block: Callable[..., Any]
    finish: Callable[[Tree, jax.Array, Any, jax.Array | None], jax.Array]
    bias: Callable[[Tree, jax.Array, bool, Any], Any] = lambda stack, steps, both_ways, config: None


# -- a layer -----------------------------------------------------------------------------------------------------------


def block(
    layer: Tree,
    carried: Any,
    *,
    view: View,
    config: Any,
    rng: jax.Array | None,
    maps: bool,
    kernel: str | None,
    norm: Callable[[Tree, jax.Array, float], jax.Array],
    norm_first: bool,
    scale: float | None = None,
) -> Any:
    """One block of either stack: attention, in the decoder attention to the encoder's states, and a feed-forward layer (gated
    where it has a gate). Each is added to its input: `norm_first` says whether it reads the norm of it, or the sum is normed.

    Returns:
      ((x_BLD, cache), (weights [B, H, L, L], those of the look at the encoder or None)); weights are None unless `maps`.
    """
    x_BLD, cache = carried
    rngs = split_rng(rng, 6)
    options: Any = {
        "scale": scale,
        "dropout_rate": config.attention_probs_dropout_prob,
        "maps": maps,
        "kernel": kernel,
    }

    def normed(name: str, x_BLD: jax.Array, here: bool) -> jax.Array:
        return norm(layer[name], x_BLD, config.layer_norm_eps) if here else x_BLD

    def added(name: str, x_BLD: jax.Array, y_BLD: jax.Array, rng: jax.Array | None) -> jax.Array:
        return normed(name, x_BLD + dropout(y_BLD, config.hidden_dropout_prob, rng), not norm_first)

    with jax.named_scope("attention"):
        y_BLD = normed("attention_norm", x_BLD, norm_first)
        q_BLHK, k_BSHK, v_BSHK = (heads_in(layer["attention"][name], y_BLD) for name in ("query", "key", "value"))
        if cache is not None:
            cache = remember(cache, layer["number"], k_BSHK, v_BSHK)
            k_BSHK, v_BSHK = recall(cache, layer["number"])
        bias = view.bias(q_BLHK) if callable(view.bias) else view.bias
        a_BLHK, weights = attend(q_BLHK, k_BSHK, v_BSHK, view.mask, bias=bias, rng=rngs[0], **options)
        x_BLD = added("attention_norm", x_BLD, heads_out(layer["attention"]["out"], a_BLHK), rngs[1])
    cross_weights = None
    if "cross" in layer:
        with jax.named_scope("cross_attention"):
            y_BLD = normed("cross_norm", x_BLD, norm_first)
            a_BLD, cross_weights = look_across(
                layer, y_BLD, cache, view.source, view.source_mask, rng=rngs[2], **options
            )
            x_BLD = added("cross_norm", x_BLD, a_BLD, rngs[3])
    with jax.named_scope("feed_forward"):
        y_BLD, activation = normed("output_norm", x_BLD, norm_first), ACTIVATIONS[config.hidden_act]
        up_BLF = linear(layer["up"], y_BLD)
        h_BLF = activation(linear(layer["gate"], y_BLD)) * up_BLF if "gate" in layer else activation(up_BLF)
        h_BLF = dropout(shard(h_BLF, "batch", "length", "mlp"), config.activation_dropout, rngs[4])
        x_BLD = added("output_norm", x_BLD, linear(layer["down"], h_BLF), rngs[5])
    return (shard(x_BLD, "batch", "length", "embed"), cache), (weights, cross_weights)


# -- a model -----------------------------------------------------------------------------------------------------------


def encode(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    inputs_embeds: jax.Array | None = None,
    *,
    config: Any,
    parts: Parts,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """The encoder's hidden states.

    Args:
      params: the tree of the family's `declare`.
      input_ids: [B, L] token ids.
      attention_mask: [B, L], 1 for tokens and 0 for padding; None means no padding.
      inputs_embeds: [B, L, D] in place of `input_ids`.
      config: the model's numbers.
      parts: what the family brings.
      rng: key for dropout; None means none.
      output_hidden_states: also return every layer's output.
      output_attentions: also return every layer's attention weights.
      execution: scan or loop, rematerialisation, kernel.

    Returns:
      `Output` with `last_hidden_state` [B, L, D].

    Raises:
      InputError: both or neither of `input_ids` and `inputs_embeds`, or a text longer than the model.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("give either input_ids or inputs_embeds")
    L = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]  # type: ignore[union-attr]
    steps_LL = jnp.arange(L)[None] - jnp.arange(L)[:, None]
    view = View(padding_mask(attention_mask), parts.bias(params["encoder"], steps_LL, True, config))
    text = Text(input_ids, attention_mask, inputs_embeds=inputs_embeds)
    (x_BLD, _), states, maps = _run(
        params, "encoder", text, view, None, config, parts, rng,
        output_hidden_states=output_hidden_states, output_attentions=output_attentions, execution=execution,
    )  # fmt: skip
    own = None if maps is None else tuple(pair[0] for pair in maps)
    return Output(last_hidden_state=x_BLD, hidden_states=states, attentions=own)


def forward(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    decoder_input_ids: jax.Array | None = None,
    decoder_attention_mask: jax.Array | None = None,
    inputs_embeds: jax.Array | None = None,
    decoder_inputs_embeds: jax.Array | None = None,
    encoder_outputs: jax.Array | None = None,
    *,
    config: Any,
    parts: Parts,
    rng: jax.Array | None = None,
    cache: Cache | None = None,
    **options: Any,
) -> Output:
    """An encoder-decoder's hidden states.

    Args:
      params: the tree of the family's `declare`; `layers` may also be a sequence of single layers.
      input_ids: [B, S] token ids, for the encoder.
      attention_mask: [B, S] of these, 1 for tokens and 0 for padding; None means no padding.
      decoder_input_ids: [B, L] token ids, for the decoder.
      decoder_attention_mask: [B, L] of these; None means no padding.
      inputs_embeds: [B, S, D] in place of `input_ids`.
      decoder_inputs_embeds: [B, L, D] in place of `decoder_input_ids`.
      encoder_outputs: [B, S, D], the encoder's states, where they are known, in place of `input_ids`.
      config: the model's numbers.
      parts: what the family brings.
      rng: key for dropout; None means none.
      cache: what the decoder read before (`core.cache`), with L slots left. If it knows the encoder's states (`cache.cross`),
        nothing is given for the encoder; else it does afterwards.
      **options: `output_hidden_states`, `output_attentions`, `execution`, as for `encode`.

    Returns:
      `Output` with `last_hidden_state` [B, L, D] and `encoder_last_hidden_state` [B, S, D], and `cache` where one was given.

    Raises:
      InputError: not one of the inputs of either side, or a text longer than the model.
    """
    if (decoder_input_ids is None) == (decoder_inputs_embeds is None):
        raise InputError("give either decoder_input_ids or decoder_inputs_embeds")
    rng_encoder, rng_decoder = split_rng(rng, 2)
    known, read = cache is not None and cache.cross is not None, Output(last_hidden_state=encoder_outputs)
    if encoder_outputs is None and not known:
        read = encode(
            params, input_ids, attention_mask, inputs_embeds, config=config, parts=parts, rng=rng_encoder, **options
        )
    elif input_ids is not None or inputs_embeds is not None or (known and encoder_outputs is not None):
        raise InputError("the encoder's states are known: leave input_ids, inputs_embeds and a second time them out")
    source_BSD = read.last_hidden_state
    if cache is not None and not known:
        assert source_BSD is not None
        cache = dataclasses.replace(cache, cross=keep_source(params["decoder"]["layers"], source_BSD, attention_mask))
    L = (decoder_input_ids if decoder_inputs_embeds is None else decoder_inputs_embeds).shape[1]  # type: ignore[union-attr]
    real, positions = decoder_attention_mask, None
    keys: int = L
    start: Any = 0
    mask = looking_back(real)
    if cache is not None:
        start = cache.length
        cache, positions = extend(cache, decoder_attention_mask, L)
        real, keys, attention_mask = cache.mask, cache.mask.shape[1], cache.cross.mask  # type: ignore[union-attr]
        mask = Mask(real, pairs=causal_mask(L, keys, start))
    steps_LS = jnp.arange(keys)[None] - (start + jnp.arange(L))[:, None]
    view = View(
        mask,
        parts.bias(params["decoder"], steps_LS, False, config),
        source_BSD,
        padding_mask(attention_mask),
    )
    text = Text(decoder_input_ids, real, position_ids=positions, inputs_embeds=decoder_inputs_embeds)
    (x_BLD, cache), states, maps = _run(params, "decoder", text, view, cache, config, parts, rng_decoder, **options)
    if cache is not None:
        cache = dataclasses.replace(cache, length=cache.length + L)
    own, cross = (None, None) if maps is None else zip(*maps, strict=True)
    return Output(
        last_hidden_state=x_BLD,
        cache=cache,
        encoder_last_hidden_state=source_BSD,
        encoder_hidden_states=read.hidden_states,
        encoder_attentions=read.attentions,
        decoder_hidden_states=states,
        decoder_attentions=own,
        cross_attentions=cross,
    )


def _run(
    params: Tree, name: str, text: Text, view: View, cache: Cache | None, config: Any, parts: Parts, rng: Any,
    **options: Any,
) -> Any:  # fmt: skip
    """Embeds, runs a stack, finishes: ((x_BLD, cache), all states or None, all weights or None)."""
    tree, rngs = params[name], split_rng(rng, 3)
    (x_BLD, cache), states, maps = stack(
        tree["layers"],
        partial(parts.block, view=view, config=config),
        (parts.embed(params, name, text, config, rngs[0]), cache),
        beside={"number": np.arange(depth_of(tree["layers"]))},
        rng=rngs[1],
        **options,
    )
    x_BLD = shard(parts.finish(tree, x_BLD, config, rngs[2]), "batch", "length", "embed")
    return (x_BLD, cache), None if states is None else (*states[:-1], x_BLD), maps


# -- heads -------------------------------------------------------------------------------------------------------------


def declare_classifier(config: Any, head: str | None, init: Initialiser) -> Tree:
    """The `classifier` of a head that has one, else nothing."""
    D = config.hidden_size
    match head:
        case "sequence-classification":
            dense = declare_linear(D, D, "classification_head.dense", init, ("embed", "mlp"))
            out = declare_linear(D, config.num_labels, "classification_head.out_proj", init)
            return {"classifier": {"dense": dense, "out": out}}
        case "question-answering":
            return {"classifier": declare_linear(D, 2, "qa_outputs", init)}
        case "token-classification":
            return {"classifier": declare_linear(D, config.num_labels, "classifier", init)}
    return {}


def shift_right(ids_BL: jax.Array, config: Any) -> jax.Array:
    """What a decoder reads to predict `ids_BL`: the same one place later, after `decoder_start_token_id`; padding for -100.

    Raises:
      InputError: the config has no `decoder_start_token_id`, or no `pad_token_id`.
    """
    for name in ("decoder_start_token_id", "pad_token_id"):
        if getattr(config, name) is None:
            raise InputError(f"decoder_input_ids cannot be made: the config has no {name}")
    first_B1 = jnp.full_like(ids_BL[:, :1], config.decoder_start_token_id)
    shifted_BL = jnp.concatenate((first_B1, ids_BL[:, :-1]), axis=1)
    return jnp.where(shifted_BL == -100, config.pad_token_id, shifted_BL)


def same_text(forward: Forward, decoder_inputs: Callable[[jax.Array, Any], jax.Array]) -> Forward:
    """`forward`, whose decoder reads the encoder's text again, shifted, where it is given nothing."""

    def run(
        params: Tree,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        decoder_input_ids: jax.Array | None = None,
        *rest: Any,
        config: Any,
        decoder_inputs_embeds: jax.Array | None = None,
        **named: Any,
    ) -> Output:
        if decoder_input_ids is None and decoder_inputs_embeds is None and input_ids is not None:
            decoder_input_ids = decoder_inputs(input_ids, config)
        named["decoder_inputs_embeds"] = decoder_inputs_embeds
        return forward(params, input_ids, attention_mask, decoder_input_ids, *rest, config=config, **named)

    return run


def attach(forward: Forward, head: heads.Head) -> Forward:
    """`forward` followed by `head`; as `heads.attach`, with what the two stacks have between."""

    def run(params: Tree, *inputs: Any, config: Any, rng: jax.Array | None = None, **named: Any) -> Output:
        rng_trunk, rng_head = split_rng(rng, 2)
        trunk = forward(params, *inputs, config=config, rng=rng_trunk, **named)
        fields = head(params, trunk, config, rng_head)
        return trunk.replace(last_hidden_state=None, **fields)  # type: ignore[attr-defined]

    return run


def predict_words(forward: Forward, states: Callable[[jax.Array, Any], jax.Array] = lambda x, config: x) -> Forward:
    """The next token after each of the decoder's: logits [B, L, V]; with `logits_to_keep` = n of the last n tokens alone.

    `states` is what the family does to the states before they meet the words.
    """

    def run(params: Tree, *inputs: Any, config: Any, logits_to_keep: int = 0, **named: Any) -> Output:
        trunk = forward(params, *inputs, config=config, **named)
        x_BLD = states(trunk.last_hidden_state[:, -logits_to_keep:], config)  # type: ignore[index]
        own = params.get("masked_lm", {})
        if "bias" in own:  # a buffer in PyTorch, which nothing learns
            own = own | {"bias": jax.lax.stop_gradient(own["bias"])}
        words = params["decoder"].get("word", params["embeddings"]["word"])
        table = {"masked_lm": own, "embeddings": {"word": words}}
        fields = heads.over_vocabulary(table, Output(last_hidden_state=x_BLD), config, None)
        return trunk.replace(last_hidden_state=None, **fields)  # type: ignore[attr-defined]

    return run


def classify_end(forward: Forward) -> Forward:
    """Two dense layers over the decoder's state at the last `eos_token_id` of `input_ids` (without one: at the last column),
    which the decoder reads too: logits [B, C]."""

    def run(
        params: Tree, input_ids: jax.Array | None = None, *inputs: Any, config: Any, rng: Any = None, **named: Any
    ) -> Output:
        if input_ids is None:
            raise InputError("a text is classified by where it ends: give input_ids, not inputs_embeds")
        rng_trunk, rng_head = split_rng(rng, 2)
        trunk = forward(params, input_ids, *inputs, config=config, rng=rng_trunk, **named)
        assert trunk.last_hidden_state is not None
        end_BD = heads.token_at(trunk.last_hidden_state, heads.last_token(input_ids == config.eos_token_id))
        rate = config.classifier_dropout
        fields = heads.classify_first(params, Output(last_hidden_state=end_BD[:, None]), rng_head, "tanh", rate, rate)
        return trunk.replace(last_hidden_state=None, **fields)  # type: ignore[attr-defined]

    return run


def heads_over(
    forward: Forward,
    decoder_inputs: Callable[[jax.Array, Any], jax.Array] = shift_right,
    states: Callable[[jax.Array, Any], jax.Array] = lambda x, config: x,
) -> dict[str | None, Forward]:
    """The heads that most encoder-decoders have."""
    again = same_text(forward, decoder_inputs)
    return {
        None: forward,
        "seq2seq-lm": predict_words(forward, states),
        "sequence-classification": classify_end(again),
        "question-answering": attach(again, heads.find_span),
    }
