"""EfficientNet (Tan & Le 2019, arXiv:1905.11946): wide inside, narrow between blocks, with a weight for each channel of an image.

Its own: how its widths and depths follow from two numbers, and its blocks. Batch statistics are as in `families.resnet`. Names
are transformers', or with `weight_names` timm's or torchvision's; timm's config.json reads as it is.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
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
from jaxformers.families import timm
from jaxformers.families.config import Config, check_numbers, keys_of, read_config, write_config
from jaxformers.families.model import Family, class_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(Config):
    """EfficientNet's numbers; the defaults are those of efficientnet-b7.

    `pad_evenly` says that what strides has its zeros at both ends, as PyTorch's own models, where TensorFlow's have fewer before.
    """

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
    pad_evenly: bool = False
    weight_names: str = "transformers"

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
        if self.weight_names not in NAMES:
            raise ConfigError(f"weight_names must be one of {', '.join(NAMES)}, found {self.weight_names!r}")

    def width(self, channels: int) -> int:
        """A width of the smallest model in this one: a multiple of `depth_divisor`, not smaller by more than a tenth."""
        wanted, step = channels * self.width_coefficient, self.depth_divisor
        near = max(step, int(wanted + step / 2) // step * step)
        return near + step if near < 0.9 * wanted else near


class Block(NamedTuple):
    """The sizes of one block, and where it stands: its stage, its number in that, its number among all."""

    stage: int
    again: int
    number: int
    inputs: int
    outputs: int
    wide: int
    window: int
    stride: int
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
                n, again, number, before, outputs, before * config.expand_ratios[n], config.kernel_sizes[n],
                1 if again else config.strides[n],
                not (config.pad_evenly or number in config.depthwise_padding),
                config.drop_connect_rate * number / sum(repeats),
            )  # fmt: skip
            number += 1


# weight_names -> what is not in a block: a convolution and its norm, twice, and the classifier
NAMES = {
    "transformers": ("efficientnet.embeddings.convolution", "efficientnet.embeddings.batchnorm",
                     "efficientnet.encoder.top_conv", "efficientnet.encoder.top_bn", "classifier"),
    "timm": ("conv_stem", "bn1", "conv_head", "bn2", "classifier"),
    "torchvision": ("features.0.0", "features.0.1", "features.8.0", "features.8.1", "classifier.1"),
}  # fmt: skip


def names_of(config: EfficientNetConfig, size: Block) -> dict[str, tuple[str, str]]:
    """A block's parts -> their two names: of a convolution and its norm, and of both that weigh channels (`weigh`)."""
    steps = ["expand", "around", "project"][size.wide == size.inputs :]
    match config.weight_names:
        case "timm":
            at = f"blocks.{size.stage}.{size.again}."
            convs = ["conv_pw", "conv_dw", "conv_pwl"] if len(steps) == 3 else ["conv_dw", "conv_pw"]
            found = {step: (f"{at}{convs[n]}", f"{at}bn{n + 1}") for n, step in enumerate(steps)}
            return found | {"weigh": (at + "se.conv_reduce", at + "se.conv_expand")}
        case "torchvision":
            at = f"features.{size.stage + 1}.{size.again}.block."
            places = {
                step: n + (step == "project") for n, step in enumerate(steps)
            }  # what weighs stands before the last
            found = {step: (f"{at}{n}.0", f"{at}{n}.1") for step, n in places.items()}
            return found | {"weigh": (f"{at}{places['project'] - 1}.fc1", f"{at}{places['project'] - 1}.fc2")}
    at = f"efficientnet.encoder.blocks.{size.number}."
    return {
        "expand": (at + "expansion.expand_conv", at + "expansion.expand_bn"),
        "around": (at + "depthwise_conv.depthwise_conv", at + "depthwise_conv.depthwise_norm"),
        "project": (at + "projection.project_conv", at + "projection.project_bn"),
        "weigh": (at + "squeeze_excite.reduce", at + "squeeze_excite.expand"),
    }


