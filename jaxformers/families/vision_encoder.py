"""What the vision encoders that descend from ViT share: the numbers in their configs, patches, positions, their forward pass.

An image is cut into patches, each made one token; from there it is a pre-norm encoder. A family is a config class, the names of
its parameters, and which of these parts it joins; where it differs it brings its own `embed` or `layers`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxformers.core.heads import Head
from jaxformers.core.images import check_images, check_size, pixel_shuffle, resize
from jaxformers.core.layers import (
    ACTIVATIONS,
    conv,
    declare_conv,
    declare_linear,
    dropout,
    layer_norm,
    linear,
    split_rng,
)
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal, zeros
from jaxformers.core.transformer import BlockNames, Execution, pre_norm, stack
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import Config, check_numbers
from jaxformers.parallel.mesh import shard

INPUTS = ("pixel_values", "bool_masked_pos")

# -- config ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(Config):
    """The numbers every vision encoder has, under the house's names; the defaults are those of vit-base-patch16-224."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True

    SIZES: ClassVar[tuple[str, ...]] = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                                        "image_size", "patch_size", "num_channels")  # fmt: skip

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)
        if self.patch_size > self.image_size:
            raise ConfigError(f"a patch of {self.patch_size} pixels does not fit into an image of {self.image_size}")

    @property
    def grid(self) -> int:
        """Patches along each side of an image."""
        return self.image_size // self.patch_size


# -- what it owns ------------------------------------------------------------------------------------------------------


def declare_embeddings(config: Any, at: str, first: tuple[str, ...] = ("class",)) -> Tree:
    """The tokens that stand before the patches, the patches' projection, and a position for each.

    Args:
      config: the model's numbers.
      at: what the checkpoint names start with.
      first: the tokens before the patches: `class`, `distillation`.
    """
    D, p, init = config.hidden_size, config.patch_size, normal(config.initializer_range)
    names = {"class": "cls_token", "distillation": "distillation_token"}
    length = config.grid**2 + len(first)
    return {
        **{token: declare_token(D, at + names[token], init) for token in first},
        "patch": declare_conv(config.num_channels, D, (p, p), at + "patch_embeddings.projection", init),
        "position": Param((1, length, D), ("parts", "positions", "table"), init, at + "position_embeddings"),
    }


def declare_token(width: int, name: str, init: Any = zeros) -> Param:
    """A token that is learnt, [1, 1, D]."""
    return Param((1, 1, width), ("parts", "positions", "table"), init, name)


def block_names(layer: str) -> BlockNames:
    """The checkpoint names of a block in ViT's fashion, after `layer`, which holds `{}` for its number."""
    return BlockNames(
        query=layer + "attention.attention.query",
        key=layer + "attention.attention.key",
        value=layer + "attention.attention.value",
        out=layer + "attention.output.dense",
        attention_norm=layer + "layernorm_before",
        up=layer + "intermediate.dense",
        down=layer + "output.dense",
        output_norm=layer + "layernorm_after",
    )


def declare_reconstruction(config: Any, mask_token: str) -> Tree:
    """The head that draws hidden patches: the token that hides them, and their pixels from their states.

    Raises:
      ConfigError: what is drawn would not have the size of what is hidden.
    """
    if config.patch_size != config.encoder_stride:
        raise ConfigError(
            f"encoder_stride must be the patch_size, so that what is drawn covers what is hidden, found "
            f"{config.encoder_stride} and {config.patch_size}"
        )
    pixels, init = config.encoder_stride**2 * config.num_channels, normal(config.initializer_range)
    return {
        "mask_token": declare_token(config.hidden_size, mask_token),
        "decoder": declare_conv(config.hidden_size, pixels, (1, 1), "decoder.0", init),
    }


def declare_classifier(config: Any, inputs: int, name: str = "classifier") -> Tree:
    """The dense layer from a state to the classes."""
    return declare_linear(inputs, config.num_labels, name, normal(config.initializer_range))


# -- how it computes ---------------------------------------------------------------------------------------------------


class Image(NamedTuple):
    """The arrays that stand for a batch of images; see `encode`."""

    pixel_values: jax.Array
    bool_masked_pos: jax.Array | None = None
    interpolate: bool = False


Embed = Callable[[Tree, Image, Any, jax.Array | None], jax.Array]
Layers = Callable[..., tuple[jax.Array, tuple[jax.Array, ...] | None, tuple[jax.Array, ...] | None]]
FIRST = ("class", "distillation")


def embed_patches(params: Tree, image: Image, config: Any) -> jax.Array:
    """Each patch as a token [B, P, D], or in its place the mask token where it is hidden."""
    x_BYXD = conv(params["embeddings"]["patch"], image.pixel_values, config.patch_size)
    return hide_patches(params, x_BYXD.reshape(x_BYXD.shape[0], -1, x_BYXD.shape[-1]), image.bool_masked_pos)


def hide_patches(params: Tree, x_BPD: jax.Array, bool_masked_pos: jax.Array | None) -> jax.Array:
    """The patches, with the mask token in place of those that `bool_masked_pos` [B, P] hides."""
    if bool_masked_pos is None:
        return x_BPD
    if "mask_token" not in params:
        raise InputError(
            "this head has no token for hidden patches: leave bool_masked_pos out, or load masked-image-modeling"
        )
    if bool_masked_pos.shape != x_BPD.shape[:2]:
        raise InputError(
            f"bool_masked_pos must be [batch, patches] = {x_BPD.shape[:2]}, found shape {bool_masked_pos.shape}"
        )
    return jnp.where(bool_masked_pos[..., None] != 0, params["mask_token"].astype(x_BPD.dtype), x_BPD)


