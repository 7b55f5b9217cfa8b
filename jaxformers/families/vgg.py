"""VGG (Simonyan & Zisserman 2014, arXiv:1409.1556): small convolutions in five stages, and two wide dense layers over all places.

transformers has none, so the names are torchvision's, or with `weight_names` "timm" timm's, whose config.json reads as it is.
Its own: PyTorch's average over a fixed number of places, and a dense layer that is a convolution as large as the map it meets.
Batch statistics, of the kinds that have them (`batch_norm`), are as in `families.resnet`.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import heads
from jaxformers.core.heads import Forward
from jaxformers.core.images import batch_norm, check_images, declare_batch_norm, max_pool
from jaxformers.core.layers import ACTIVATIONS, conv, declare_conv, declare_linear, dropout, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, normal
from jaxformers.core.transformer import Execution
from jaxformers.errors import ConfigError
from jaxformers.families import timm
from jaxformers.families.config import Config, check_numbers, keys_of, read_config, write_config
from jaxformers.families.model import Family, class_names

DEPTHS = {"vgg11": [1, 1, 2, 2, 2], "vgg13": [2, 2, 2, 2, 2], "vgg16": [2, 2, 3, 3, 3], "vgg19": [2, 2, 4, 4, 4]}
SIZES = {
    name + more: {"depths": depths, "batch_norm": bool(more)} for name, depths in DEPTHS.items() for more in ("", "_bn")
}
# the wide layers: ours -> where they are, and how a kernel lies there
WIDE = {
    "torchvision": {"first": "classifier.0", "second": "classifier.3", "classes": "classifier.6"},
    "timm": {"first": "pre_logits.fc1", "second": "pre_logits.fc2", "classes": "head.fc"},
}
LAYOUTS = {"torchvision": "o (i y x) -> y x i o", "timm": "o i y x -> y x i o"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VGGConfig(Config):
    """VGG's numbers; the defaults are those of vgg16."""

    num_channels: int = 3
    hidden_sizes: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    batch_norm: bool = False
    hidden_act: str = "relu"
    pool_size: int = 7
    classifier_size: int = 4096
    dropout: float = 0.5
    weight_names: str = "torchvision"

    SIZES: ClassVar[tuple[str, ...]] = ("num_channels", "pool_size", "classifier_size")

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)
        if len(self.hidden_sizes) != len(self.depths) or not self.depths or min(*self.hidden_sizes, *self.depths) < 1:
            raise ConfigError(
                f"hidden_sizes and depths must be as many numbers, found {self.hidden_sizes} and {self.depths}"
            )
        if self.weight_names not in WIDE:
            raise ConfigError(f"weight_names must be one of {', '.join(WIDE)}, found {self.weight_names!r}")


KEYS = keys_of(VGGConfig)
config_to_hf = partial(write_config, KEYS, "vgg")


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> VGGConfig:
    """Reads a config.json, ours or timm's, strictly. Raises `ConfigError`."""
    config = read_config(VGGConfig, KEYS, {}, timm.IGNORED, timm.with_sizes(raw, SIZES, source), source)
    return config.replace(raw=json.dumps(dict(raw)))


# -- what it owns ------------------------------------------------------------------------------------------------------


