"""BEiT (Bao et al. 2021, arXiv:2106.08254): ViT that learns to name hidden patches, and adds numbers for distances to attention.

Its own: the tables of distances (one a layer, or one for all), keys without a bias, scaled sums, and `masked-image-modeling` over
the names a tokenizer of images gave (`labels` [B, P], -100 where none is asked), not over pixels.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import heads, positions
from jaxformers.core.images import check_images, resize
from jaxformers.core.layers import declare_linear, declare_norm, dropout, layer_norm, linear
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, constant, normal, stacked, zeros
from jaxformers.core.transformer import declare_post_norm, pre_norm, stack
from jaxformers.families import vision_encoder
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.vision_encoder import (
    INPUTS,
    Image,
    VisionConfig,
    block_names,
    declare_classifier,
    declare_embeddings,
    declare_token,
    embed_patches,
    path_rates,
    positions_for,
    with_first,
)
from jaxformers.parallel.mesh import shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeitConfig(VisionConfig):
    """BEiT's numbers; the defaults are transformers' (published ones have relative positions)."""

    vocab_size: int = 8192
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: float = 0.1
    drop_path_rate: float = 0.1
    use_mean_pooling: bool = True


KEYS = keys_of(BeitConfig, without=("qkv_bias",))
IGNORED = dict.fromkeys(
    ("out_features", "out_indices", "segmentation_indices", "stage_names", "add_fpn", "reshape_hidden_states", "pool_scales",
     "use_auxiliary_head", "auxiliary_loss_weight", "auxiliary_channels", "auxiliary_num_convs", "auxiliary_concat_input",
     "semantic_loss_ignore_index"),
    "of the head for segmentation, which is not here",
)  # fmt: skip
config_from_hf = partial(read_config, BeitConfig, KEYS, {}, IGNORED)
config_to_hf = partial(write_config, KEYS, "beit")

# -- what it owns ------------------------------------------------------------------------------------------------------

TABLE = "relative_position_bias.relative_position_bias_table"
AT = "beit.encoder.layer.{}."


def declare_distances(config: BeitConfig, at: str) -> Param:
    """A number for each distance between two patches, and for those from, to and at the first token; a head each."""
    count = (2 * config.grid - 1) ** 2 + 3
    return Param((count, config.num_attention_heads), ("positions", "heads"), zeros, at + TABLE)


def declare(config: BeitConfig, head: str | None = None) -> Tree:
    """Every parameter of BEiT with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init = config.hidden_size, normal(config.initializer_range)
    block = declare_post_norm(config, block_names(AT), init)
    del block["attention"]["key"]["bias"]
    if config.layer_scale_init_value > 0:
        for part, name in (("attention_scale", "lambda_1"), ("output_scale", "lambda_2")):
            block[part] = Param((D,), ("embed",), constant(config.layer_scale_init_value), AT + name)
    if config.use_relative_position_bias:
        block["distances"] = declare_distances(config, AT + "attention.attention.")
    tree: Tree = {
        "embeddings": declare_embeddings(config, "beit.embeddings."),
        "layers": stacked(config.num_hidden_layers, block),
    }
    if not config.use_absolute_position_embeddings:
        del tree["embeddings"]["position"]
    if config.use_shared_relative_position_bias:
        tree["distances"] = declare_distances(config, "beit.encoder.")
    if config.use_mask_token:
        tree["mask_token"] = declare_token(D, "beit.embeddings.mask_token")
    if not config.use_mean_pooling:
        tree["final_norm"] = declare_norm(D, "beit.layernorm")
    elif head != "masked-image-modeling":
        tree["pooled_norm"] = declare_norm(D, "beit.pooler.layernorm")
    if head == "image-classification":
        tree["classifier"] = declare_classifier(config, D)
    if head == "masked-image-modeling":
        tree["words_norm"] = declare_norm(D, "layernorm")
        tree["words"] = declare_linear(D, config.vocab_size, "lm_head", init)
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def bias_of(table: jax.Array, grid: int, size: tuple[int, int]) -> jax.Array:
    """What distances add to attention between the tokens of an image of `size` patches: [1, H, L, L]."""
    Y, X = size
    square = table[:-3].reshape(1, 2 * grid - 1, 2 * grid - 1, -1)
    if size != (grid, grid):
        square = resize(square, (2 * Y - 1, 2 * X - 1))
    far = (2 * Y - 1) * (2 * X - 1)
    rows = np.pad(positions.distances_of_places(Y, X), ((1, 0), (1, 0)), constant_values=far)
    rows[1:, 0], rows[0, 0] = far + 1, far + 2
    return jnp.moveaxis(jnp.concatenate([square.reshape(far, -1), table[-3:]])[rows], -1, 0)[None]


