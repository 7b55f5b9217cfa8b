"""ViT-MAE (He et al. 2021, arXiv:2111.06377): ViT that reads a quarter of the patches, and a smaller one that draws the others.

Its own: which patches are read, by `noise` that is given or drawn; positions that are fixed (files hold them); its decoder.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import positions
from jaxformers.core.heads import Forward
from jaxformers.core.images import check_images, check_size, resize
from jaxformers.core.layers import declare_linear, declare_norm, layer_norm, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal, stacked
from jaxformers.core.transformer import Execution, declare_post_norm
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, class_names
from jaxformers.families.vision_encoder import (
    Image,
    VisionConfig,
    block_names,
    declare_embeddings,
    declare_token,
    embed_patches,
    positions_for,
    pre_norm_layers,
)
from jaxformers.parallel.mesh import shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTMAEConfig(VisionConfig):
    """ViT-MAE's numbers; the defaults are those of vit-mae-base."""

    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    mask_ratio: float = 0.75
    norm_pix_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mask_ratio < 1:
            raise ConfigError(f"mask_ratio must be at least 0 and below 1, found {self.mask_ratio}")
        for name in ("hidden_size", "decoder_hidden_size"):
            if getattr(self, name) % 4:
                raise ConfigError(
                    f"{name} must be a multiple of 4 (sine and cosine, row and column), found {getattr(self, name)}"
                )

    @property
    def decoder(self) -> "ViTMAEConfig":
        """The numbers of the decoder's layers."""
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        return self.replace(**{name: getattr(self, f"decoder_{name}") for name in names})


KEYS = keys_of(ViTMAEConfig)
config_from_hf = partial(read_config, ViTMAEConfig, KEYS, {}, {})
config_to_hf = partial(write_config, KEYS, "vit_mae")


def declare_positions(config: ViTMAEConfig, name: str) -> Param:
    """The fixed positions [1, P + 1, D], the first token's zero: no gradient reaches them."""
    D, grid = config.hidden_size, config.grid

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        table = positions.sinusoids_of_places(grid, D)
        return jnp.asarray(np.pad(table, ((1, 0), (0, 0))), dtype)[None]

    return Param((1, grid**2 + 1, D), ("parts", "positions", "table"), init, name, decay=False, learns=False)


def declare(config: ViTMAEConfig, head: str | None = None) -> Tree:
    """Every parameter of ViT-MAE with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init = config.hidden_size, normal(config.initializer_range)
    tree: Tree = {
        "embeddings": {
            **declare_embeddings(config, "vit.embeddings."),
            "position": declare_positions(config, "vit.embeddings.position_embeddings"),
        },
        "layers": stacked(
            config.num_hidden_layers,
            declare_post_norm(config, block_names("vit.encoder.layer.{}."), init, config.qkv_bias),
        ),
        "final_norm": declare_norm(D, "vit.layernorm"),
    }
    if head == "pretraining":
        inner, pixels = config.decoder, config.patch_size**2 * config.num_channels
        names = block_names("decoder.decoder_layers.{}.")
        tree["decoder"] = {
            "embed": declare_linear(D, inner.hidden_size, "decoder.decoder_embed", init, ("embed", "mlp")),
            "mask_token": declare_token(inner.hidden_size, "decoder.mask_token", init),
            "position": declare_positions(inner, "decoder.decoder_pos_embed"),
            "layers": stacked(inner.num_hidden_layers, declare_post_norm(inner, names, init, config.qkv_bias)),
            "norm": declare_norm(inner.hidden_size, "decoder.decoder_norm"),
            "pixels": declare_linear(inner.hidden_size, pixels, "decoder.decoder_pred", init),
        }
    return tree


def hide(x_BPD: jax.Array, noise_BP: jax.Array, share: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keeps the patches of least noise, in that order.

    Args:
      x_BPD: the patches.
      noise_BP: a number for each.
      share: of patches that are hidden.

    Returns:
      Those kept, `mask` [B, P] with 1 where a patch is hidden, and `ids_restore` [B, P], each patch's place in that order.
    """
    P = x_BPD.shape[1]
    keep = int(P * (1 - share))
    order_BP = jnp.argsort(noise_BP, axis=1, stable=True)
    restore_BP = jnp.argsort(order_BP, axis=1, stable=True)
    kept = jnp.take_along_axis(x_BPD, order_BP[:, :keep, None], axis=1)
    return kept, (restore_BP >= keep).astype(x_BPD.dtype), restore_BP


