"""ConvNeXT (Liu et al. 2022, arXiv:2201.03545): a convolution of each channel alone, then two dense layers, in four stages.

Its own: it has no attention; between stages a map of features is halved along each side.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxformers.core import heads
from jaxformers.core.heads import Forward
from jaxformers.core.images import check_images
from jaxformers.core.layers import (
    conv,
    declare_conv,
    declare_linear,
    declare_norm,
    drop_path,
    layer_norm,
    linear,
)
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, constant, normal, stacked
from jaxformers.core.transformer import Execution, feed_forward, stack
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import Config, check_numbers, keys_of, read_config, write_config
from jaxformers.families.model import Family, class_names

EPSILON = 1e-6  # of all norms but the last


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNextConfig(Config):
    """ConvNeXT's numbers; the defaults are those of convnext-tiny-224."""

    num_channels: int = 3
    patch_size: int = 4
    num_stages: int = 4
    hidden_sizes: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    layer_scale_init_value: float = 1e-6
    drop_path_rate: float = 0.0
    image_size: int = 224

    SIZES: ClassVar[tuple[str, ...]] = ("num_channels", "patch_size", "num_stages", "image_size")

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)
        for name in ("hidden_sizes", "depths"):
            if len(getattr(self, name)) != self.num_stages or min(getattr(self, name)) < 1:
                raise ConfigError(f"{name} must be {self.num_stages} numbers, one a stage, found {getattr(self, name)}")


KEYS = keys_of(ConvNextConfig)
IGNORED = dict.fromkeys(
    ("out_features", "out_indices", "stage_names"), "of a backbone, whose stages `output_hidden_states` gives"
)
config_from_hf = partial(read_config, ConvNextConfig, KEYS, {}, IGNORED)
config_to_hf = partial(write_config, KEYS, "convnext")


def declare_block(config: ConvNextConfig, width: int, at: str) -> Tree:
    """The parameters of one block."""
    init = normal(config.initializer_range)
    tree: Tree = {
        "around": declare_conv(width, width, (7, 7), at + "dwconv", init, groups=width),
        "norm": declare_norm(width, at + "layernorm"),
        "up": declare_linear(width, 4 * width, at + "pwconv1", init, ("embed", "mlp")),
        "down": declare_linear(4 * width, width, at + "pwconv2", init, ("mlp", "embed")),
    }
    if config.layer_scale_init_value > 0:
        start = constant(config.layer_scale_init_value)
        tree["scale"] = Param((width,), ("embed",), start, at + "layer_scale_parameter")
    return tree


def declare(config: ConvNextConfig, head: str | None = None) -> Tree:
    """Every parameter of ConvNeXT with `head`: shape, axes, initialiser, checkpoint name and layout."""
    init, widths, p = normal(config.initializer_range), config.hidden_sizes, config.patch_size
    stages: Tree = {}
    for n, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
        at = f"convnext.encoder.stages.{n}."
        stages[str(n)] = {"layers": stacked(depth, declare_block(config, width, at + "layers.{}."))}
        if n:
            stages[str(n)]["before_norm"] = declare_norm(widths[n - 1], at + "downsampling_layer.0")
            stages[str(n)]["halve"] = declare_conv(widths[n - 1], width, (2, 2), at + "downsampling_layer.1", init)
    at = "convnext.embeddings."
    tree: Tree = {
        "embeddings": {
            "patch": declare_conv(config.num_channels, widths[0], (p, p), at + "patch_embeddings", init),
            "norm": declare_norm(widths[0], at + "layernorm"),
        },
        "stages": stages,
        "final_norm": declare_norm(widths[-1], "convnext.layernorm"),
    }
    if head == "image-classification":
        tree["classifier"] = declare_linear(widths[-1], config.num_labels, "classifier", init)
    return tree


def block(
    params: Tree, x_BYXD: jax.Array, *, activation: str, rng: jax.Array | None, maps: bool, kernel: str | None
) -> tuple[jax.Array, None]:
    """One block: [B, Y, X, D] -> [B, Y, X, D]."""
    y_BYXD = conv(params["around"], x_BYXD, padding=3, groups=x_BYXD.shape[-1])
    y_BYXD = feed_forward(params, layer_norm(params["norm"], y_BYXD, EPSILON), activation)
    if "scale" in params:
        y_BYXD = y_BYXD * jnp.broadcast_to(params["scale"], y_BYXD.shape)
    return x_BYXD + (drop_path(y_BYXD, params["path_rate"], rng) if "path_rate" in params else y_BYXD), None


def encode(
    params: Tree,
    pixel_values: jax.Array | None = None,
    *,
    config: ConvNextConfig,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """ConvNeXT's map of features and the mean of its places.

    Args:
      params: the tree of `declare`.
      pixel_values: [B, Y, X, C] images of any size, channels last.
      config: the model's numbers.
      rng: key for stochastic depth; None means none.
      output_hidden_states: also return the embeddings and every stage's output, [B, y, x, D] each.
      output_attentions: taken, for callers ask it of every family; there is none to return.
      execution: scan or loop, rematerialisation.

    Returns:
      `Output` with `last_hidden_state` [B, y, x, D] and `pooler_output` [B, D].

    Raises:
      InputError: no images, of another layout, or smaller than what is halved.
    """
    x_BYXD = check_images(pixel_values, config.num_channels, params["embeddings"]["patch"]["kernel"].dtype)
    least = config.patch_size * 2 ** (config.num_stages - 1)
    if min(x_BYXD.shape[1:3]) < least:
        raise InputError(
            f"the images are {x_BYXD.shape[1]} × {x_BYXD.shape[2]} pixels, this model takes {least} × {least} or more"
        )
    x_BYXD = conv(params["embeddings"]["patch"], x_BYXD, config.patch_size)
    x_BYXD = layer_norm(params["embeddings"]["norm"], x_BYXD, EPSILON)
    states, first = [x_BYXD], 0
    rates = jnp.linspace(0, config.drop_path_rate, sum(config.depths))
    for n, depth in enumerate(config.depths):
        stage = params["stages"][str(n)]
        if n:
            x_BYXD = conv(stage["halve"], layer_norm(stage["before_norm"], x_BYXD, EPSILON), 2)
        x_BYXD, _, _ = stack(
            stage["layers"],
            partial(block, activation=config.hidden_act),
            x_BYXD,
            beside={"path_rate": rates[first : first + depth]} if rng is not None and config.drop_path_rate else None,
            rng=None if rng is None else jax.random.fold_in(rng, n),
            execution=execution,
        )
        states.append(x_BYXD)
        first += depth
    pooled_BD = layer_norm(params["final_norm"], x_BYXD.mean((1, 2)), config.layer_norm_eps)
    return Output(
        last_hidden_state=x_BYXD, pooler_output=pooled_BD, hidden_states=tuple(states) if output_hidden_states else None
    )


def classify(params: Tree, trunk: Output, config: ConvNextConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over the mean of all places: logits [B, C]."""
    assert trunk.pooler_output is not None
    return {"logits": linear(params["classifier"], trunk.pooler_output)}


HEADS: dict[str | None, Forward] = {None: encode, "image-classification": heads.attach(encode, classify)}

FAMILY = Family(
    name="convnext",
    config_class=ConvNextConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("ConvNext", HEADS),
    prefix="convnext.",
    trunk=("embeddings", "stages", "final_norm"),
    inputs=("pixel_values",),
)
