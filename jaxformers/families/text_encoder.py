"""What the text encoders that descend from BERT share: the numbers in their configs, their embeddings, their forward pass.

A family is a config class, the names of its parameters, and which of these parts it joins; where it differs it brings its
own `embed` or `layers`. The block is `core.transformer`, the heads' parts are `core.heads`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxformers.core import heads, positions
from jaxformers.core.attention import padding_mask
from jaxformers.core.layers import declare_linear, declare_norm, dropout, layer_norm, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal
from jaxformers.core.transformer import BlockNames, Execution, post_norm, stack
from jaxformers.errors import InputError
from jaxformers.families.config import Config, check_numbers
from jaxformers.parallel.mesh import shard

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")

# -- config ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(Config):
    """The numbers every text encoder has, under the house's names; the defaults are those of bert-base-uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    tie_word_embeddings: bool = True

    SIZES: ClassVar[tuple[str, ...]] = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                                        "intermediate_size", "max_position_embeddings")  # fmt: skip

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(TextConfig):
    """A `TextConfig` with BERT's one dropout for all hidden states, and its token types."""

    hidden_dropout_prob: float = 0.1
    type_vocab_size: int = 2

    SIZES: ClassVar[tuple[str, ...]] = (*TextConfig.SIZES, "type_vocab_size")
    activation_dropout = 0.0  # which encoder-decoders have, and asks of any that writes


FIXED = {
    "position_embedding_type": ("absolute", "relative positions"),
    "is_decoder": (False, "the encoder as a decoder"),
    "add_cross_attention": (False, "cross-attention"),
    "is_encoder_decoder": (False, "an encoder-decoder"),
    "cross_attention_hidden_size": (None, "cross-attention"),
}

# -- what it owns ------------------------------------------------------------------------------------------------------

# head -> checkpoint names of its layers: the classifier, after a dense layer where that has a name
CLASSIFIERS: dict[str | None, tuple[str | None, str]] = {
    "sequence-classification": (None, "classifier"),
    "token-classification": (None, "classifier"),
    "multiple-choice": (None, "classifier"),
    "question-answering": (None, "qa_outputs"),
}


def declare_embeddings(config: EncoderConfig, at: str, width: int | None = None) -> Tree:
    """Words, positions, token types (where there are any) and a norm, under BERT's names after `at`.

    Args:
      config: the model's numbers.
      at: what the checkpoint names start with.
      width: of the tables, where it is not the model's.
    """
    E = config.hidden_size if width is None else width
    init = normal(config.initializer_range)
    tree: Tree = {
        "word": Param((config.vocab_size, E), ("vocab", "table"), init, at + "word_embeddings.weight"),
        "position": Param(
            (config.max_position_embeddings, E), ("positions", "table"), init, at + "position_embeddings.weight"
        ),
        "norm": declare_norm(E, at + "LayerNorm"),
    }
    if config.type_vocab_size:
        name = at + "token_type_embeddings.weight"
        tree["type"] = Param((config.type_vocab_size, E), ("types", "table"), init, name)
    return tree


def block_names(layer: str) -> BlockNames:
    """The checkpoint names of a block in BERT's fashion, after `layer`, which holds `{}` for its number."""
    return BlockNames(
        query=layer + "attention.self.query",
        key=layer + "attention.self.key",
        value=layer + "attention.self.value",
        out=layer + "attention.output.dense",
        attention_norm=layer + "attention.output.LayerNorm",
        up=layer + "intermediate.dense",
        down=layer + "output.dense",
        output_norm=layer + "output.LayerNorm",
    )


def declare_classifier(
    config: TextConfig, head: str | None, names: Mapping[str | None, tuple[str | None, str]] = CLASSIFIERS
) -> Tree:
    """The `classifier` of a head that has one, else nothing: a dense layer, or two (`dense` and `out`)."""
    if head not in names:
        return {}
    dense, out = names[head]
    D, init = config.hidden_size, normal(config.initializer_range)
    classes = {"multiple-choice": 1, "question-answering": 2}.get(str(head), config.num_labels)
    last = declare_linear(D, classes, out, init)
    if dense is None:
        return {"classifier": last}
    return {"classifier": {"dense": declare_linear(D, D, dense, init, ("embed", "mlp")), "out": last}}


