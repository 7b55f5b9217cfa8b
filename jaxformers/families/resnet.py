"""ResNet (He et al. 2015, arXiv:1512.03385): convolutions whose results are added to what they were given, in four stages.

Its own: batch normalisation, whose running statistics are `params["stats"]`, which nothing learns: without `rng` they are read,
with it (training) those of the batch take their place, and `new_stats` of the output is what they come to.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxformers.core import heads
from jaxformers.core.heads import Forward
from jaxformers.core.images import batch_norm, check_images, declare_batch_norm, max_pool
from jaxformers.core.layers import ACTIVATIONS, conv, declare_conv, declare_linear, linear
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, normal, stacked, tree_map
from jaxformers.core.transformer import Execution, unstack
from jaxformers.errors import ConfigError
from jaxformers.families.config import Config, check_numbers, keys_of, read_config, write_config
from jaxformers.families.model import Family, class_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(Config):
    """ResNet's numbers; the defaults are those of resnet-50."""

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False

    SIZES: ClassVar[tuple[str, ...]] = ("num_channels", "embedding_size")

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)
        if len(self.hidden_sizes) != len(self.depths) or not self.depths or min(*self.hidden_sizes, *self.depths) < 1:
            raise ConfigError(
                f"hidden_sizes and depths must be as many numbers, found {self.hidden_sizes} and {self.depths}"
            )
        if self.layer_type not in ("basic", "bottleneck"):
            raise ConfigError(f"layer_type must be 'basic' or 'bottleneck', found {self.layer_type!r}")


KEYS = keys_of(ResNetConfig)
IGNORED = dict.fromkeys(
    ("out_features", "out_indices", "stage_names"), "of a backbone, whose stages `output_hidden_states` gives"
)
config_from_hf = partial(read_config, ResNetConfig, KEYS, {}, IGNORED)
config_to_hf = partial(write_config, KEYS, "resnet")

# -- what it owns ------------------------------------------------------------------------------------------------------


def declare_step(inputs: int, outputs: int, window: int, name: str) -> tuple[Tree, Tree]:
    """A convolution and its normalisation: their parameters, and the statistics."""
    init = normal((2 / (window**2 * outputs)) ** 0.5)
    learnt, stats = declare_batch_norm(outputs, name + ".normalization")
    step = declare_conv(inputs, outputs, (window, window), name + ".convolution", init, bias=False)
    return {"conv": step, "norm": learnt}, stats


def declare_block(config: ResNetConfig, inputs: int, outputs: int, at: str, shortcut: bool) -> tuple[Tree, Tree]:
    """One block, whose steps are numbered."""
    inner = outputs // 4
    sizes = ((inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1))
    if config.layer_type == "basic":
        sizes = ((inputs, outputs, 3), (outputs, outputs, 3))  # type: ignore[assignment]
    steps = {str(n): declare_step(*size, f"{at}layer.{n}") for n, size in enumerate(sizes)}
    if shortcut:
        steps["shortcut"] = declare_step(inputs, outputs, 1, at + "shortcut")
    return {name: step for name, (step, _) in steps.items()}, {name: stats for name, (_, stats) in steps.items()}