def _published() -> dict[str, dict[str, Any]]:
    """What timm's and torchvision's names of architectures stand for; timm's of the kind `tf_` are TensorFlow's own weights."""
    sizes = ((1.0, 1.0, 224, 0.2), (1.0, 1.1, 240, 0.2), (1.1, 1.2, 260, 0.3), (1.2, 1.4, 300, 0.3), (1.4, 1.8, 380, 0.4),
             (1.6, 2.2, 456, 0.4), (1.8, 2.6, 528, 0.5), (2.0, 3.1, 600, 0.5))  # fmt: skip
    found = {}
    for n, (width, depth, side, rate) in enumerate(sizes):
        numbers = {"width_coefficient": width, "depth_coefficient": depth, "image_size": side, "dropout_rate": rate,
                   "hidden_dim": (1280, 1280, 1408, 1536, 1792, 2048, 2304, 2560)[n]}  # fmt: skip
        own = {"pad_evenly": True, "batch_norm_eps": 1e-5, "batch_norm_momentum": 0.1}
        found[f"efficientnet_b{n}"] = numbers | own
        found[f"tf_efficientnet_b{n}"] = numbers | {"batch_norm_momentum": 0.01}
    return found


PUBLISHED = _published()
KEYS = keys_of(EfficientNetConfig)
IGNORED = {"num_hidden_layers": "follows from num_block_repeats", **timm.IGNORED}
config_to_hf = partial(write_config, KEYS, "efficientnet")


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> EfficientNetConfig:
    """Reads a config.json, transformers' or timm's, strictly. Raises `ConfigError`."""
    said = timm.with_sizes(raw, PUBLISHED, source)
    return read_config(EfficientNetConfig, KEYS, {}, IGNORED, said, source).replace(raw=json.dumps(dict(raw)))


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


def declare_block(config: EfficientNetConfig, size: Block) -> tuple[Tree, Tree]:
    """One block: its parameters, and its statistics."""
    init, wide, names = normal(config.initializer_range), size.wide, names_of(config, size)
    narrow = max(1, int(size.inputs * config.squeeze_expansion_ratio))
    steps = {
        "around": declare_step(config, wide, wide, size.window, *names["around"], groups=wide),
        "project": declare_step(config, wide, size.outputs, 1, *names["project"]),
    }
    if wide != size.inputs:
        steps["expand"] = declare_step(config, size.inputs, wide, 1, *names["expand"])
    tree = {name: step for name, (step, _) in steps.items()}
    tree["reduce"] = declare_conv(wide, narrow, (1, 1), names["weigh"][0], init, axes=("embed", "labels"))
    tree["weigh"] = declare_conv(narrow, wide, (1, 1), names["weigh"][1], init)
    return tree, {name: stats for name, (_, stats) in steps.items()}


def declare(config: EfficientNetConfig, head: str | None = None) -> Tree:
    """Every parameter of EfficientNet with `head`: shape, axes, initialiser, checkpoint name and layout."""
    sizes, names = list(blocks_of(config)), NAMES[config.weight_names]
    first, first_stats = declare_step(config, config.num_channels, config.width(32), 3, *names[:2])
    last, last_stats = declare_step(config, sizes[-1].outputs, config.hidden_dim, 1, *names[2:4])
    blocks = {str(size.number): declare_block(config, size) for size in sizes}
    tree: Tree = {
        "first": first,
        "blocks": {n: block for n, (block, _) in blocks.items()},
        "last": last,
        "stats": {"first": first_stats, "blocks": {n: stats for n, (_, stats) in blocks.items()}, "last": last_stats},
    }
    if head == "image-classification":
        init = normal(config.initializer_range)
        tree["classifier"] = declare_linear(config.hidden_dim, config.num_labels, names[4], init)
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
    return (x_BYXD + dropout(y, size.drop, rng) if size.stride == 1 and size.again else y), new


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
    x = conv(params["first"]["conv"], x, 2, [(int(config.pad_evenly), 1)] * 2)
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
COUNTED = (
    "efficientnet.embeddings.batchnorm",
    *(f"efficientnet.encoder.blocks.{{}}.{norm}"
      for norm in ("expansion.expand_bn", "depthwise_conv.depthwise_norm", "projection.project_bn")),
    "efficientnet.encoder.top_bn",
    *(f"{at}bn{n}" for at in ("", "blocks.{}.{}.") for n in (1, 2, 3)),
    *("features.{}.{}", "features.{}.{}.block.{}.{}"),
)  # fmt: skip

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
    buffers=tuple(f"{norm}.num_batches_tracked" for norm in COUNTED),
)
