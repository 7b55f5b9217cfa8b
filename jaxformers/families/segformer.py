"""SegFormer (Xie et al. 2021, arXiv:2105.15203): four stages of attention over ever coarser maps, and what each place is.

Its own: patches that overlap, keys and values of a coarser map, a convolution inside of the feed-forward layers in place of
positions, and the head, which joins the maps of all stages and normalises by batches (see `families.resnet`).
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import heads
from jaxformers.core.attention import attend
from jaxformers.core.heads import Forward
from jaxformers.core.images import batch_norm, check_images, declare_batch_norm, resize
from jaxformers.core.layers import (
    ACTIVATIONS,
    conv,
    declare_conv,
    declare_linear,
    declare_norm,
    drop_path,
    dropout,
    layer_norm,
    linear,
    split_rng,
)
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, normal, stacked
from jaxformers.core.transformer import (
    REMAT_POLICIES,
    Execution,
    declare_heads_in,
    declare_heads_out,
    heads_in,
    heads_out,
    unstack,
)
from jaxformers.errors import ConfigError
from jaxformers.families.config import Config, check_numbers, keys_of, read_config, write_config
from jaxformers.families.model import Family, class_names

EPSILON = 1e-5  # of every norm, whatever layer_norm_eps says


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegformerConfig(Config):
    """SegFormer's numbers; the defaults are those of mit-b0."""

    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: tuple[int, ...] = (2, 2, 2, 2)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    hidden_sizes: tuple[int, ...] = (32, 64, 160, 256)
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    num_attention_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 4)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    drop_path_rate: float = 0.1
    decoder_hidden_size: int = 256
    semantic_loss_ignore_index: int = 255

    SIZES: ClassVar[tuple[str, ...]] = ("num_channels", "num_encoder_blocks", "decoder_hidden_size")
    STAGES: ClassVar[tuple[str, ...]] = ("depths", "sr_ratios", "hidden_sizes", "patch_sizes", "strides", "num_attention_heads",
                                         "mlp_ratios")  # fmt: skip

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)
        for name in self.STAGES:
            if len(getattr(self, name)) != self.num_encoder_blocks or min(getattr(self, name)) < 1:
                raise ConfigError(
                    f"{name} must be {self.num_encoder_blocks} numbers, one a stage, found {getattr(self, name)}"
                )
        for width, count in zip(self.hidden_sizes, self.num_attention_heads, strict=True):
            if width % count:
                raise ConfigError(f"the width {width} of a stage does not divide into {count} heads")


KEYS = keys_of(SegformerConfig)
FIXED = {"reshape_last_stage": (True, "the last stage as tokens")}
IGNORED = {
    "layer_norm_eps": "transformers reads it nowhere: its norms have 1e-5",
    **dict.fromkeys(("downsampling_rates", "image_size"), "transformers reads it nowhere"),
}
config_from_hf = partial(read_config, SegformerConfig, KEYS, FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "segformer")

# -- what it owns ------------------------------------------------------------------------------------------------------


