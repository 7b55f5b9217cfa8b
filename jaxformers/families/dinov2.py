"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193): ViT learnt without labels, for images of any size.

Its own: what a layer adds is scaled channel by channel, positions are always drawn to the image's size, and the giant one's
feed-forward layers are gated.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import heads
from jaxformers.core.layers import declare_linear, declare_norm, linear, product
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, constant, normal, stacked, zeros
from jaxformers.core.transformer import BlockNames, declare_post_norm, feed_forward, pre_norm, stack
from jaxformers.families import vision_encoder
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.vision_encoder import (
    INPUTS,
    VisionConfig,
    declare_classifier,
    declare_embeddings,
    declare_token,
    path_rates,
)
from jaxformers.parallel.mesh import shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dinov2Config(VisionConfig):
    """DINOv2's numbers; the defaults are transformers' (published ones are of images of 518)."""

    intermediate_size: int = 0  # filled in, from mlp_ratio
    mlp_ratio: int = 4
    layer_norm_eps: float = 1e-6
    patch_size: int = 14
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True

    def __post_init__(self) -> None:
        if not self.intermediate_size:
            wide = self.hidden_size * self.mlp_ratio
            gated = (wide * 2 // 3 + 7) // 8 * 8  # two thirds of it, for there are three products, in eights
            object.__setattr__(self, "intermediate_size", gated if self.use_swiglu_ffn else wide)
        super().__post_init__()


KEYS = keys_of(Dinov2Config, without=("intermediate_size",))
IGNORED = dict.fromkeys(
    ("out_features", "out_indices", "stage_names", "apply_layernorm", "reshape_hidden_states"),
    "of a backbone, whose stages `output_hidden_states` gives",
)
config_from_hf = partial(read_config, Dinov2Config, KEYS, {}, IGNORED)
config_to_hf = partial(write_config, KEYS, "dinov2")

AT = "dinov2.encoder.layer.{}."
NAMES = BlockNames(
    query=AT + "attention.attention.query",
    key=AT + "attention.attention.key",
    value=AT + "attention.attention.value",
    out=AT + "attention.output.dense",
    attention_norm=AT + "norm1",
    up=AT + "mlp.fc1",
    down=AT + "mlp.fc2",
    output_norm=AT + "norm2",
)


def declare_block(config: Dinov2Config) -> Tree:
    """The parameters of one block."""
    D, F, init = config.hidden_size, config.intermediate_size, normal(config.initializer_range)
    tree = declare_post_norm(config, NAMES, init, config.qkv_bias)
    for part, name in (("attention_scale", "layer_scale1"), ("output_scale", "layer_scale2")):
        tree[part] = Param((D,), ("embed",), constant(config.layerscale_value), f"{AT}{name}.lambda1")
    if config.use_swiglu_ffn:
        name, axes = AT + "mlp.weights_in", ("embed", "parts", "mlp")
        tree["up"] = {
            "kernel": Param((D, 2, F), axes, init, name + ".weight", "(c f) d -> d c f"),
            "bias": Param((2, F), axes[1:], zeros, name + ".bias", "(c f) -> c f", decay=False),
        }
        tree["down"] = declare_linear(F, D, AT + "mlp.weights_out", init, ("mlp", "embed"))
    return tree


def declare(config: Dinov2Config, head: str | None = None) -> Tree:
    """Every parameter of DINOv2 with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D = config.hidden_size
    tree: Tree = {
        "embeddings": declare_embeddings(config, "dinov2.embeddings."),
        "layers": stacked(config.num_hidden_layers, declare_block(config)),
        "final_norm": declare_norm(D, "dinov2.layernorm"),
    }
    if config.use_mask_token:
        token = declare_token(D, "dinov2.embeddings.mask_token")
        tree["mask_token"] = dataclasses.replace(token, shape=(1, D), axes=("parts", "table"))
    if head == "image-classification":
        tree["classifier"] = declare_classifier(config, 2 * D)
    return tree


def gated(params: Tree, x_BLD: jax.Array, activation: str) -> jax.Array:
    """SwiGLU (Shazeer 2020): [B, L, D] -> [B, L, D]."""
    h_BLCF = product("BLD,DCF->BLCF", x_BLD, params["up"]["kernel"])
    h_BLCF = h_BLCF + jnp.broadcast_to(params["up"]["bias"], h_BLCF.shape)
    return linear(params["down"], shard(jax.nn.silu(h_BLCF[:, :, 0]) * h_BLCF[:, :, 1], "batch", "length", "mlp"))


def layers(params: Tree, x_BLD: jax.Array, config: Dinov2Config, **options: Any) -> Any:
    """DINOv2's layers, which drop nothing but whole paths."""
    block = partial(
        pre_norm,
        config=config.replace(hidden_dropout_prob=0.0),
        widen=gated if config.use_swiglu_ffn else feed_forward,
    )
    rates = path_rates([config.drop_path_rate] * config.num_hidden_layers, options["rng"])
    return stack(params["layers"], block, x_BLD, beside=rates, **options)


def encode(params: Tree, *inputs: Any, **named: Any) -> Output:
    """`vision_encoder.encode` for images of any size; `pooler_output` is the first token."""
    named = {**named, "interpolate_pos_encoding": True}
    output = vision_encoder.encode(params, *inputs, **named, layers=layers)
    return output.replace(pooler_output=output.last_hidden_state[:, 0])  # type: ignore[attr-defined, index]


def classify(params: Tree, trunk: Output, config: Dinov2Config, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over the first token and the mean of the patches: logits [B, C]."""
    assert trunk.last_hidden_state is not None
    both_BD = jnp.concatenate([trunk.last_hidden_state[:, 0], trunk.last_hidden_state[:, 1:].mean(1)], axis=1)
    return {"logits": linear(params["classifier"], both_BD)}


HEADS: dict[str | None, Forward] = {None: encode, "image-classification": heads.attach(encode, classify)}

FAMILY = Family(
    name="dinov2",
    config_class=Dinov2Config,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("Dinov2", HEADS),
    prefix="dinov2.",
    trunk=("embeddings", "layers", "final_norm"),
    inputs=INPUTS,
)