def encode(
    params: Tree,
    pixel_values: jax.Array | None = None,
    noise: jax.Array | None = None,
    *,
    config: ViTMAEConfig,
    rng: jax.Array | None = None,
    interpolate_pos_encoding: bool = False,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """The states of the patches that are read, in the order of their noise, after the first token.

    Args:
      params: the tree of `declare`.
      pixel_values: [B, Y, X, C] images, channels last.
      noise: [B, P]: the patches of the least are read; None draws it, which needs `rng`.
      config: the model's numbers.
      rng: key for the noise and dropout; None means no dropout, and that `noise` is given.
      interpolate_pos_encoding: take images of another size.
      output_hidden_states: also return every layer's output.
      output_attentions: also return every layer's attention weights.
      execution: scan or loop, rematerialisation, kernel.

    Returns:
      `Output` with `last_hidden_state` [B, 1 + kept, D], `mask` and `ids_restore` [B, P].

    Raises:
      InputError: no images or of another layout or size; neither `noise` nor `rng`.
    """
    images = check_images(pixel_values, config.num_channels, params["embeddings"]["patch"]["kernel"].dtype)
    if not interpolate_pos_encoding:
        check_size(images, config.image_size, " (or others with interpolate_pos_encoding=True)")
    Y, X = (n // config.patch_size for n in images.shape[1:3])
    if noise is None and rng is None:
        raise InputError("which patches are hidden is random: give noise [batch, patches], or rng to draw it")
    rng_noise, rng_layers = split_rng(rng, 2)
    if noise is None:
        noise = jax.random.uniform(rng_noise, (images.shape[0], Y * X))
    table = positions_for(jax.lax.stop_gradient(params["embeddings"]["position"]), config.grid, (Y, X))
    x_BPD, mask, restore = hide(embed_patches(params, Image(images), config) + table[:, 1:], noise, config.mask_ratio)
    first_BD = jnp.broadcast_to(params["embeddings"]["class"] + table[:, :1], (x_BPD.shape[0], 1, x_BPD.shape[2]))
    x_BLD, states, maps = pre_norm_layers(
        params,
        shard(jnp.concatenate([first_BD, x_BPD], axis=1), "batch", "length", "embed"),
        config,
        rng=rng_layers,
        output_hidden_states=output_hidden_states,
        output_attentions=output_attentions,
        execution=execution,
    )
    x_BLD = layer_norm(params["final_norm"], x_BLD, config.layer_norm_eps)
    return Output(last_hidden_state=x_BLD, mask=mask, ids_restore=restore, hidden_states=states, attentions=maps)


def draw(
    params: Tree,
    *inputs: Any,
    config: ViTMAEConfig,
    rng: jax.Array | None = None,
    interpolate_pos_encoding: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
    **named: Any,
) -> Output:
    """`encode`, and every patch's pixels from what was read: `logits` [B, P, pixels], rows of a patch, channels innermost."""
    rng_trunk, rng_decoder = split_rng(rng, 2)
    trunk = encode(params, *inputs, config=config, rng=rng_trunk, interpolate_pos_encoding=interpolate_pos_encoding,
                   execution=execution, **named)  # fmt: skip
    decoder, inner = params["decoder"], config.decoder
    assert trunk.last_hidden_state is not None
    assert trunk.ids_restore is not None
    x_BLD = linear(decoder["embed"], trunk.last_hidden_state)
    B, P = trunk.ids_restore.shape
    hidden = jnp.broadcast_to(decoder["mask_token"], (B, P + 1 - x_BLD.shape[1], x_BLD.shape[2]))
    x_BPD = jnp.concatenate([x_BLD[:, 1:], hidden.astype(x_BLD.dtype)], axis=1)
    x_BPD = jnp.take_along_axis(x_BPD, trunk.ids_restore[..., None], axis=1)
    table = jax.lax.stop_gradient(decoder["position"])
    if table.shape[1] != P + 1:  # drawn along one line, as in PyTorch
        table = jnp.concatenate([table[:, :1], resize(table[:, None, 1:], (1, P), "cubic")[:, 0]], axis=1)
    x_BLD, _, _ = pre_norm_layers(
        decoder, jnp.concatenate([x_BLD[:, :1], x_BPD], axis=1) + table, inner, rng=rng_decoder, execution=execution
    )
    logits = linear(decoder["pixels"], layer_norm(decoder["norm"], x_BLD, config.layer_norm_eps))[:, 1:]
    return trunk.replace(logits=logits, last_hidden_state=None)  # type: ignore[attr-defined]


HEADS: dict[str | None, Forward] = {None: encode, "pretraining": draw}

FAMILY = Family(
    name="vit_mae",
    config_class=ViTMAEConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("ViTMAE", HEADS),
    prefix="vit.",
    trunk=("embeddings", "layers", "final_norm"),
    inputs=("pixel_values", "noise"),
    renamed={"decoder.decoder_encoder.layer.": "decoder.decoder_layers."},  # what transformers 5 writes
)