def declare_block(config: SegformerConfig, stage: int, at: str) -> Tree:
    """The parameters of one block."""
    D, H, init = config.hidden_sizes[stage], config.num_attention_heads[stage], normal(config.initializer_range)
    F, ratio = D * config.mlp_ratios[stage], config.sr_ratios[stage]
    inside = at + "attention.self."
    attention = {name: declare_heads_in(D, H, D // H, inside + name, init) for name in ("query", "key", "value")}
    tree: Tree = {
        "attention": {**attention, "out": declare_heads_out(D, H, D // H, at + "attention.output.dense", init)},
        "attention_norm": declare_norm(D, at + "layer_norm_1"),
        "output_norm": declare_norm(D, at + "layer_norm_2"),
        "up": declare_linear(D, F, at + "mlp.dense1", init, ("embed", "mlp")),
        "around": declare_conv(F, F, (3, 3), at + "mlp.dwconv.dwconv", init, groups=F),
        "down": declare_linear(F, D, at + "mlp.dense2", init, ("mlp", "embed")),
    }
    if ratio > 1:
        tree["coarse"] = declare_conv(D, D, (ratio, ratio), inside + "sr", init)
        tree["coarse_norm"] = declare_norm(D, inside + "layer_norm")
    return tree


def declare(config: SegformerConfig, head: str | None = None) -> Tree:
    """Every parameter of SegFormer with `head`: shape, axes, initialiser, checkpoint name and layout."""
    init, inputs, at = normal(config.initializer_range), config.num_channels, "segformer.encoder."
    stages: Tree = {}
    for n, (depth, width, window) in enumerate(
        zip(config.depths, config.hidden_sizes, config.patch_sizes, strict=True)
    ):
        stages[str(n)] = {
            "patch": declare_conv(inputs, width, (window, window), f"{at}patch_embeddings.{n}.proj", init),
            "patch_norm": declare_norm(width, f"{at}patch_embeddings.{n}.layer_norm"),
            "layers": stacked(depth, declare_block(config, n, f"{at}block.{n}.{{}}.")),
            "norm": declare_norm(width, f"{at}layer_norm.{n}"),
        }
        inputs = width
    tree: Tree = {"stages": stages}
    if head == "image-classification":
        tree["classifier"] = declare_linear(inputs, config.num_labels, "classifier", init)
    if head == "semantic-segmentation":
        D, count = config.decoder_hidden_size, config.num_encoder_blocks
        norm, stats = declare_batch_norm(D, "decode_head.batch_norm")
        tree["decoder"] = {
            "from": {
                str(n): declare_linear(width, D, f"decode_head.linear_c.{n}.proj", init, ("embed", "mlp"))
                for n, width in enumerate(config.hidden_sizes)
            },
            "fuse": declare_conv(D * count, D, (1, 1), "decode_head.linear_fuse", init, bias=False),
            "norm": norm,
            "classifier": declare_conv(
                D, config.num_labels, (1, 1), "decode_head.classifier", init, axes=("embed", "labels")
            ),
        }
        tree["stats"] = {"norm": stats}
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def block(
    params: Tree,
    x_BYXD: jax.Array,
    rng: jax.Array | None,
    rate: float,
    *,
    config: SegformerConfig,
    maps: bool,
    kernel: str | None,
) -> tuple[jax.Array, jax.Array | None]:
    """One pre-norm block over a map: [B, Y, X, D], and its attention weights [B, H, Y · X, places of the coarser map]."""
    B, Y, X, D = x_BYXD.shape
    rng_maps, rng_attention, rng_inside, rng_output, *rng_paths = split_rng(rng, 6)
    with jax.named_scope("attention"):
        y = layer_norm(params["attention_norm"], x_BYXD, EPSILON)
        keys = y
        if "coarse" in params:
            keys = conv(params["coarse"], y, params["coarse"]["kernel"].shape[0])
            keys = layer_norm(params["coarse_norm"], keys, EPSILON)
        y_BLD, keys_BSD = y.reshape(B, Y * X, D), keys.reshape(B, -1, D)
        attention = params["attention"]
        q, k, v = (
            heads_in(attention[name], z) for name, z in (("query", y_BLD), ("key", keys_BSD), ("value", keys_BSD))
        )
        a_BLHK, weights = attend(
            q, k, v, dropout_rate=config.attention_probs_dropout_prob, rng=rng_maps, maps=maps, kernel=kernel
        )
        a_BLD = dropout(heads_out(attention["out"], a_BLHK), config.hidden_dropout_prob, rng_attention)
        x_BYXD = x_BYXD + drop_path(a_BLD.reshape(B, Y, X, D), rate, rng_paths[0])
    with jax.named_scope("feed_forward"):
        h = linear(params["up"], layer_norm(params["output_norm"], x_BYXD, EPSILON))
        h = ACTIVATIONS[config.hidden_act](conv(params["around"], h, padding=1, groups=h.shape[-1]))
        h = linear(params["down"], dropout(h, config.hidden_dropout_prob, rng_inside))
        h = dropout(h, config.hidden_dropout_prob, rng_output)
    return x_BYXD + drop_path(h, rate, rng_paths[1]), weights


def encode(
    params: Tree,
    pixel_values: jax.Array | None = None,
    *,
    config: SegformerConfig,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """SegFormer's coarsest map of features.

    Args:
      params: the tree of `declare`.
      pixel_values: [B, Y, X, C] images of any size, channels last.
      config: the model's numbers.
      rng: key for dropout and stochastic depth; None means none.
      output_hidden_states: also return every stage's map [B, y, x, D].
      output_attentions: also return every layer's attention weights.
      execution: rematerialisation, kernel.

    Returns:
      `Output` with `last_hidden_state` [B, y, x, D].

    Raises:
      InputError: no images, or of another layout.
    """
    x = check_images(pixel_values, config.num_channels, params["stages"]["0"]["patch"]["kernel"].dtype)
    rngs = split_rng(rng, sum(config.depths))
    rates = np.linspace(0, config.drop_path_rate, sum(config.depths))
    run = partial(block, config=config, maps=output_attentions, kernel=execution.kernel)
    if execution.remat is not None:
        run = jax.checkpoint(run, policy=REMAT_POLICIES[execution.remat], static_argnums=3)  # type: ignore[assignment]
    states, maps, number = [], [], 0
    for n, depth in enumerate(config.depths):
        stage = params["stages"][str(n)]
        x = conv(stage["patch"], x, config.strides[n], config.patch_sizes[n] // 2)
        x = layer_norm(stage["patch_norm"], x, EPSILON)
        for layer in unstack(stage["layers"], depth):
            x, weights = run(layer, x, rngs[number], float(rates[number]))
            maps.append(weights)
            number += 1
        x = layer_norm(stage["norm"], x, EPSILON)
        states.append(x)
    return Output(
        last_hidden_state=x,
        hidden_states=tuple(states) if output_hidden_states else None,
        attentions=tuple(maps) if output_attentions else None,  # type: ignore[arg-type]
    )


def classify(params: Tree, trunk: Output, config: SegformerConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over the mean of all places: logits [B, C]."""
    assert trunk.last_hidden_state is not None
    return {"logits": linear(params["classifier"], trunk.last_hidden_state.mean((1, 2)))}


def segment(
    params: Tree,
    pixel_values: jax.Array | None = None,
    *,
    config: SegformerConfig,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    **options: Any,
) -> Output:
    """`encode`, and what each place of the finest map is: logits [B, Y / 4, X / 4, C]. With `rng` also `new_stats`."""
    rng_trunk, rng_head = split_rng(rng, 2)
    trunk = encode(params, pixel_values, config=config, rng=rng_trunk, output_hidden_states=True, **options)
    assert trunk.hidden_states is not None
    decoder, (_, Y, X, _) = params["decoder"], trunk.hidden_states[0].shape
    maps = [resize(linear(decoder["from"][str(n)], x), (Y, X)) for n, x in enumerate(trunk.hidden_states)]
    x = conv(decoder["fuse"], jnp.concatenate(maps[::-1], axis=-1))
    x, stats = batch_norm(decoder["norm"], params["stats"]["norm"], x, rng is not None)
    logits = conv(decoder["classifier"], dropout(jax.nn.relu(x), config.classifier_dropout_prob, rng_head))
    return Output(
        logits=logits,
        hidden_states=trunk.hidden_states if output_hidden_states else None,
        attentions=trunk.attentions,
        new_stats=None if rng is None else {"norm": stats},
    )


HEADS: dict[str | None, Forward] = {
    None: encode,
    "image-classification": heads.attach(encode, classify),
    "semantic-segmentation": segment,
}

FAMILY = Family(
    name="segformer",
    config_class=SegformerConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("Segformer", HEADS),
    prefix="segformer.",
    trunk=("stages",),
    inputs=("pixel_values",),
    buffers=("decode_head.batch_norm.num_batches_tracked",),
)