def declare(config: ResNetConfig, head: str | None = None) -> Tree:
    """Every parameter of ResNet with `head`: shape, axes, initialiser, checkpoint name and layout."""
    first, first_stats = declare_step(config.num_channels, config.embedding_size, 7, "resnet.embedder.embedder")
    stages: Tree = {}
    stats: Tree = {}
    inputs = config.embedding_size
    for n, (outputs, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
        at = f"resnet.encoder.stages.{n}.layers."
        shortcut = inputs != outputs or strides_of(config, n) != 1
        begin, begin_stats = declare_block(config, inputs, outputs, at + "0.", shortcut)
        stages[str(n)], stats[str(n)] = {"first": begin}, {"first": begin_stats}
        if depth > 1:
            both = declare_block(config, outputs, outputs, at + "{}.", False)
            for kept, again in zip((stages, stats), both, strict=True):
                later = tree_map(lambda param: dataclasses.replace(param, first=1), again)
                kept[str(n)]["layers"] = stacked(depth - 1, later)
        inputs = outputs
    tree: Tree = {"embedder": first, "stages": stages, "stats": {"embedder": first_stats, "stages": stats}}
    if head == "image-classification":
        tree["classifier"] = declare_linear(inputs, config.num_labels, "classifier.1", normal(inputs**-0.5))
    return tree


def strides_of(config: ResNetConfig, stage: int) -> int:
    """The stride of a stage's first block."""
    return 2 if stage or config.downsample_in_first_stage else 1


# -- how it computes ---------------------------------------------------------------------------------------------------


def step(params: Tree, stats: Tree, x: jax.Array, stride: int = 1, *, training: bool) -> tuple[jax.Array, Tree]:
    """A convolution and its normalisation, with the new statistics."""
    window = params["conv"]["kernel"].shape[0]
    return batch_norm(params["norm"], stats, conv(params["conv"], x, stride, window // 2), training)


def block(
    params: Tree, stats: Tree, x_BYXD: jax.Array, stride: int, *, config: ResNetConfig, training: bool
) -> tuple[jax.Array, Tree]:
    """One block: [B, Y, X, D] -> [B, y, x, E], and the new statistics of its steps."""
    steps = sorted(name for name in params if name != "shortcut")
    wide = 0 if config.layer_type == "basic" or config.downsample_in_bottleneck else 1  # the step that strides
    activation, new, y = ACTIVATIONS[config.hidden_act], {}, x_BYXD
    for n, name in enumerate(steps):
        y, new[name] = step(params[name], stats[name], y, stride if n == wide else 1, training=training)
        y = jax.nn.relu(y) if n < len(steps) - 1 else y  # inside a block it is relu, whatever the config says
    if "shortcut" in params:
        x_BYXD, new["shortcut"] = step(params["shortcut"], stats["shortcut"], x_BYXD, stride, training=training)
    return activation(x_BYXD + y), new


def encode(
    params: Tree,
    pixel_values: jax.Array | None = None,
    *,
    config: ResNetConfig,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """ResNet's map of features and the mean of its places.

    Args:
      params: the tree of `declare`.
      pixel_values: [B, Y, X, C] images of any size, channels last.
      config: the model's numbers.
      rng: anything but None means training: the batch's own statistics.
      output_hidden_states: also return the embeddings and every stage's output, [B, y, x, D] each.
      output_attentions: taken, for callers ask it of every family; there is none to return.
      execution: rematerialisation, block by block.

    Returns:
      `Output` with `last_hidden_state` [B, y, x, D], `pooler_output` [B, 1, 1, D] and, in training, `new_stats`.

    Raises:
      InputError: no images, or of another layout.
    """
    x = check_images(pixel_values, config.num_channels, params["embedder"]["conv"]["kernel"].dtype)
    training, stats = rng is not None, params["stats"]
    x, first = step(params["embedder"], stats["embedder"], x, 2, training=training)
    x = max_pool(ACTIVATIONS[config.hidden_act](x), 3, 2, 1)
    states, new = [x], {}
    for n, depth in enumerate(config.depths):
        stage, stage_stats = params["stages"][str(n)], stats["stages"][str(n)]
        run = partial(block, config=config, training=training)
        if execution.remat is not None:
            run = jax.checkpoint(run, static_argnums=3)  # type: ignore[assignment]
        x, begin = run(stage["first"], stage_stats["first"], x, strides_of(config, n))
        new[str(n)] = {"first": begin}
        each = []
        for layer, layer_stats in zip(
            *(unstack(tree.get("layers", {}), depth - 1) for tree in (stage, stage_stats)), strict=True
        ):
            x, later = run(layer, layer_stats, x, 1)
            each.append(later)
        if each:
            new[str(n)]["layers"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        states.append(x)
    return Output(
        last_hidden_state=x,
        pooler_output=x.mean((1, 2), keepdims=True),
        hidden_states=tuple(states) if output_hidden_states else None,
        new_stats={"embedder": first, "stages": new} if training else None,
    )


def classify(params: Tree, trunk: Output, config: ResNetConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over the mean of all places: logits [B, C]."""
    assert trunk.pooler_output is not None
    return {"logits": linear(params["classifier"], trunk.pooler_output[:, 0, 0])}


HEADS: dict[str | None, Forward] = {None: encode, "image-classification": heads.attach(encode, classify)}
COUNTS = "normalization.num_batches_tracked"  # PyTorch counts batches, and does nothing with the number

FAMILY = Family(
    name="resnet",
    config_class=ResNetConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("ResNet", HEADS),
    prefix="resnet.",
    trunk=("embedder", "stages", "stats"),
    inputs=("pixel_values",),
    buffers=(
        f"resnet.embedder.embedder.{COUNTS}",
        f"resnet.encoder.stages.{{}}.layers.{{}}.layer.{{}}.{COUNTS}",
        f"resnet.encoder.stages.{{}}.layers.{{}}.shortcut.{COUNTS}",
    ),
)
