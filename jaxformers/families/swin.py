"""Swin (Liu et al. 2021, arXiv:2103.14030): attention inside of windows, which every other layer shifts; four stages.

Its own: windows, the distances inside of them that a table has a number for, and what merges four tokens to one between stages.
With `masked-image-modeling` it is SimMIM's (Xie et al. 2021).
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import heads, positions
from jaxformers.core.attention import Mask, attend
from jaxformers.core.heads import Forward
from jaxformers.core.images import check_images, check_size
from jaxformers.core.layers import (
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
from jaxformers.core.params import Param, Tree, normal, stacked, zeros
from jaxformers.core.transformer import (
    REMAT_POLICIES,
    Execution,
    declare_heads_in,
    declare_heads_out,
    feed_forward,
    heads_in,
    heads_out,
    unstack,
)
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import Config, check_numbers, keys_of, read_config, write_config
from jaxformers.families.model import Family, class_names
from jaxformers.families.vision_encoder import INPUTS, declare_token, hide_patches, positions_for, reconstruct

EPSILON = 1e-5  # of the norms of patches and of what merges them


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwinConfig(Config):
    """Swin's numbers; the defaults are those of swin-tiny-patch4-window7-224."""

    image_size: int = 224
    patch_size: int = 4
    num_channels: int = 3
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    encoder_stride: int = 32

    SIZES: ClassVar[tuple[str, ...]] = (
        "image_size",
        "patch_size",
        "num_channels",
        "embed_dim",
        "window_size",
        "encoder_stride",
    )

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)
        if len(self.depths) != len(self.num_heads) or not self.depths or min(*self.depths, *self.num_heads) < 1:
            raise ConfigError(f"depths and num_heads must be as many numbers, found {self.depths} and {self.num_heads}")
        for width, count in zip(self.widths, self.num_heads, strict=True):
            if width % count:
                raise ConfigError(f"the width {width} of a stage does not divide into {count} heads")

    @property
    def widths(self) -> tuple[int, ...]:
        """D of each stage."""
        return tuple(self.embed_dim * 2**n for n in range(len(self.depths)))


KEYS = keys_of(SwinConfig)
IGNORED = {
    **dict.fromkeys(
        ("out_features", "out_indices", "stage_names"), "of a backbone, whose stages `output_hidden_states` gives"
    ),
    **dict.fromkeys(("num_layers", "hidden_size"), "follows from depths and embed_dim"),
    "path_norm": "transformers reads it nowhere",
}
config_from_hf = partial(read_config, SwinConfig, KEYS, {}, IGNORED)
config_to_hf = partial(write_config, KEYS, "swin")

# -- what it owns ------------------------------------------------------------------------------------------------------


def declare_block(config: SwinConfig, width: int, count: int, at: str) -> Tree:
    """The parameters of one block."""
    init, size, wide = normal(config.initializer_range), width // count, int(config.mlp_ratio * width)
    inside = at + "attention.self."
    attention = {
        name: declare_heads_in(width, count, size, inside + name, init, config.qkv_bias)
        for name in ("query", "key", "value")
    }
    distances = (2 * config.window_size - 1) ** 2
    name = inside + "relative_position_bias_table"
    return {
        "attention": {**attention, "out": declare_heads_out(width, count, size, at + "attention.output.dense", init)},
        "distances": Param((distances, count), ("positions", "heads"), zeros, name),
        "attention_norm": declare_norm(width, at + "layernorm_before"),
        "output_norm": declare_norm(width, at + "layernorm_after"),
        "up": declare_linear(width, wide, at + "intermediate.dense", init, ("embed", "mlp")),
        "down": declare_linear(wide, width, at + "output.dense", init, ("mlp", "embed")),
    }


