"""CLIP (Radford et al. 2021, arXiv:2103.00020): a text and an image encoder that meet in one space.

Its own: two towers, each with its config inside config.json's; which token stands for a text; the projections. Both towers are
pre-norm; texts look back, images everywhere. `text-features` and `image-features` compute one side of the same parameters.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import positions
from jaxformers.core.attention import looking_back
from jaxformers.core.heads import Forward, token_at
from jaxformers.core.images import check_images, check_size
from jaxformers.core.layers import conv, declare_conv, declare_linear, declare_norm, layer_norm, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, constant, normal, stacked
from jaxformers.core.transformer import BlockNames, declare_post_norm, pre_norm, stack
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import Config, keys_of, read_config, write_config
from jaxformers.families.model import Family, class_names
from jaxformers.families.text_encoder import TextConfig
from jaxformers.families.vision_encoder import VisionConfig, positions_for
from jaxformers.parallel.mesh import shard

# -- config ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(TextConfig):
    """The numbers of the text tower; the defaults are those of clip-vit-base-patch32."""

    vocab_size: int = 49408
    hidden_size: int = 512
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    eos_token_id: int = 49407


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(VisionConfig):
    """The numbers of the image tower; the defaults are those of clip-vit-base-patch32."""

    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig(Config):
    """CLIP's numbers; the defaults are those of clip-vit-base-patch32."""

    text: CLIPTextConfig = CLIPTextConfig()
    vision: CLIPVisionConfig = CLIPVisionConfig()
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.projection_dim < 1:
            raise ConfigError(f"projection_dim must be at least 1, found {self.projection_dim}")


KEYS = keys_of(CLIPConfig, without=("text", "vision", "initializer_range"))
TEXT_KEYS = keys_of(
    CLIPTextConfig,
    without=("classifier_dropout", "tie_word_embeddings", "hidden_dropout_prob", "pad_token_id"),
    attention_probs_dropout_prob="attention_dropout",
)
VISION_KEYS = keys_of(
    CLIPVisionConfig,
    without=("qkv_bias", "hidden_dropout_prob"),
    attention_probs_dropout_prob="attention_dropout",
)
IGNORED = {
    "initializer_factor": "how new models are drawn, which is by initializer_range here",
    "tie_word_embeddings": "there is no output over words",
    "text_config_dict": "what text_config says already, or says it in its place",
    "vision_config_dict": "what vision_config says already, or says it in its place",
}
INSIDE = IGNORED | {
    "projection_dim": "the outer config's",
    "pad_token_id": "the tokenizer's business",
    "dropout": "transformers reads it nowhere",
}


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> CLIPConfig:
    """Reads a config.json and the two inside it strictly. Raises `ConfigError`."""
    towers = {}
    for name, cls, keys in (("text", CLIPTextConfig, TEXT_KEYS), ("vision", CLIPVisionConfig, VISION_KEYS)):
        inner = {**(raw.get(f"{name}_config") or {}), **(raw.get(f"{name}_config_dict") or {})}
        towers[name] = read_config(cls, keys, {}, INSIDE, inner, f"{source}: {name}_config")
    outer = {key: value for key, value in raw.items() if key not in ("text_config", "vision_config")}
    config = read_config(CLIPConfig, KEYS, {}, IGNORED, outer, source)
    return config.replace(**towers, raw=json.dumps(dict(raw)))


def config_to_hf(config: CLIPConfig, architecture: str) -> dict[str, Any]:
    """The config.json of `config`, with one inside it for each tower."""
    raw = write_config(KEYS, "clip", config, architecture)
    for name, keys in (("text", TEXT_KEYS), ("vision", VISION_KEYS)):
        tower = getattr(config, name)
        inner = {**(raw.get(f"{name}_config") or {}), **(raw.pop(f"{name}_config_dict", None) or {})}
        written = {key: getattr(tower, field) for key, field in keys.items()}
        raw[f"{name}_config"] = (
            inner | written | {"projection_dim": config.projection_dim, "model_type": f"clip_{name}_model"}
        )
    return raw


# -- what it owns ------------------------------------------------------------------------------------------------------


def declare_layers(config: Any, at: str) -> Tree:
    """The layers of a tower."""
    layer = at + "encoder.layers.{}."
    names = BlockNames(
        query=layer + "self_attn.q_proj",
        key=layer + "self_attn.k_proj",
        value=layer + "self_attn.v_proj",
        out=layer + "self_attn.out_proj",
        attention_norm=layer + "layer_norm1",
        up=layer + "mlp.fc1",
        down=layer + "mlp.fc2",
        output_norm=layer + "layer_norm2",
    )
    return stacked(config.num_hidden_layers, declare_post_norm(config, names, normal(config.initializer_range)))


