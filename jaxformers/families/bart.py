"""BART (Lewis et al. 2019, arXiv:1910.13461), the first of a line of encoder-decoders that share all but a few choices.

What they choose stands in their configs' classes: whether norms come first, what positions are, whether embeddings are normed;
see `mbart`, `marian`, `m2m_100`, `pegasus`. The block is `text_seq2seq.block`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import positions
from jaxformers.core.cache import Cache, empty_cache
from jaxformers.core.layers import declare_linear, declare_norm, dropout, layer_norm
from jaxformers.core.params import Param, Tree, normal, stacked, zeros
from jaxformers.core.transformer import declare_heads_in, declare_heads_out
from jaxformers.errors import ConfigError
from jaxformers.families import text_seq2seq
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import Text, TextConfig
from jaxformers.families.text_seq2seq import INPUTS, Parts, shift_right
from jaxformers.parallel.mesh import shard

# -- config ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class BartConfig(TextConfig):
    """The line's numbers; the defaults are those of bart-large."""

    vocab_size: int = 50265
    hidden_size: int = 1024
    num_decoder_layers: int = 12
    num_attention_heads: int = 16
    decoder_attention_heads: int = 16
    intermediate_size: int = 4096
    decoder_intermediate_size: int = 4096
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    activation_dropout: float = 0.0
    classifier_dropout: float = 0.0
    max_position_embeddings: int = 1024
    layer_norm_eps: float = 1e-5
    scale_embedding: bool = False
    pad_token_id: int = 1
    eos_token_id: int = 2
    decoder_start_token_id: int | None = 2

    SIZES: ClassVar[tuple[str, ...]] = (
        *TextConfig.SIZES, "num_decoder_layers", "decoder_attention_heads", "decoder_intermediate_size")  # fmt: skip
    # What a family is, rather than what a checkpoint of it says.
    NORM_FIRST = False  # whether a layer reads the norm of its input, and another norm follows the last one
    NORMED_WORDS = True  # whether embeddings are normed
    POSITIONS = "learned"  # a name in `PLACES`
    SCALED_VECTORS = False  # whether vectors given to the decoder are scaled as its words are
    LOGITS_BIAS = True  # whether the words' logits have a bias (which nothing learns)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.decoder_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} does not divide into {self.decoder_attention_heads} heads (decoder)"
            )


RENAMED = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_decoder_layers": "decoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_dim",
    "decoder_intermediate_size": "decoder_ffn_dim",
    "hidden_act": "activation_function",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "initializer_range": "init_std",
}
FIXED = {
    "is_decoder": (False, "one stack as a decoder"),
    "is_encoder_decoder": (True, "one stack alone"),
    "tie_word_embeddings": (True, "a table of words for each stack and one for the output"),
}
IGNORED = {
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop"), "how it is trained; no layer is left out here"),
    "num_hidden_layers": "the same as encoder_layers",
    **dict.fromkeys(("add_bias_logits", "add_final_layer_norm", "normalize_before", "normalize_embedding",
                     "static_position_embeddings", "extra_pos_embeddings", "do_blenderbot_90_layernorm"),
                    "what the family says; PyTorch no longer reads it"),
    **dict.fromkeys(("classif_dropout", "force_bos_token_to_be_generated", "save_step"), "a name of old that nothing reads"),
}  # fmt: skip


def read(cls: type[BartConfig], names: Mapping[str, str], raw: Mapping[str, Any], source: str = "config.json") -> Any:
    """Reads a config.json. Where BART's says nothing of classes it has three, those of entailment."""
    said = cls is not BartConfig or raw.get("id2label")
    return read_config(cls, names, FIXED, IGNORED, raw if said else {"num_labels": 3, **raw}, source)


# -- what it owns ------------------------------------------------------------------------------------------------------


