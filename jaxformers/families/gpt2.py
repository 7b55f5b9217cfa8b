"""GPT-2 (Radford et al. 2019): a pre-norm decoder with learned positions; query, key and value are one projection.

Its own: PyTorch keeps its projections as we do, inputs first. Token types (if given) are looked up among the words. Under an
encoder (`families.vision_encoder_decoder`) each block also looks at what that has read: `declare_cross`, `block_across`.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import positions
from jaxformers.core.layers import ACTIVATIONS, declare_norm, dropout, layer_norm, linear, product, split_rng
from jaxformers.core.params import Initialiser, Param, Tree, normal, stacked, zeros
from jaxformers.core.transformer import heads_out
from jaxformers.errors import ConfigError
from jaxformers.families import text_decoder, text_seq2seq
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.cross_attention import look_across
from jaxformers.families.model import Family, class_names
from jaxformers.families.text_decoder import FIXED, INPUTS, DecoderConfig, View, look_back
from jaxformers.families.text_encoder import Text
from jaxformers.parallel.mesh import shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Config(DecoderConfig):
    """GPT-2's numbers; the defaults are those of gpt2 (small)."""

    vocab_size: int = 50257
    intermediate_size: int | None = None  # type: ignore[assignment]  # filled in: four times the width
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 1024
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    def __post_init__(self) -> None:
        if self.intermediate_size is None:
            object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)
        super().__post_init__()


KEYS = keys_of(
    GPT2Config,
    hidden_size="n_embd",
    num_hidden_layers="n_layer",
    num_attention_heads="n_head",
    intermediate_size="n_inner",
    hidden_act="activation_function",
    hidden_dropout_prob="resid_pdrop",
    embedding_dropout="embd_pdrop",
    attention_probs_dropout_prob="attn_pdrop",
    max_position_embeddings="n_positions",
    layer_norm_eps="layer_norm_epsilon",
)
IGNORED = {
    **dict.fromkeys(
        ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
        "of a head with two losses that is not here",
    ),
    "n_ctx": "the same as n_positions",
    "reorder_and_upcast_attn": "attention is float32 where it matters, always",
}
config_from_hf = partial(read_config, GPT2Config, KEYS, FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "gpt2")


def declare_block(config: Any) -> Tree:
    """The parameters of one block, whatever the order of its norms."""
    D, H, F, N = config.hidden_size, config.num_attention_heads, config.intermediate_size, config.num_hidden_layers
    K, init = D // H, normal(config.initializer_range)
    deep = normal(config.initializer_range / (2 * N) ** 0.5)  # of what is added to the residual stream
    at = "transformer.h.{}."

    def project(inputs: int, outputs: int, name: str, init: Initialiser, axes: tuple[str, str]) -> Tree:
        bias = Param((outputs,), axes[1:], zeros, f"{at}{name}.bias", decay=False)
        return {"kernel": Param((inputs, outputs), axes, init, f"{at}{name}.weight"), "bias": bias}

    qkv, out = at + "attn.c_attn", at + "attn.c_proj"
    return {
        "attention": {
            "qkv": {
                "kernel": Param((D, 3, H, K), ("embed", "parts", "heads", "head_size"), init, f"{qkv}.weight",
                                "d (c h k) -> d c h k"),
                "bias": Param((3, H, K), ("parts", "heads", "head_size"), zeros, f"{qkv}.bias", "(c h k) -> c h k",
                              decay=False),
            },
            "out": {
                "kernel": Param((H, K, D), ("heads", "head_size", "embed"), deep, f"{out}.weight", "(h k) d -> h k d"),
                "bias": Param((D,), ("embed",), zeros, f"{out}.bias", decay=False),
            },
        },
        "attention_norm": declare_norm(D, at + "ln_1"),
        "up": project(D, F, "mlp.c_fc", init, ("embed", "mlp")),
        "down": project(F, D, "mlp.c_proj", deep, ("mlp", "embed")),
        "output_norm": declare_norm(D, at + "ln_2"),
    }  # fmt: skip