def declare(config: CLIPConfig, head: str | None = None) -> Tree:
    """Every parameter of CLIP with `head`: shape, axes, initialiser, checkpoint name and layout."""
    text, vision = config.text, config.vision
    D, p, at = vision.hidden_size, vision.patch_size, "vision_model.embeddings."
    init = normal(vision.initializer_range)
    images: Tree = {
        "embeddings": {
            "class": Param((D,), ("embed",), normal(D**-0.5), at + "class_embedding"),
            "patch": declare_conv(vision.num_channels, D, (p, p), at + "patch_embedding", init, bias=False),
            "position": Param((vision.grid**2 + 1, D), ("positions", "table"), init, at + "position_embedding.weight"),
        },
        "before_norm": declare_norm(D, "vision_model.pre_layrnorm"),  # PyTorch's spelling
        "layers": declare_layers(vision, "vision_model."),
    }
    images["final_norm"] = declare_norm(D, "vision_model.post_layernorm")
    if head == "image-classification":
        return {"vision": images, "classifier": declare_linear(D, config.num_labels, "classifier", init)}
    D, at, init = text.hidden_size, "text_model.embeddings.", normal(text.initializer_range)
    E = config.projection_dim
    return {
        "vision": images,
        "text": {
            "embeddings": {
                "word": Param((text.vocab_size, D), ("vocab", "table"), init, at + "token_embedding.weight"),
                "position": Param(
                    (text.max_position_embeddings, D), ("positions", "table"), init, at + "position_embedding.weight"
                ),
            },
            "layers": declare_layers(text, "text_model."),
            "final_norm": declare_norm(D, "text_model.final_layer_norm"),
        },
        "text_projection": declare_linear(D, E, "text_projection", normal(D**-0.5), ("embed", "mlp"), bias=False),
        "visual_projection": declare_linear(
            vision.hidden_size, E, "visual_projection", normal(vision.hidden_size**-0.5), ("embed", "mlp"), bias=False
        ),
        "logit_scale": Param((), (), constant(config.logit_scale_init_value), "logit_scale", decay=False),
    }


# -- how it computes ---------------------------------------------------------------------------------------------------


def see(
    params: Tree,
    pixel_values: jax.Array | None,
    config: CLIPVisionConfig,
    interpolate_pos_encoding: bool = False,
    **options: Any,
) -> Output:
    """The image tower: states [B, 1 + P, D], and the first token's, normalised, as `pooler_output`."""
    embeddings = params["embeddings"]
    images = check_images(pixel_values, config.num_channels, embeddings["patch"]["kernel"].dtype)
    if not interpolate_pos_encoding:
        check_size(images, config.image_size, " (or others with interpolate_pos_encoding=True)")
    x_BYXD = conv(embeddings["patch"], images, config.patch_size)
    B, Y, X, D = x_BYXD.shape
    first = jnp.broadcast_to(embeddings["class"], (B, 1, D)).astype(x_BYXD.dtype)
    x_BLD = jnp.concatenate([first, x_BYXD.reshape(B, Y * X, D)], axis=1)
    x_BLD = x_BLD + positions_for(embeddings["position"][None], config.grid, (Y, X))
    x_BLD = layer_norm(params["before_norm"], shard(x_BLD, "batch", "length", "embed"), config.layer_norm_eps)
    x_BLD, states, maps = stack(params["layers"], partial(pre_norm, config=config), x_BLD, **options)
    pooled = layer_norm(params["final_norm"], x_BLD[:, 0], config.layer_norm_eps)
    return Output(last_hidden_state=x_BLD, pooler_output=pooled, hidden_states=states, attentions=maps)


def read(
    params: Tree,
    input_ids: jax.Array | None,
    attention_mask: jax.Array | None,
    position_ids: jax.Array | None,
    config: CLIPTextConfig,
    **options: Any,
) -> Output:
    """The text tower: states [B, L, D], and as `pooler_output` that of the token which ends the text."""
    if input_ids is None:
        raise InputError("give input_ids, texts as [batch, length]")
    x_BLD = params["embeddings"]["word"][input_ids]
    x_BLD = x_BLD + positions.learned(params["embeddings"]["position"], x_BLD.shape[1], position_ids)
    x_BLD, states, maps = stack(
        params["layers"],
        partial(pre_norm, config=config, mask=looking_back(attention_mask)),
        shard(x_BLD, "batch", "length", "embed"),
        **options,
    )
    x_BLD = layer_norm(params["final_norm"], x_BLD, config.layer_norm_eps)
    # Older files say 2, which their texts do not hold: there the end is the token of the highest number.
    ends_BL = input_ids if config.eos_token_id == 2 else input_ids == config.eos_token_id
    pooled = token_at(x_BLD, jnp.argmax(ends_BL, axis=1))
    return Output(last_hidden_state=x_BLD, pooler_output=pooled, hidden_states=states, attentions=maps)


