"""EfficientNet (Tan & Le 2019, arXiv:1905.11946): wide inside, narrow between blocks, with a weight for each channel of an image.

Its own: how its widths and depths follow from two numbers, and its blocks. Batch statistics are as in `families.resnet`.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax

from jaxformers.core import heads
from jaxformers.core.heads import Forward
from jaxformers.core.images import batch_norm, check_images, declare_batch_norm
from jaxformers.core.layers import ACTIVATIONS, conv, declare_conv, declare_linear, dropout, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, normal
from jaxformers.core.transformer import Execution
from jaxformers.errors import ConfigError
from jaxformers.families.config import Config, check_numbers, keys_of, read_config, write_config
from jaxformers.families.model import Family, class_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(Config):
    """EfficientNet's numbers; the defaults are those of efficientnet-b7."""

    num_channels: int = 3
    image_size: int = 600
    width_coefficient: float = 2.0
    depth_coefficient: float = 3.1
    depth_divisor: int = 8
    kernel_sizes: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    in_channels: tuple[int, ...] = (32, 16, 24, 40, 80, 112, 192)
    out_channels: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    depthwise_padding: tuple[int, ...] = ()
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    num_block_repeats: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    expand_ratios: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    squeeze_expansion_ratio: float = 0.25
    hidden_act: str = "swish"
    hidden_dim: int = 2560
    pooling_type: str = "mean"
    initializer_range: float = 0.02
    batch_norm_eps: float = 0.001
    batch_norm_momentum: float = 0.99
    dropout_rate: float = 0.5
    drop_connect_rate: float = 0.2

    SIZES: ClassVar[tuple[str, ...]] = ("num_channels", "image_size", "depth_divisor", "hidden_dim")
    STAGES: ClassVar[tuple[str, ...]] = ("kernel_sizes", "in_channels", "out_channels", "strides", "num_block_repeats",
                                         "expand_ratios")  # fmt: skip

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)
        for name in self.STAGES:
            if len(getattr(self, name)) != len(self.in_channels) or min(getattr(self, name), default=0) < 1:
                raise ConfigError(
                    f"{name} must be {len(self.in_channels)} numbers, one a stage, found {getattr(self, name)}"
                )
        if self.hidden_dim != self.width(1280):
            raise ConfigError(
                f"hidden_dim must be {self.width(1280)} with this width_coefficient, found {self.hidden_dim}"
            )
        if self.pooling_type not in ("mean", "max"):
            raise ConfigError(f"pooling_type must be 'mean' or 'max', found {self.pooling_type!r}")

    def width(self, channels: int) -> int:
        """A width of the smallest model in this one: a multiple of `depth_divisor`, not smaller by more than a tenth."""
        wanted, step = channels * self.width_coefficient, self.depth_divisor
        near = max(step, int(wanted + step / 2) // step * step)
        return near + step if near < 0.9 * wanted else near


class Block(NamedTuple):
    """The sizes of one block."""

    inputs: int
    outputs: int
    wide: int
    window: int
    stride: int
    first: bool
    adjusted: bool
    drop: float


def blocks_of(config: EfficientNetConfig) -> Iterator[Block]:
    """Every block, in order."""
    repeats = [math.ceil(config.depth_coefficient * count) for count in config.num_block_repeats]
    number = 0
    for n, count in enumerate(repeats):
        inputs, outputs = config.width(config.in_channels[n]), config.width(config.out_channels[n])
        for again in range(count):
            before = outputs if again else inputs
            yield Block(
                before, outputs, before * config.expand_ratios[n], config.kernel_sizes[n], 1 if again else config.strides[n],
                not again, number not in config.depthwise_padding, config.drop_connect_rate * number / sum(repeats),
            )  # fmt: skip
            number += 1


KEYS = keys_of(EfficientNetConfig)
IGNORED = {"num_hidden_layers": "follows from num_block_repeats"}
config_from_hf = partial(read_config, EfficientNetConfig, KEYS, {}, IGNORED)
config_to_hf = partial(write_config, KEYS, "efficientnet")

# -- what it owns ------------------------------------------------------------------------------------------------------


def declare_step(
    config: EfficientNetConfig, inputs: int, outputs: int, window: int, conv: str, norm: str, groups: int = 1
) -> Any:
    """A convolution and its normalisation: their parameters, and the statistics."""
    learnt, stats = declare_batch_norm(outputs, norm)
    init = normal(config.initializer_range)
    return {
        "conv": declare_conv(inputs, outputs, (window, window), conv, init, groups=groups, bias=False),
        "norm": learnt,
    }, stats


def declare_block(config: EfficientNetConfig, size: Block, at: str) -> tuple[Tree, Tree]:
    """One block: its parameters, and its statistics."""
    init, wide = normal(config.initializer_range), size.wide
    inside, narrow = at + "depthwise_conv.depthwise_", max(1, int(size.inputs * config.squeeze_expansion_ratio))
    steps = {
        "around": declare_step(config, wide, wide, size.window, inside + "conv", inside + "norm", groups=wide),
        "project": declare_step(
            config, wide, size.outputs, 1, at + "projection.project_conv", at + "projection.project_bn"
        ),
    }
    if wide != size.inputs:
        steps["expand"] = declare_step(
            config, size.inputs, wide, 1, at + "expansion.expand_conv", at + "expansion.expand_bn"
        )
    tree = {name: step for name, (step, _) in steps.items()}
    tree["reduce"] = declare_conv(wide, narrow, (1, 1), at + "squeeze_excite.reduce", init, axes=("embed", "labels"))
    tree["weigh"] = declare_conv(narrow, wide, (1, 1), at + "squeeze_excite.expand", init)
    return tree, {name: stats for name, (_, stats) in steps.items()}


def declare(config: EfficientNetConfig, head: str | None = None) -> Tree:
    """Every parameter of EfficientNet with `head`: shape, axes, initialiser, checkpoint name and layout."""
    at = "efficientnet.encoder."
    sizes = list(blocks_of(config))
    stem = "efficientnet.embeddings."
    first, first_stats = declare_step(
        config, config.num_channels, config.width(32), 3, stem + "convolution", stem + "batchnorm"
    )
    last, last_stats = declare_step(config, sizes[-1].outputs, config.hidden_dim, 1, at + "top_conv", at + "top_bn")
    blocks = {str(n): declare_block(config, size, f"{at}blocks.{n}.") for n, size in enumerate(sizes)}
    tree: Tree = {
        "first": first,
        "blocks": {n: block for n, (block, _) in blocks.items()},
        "last": last,
        "stats": {"first": first_stats, "blocks": {n: stats for n, (_, stats) in blocks.items()}, "last": last_stats},
    }
    if head == "image-classification":
        init = normal(config.initializer_range)
        tree["classifier"] = declare_linear(config.hidden_dim, config.num_labels, "classifier", init)
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def block(
    params: Tree, stats: Tree, x_BYXD: jax.Array, rng: jax.Array | None, size: Block, config: EfficientNetConfig
) -> tuple[jax.Array, Tree]:
    """One block: [B, Y, X, D] -> [B, y, x, E], and the new statistics of its steps."""
    activation, new, y, training = ACTIVATIONS[config.hidden_act], {}, x_BYXD, rng is not None
    normed = partial(batch_norm, training=training, epsilon=config.batch_norm_eps)
    if "expand" in params:  # whose momentum is PyTorch's own
        y, new["expand"] = normed(params["expand"]["norm"], stats["expand"], conv(params["expand"]["conv"], y))
        y = activation(y)
    half = size.window // 2
    ends = [(half - 1 if size.stride == 2 and size.adjusted else half, half)] * 2
    y = conv(params["around"]["conv"], y, size.stride, ends, groups=y.shape[-1])
    normed = partial(normed, momentum=config.batch_norm_momentum)
    y, new["around"] = normed(params["around"]["norm"], stats["around"], y)
    y = activation(y)
    weights = activation(conv(params["reduce"], y.mean((1, 2), keepdims=True)))
    y = y * jax.numpy.broadcast_to(jax.nn.sigmoid(conv(params["weigh"], weights)), y.shape)
    y, new["project"] = normed(params["project"]["norm"], stats["project"], conv(params["project"]["conv"], y))
    return (x_BYXD + dropout(y, size.drop, rng) if size.stride == 1 and not size.first else y), new


def encode(
    params: Tree,
    pixel_values: jax.Array | None = None,
    *,
    config: EfficientNetConfig,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """EfficientNet's map of features, and the mean (or largest) of its places.

    Args:
      params: the tree of `declare`.
      pixel_values: [B, Y, X, C] images of any size, channels last.
      config: the model's numbers.
      rng: key for dropout; anything but None means training: the batch's own statistics.
      output_hidden_states: also return the embeddings and every block's output, [B, y, x, D] each.
      output_attentions: taken, for callers ask it of every family; there is none to return.
      execution: rematerialisation, block by block.

    Returns:
      `Output` with `last_hidden_state` [B, y, x, D], `pooler_output` [B, D] and, in training, `new_stats`.

    Raises:
      InputError: no images, or of another layout.
    """
    x = check_images(pixel_values, config.num_channels, params["first"]["conv"]["kernel"].dtype)
    stats, activation = params["stats"], ACTIVATIONS[config.hidden_act]
    normed = partial(
        batch_norm, training=rng is not None, momentum=config.batch_norm_momentum, epsilon=config.batch_norm_eps
    )
    new: Tree = {"blocks": {}}
    x = conv(params["first"]["conv"], x, 2, [(0, 1), (0, 1)])
    x, new["first"] = normed(params["first"]["norm"], stats["first"], x)
    states = [activation(x)]
    sizes = list(blocks_of(config))
    run = jax.checkpoint(block, static_argnums=(4, 5)) if execution.remat is not None else block
    for n, (size, key) in enumerate(zip(sizes, split_rng(rng, len(sizes)), strict=True)):
        x, new["blocks"][str(n)] = run(params["blocks"][str(n)], stats["blocks"][str(n)], states[-1], key, size, config)
        states.append(x)
    x, new["last"] = normed(params["last"]["norm"], stats["last"], conv(params["last"]["conv"], states[-1]))
    x = activation(x)
    return Output(
        last_hidden_state=x,
        pooler_output=x.mean((1, 2)) if config.pooling_type == "mean" else x.max((1, 2)),
        hidden_states=tuple(states) if output_hidden_states else None,
        new_stats=None if rng is None else new,
    )


def classify(params: Tree, trunk: Output, config: EfficientNetConfig, rng: jax.Array | None) -> dict[str, Any]:
    """Dropout and a dense layer over the pooled map: logits [B, C]."""
    assert trunk.pooler_output is not None
    return {"logits": linear(params["classifier"], dropout(trunk.pooler_output, config.dropout_rate, rng))}


HEADS: dict[str | None, Forward] = {None: encode, "image-classification": heads.attach(encode, classify)}
COUNTED = ("expansion.expand_bn", "depthwise_conv.depthwise_norm", "projection.project_bn")

FAMILY = Family(
    name="efficientnet",
    config_class=EfficientNetConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("EfficientNet", HEADS),
    prefix="efficientnet.",
    trunk=("first", "blocks", "last", "stats"),
    inputs=("pixel_values",),
    buffers=(
        "efficientnet.embeddings.batchnorm.num_batches_tracked",
        *(f"efficientnet.encoder.blocks.{{}}.{norm}.num_batches_tracked" for norm in COUNTED),
        "efficientnet.encoder.top_bn.num_batches_tracked",
    ),
)