def declare_layers(config: Any, side: str, key_bias: bool = True) -> Tree:
    """The layers of the "encoder" or the "decoder"; without a bias of keys where they have none."""
    D, init, decodes = config.hidden_size, normal(config.initializer_range), side == "decoder"
    depth = config.num_decoder_layers if decodes else config.num_hidden_layers
    H = config.decoder_attention_heads if decodes else config.num_attention_heads
    F = config.decoder_intermediate_size if decodes else config.intermediate_size
    layer = f"model.{side}.layers.{{}}."

    def attention(part: str) -> Tree:
        tree = {
            name: declare_heads_in(D, H, D // H, f"{layer}{part}.{name[0]}_proj", init, bias=key_bias or name != "key")
            for name in ("query", "key", "value")
        }
        return {**tree, "out": declare_heads_out(D, H, D // H, f"{layer}{part}.out_proj", init)}

    block = {
        "attention": attention("self_attn"),
        "attention_norm": declare_norm(D, layer + "self_attn_layer_norm"),
        "up": declare_linear(D, F, layer + "fc1", init, ("embed", "mlp")),
        "down": declare_linear(F, D, layer + "fc2", init, ("mlp", "embed")),
        "output_norm": declare_norm(D, layer + "final_layer_norm"),
    }
    if decodes:
        block["cross"] = attention("encoder_attn")
        block["cross_norm"] = declare_norm(D, layer + "encoder_attn_layer_norm")
    return stacked(depth, block)


def declare(config: BartConfig, head: str | None = None) -> Tree:
    """Every parameter of the line with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init = config.hidden_size, normal(config.initializer_range)

    def side(name: str) -> Tree:
        at = f"model.{name}."
        tree: Tree = {"layers": declare_layers(config, name)}
        if config.POSITIONS == "learned":
            shape, axes = (config.max_position_embeddings + FIRST, D), ("positions", "table")
            tree["position"] = Param(shape, axes, init, at + "embed_positions.weight")
        if config.NORMED_WORDS:
            tree["norm"] = declare_norm(D, at + "layernorm_embedding")
        if config.NORM_FIRST:
            tree["final_norm"] = declare_norm(D, at + "layer_norm")
        return tree

    V = config.vocab_size
    tree: Tree = {
        "embeddings": {"word": Param((V, D), ("vocab", "table"), init, "model.shared.weight")},
        "encoder": side("encoder"),
        "decoder": side("decoder"),
        **text_seq2seq.declare_classifier(config, head, init),
    }
    if head == "seq2seq-lm" and config.LOGITS_BIAS:
        tree["masked_lm"] = declare_logits_bias(V)
    return tree


def declare_logits_bias(vocab: int) -> Tree:
    """What is added to the words' logits, [1, V]."""
    return {"bias": Param((1, vocab), ("labels", "vocab"), zeros, "final_logits_bias", decay=False)}


# -- how it computes ---------------------------------------------------------------------------------------------------

FIRST = 2  # the row of the first position in a learned table: fairseq's were for padding


def learned(stack: Tree, text: Text, length: int, config: BartConfig) -> jax.Array:
    """Rows of the stack's own table."""
    return positions.learned(stack["position"][FIRST:], length, text.position_ids)


def halves(stack: Tree, text: Text, length: int, config: BartConfig) -> jax.Array:
    """The fixed table of Vaswani et al. 2017, all sines before all cosines."""
    table_PD = positions.half_sinusoids(config.max_position_embeddings, config.hidden_size)
    return positions.learned(jnp.asarray(table_PD), length, text.position_ids)


def fairseq(stack: Tree, text: Text, length: int, config: BartConfig) -> jax.Array:
    """Sines and cosines of positions that skip padding, zeros for padding itself; there is no last one."""
    first = config.pad_token_id + 1
    if text.position_ids is not None:
        places_BL = text.position_ids + first
    elif text.input_ids is not None:
        places_BL = positions.after_padding(text.input_ids, config.pad_token_id)
    else:
        places_BL = jnp.arange(first, first + length)[None]
    half = config.hidden_size // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000) / (half - 1)))
    angles_BLK = places_BL[..., None].astype(jnp.float32) * rates[None, None]
    table_BLD = jnp.concatenate((jnp.sin(angles_BLK), jnp.cos(angles_BLK)), axis=-1)
    return jnp.where((places_BL == config.pad_token_id)[..., None], 0.0, table_BLD)


PLACES: dict[str, Callable[[Tree, Text, int, Any], jax.Array]] = {
    "learned": learned,
    "halves": halves,
    "fairseq": fairseq,
}


def embed(params: Tree, side: str, text: Text, config: BartConfig, rng: jax.Array | None) -> jax.Array:
    """Words and positions, summed and (of some) normed: [B, L, D]."""
    stack, x_BLD = params[side], text.inputs_embeds
    if x_BLD is None:
        x_BLD = stack.get("word", params["embeddings"]["word"])[text.input_ids]
    if config.scale_embedding and (text.inputs_embeds is None or (config.SCALED_VECTORS and side == "decoder")):
        x_BLD = x_BLD * jnp.asarray(config.hidden_size**0.5, x_BLD.dtype)
    places = PLACES[config.POSITIONS](stack, text, x_BLD.shape[1], config)
    x_BLD = shard(x_BLD + places.astype(x_BLD.dtype), "batch", "length", "embed")
    if "norm" in stack:
        x_BLD = layer_norm(stack["norm"], x_BLD, config.layer_norm_eps)
    return dropout(x_BLD, config.hidden_dropout_prob, rng)


def finish(stack: Tree, x_BLD: jax.Array, config: BartConfig, rng: jax.Array | None) -> jax.Array:
    """The norm after the last layer, where norms come first."""
    return layer_norm(stack["final_norm"], x_BLD, config.layer_norm_eps) if "final_norm" in stack else x_BLD


def cache_for(config: BartConfig, batch: int, slots: int, dtype: Any) -> Cache:
    """An empty cache of the decoder."""
    H = config.decoder_attention_heads
    return empty_cache(config.num_decoder_layers, batch, H, slots, config.hidden_size // H, dtype)


def family(
    name: str,
    architectures: str | Mapping[str | None, str],
    cls: type[BartConfig],
    *without: str,
    declare: Callable[[Any, str | None], Tree] = declare,
    decoder_inputs: Callable[[jax.Array, Any], jax.Array] = shift_right,
) -> Family:
    """A family of this line.

    Args:
      name: its `model_type`.
      architectures: what transformers' classes start with, of a family that has BART's heads; else its classes.
      cls: its config.
      *without: fields that its config.json does not have.
      declare: its parameters, where it has others.
      decoder_inputs: what a decoder reads to predict labels.
    """
    names = keys_of(cls, without=("layer_norm_eps", "tie_word_embeddings", *without), **RENAMED)
    block = partial(text_seq2seq.block, norm=layer_norm, norm_first=cls.NORM_FIRST)
    forward: Forward = partial(text_seq2seq.forward, parts=Parts(embed, block, finish))
    if isinstance(architectures, str):  # these read their own text where the decoder is given nothing
        heads = text_seq2seq.heads_over(text_seq2seq.same_text(forward, decoder_inputs), decoder_inputs)
        architectures = class_names(architectures, heads)
    else:
        every = text_seq2seq.heads_over(forward, decoder_inputs)
        heads = {head: every[head] for head in architectures}
    buffers = [f"model.{side}.version" for side in ("encoder", "decoder")]
    if cls.POSITIONS != "learned":
        buffers += [f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")]
    return Family(
        name=name,
        config_class=cls,
        config_from_hf=partial(read, cls, names),
        config_to_hf=partial(write_config, names, name),
        config_keys=names,
        declare=declare,
        heads=heads,
        architectures=architectures,
        prefix="model.",
        trunk=("embeddings", "encoder", "decoder"),
        inputs=INPUTS,
        cache=cache_for,
        decoder_inputs=decoder_inputs,
        buffers=tuple(buffers),
        ties=dict.fromkeys(
            ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"),
            "model.shared.weight",
        ),
    )


FAMILY = family("bart", "Bart", BartConfig)