def declare_cross(config: GPT2Config) -> Tree:
    """What a block has beside under an encoder. Raises `ConfigError` for weights by layer, which no such model has."""
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        raise ConfigError("a GPT-2 under an encoder has the usual scale of attention, and none by layer")
    D, H, init = config.hidden_size, config.num_attention_heads, normal(config.initializer_range)
    K, at, axes = D // H, "transformer.h.{}.", ("heads", "head_size")
    pair, query, out = (f"{at}crossattention.{name}" for name in ("c_attn", "q_attn", "c_proj"))
    return {
        "cross": {
            "query": {
                "kernel": Param((D, H, K), ("embed", *axes), init, f"{query}.weight", "d (h k) -> d h k"),
                "bias": Param((H, K), axes, zeros, f"{query}.bias", "(h k) -> h k", decay=False),
            },
            "pair": {
                "kernel": Param(
                    (D, 2, H, K), ("embed", "parts", *axes), init, f"{pair}.weight", "d (c h k) -> d c h k"
                ),
                "bias": Param((2, H, K), ("parts", *axes), zeros, f"{pair}.bias", "(c h k) -> c h k", decay=False),
            },
            "out": {
                "kernel": Param((H, K, D), (*axes, "embed"), init, f"{out}.weight", "(h k) d -> h k d"),
                "bias": Param((D,), ("embed",), zeros, f"{out}.bias", decay=False),
            },
        },
        "cross_norm": declare_norm(D, at + "ln_cross_attn"),
    }


