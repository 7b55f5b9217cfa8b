"""CTRL (Keskar et al. 2019, arXiv:1909.05858): a pre-norm decoder over fixed positions; the first token says what to write.

Its own: sines and cosines stand in two halves, words are multiplied by the square root of their width, and logits have a bias.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import heads, positions
from jaxformers.core.layers import declare_linear, declare_norm, dropout, layer_norm, linear, split_rng
from jaxformers.core.params import Param, Tree, normal, stacked
from jaxformers.core.transformer import declare_heads_in, declare_heads_out, heads_in, heads_out
from jaxformers.families import text_decoder
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward
from jaxformers.families.text_decoder import FIXED, INPUTS, DecoderConfig, View, look_back
from jaxformers.families.text_encoder import Text
from jaxformers.parallel.mesh import shard

EPSILON = 1e-6  # of the norms in layers, whatever the config says of the last


@dataclasses.dataclass(frozen=True, kw_only=True)
class CTRLConfig(DecoderConfig):
    """CTRL's numbers; the defaults are transformers', the width and depth those of ctrl."""

    vocab_size: int = 246534
    hidden_size: int = 1280
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    intermediate_size: int = 8192
    max_position_embeddings: int = 256
    layer_norm_eps: float = EPSILON


KEYS = keys_of(
    CTRLConfig,
    without=("hidden_act", "attention_probs_dropout_prob", "classifier_dropout"),  # it has none
    hidden_size="n_embd",
    num_hidden_layers="n_layer",
    num_attention_heads="n_head",
    intermediate_size="dff",
    hidden_dropout_prob="resid_pdrop",
    embedding_dropout="embd_pdrop",
    max_position_embeddings="n_positions",
    layer_norm_eps="layer_norm_epsilon",
)
IGNORED = {
    **dict.fromkeys(
        ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
        "of a head that was never written",
    ),
    "n_ctx": "never read",
    "attn_pdrop": "attention weights are not dropped",
}
config_from_hf = partial(read_config, CTRLConfig, KEYS, FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "ctrl")


def declare(config: CTRLConfig, head: str | None = None) -> Tree:
    """Every parameter of CTRL with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, H, F = config.hidden_size, config.num_attention_heads, config.intermediate_size
    K, init, at = D // H, normal(config.initializer_range), "transformer.h.{}."

    looks = at + "multi_head_attention."
    block: Tree = {
        "attention": {
            "query": declare_heads_in(D, H, K, looks + "Wq", init),
            "key": declare_heads_in(D, H, K, looks + "Wk", init),
            "value": declare_heads_in(D, H, K, looks + "Wv", init),
            "out": declare_heads_out(D, H, K, looks + "dense", init),
        },
        "attention_norm": declare_norm(D, at + "layernorm1"),
        "up": declare_linear(D, F, at + "ffn.0", init, ("embed", "mlp")),
        "down": declare_linear(F, D, at + "ffn.2", init, ("mlp", "embed")),
        "output_norm": declare_norm(D, at + "layernorm2"),
    }
    tree: Tree = {
        "embeddings": {"word": Param((config.vocab_size, D), ("vocab", "table"), init, "transformer.w.weight")},
        "layers": stacked(config.num_hidden_layers, block),
        "final_norm": declare_norm(D, "transformer.layernorm"),
    }
    if head == "causal-lm":
        tied = config.tie_word_embeddings
        tree["masked_lm"] = heads.declare_vocabulary(D, config.vocab_size, "lm_head", init, tied)
    if head == "sequence-classification":
        tree["classifier"] = declare_linear(D, config.num_labels, "classifier", init, bias=False)
    return tree


def embed(params: Tree, text: Text, config: CTRLConfig, rng: jax.Array | None) -> jax.Array:
    """Words (or vectors) and token types, which are words too, scaled; and positions: [B, L, D]."""
    x_BLD = params["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    if text.token_type_ids is not None:
        x_BLD = x_BLD + params["word"][text.token_type_ids]
    table_PD = jnp.asarray(positions.half_sinusoids(config.max_position_embeddings, config.hidden_size), x_BLD.dtype)
    places_BLD = positions.learned(table_PD, x_BLD.shape[1], text.position_ids)
    x_BLD = x_BLD * jnp.asarray(config.hidden_size**0.5, x_BLD.dtype) + jnp.broadcast_to(places_BLD, x_BLD.shape)
    return dropout(shard(x_BLD, "batch", "length", "embed"), config.embedding_dropout, rng)


def block(
    layer: Tree, carried: Any, *, view: View, config: CTRLConfig, rng: Any, maps: bool, kernel: str | None
) -> Any:
    """One pre-norm block: x + attention(norm(x)), x + down(relu(up(norm(x))))."""
    x_BLD, cache = carried
    rng_attention, rng_output = split_rng(rng, 2)
    with jax.named_scope("attention"):
        y_BLD = layer_norm(layer["attention_norm"], x_BLD, EPSILON)
        q_BLHK, k_BLHK, v_BLHK = (heads_in(layer["attention"][name], y_BLD) for name in ("query", "key", "value"))
        a_BLHK, weights_BHLS, cache = look_back(q_BLHK, k_BLHK, v_BLHK, cache, layer, view, maps=maps, kernel=kernel)
        a_BLD = heads_out(layer["attention"]["out"], a_BLHK)
        x_BLD = x_BLD + dropout(a_BLD, config.hidden_dropout_prob, rng_attention)
    with jax.named_scope("feed_forward"):
        y_BLD = layer_norm(layer["output_norm"], x_BLD, EPSILON)
        h_BLF = shard(jax.nn.relu(linear(layer["up"], y_BLD)), "batch", "length", "mlp")
        x_BLD = x_BLD + dropout(linear(layer["down"], h_BLF), config.hidden_dropout_prob, rng_output)
    return (shard(x_BLD, "batch", "length", "embed"), cache), weights_BHLS


def norm(params: Tree, x_BLD: jax.Array, config: CTRLConfig) -> jax.Array:
    """The norm after the last layer."""
    return layer_norm(params, x_BLD, config.layer_norm_eps)


decode = partial(text_decoder.decode, embed=embed, block=block, norm=norm)
HEADS: dict[str | None, Forward] = {
    None: decode,
    "causal-lm": text_decoder.predict_next(decode),
    "sequence-classification": text_decoder.classify_last(decode),
}

FAMILY = Family(
    name="ctrl",
    config_class=CTRLConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={
        None: "CTRLModel",
        "causal-lm": "CTRLLMHeadModel",
        "sequence-classification": "CTRLForSequenceClassification",
    },
    prefix="transformer.",
    trunk=("embeddings", "layers", "final_norm"),
    inputs=(*INPUTS, "token_type_ids"),
    cache=text_decoder.cache_for,
    buffers=("transformer.pos_encoding",),
    ties={"lm_head.weight": "transformer.w.weight"},
)