# -- how it computes ---------------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """The arrays that stand for a batch of texts; see `encode`."""

    input_ids: jax.Array | None = None
    attention_mask: jax.Array | None = None
    token_type_ids: jax.Array | None = None
    position_ids: jax.Array | None = None
    inputs_embeds: jax.Array | None = None


Embed = Callable[[Tree, Text, Any, jax.Array | None], jax.Array]
Layers = Callable[..., tuple[jax.Array, tuple[jax.Array, ...] | None, tuple[jax.Array, ...] | None]]


def embed_text(params: Tree, text: Text, config: Any, rng: jax.Array | None) -> jax.Array:
    """Words, positions and token types, summed and normalised, and projected where the model is wider: [B, L, D]."""
    x_BLE = params["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    if "type" in params:
        types = jnp.zeros((1, x_BLE.shape[1]), jnp.int32) if text.token_type_ids is None else text.token_type_ids
        x_BLE = x_BLE + params["type"][types]
    elif text.token_type_ids is not None:
        raise InputError("this model has no token types: leave token_type_ids out")
    x_BLE = x_BLE + positions.learned(params["position"], x_BLE.shape[1], text.position_ids)
    x_BLE = layer_norm(params["norm"], shard(x_BLE, "batch", "length", "embed"), config.layer_norm_eps)
    x_BLE = dropout(x_BLE, config.hidden_dropout_prob, rng)
    if "project" not in params:
        return x_BLE
    # Said outright: left cut by the projection's columns, it goes wrong in XLA's partitioner (0.10) where layers add to it.
    return shard(linear(params["project"], x_BLE), "batch", "length", "embed")


def post_norm_layers(params: Tree, x_BLD: jax.Array, text: Text, config: Any, **options: Any) -> Any:
    """BERT's layers: post-norm blocks that look at everything but padding. `options` are those of `stack`."""
    block = partial(post_norm, config=config, mask=padding_mask(text.attention_mask))
    return stack(params["layers"], block, x_BLD, **options)


def encode(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
    position_ids: jax.Array | None = None,
    inputs_embeds: jax.Array | None = None,
    *,
    config: Any,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
    embed: Embed = embed_text,
    layers: Layers = post_norm_layers,
) -> Output:
    """A text encoder's hidden states, and the pooled first token where the parameters have a pooler.

    Args:
      params: the tree of the family's `declare`.
      input_ids: [B, L] token ids.
      attention_mask: [B, L], 1 for tokens and 0 for padding; None means no padding.
      token_type_ids: [B, L], which of two texts a token belongs to; None means the first.
      position_ids: [B, L]; None counts on from the family's first.
      inputs_embeds: [B, L, E] in place of `input_ids`, as wide as the word embedding.
      config: the model's numbers.
      rng: key for dropout; None means none.
      output_hidden_states: also return every layer's output.
      output_attentions: also return every layer's attention weights.
      execution: scan or loop, rematerialisation, kernel.
      embed: the family's embeddings: (params, text, config, rng) -> [B, L, D].
      layers: the family's layers: (params, x_BLD, text, config, **options of `stack`) -> what `stack` returns.

    Returns:
      `Output` with `last_hidden_state` [B, L, D], `pooler_output` [B, D] where there is a pooler.

    Raises:
      InputError: both or neither of `input_ids` and `inputs_embeds`, or a text longer than the model.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("give either input_ids or inputs_embeds")
    text = Text(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
    rng_embed, rng_layers = split_rng(rng, 2)
    x_BLD, states, maps = layers(
        params,
        embed(params["embeddings"], text, config, rng_embed),
        text,
        config,
        rng=rng_layers,
        output_hidden_states=output_hidden_states,
        output_attentions=output_attentions,
        execution=execution,
    )
    pooled_BD = heads.pool_first(params["pooler"], x_BLD) if "pooler" in params else None
    return Output(last_hidden_state=x_BLD, pooler_output=pooled_BD, hidden_states=states, attentions=maps)