def declare(config: GPT2Config, head: str | None = None) -> Tree:
    """Every parameter of GPT-2 with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init = config.hidden_size, normal(config.initializer_range)
    return {
        "embeddings": {
            "word": Param((config.vocab_size, D), ("vocab", "table"), init, "transformer.wte.weight"),
            "position": Param(
                (config.max_position_embeddings, D), ("positions", "table"), init, "transformer.wpe.weight"
            ),
        },
        "layers": stacked(config.num_hidden_layers, declare_block(config)),
        "final_norm": declare_norm(D, "transformer.ln_f"),
        **text_decoder.declare_heads(config, head, init, "classifier"),
    }


def embed(params: Tree, text: Text, config: Any, rng: jax.Array | None) -> jax.Array:
    """Words, positions, and token types (words too), summed: [B, L, D]."""
    x_BLD = params["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    if text.token_type_ids is not None:
        x_BLD = x_BLD + params["word"][text.token_type_ids]
    x_BLD = x_BLD + positions.learned(params["position"], x_BLD.shape[1], text.position_ids)
    return dropout(shard(x_BLD, "batch", "length", "embed"), config.embedding_dropout, rng)


def attention(
    layer: Tree, y_BLD: jax.Array, cache: Any, *, view: View, config: Any, rng: Any, maps: bool, kernel: str | None
) -> Any:
    """What a block adds for the tokens before: [B, L, D], the weights (if asked for), and the cache."""
    rng_maps, rng_out = split_rng(rng, 2)
    scale = (config.hidden_size // config.num_attention_heads) ** -0.5 if config.scale_attn_weights else 1.0
    with jax.named_scope("attention"):
        qkv = layer["attention"]["qkv"]
        # The three come out side by side: to put them first in the product would turn the weights around with every call.
        y_BLCHK = product("BLD,DCHK->BLCHK", y_BLD, qkv["kernel"])
        y_BLCHK = y_BLCHK + jnp.broadcast_to(qkv["bias"], y_BLCHK.shape)
        q_BLHK, k_BLHK, v_BLHK = (shard(y_BLCHK[:, :, n], "batch", "length", "heads", "head_size") for n in range(3))
        if config.scale_attn_by_inverse_layer_idx:
            q_BLHK = q_BLHK / jnp.asarray(layer["number"] + 1, q_BLHK.dtype)
        a_BLHK, weights_BHLS, cache = look_back(
            q_BLHK, k_BLHK, v_BLHK, cache, layer, view, scale=scale, dropout_rate=config.attention_probs_dropout_prob,
            rng=rng_maps, maps=maps, kernel=kernel,
        )  # fmt: skip
        a_BLD = dropout(heads_out(layer["attention"]["out"], a_BLHK), config.hidden_dropout_prob, rng_out)
    return a_BLD, weights_BHLS, cache


def feed_forward(layer: Tree, y_BLD: jax.Array, config: Any, rng: Any) -> jax.Array:
    """What a block adds for each token alone: [B, L, D]."""
    with jax.named_scope("feed_forward"):
        h_BLF = shard(ACTIVATIONS[config.hidden_act](linear(layer["up"], y_BLD)), "batch", "length", "mlp")
        return dropout(linear(layer["down"], h_BLF), config.hidden_dropout_prob, rng)


def block(layer: Tree, carried: Any, *, config: GPT2Config, rng: Any, **options: Any) -> Any:
    """One pre-norm block: x + attention(norm(x)), x + feed-forward(norm(x))."""
    x_BLD, cache = carried
    rng_attention, rng_output = split_rng(rng, 2)
    y_BLD = layer_norm(layer["attention_norm"], x_BLD, config.layer_norm_eps)
    a_BLD, weights_BHLS, cache = attention(layer, y_BLD, cache, config=config, rng=rng_attention, **options)
    x_BLD = x_BLD + a_BLD
    y_BLD = layer_norm(layer["output_norm"], x_BLD, config.layer_norm_eps)
    x_BLD = x_BLD + feed_forward(layer, y_BLD, config, rng_output)
    return (shard(x_BLD, "batch", "length", "embed"), cache), weights_BHLS


def block_across(
    layer: Tree, carried: Any, *, view: text_seq2seq.View, config: GPT2Config, rng: Any, maps: bool, kernel: str | None
) -> Any:
    """One block under an encoder, at which it looks between its two sums; returns what `text_seq2seq.block` does."""
    x_BLD, cache = carried
    rng_own, rng_cross, rng_drop, rng_output = split_rng(rng, 4)
    options: Any = {"config": config, "maps": maps, "kernel": kernel}
    y_BLD = layer_norm(layer["attention_norm"], x_BLD, config.layer_norm_eps)
    assert view.mask is not None
    own = View(None, view.mask, None)
    a_BLD, weights, cache = attention(layer, y_BLD, cache, view=own, rng=rng_own, **options)
    x_BLD = x_BLD + a_BLD
    y_BLD = layer_norm(layer["cross_norm"], x_BLD, config.layer_norm_eps)
    with jax.named_scope("cross_attention"):
        a_BLD, cross_weights = look_across(
            layer, y_BLD, cache, view.source, view.source_mask, dropout_rate=config.attention_probs_dropout_prob,
            rng=rng_cross, maps=maps, kernel=kernel,
        )  # fmt: skip
    x_BLD = x_BLD + dropout(a_BLD, config.hidden_dropout_prob, rng_drop)
    y_BLD = layer_norm(layer["output_norm"], x_BLD, config.layer_norm_eps)
    x_BLD = x_BLD + feed_forward(layer, y_BLD, config, rng_output)
    return (shard(x_BLD, "batch", "length", "embed"), cache), (weights, cross_weights)


def norm(params: Tree, x_BLD: jax.Array, config: GPT2Config) -> jax.Array:
    """The norm after the last layer."""
    return layer_norm(params, x_BLD, config.layer_norm_eps)


decode = partial(text_decoder.decode, embed=embed, block=block, norm=norm)
HEADS = text_decoder.heads_over(decode)

FAMILY = Family(
    name="gpt2",
    config_class=GPT2Config,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={**class_names("GPT2", HEADS), "causal-lm": "GPT2LMHeadModel"},
    prefix="transformer.",
    trunk=("embeddings", "layers", "final_norm"),
    inputs=(*INPUTS, "token_type_ids"),
    cache=text_decoder.cache_for,
    buffers=("transformer.h.{}.attn.bias", "transformer.h.{}.attn.masked_bias"),
    ties={"lm_head.weight": "transformer.wte.weight"},
)