def embed(params: Tree, image: Image, config: BeitConfig, rng: jax.Array | None) -> jax.Array:
    """Patches after the first token, with positions where there are any: [B, L, D]."""
    x_BLD = with_first(params["embeddings"], embed_patches(params, image, config))
    if "position" in params["embeddings"]:
        size = tuple(n // config.patch_size for n in image.pixel_values.shape[1:3])
        x_BLD = x_BLD + positions_for(params["embeddings"]["position"], config.grid, size)  # type: ignore[arg-type]
    return dropout(shard(x_BLD, "batch", "length", "embed"), config.hidden_dropout_prob, rng)


def layers(params: Tree, x_BLD: jax.Array, config: BeitConfig, *, size: tuple[int, int], **options: Any) -> Any:
    """BEiT's layers, each of which adds its numbers for distances."""
    shared = bias_of(params["distances"], config.grid, size) if "distances" in params else None

    def block(layer: Tree, x_BLD: jax.Array, **named: Any) -> Any:
        bias = bias_of(layer["distances"], config.grid, size) if "distances" in layer else None
        both = shared if bias is None else bias if shared is None else shared + bias
        return pre_norm(layer, x_BLD, config=config, bias=both, **named)

    rates = path_rates(np.linspace(0, config.drop_path_rate, config.num_hidden_layers).tolist(), options["rng"])
    return stack(params["layers"], block, x_BLD, beside=rates, **options)


def encode(
    params: Tree, pixel_values: jax.Array | None = None, *inputs: Any, config: BeitConfig, **named: Any
) -> Output:
    """`vision_encoder.encode` for images of any size; `pooler_output` is the mean of the patches, or the first token."""
    images = check_images(pixel_values, config.num_channels, params["embeddings"]["patch"]["kernel"].dtype)
    size = (images.shape[1] // config.patch_size, images.shape[2] // config.patch_size)
    trunk = vision_encoder.encode(
        params, images, *inputs, config=config, **named, embed=embed, layers=partial(layers, size=size)
    )
    assert trunk.last_hidden_state is not None
    pooled_BD = trunk.last_hidden_state[:, 0]
    if config.use_mean_pooling:
        pooled_BD = trunk.last_hidden_state[:, 1:].mean(1)
        if "pooled_norm" in params:
            pooled_BD = layer_norm(params["pooled_norm"], pooled_BD, config.layer_norm_eps)
    return trunk.replace(pooler_output=pooled_BD)  # type: ignore[attr-defined]


def classify(params: Tree, trunk: Output, config: BeitConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over the pooled image: logits [B, C]."""
    assert trunk.pooler_output is not None
    return {"logits": linear(params["classifier"], trunk.pooler_output)}


def name_patches(params: Tree, trunk: Output, config: BeitConfig, rng: jax.Array | None) -> dict[str, Any]:
    """What each patch is called: logits [B, P, V]."""
    assert trunk.last_hidden_state is not None
    x_BPD = layer_norm(params["words_norm"], trunk.last_hidden_state, config.layer_norm_eps)[:, 1:]
    return {"logits": linear(params["words"], x_BPD)}


HEADS: dict[str | None, Forward] = {
    None: encode,
    "image-classification": heads.attach(encode, classify),
    "masked-image-modeling": heads.attach(encode, name_patches),
}

FAMILY = Family(
    name="beit",
    config_class=BeitConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("Beit", HEADS),
    prefix="beit.",
    trunk=("embeddings", "layers", "final_norm"),
    inputs=INPUTS,
    buffers=(
        "beit.encoder.relative_position_bias.relative_position_index",
        "beit.encoder.layer.{}.attention.attention.relative_position_bias.relative_position_index",
    ),
)