def numbered(config: VGGConfig) -> Iterator[tuple[int, int, int, int]]:
    """Each convolution: (stage, number among all layers, inputs, outputs); PyTorch counts norms, activations and pools, too."""
    number, inputs = 0, config.num_channels
    for stage, (outputs, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
        for _ in range(depth):
            yield stage, number, inputs, outputs
            number, inputs = number + (3 if config.batch_norm else 2), outputs
        number += 1


def declare(config: VGGConfig, head: str | None = None) -> Tree:
    """Every parameter of VGG with `head`: shape, axes, initialiser, checkpoint name and layout."""
    stages: Tree = {}
    stats: Tree = {}
    for stage, number, inputs, outputs in numbered(config):
        init, at = normal((2 / (9 * outputs)) ** 0.5), f"features.{number}"
        step: Tree = {"conv": declare_conv(inputs, outputs, (3, 3), at, init)}
        within = stages.setdefault(str(stage), {})
        if config.batch_norm:
            step["norm"], kept = declare_batch_norm(outputs, f"features.{number + 1}")
            stats.setdefault(str(stage), {})[str(len(within))] = kept
        within[str(len(within))] = step
    names, wide, init = WIDE[config.weight_names], config.classifier_size, normal(0.01)

    def dense(inputs: int, side: int, name: str) -> Tree:
        tree = declare_conv(inputs, wide, (side, side), names[name], init, axes=("embed", "mlp"))
        return tree | {"kernel": dataclasses.replace(tree["kernel"], layout=LAYOUTS[config.weight_names])}

    tree: Tree = {
        "stages": stages,
        "wide": {
            "first": dense(config.hidden_sizes[-1], config.pool_size, "first"),
            "second": dense(wide, 1, "second"),
        },
    }
    if stats:
        tree["stats"] = stats
    if head == "image-classification":
        tree["classifier"] = declare_linear(wide, config.num_labels, names["classes"], init)
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def average_to(x_BYXD: jax.Array, size: int) -> jax.Array:
    """Means over `size` × `size` windows that cover a map, overlapping where they do not divide it (PyTorch's adaptive pool)."""

    def shares(length: int) -> jax.Array:
        first = np.arange(size) * length // size
        last = -(-(np.arange(size) + 1) * length // size)
        inside = (np.arange(length) >= first[:, None]) & (np.arange(length) < last[:, None])
        return jnp.asarray(inside / inside.sum(1, keepdims=True), x_BYXD.dtype)

    if x_BYXD.shape[1:3] == (size, size):
        return x_BYXD
    return jnp.einsum("ZY,BYXD,WX->BZWD", shares(x_BYXD.shape[1]), x_BYXD, shares(x_BYXD.shape[2]))


def stage(
    params: Tree, stats: Tree, x_BYXD: jax.Array, config: VGGConfig, training: bool
) -> tuple[jax.Array, dict[str, Tree]]:
    """One stage: [B, Y, X, D] -> [B, Y / 2, X / 2, E], and the new statistics of its norms."""
    new: dict[str, Tree] = {}
    for name in sorted(params, key=int):
        x_BYXD = conv(params[name]["conv"], x_BYXD, 1, 1)
        if config.batch_norm:
            x_BYXD, new[name] = batch_norm(params[name]["norm"], stats[name], x_BYXD, training)
        x_BYXD = ACTIVATIONS[config.hidden_act](x_BYXD)
    return max_pool(x_BYXD, 2, 2), new


def encode(
    params: Tree,
    pixel_values: jax.Array | None = None,
    *,
    config: VGGConfig,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """VGG's map of features, and what its two wide layers make of it.

    Args:
      params: the tree of `declare`.
      pixel_values: [B, Y, X, C] images of any size, channels last.
      config: the model's numbers.
      rng: key for dropout; anything but None means training: of the kinds with norms, the batch's own statistics.
      output_hidden_states: also return every stage's output, [B, y, x, D] each.
      output_attentions: taken, for callers ask it of every family; there is none to return.
      execution: rematerialisation, stage by stage.

    Returns:
      `Output` with `last_hidden_state` [B, y, x, D], `pooler_output` [B, F] and, of the kinds with norms in training,
      `new_stats`.

    Raises:
      InputError: no images, or of another layout.
    """
    first = params["stages"]["0"]["0"]["conv"]["kernel"]
    x, training = check_images(pixel_values, config.num_channels, first.dtype), rng is not None
    states, new = [], {}
    run = jax.checkpoint(stage, static_argnums=(3, 4)) if execution.remat is not None else stage
    for name in sorted(params["stages"], key=int):
        x, new[name] = run(params["stages"][name], params.get("stats", {}).get(name, {}), x, config, training)
        states.append(x)
    # torchvision averages over places before the wide layers, timm after them: of images of the usual size the same.
    y = (
        x
        if config.weight_names == "timm" and min(x.shape[1:3]) >= config.pool_size
        else average_to(x, config.pool_size)
    )
    for layer, key in zip(("first", "second"), split_rng(rng, 2), strict=True):
        y = dropout(ACTIVATIONS[config.hidden_act](conv(params["wide"][layer], y)), config.dropout, key)
    return Output(
        last_hidden_state=x,
        pooler_output=y.mean((1, 2)),
        hidden_states=tuple(states) if output_hidden_states else None,
        new_stats=new if training and config.batch_norm else None,
    )


def classify(params: Tree, trunk: Output, config: VGGConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over what the wide layers made: logits [B, C]."""
    assert trunk.pooler_output is not None
    return {"logits": linear(params["classifier"], trunk.pooler_output)}


HEADS: dict[str | None, Forward] = {None: encode, "image-classification": heads.attach(encode, classify)}

FAMILY = Family(
    name="vgg",
    config_class=VGGConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("VGG", HEADS),
    prefix="",
    trunk=("stages", "wide", "stats"),
    inputs=("pixel_values",),
    buffers=("features.{}.num_batches_tracked",),
)