def declare(config: SwinConfig, head: str | None = None) -> Tree:
    """Every parameter of Swin with `head`: shape, axes, initialiser, checkpoint name and layout."""
    init, p, D = normal(config.initializer_range), config.patch_size, config.embed_dim
    at = "swin.embeddings."
    embeddings: Tree = {
        "patch": declare_conv(config.num_channels, D, (p, p), at + "patch_embeddings.projection", init),
        "norm": declare_norm(D, at + "norm"),
    }
    if config.use_absolute_embeddings:
        places = (config.image_size // p) ** 2
        embeddings["position"] = Param(
            (1, places, D), ("parts", "positions", "table"), zeros, at + "position_embeddings"
        )
    stages: Tree = {}
    for n, (width, count, depth) in enumerate(zip(config.widths, config.num_heads, config.depths, strict=True)):
        at = f"swin.encoder.layers.{n}."
        stages[str(n)] = {"layers": stacked(depth, declare_block(config, width, count, at + "blocks.{}."))}
        if n < len(config.depths) - 1:
            stages[str(n)]["merge_norm"] = declare_norm(4 * width, at + "downsample.norm")
            name, axes = at + "downsample.reduction", ("embed", "mlp")
            stages[str(n)]["merge"] = declare_linear(4 * width, 2 * width, name, init, axes, bias=False)
    last = config.widths[-1]
    tree: Tree = {"embeddings": embeddings, "stages": stages, "final_norm": declare_norm(last, "swin.layernorm")}
    if head == "image-classification":
        tree["classifier"] = declare_linear(last, config.num_labels, "classifier", init)
    if head == "masked-image-modeling":
        pixels = config.encoder_stride**2 * config.num_channels
        tree["mask_token"] = declare_token(D, "swin.embeddings.mask_token")
        tree["decoder"] = declare_conv(last, pixels, (1, 1), "decoder.0", init)
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def windows(x_BYXD: jax.Array, side: int) -> jax.Array:
    """Cuts maps into windows, each a row of its own: [B, Y, X, D] -> [B · windows, side², D]."""
    B, Y, X, D = x_BYXD.shape
    x = x_BYXD.reshape(B, Y // side, side, X // side, side, D).swapaxes(2, 3)
    return x.reshape(-1, side**2, D)


def joined(x: jax.Array, side: int, Y: int, X: int) -> jax.Array:
    """The way back: [B · windows, side², D] -> [B, Y, X, D]."""
    x = x.reshape(-1, Y // side, X // side, side, side, x.shape[-1]).swapaxes(2, 3)
    return x.reshape(-1, Y, X, x.shape[-1])


def together(Y: int, X: int, side: int, shift: int) -> np.ndarray:
    """In shifted windows, which places were neighbours before: booleans [windows, 1, side², side²]."""

    def region(length: int) -> np.ndarray:
        place = np.arange(length)
        return (place >= length - side).astype(int) + (place >= length - shift)

    regions = region(Y)[:, None] * 3 + region(X)[None]
    each = regions.reshape(Y // side, side, X // side, side).swapaxes(1, 2).reshape(-1, side**2)
    return (each[:, :, None] == each[:, None])[:, None]


def block(
    params: Tree,
    x_BYXD: jax.Array,
    rng: jax.Array | None,
    rate: float,
    shift: int,
    *,
    config: SwinConfig,
    maps: bool,
    kernel: str | None,
) -> tuple[jax.Array, jax.Array | None]:
    """One pre-norm block in windows, shifted by `shift` places: [B, Y, X, D], and the weights in each window."""
    B, Y, X, _ = x_BYXD.shape
    side = config.window_size
    if min(Y, X) <= side:  # one window is all there is
        shift = 0
        if min(Y, X) < side:
            raise InputError(f"a stage of {Y} × {X} places is smaller than the window of {side}: give larger images")
    rng_maps, rng_attention, rng_output, rng_path = split_rng(rng, 4)
    with jax.named_scope("attention"):
        y = layer_norm(params["attention_norm"], x_BYXD, config.layer_norm_eps)
        y = jnp.pad(y, ((0, 0), (0, -Y % side), (0, -X % side), (0, 0)))
        height, width = y.shape[1:3]
        y_BLD = windows(jnp.roll(y, (-shift, -shift), (1, 2)) if shift else y, side)
        q, k, v = (heads_in(params["attention"][name], y_BLD) for name in ("query", "key", "value"))
        bias_HLS = jnp.moveaxis(params["distances"][positions.distances_of_places(side, side)], -1, 0)
        seen = np.tile(together(height, width, side, shift), (B, 1, 1, 1)) if shift else None
        a_BLHK, weights_BHLS = attend(
            q, k, v, None if seen is None else Mask(pairs=jnp.asarray(seen)), bias=bias_HLS[None],
            dropout_rate=config.attention_probs_dropout_prob, rng=rng_maps, maps=maps, kernel=kernel,
        )  # fmt: skip
        a_BLD = dropout(heads_out(params["attention"]["out"], a_BLHK), config.hidden_dropout_prob, rng_attention)
        a = joined(a_BLD, side, height, width)
        a = (jnp.roll(a, (shift, shift), (1, 2)) if shift else a)[:, :Y, :X]
        x_BYXD = x_BYXD + drop_path(a, rate, rng_path)
    with jax.named_scope("feed_forward"):
        y = feed_forward(params, layer_norm(params["output_norm"], x_BYXD, config.layer_norm_eps), config.hidden_act)
        return x_BYXD + dropout(y, config.hidden_dropout_prob, rng_output), weights_BHLS


def merge(params: Tree, x_BYXD: jax.Array) -> jax.Array:
    """Four neighbours as one token: [B, Y, X, D] -> [B, Y / 2, X / 2, 2 D]."""
    _, Y, X, _ = x_BYXD.shape
    x = jnp.pad(x_BYXD, ((0, 0), (0, Y % 2), (0, X % 2), (0, 0)))
    x = jnp.concatenate([x[:, row::2, column::2] for column in range(2) for row in range(2)], axis=-1)
    return linear(params["merge"], layer_norm(params["merge_norm"], x, EPSILON))


def encode(
    params: Tree,
    pixel_values: jax.Array | None = None,
    bool_masked_pos: jax.Array | None = None,
    *,
    config: SwinConfig,
    rng: jax.Array | None = None,
    interpolate_pos_encoding: bool = False,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """Swin's states and their mean.

    Args:
      params: the tree of `declare`.
      pixel_values: [B, Y, X, C] images, channels last, of any size whose last stage a window fits into.
      bool_masked_pos: [B, P], 1 where a patch is hidden; None hides none.
      config: the model's numbers.
      rng: key for dropout and stochastic depth; None means none.
      interpolate_pos_encoding: where there are positions: take images of another size.
      output_hidden_states: also return the embeddings and every stage's output, as tokens and as maps.
      output_attentions: also return the weights of every stage's last layer, a row a window.
      execution: rematerialisation, kernel.

    Returns:
      `Output` with `last_hidden_state` [B, P, D] and `pooler_output` [B, D].

    Raises:
      InputError: no images, or of another layout or size than the model's.
    """
    embeddings, p = params["embeddings"], config.patch_size
    images = check_images(pixel_values, config.num_channels, embeddings["patch"]["kernel"].dtype)
    if "position" in embeddings and not interpolate_pos_encoding:
        check_size(images, config.image_size, " (or others with interpolate_pos_encoding=True)")
    images = jnp.pad(images, ((0, 0), *((0, -length % p) for length in images.shape[1:3]), (0, 0)))
    x_BYXD = layer_norm(embeddings["norm"], conv(embeddings["patch"], images, p), EPSILON)
    B, Y, X, D = x_BYXD.shape
    x_BPD = hide_patches(params, x_BYXD.reshape(B, Y * X, D), bool_masked_pos)
    if "position" in embeddings:
        x_BPD = x_BPD + positions_for(embeddings["position"], config.image_size // p, (Y, X))
    rng_embed, *rngs = split_rng(rng, 1 + sum(config.depths))
    x_BYXD = dropout(x_BPD, config.hidden_dropout_prob, rng_embed).reshape(B, Y, X, D)
    states, maps, first = [x_BYXD], [], 0
    rates = np.linspace(0, config.drop_path_rate, sum(config.depths))
    run = partial(block, config=config, maps=output_attentions, kernel=execution.kernel)
    if execution.remat is not None:
        run = jax.checkpoint(run, policy=REMAT_POLICIES[execution.remat], static_argnums=(3, 4))  # type: ignore[assignment]
    for n, depth in enumerate(config.depths):
        stage, weights = params["stages"][str(n)], None
        for number, layer in enumerate(unstack(stage["layers"], depth)):
            shift = config.window_size // 2 if number % 2 else 0
            x_BYXD, weights = run(layer, x_BYXD, rngs[first + number], float(rates[first + number]), shift)
        x_BYXD = merge(stage, x_BYXD) if "merge" in stage else x_BYXD
        states.append(x_BYXD)
        maps.append(weights)
        first += depth
    x_BPD = layer_norm(params["final_norm"], _tokens(x_BYXD), config.layer_norm_eps)
    return Output(
        last_hidden_state=x_BPD,
        pooler_output=x_BPD.mean(1),
        hidden_states=tuple(map(_tokens, states)) if output_hidden_states else None,
        reshaped_hidden_states=tuple(states) if output_hidden_states else None,
        attentions=tuple(maps) if output_attentions else None,  # type: ignore[arg-type]
    )


def _tokens(x_BYXD: jax.Array) -> jax.Array:
    return x_BYXD.reshape(x_BYXD.shape[0], -1, x_BYXD.shape[-1])


def classify(params: Tree, trunk: Output, config: SwinConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over the mean of all places: logits [B, C]."""
    assert trunk.pooler_output is not None
    return {"logits": linear(params["classifier"], trunk.pooler_output)}


HEADS: dict[str | None, Forward] = {
    None: encode,
    "image-classification": heads.attach(encode, classify),
    "masked-image-modeling": heads.attach(encode, reconstruct(first=0)),
}

FAMILY = Family(
    name="swin",
    config_class=SwinConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("Swin", HEADS),
    prefix="swin.",
    trunk=("embeddings", "stages", "final_norm"),
    inputs=INPUTS,
    buffers=("swin.encoder.layers.{}.blocks.{}.attention.self.relative_position_index",),
)