def text_features(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    position_ids: jax.Array | None = None,
    *,
    config: CLIPConfig,
    rng: jax.Array | None = None,
    **options: Any,
) -> Output:
    """Texts [B, L] as `text_embeds` [B, E], with the tower's states; `options` are those of `stack`."""
    output = read(params["text"], input_ids, attention_mask, position_ids, config.text, rng=rng, **options)
    return output.replace(text_embeds=linear(params["text_projection"], output.pooler_output))  # type: ignore[attr-defined, arg-type]


def image_features(
    params: Tree,
    pixel_values: jax.Array | None = None,
    *,
    config: CLIPConfig,
    rng: jax.Array | None = None,
    **options: Any,
) -> Output:
    """Images [B, Y, X, C], channels last, as `image_embeds` [B, E], with the tower's states; `options` are those of `stack`."""
    output = see(params["vision"], pixel_values, config.vision, rng=rng, **options)
    return output.replace(image_embeds=linear(params["visual_projection"], output.pooler_output))  # type: ignore[attr-defined, arg-type]


def compare(
    params: Tree,
    input_ids: jax.Array | None = None,
    pixel_values: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    position_ids: jax.Array | None = None,
    *,
    config: CLIPConfig,
    rng: jax.Array | None = None,
    interpolate_pos_encoding: bool = False,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    **options: Any,
) -> Output:
    """How well each image fits each text: logits of images × texts, and the embeddings of both, of length 1.

    Args:
      params: the tree of `declare`.
      input_ids: [T, L] texts, each with the token that ends it.
      pixel_values: [B, Y, X, C] images, channels last.
      attention_mask: [T, L], 1 for tokens and 0 for padding.
      position_ids: [T, L]; None counts from 0.
      config: the model's numbers.
      rng: key for dropout; None means none.
      interpolate_pos_encoding: take images of another size.
      output_hidden_states: taken, as of every family; a tower's states are what `text-features` and `image-features` return.
      output_attentions: the same.
      options: those of `stack`, such as `execution`.

    Returns:
      `Output` with `logits_per_image` [B, T], `logits_per_text` [T, B], `text_embeds` [T, E] and `image_embeds` [B, E].
    """
    rng_text, rng_image = split_rng(rng, 2)
    text = text_features(params, input_ids, attention_mask, position_ids, config=config, rng=rng_text, **options)
    image = image_features(
        params, pixel_values, config=config, rng=rng_image, interpolate_pos_encoding=interpolate_pos_encoding, **options
    )
    texts_TE, images_BE = _of_length_1(text.text_embeds), _of_length_1(image.image_embeds)
    logits_TB = jnp.einsum("TE,BE->TB", texts_TE, images_BE) * jnp.exp(params["logit_scale"])
    return Output(logits_per_image=logits_TB.T, logits_per_text=logits_TB, text_embeds=texts_TE, image_embeds=images_BE)


def _of_length_1(x: Any) -> jax.Array:
    return x / jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True).astype(x.dtype)


def classify(
    params: Tree,
    pixel_values: jax.Array | None = None,
    *,
    config: CLIPConfig,
    rng: jax.Array | None = None,
    **options: Any,
) -> Output:
    """Images by a dense layer over the mean of their patches: logits [B, C]."""
    trunk = see(params["vision"], pixel_values, config.vision, rng=rng, **options)
    assert trunk.last_hidden_state is not None
    logits_BC = linear(params["classifier"], trunk.last_hidden_state[:, 1:].mean(1))
    return Output(logits=logits_BC, hidden_states=trunk.hidden_states, attentions=trunk.attentions)


HEADS: dict[str | None, Forward] = {
    None: compare,
    "zero-shot-image-classification": compare,
    "image-classification": classify,
    "text-features": text_features,
    "image-features": image_features,
}

FAMILY = Family(
    name="clip",
    config_class=CLIPConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("CLIP", HEADS),
    prefix="",
    trunk=("text", "vision"),
    inputs=("input_ids", "pixel_values", "attention_mask", "position_ids"),
    buffers=("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
)
