"""GPT-NeoX (Black et al. 2022, arXiv:2204.06745; Pythia): a pre-norm decoder whose attention and feed-forward layer read the
same states, and whose heads turn in part.

Its own: query, key and value are one tensor, head by head; only the first `rotary_pct` of a head turns with the position.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import positions
from jaxformers.core.layers import (
    ACTIVATIONS,
    declare_linear,
    declare_norm,
    dropout,
    layer_norm,
    linear,
    product,
    split_rng,
)
from jaxformers.core.params import Param, Tree, normal, stacked, zeros
from jaxformers.core.transformer import heads_out
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import text_decoder
from jaxformers.families.config import keys_of, read_config, shown, write_config
from jaxformers.families.model import Family, class_names
from jaxformers.families.text_decoder import FIXED, INPUTS, DecoderConfig, View, look_back
from jaxformers.families.text_encoder import Text
from jaxformers.parallel.mesh import shard

ROPE = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}  # in newer files -> in older ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTNeoXConfig(DecoderConfig):
    """GPT-NeoX's numbers; the defaults are those of gpt-neox-20b."""

    vocab_size: int = 50432
    hidden_size: int = 6144
    num_hidden_layers: int = 44
    num_attention_heads: int = 64
    intermediate_size: int = 24576
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout: float = 0.1
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    use_parallel_residual: bool = True
    attention_bias: bool = True
    rotary_emb_base: float = 10_000.0
    rotary_pct: float = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "embedding_dropout", self.hidden_dropout_prob)
        super().__post_init__()
        if self.rotary_emb_base <= 0:
            raise ConfigError(f"rotary_emb_base must be above 0, found {self.rotary_emb_base}")
        if not 0 < self.rotary_pct <= 1 or self.turning < 2 or self.turning % 2:
            size = self.hidden_size // self.num_attention_heads
            raise ConfigError(
                f"rotary_pct must leave pairs of a head's {size} numbers to turn, found {self.rotary_pct}"
            )

    @property
    def turning(self) -> int:
        """How many numbers of a head turn."""
        return int(self.hidden_size // self.num_attention_heads * self.rotary_pct)


KEYS = keys_of(
    GPTNeoXConfig,
    without=("embedding_dropout",),
    hidden_dropout_prob="hidden_dropout",
    attention_probs_dropout_prob="attention_dropout",
)
IGNORED = {"is_decoder": "it always is one"}


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> GPTNeoXConfig:
    """Reads a config.json; rotations are two keys in older files, `rope_parameters` in newer ones."""
    plain, rope = dict(raw), raw.get("rope_parameters") or {}
    if not isinstance(rope, Mapping) or rope.get("rope_type", "default") != "default" or {*rope} - {"rope_type", *ROPE}:
        raise ConfigError(f"{source}: rope_parameters are {shown(rope)}, only plain rotations are supported")
    plain.pop("rope_parameters", None)
    for part, key in ROPE.items():
        if part in rope and plain.setdefault(key, rope[part]) != rope[part]:
            raise ConfigError(f"{source}: {key}={shown(plain[key])} and rope_parameters ({shown(rope[part])}) differ")
    return read_config(GPTNeoXConfig, KEYS, FIXED, IGNORED, plain, source)


def config_to_hf(config: GPTNeoXConfig, architecture: str) -> dict[str, Any]:
    """Writes a config.json that transformers reads."""
    rope = {"rope_type": "default", **{part: getattr(config, field) for part, field in ROPE.items()}}
    return write_config(KEYS, "gpt_neox", config, architecture) | {"rope_parameters": rope}


def declare(config: GPTNeoXConfig, head: str | None = None) -> Tree:
    """Every parameter of GPT-NeoX with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, H, F = config.hidden_size, config.num_attention_heads, config.intermediate_size
    K, init, at = D // H, normal(config.initializer_range), "gpt_neox.layers.{}."
    qkv, out, axes = at + "attention.query_key_value", at + "attention.dense", ("heads", "parts", "head_size")
    attention: Tree = {
        "qkv": {"kernel": Param((D, H, 3, K), ("embed", *axes), init, f"{qkv}.weight", "(h c k) d -> d h c k")},
        "out": {"kernel": Param((H, K, D), ("heads", "head_size", "embed"), init, f"{out}.weight", "d (h k) -> h k d")},
    }
    if config.attention_bias:
        attention["qkv"]["bias"] = Param((H, 3, K), axes, zeros, f"{qkv}.bias", "(h c k) -> h c k", decay=False)
        attention["out"]["bias"] = Param((D,), ("embed",), zeros, f"{out}.bias", decay=False)
    block: Tree = {
        "attention": attention,
        "attention_norm": declare_norm(D, at + "input_layernorm"),
        "up": declare_linear(D, F, at + "mlp.dense_h_to_4h", init, ("embed", "mlp")),
        "down": declare_linear(F, D, at + "mlp.dense_4h_to_h", init, ("mlp", "embed")),
        "output_norm": declare_norm(D, at + "post_attention_layernorm"),
    }
    return {
        "embeddings": {"word": Param((config.vocab_size, D), ("vocab", "table"), init, "gpt_neox.embed_in.weight")},
        "layers": stacked(config.num_hidden_layers, block),
        "final_norm": declare_norm(D, "gpt_neox.final_layer_norm"),
        **text_decoder.declare_heads(config, head, init, "classifier"),
    }


def embed(params: Tree, text: Text, config: GPTNeoXConfig, rng: jax.Array | None) -> jax.Array:
    """Words: [B, L, D]. There are no token types, and positions belong to the layers."""
    if text.token_type_ids is not None:
        raise InputError("this model has no token types: leave token_type_ids out")
    x_BLD = params["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    return dropout(shard(x_BLD, "batch", "length", "embed"), config.embedding_dropout, rng)


def rotations(position_ids: jax.Array, config: GPTNeoXConfig) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position's angles, for what turns of a head."""
    return positions.rotary_angles(position_ids, config.turning, config.rotary_emb_base)


def rotate_first(x_BLHK: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Turns the first numbers of each head, as many as there are angles for, and leaves the others."""
    turning = 2 * cosine.shape[-1]
    turned = positions.rotate(x_BLHK[..., :turning], cosine, sine)
    return jnp.concatenate((turned, x_BLHK[..., turning:]), axis=-1)


def block(
    layer: Tree, carried: Any, *, view: View, config: GPTNeoXConfig, rng: Any, maps: bool, kernel: str | None
) -> Any:
    """One pre-norm block, x + attention(norm(x)) + feed-forward(norm(x)); or else one sum after the other."""
    x_BLD, cache = carried
    rng_maps, rng_attention, rng_output = split_rng(rng, 3)
    with jax.named_scope("attention"):
        qkv, y_BLD = layer["attention"]["qkv"], layer_norm(layer["attention_norm"], x_BLD, config.layer_norm_eps)
        y_BLHCK = product("BLD,DHCK->BLHCK", y_BLD, qkv["kernel"])
        if "bias" in qkv:
            y_BLHCK = y_BLHCK + jnp.broadcast_to(qkv["bias"], y_BLHCK.shape)
        q_BLHK, k_BLHK, v_BLHK = (shard(y_BLHCK[:, :, :, n], "batch", "length", "heads", "head_size") for n in range(3))
        a_BLHK, weights_BHLS, cache = look_back(
            rotate_first(q_BLHK, *view.turn), rotate_first(k_BLHK, *view.turn), v_BLHK, cache, layer, view,
            dropout_rate=config.attention_probs_dropout_prob, rng=rng_maps, maps=maps, kernel=kernel,
        )  # fmt: skip
        a_BLD = dropout(heads_out(layer["attention"]["out"], a_BLHK), config.hidden_dropout_prob, rng_attention)
    with jax.named_scope("feed_forward"):
        y_BLD = layer_norm(
            layer["output_norm"], x_BLD if config.use_parallel_residual else x_BLD + a_BLD, config.layer_norm_eps
        )
        h_BLF = shard(ACTIVATIONS[config.hidden_act](linear(layer["up"], y_BLD)), "batch", "length", "mlp")
        h_BLD = dropout(linear(layer["down"], h_BLF), config.hidden_dropout_prob, rng_output)
    return (shard(x_BLD + a_BLD + h_BLD, "batch", "length", "embed"), cache), weights_BHLS


def norm(params: Tree, x_BLD: jax.Array, config: GPTNeoXConfig) -> jax.Array:
    """The norm after the last layer."""
    return layer_norm(params, x_BLD, config.layer_norm_eps)


decode = partial(text_decoder.decode, embed=embed, block=block, norm=norm, turn=rotations)
HEADS = text_decoder.heads_over(decode)

FAMILY = Family(
    name="gpt_neox",
    config_class=GPTNeoXConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("GPTNeoX", HEADS),
    prefix="gpt_neox.",
    trunk=("embeddings", "layers", "final_norm"),
    inputs=INPUTS,
    cache=text_decoder.cache_for,
    buffers=tuple(f"gpt_neox.layers.{{}}.attention.{name}" for name in ("rotary_emb.inv_freq", "bias", "masked_bias")),
    # Before transformers 5 the head's table was called embed_out.
    ties={"embed_out.weight": "lm_head.weight", "lm_head.weight": "gpt_neox.embed_in.weight"},
)