def with_first(params: Tree, x_BPD: jax.Array) -> jax.Array:
    """The patches after the tokens that stand before them: [B, P, D] -> [B, L, D]."""
    B, _, D = x_BPD.shape
    before = [jnp.broadcast_to(params[name], (B, 1, D)).astype(x_BPD.dtype) for name in FIRST if name in params]
    return jnp.concatenate([*before, x_BPD], axis=1)


def positions_for(table_1LD: jax.Array, grid: int, size: tuple[int, int]) -> jax.Array:
    """The positions of an image of `size` (rows, columns) of patches: those of `grid` × `grid`, drawn larger or smaller."""
    if size == (grid, grid):
        return table_1LD
    first = table_1LD.shape[1] - grid**2
    square = table_1LD[:, first:].reshape(1, grid, grid, -1)
    drawn = resize(square, size, "cubic").reshape(1, size[0] * size[1], -1)
    return jnp.concatenate([table_1LD[:, :first], drawn], axis=1)


def embed_image(params: Tree, image: Image, config: Any, rng: jax.Array | None) -> jax.Array:
    """Patches after the tokens before them, and the positions of all: [B, L, D]."""
    if not image.interpolate:
        check_size(image.pixel_values, config.image_size, " (or others with interpolate_pos_encoding=True)")
    x_BLD = with_first(params["embeddings"], embed_patches(params, image, config))
    Y, X = (n // config.patch_size for n in image.pixel_values.shape[1:3])
    x_BLD = x_BLD + positions_for(params["embeddings"]["position"], config.grid, (Y, X))
    return dropout(shard(x_BLD, "batch", "length", "embed"), config.hidden_dropout_prob, rng)


def path_rates(rates: Sequence[float], rng: jax.Array | None) -> Tree:
    """The share of rows that each layer is dropped for, where layers look for it (`beside` of `stack`); nothing without `rng`."""
    return {} if rng is None or not any(rates) else {"path_rate": jnp.asarray(rates, jnp.float32)}


def pre_norm_layers(params: Tree, x_BLD: jax.Array, config: Any, **options: Any) -> Any:
    """ViT's layers: pre-norm blocks that look at everything. `options` are those of `stack`."""
    return stack(params["layers"], partial(pre_norm, config=config), x_BLD, **options)


def encode(
    params: Tree,
    pixel_values: jax.Array | None = None,
    bool_masked_pos: jax.Array | None = None,
    *,
    config: Any,
    rng: jax.Array | None = None,
    interpolate_pos_encoding: bool = False,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
    embed: Embed = embed_image,
    layers: Layers = pre_norm_layers,
) -> Output:
    """A vision encoder's hidden states, and the pooled first token where the parameters have a pooler.

    Args:
      params: the tree of the family's `declare`.
      pixel_values: [B, Y, X, C] images as their processor gives them, channels last.
      bool_masked_pos: [B, P], 1 where a patch is hidden; None hides none.
      config: the model's numbers.
      rng: key for dropout; None means none.
      interpolate_pos_encoding: take images of another size, whose positions are drawn from those learnt.
      output_hidden_states: also return every layer's output.
      output_attentions: also return every layer's attention weights.
      execution: scan or loop, rematerialisation, kernel.
      embed: the family's embeddings: (params, image, config, rng) -> [B, L, D].
      layers: the family's layers: (params, x_BLD, config, **options of `stack`) -> what `stack` returns.

    Returns:
      `Output` with `last_hidden_state` [B, L, D], the tokens before the patches first, and `pooler_output` where there is a
      pooler.

    Raises:
      InputError: no images, or of another layout or size than the model's.
    """
    images = check_images(pixel_values, config.num_channels, params["embeddings"]["patch"]["kernel"].dtype)
    image = Image(images, bool_masked_pos, interpolate_pos_encoding)
    rng_embed, rng_layers = split_rng(rng, 2)
    x_BLD, states, maps = layers(
        params,
        embed(params, image, config, rng_embed),
        config,
        rng=rng_layers,
        output_hidden_states=output_hidden_states,
        output_attentions=output_attentions,
        execution=execution,
    )
    if "final_norm" in params:
        x_BLD = layer_norm(params["final_norm"], x_BLD, config.layer_norm_eps)
    pooled_BD = None
    if "pooler" in params:
        activation = ACTIVATIONS[getattr(config, "pooler_act", "tanh")]
        pooled_BD = activation(linear(params["pooler"], x_BLD[:, 0]))
    return Output(last_hidden_state=x_BLD, pooler_output=pooled_BD, hidden_states=states, attentions=maps)


def classify_first(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over the first token: logits [B, C]."""
    assert trunk.last_hidden_state is not None
    return {"logits": linear(params["classifier"], trunk.last_hidden_state[:, 0])}


def reconstruct(first: int = 1, last: int = 0) -> Head:
    """SimMIM's head (Xie et al. 2021) over a square of patches, after `first` tokens and before `last`: `reconstruction`."""

    def head(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
        assert trunk.last_hidden_state is not None
        x_BPD = trunk.last_hidden_state[:, first : trunk.last_hidden_state.shape[1] - last]
        side = round(x_BPD.shape[1] ** 0.5)
        if side**2 != x_BPD.shape[1]:
            raise InputError(f"masked-image-modeling takes square images, found one of {x_BPD.shape[1]} patches")
        x_BYXD = x_BPD.reshape(x_BPD.shape[0], side, side, -1)
        return {"reconstruction": pixel_shuffle(conv(params["decoder"], x_BYXD), config.encoder_stride)}

    return head
