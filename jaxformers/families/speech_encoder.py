"""What Wav2Vec2 and HuBERT share: convolutions over the wave, a convolution as positions, an encoder.

Sounds are waves [B, samples]; after the convolutions there is a frame for every 20 ms or so, T of them. Its layers are
`text_seq2seq.block` without a decoder; its heads are in `speech_heads`. SpecAugment's masks are inputs, which
`preprocess.spec_augment` draws.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxformers.core.attention import padding_mask
from jaxformers.core.layers import (
    ACTIVATIONS,
    conv,
    declare_conv,
    declare_linear,
    declare_norm,
    dropout,
    layer_norm,
    linear,
    split_rng,
)
from jaxformers.core.outputs import Output
from jaxformers.core.params import Initialiser, Param, Tree, normal, stacked, zeros
from jaxformers.core.transformer import BlockNames, Execution, declare_post_norm, stack
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import Config, check_numbers
from jaxformers.families.text_seq2seq import View, block
from jaxformers.parallel.mesh import shard

INPUTS = ("input_values", "attention_mask", "mask_time_indices", "mask_feature_indices")
CONV_EPSILON = 1e-5  # of the norms within the convolutions, whatever the config says

# -- config ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechConfig(Config):
    """The numbers every speech encoder has, under the house's names; the defaults are those of wav2vec2-base."""

    vocab_size: int = 32
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    activation_dropout: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    feat_proj_dropout: float = 0.0
    final_dropout: float = 0.1
    layerdrop: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    do_stable_layer_norm: bool = False
    apply_spec_augment: bool = True
    mask_time_prob: float = 0.05
    mask_time_length: int = 10
    mask_time_min_masks: int = 2
    mask_feature_prob: float = 0.0
    mask_feature_length: int = 10
    mask_feature_min_masks: int = 0
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    pad_token_id: int = 0

    SIZES: ClassVar[tuple[str, ...]] = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                                        "intermediate_size", "num_conv_pos_embeddings",
                                        "num_conv_pos_embedding_groups", "classifier_proj_size")  # fmt: skip
    KEYS: ClassVar[dict[str, Any]] = {
        "hidden_dropout_prob": "hidden_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    }

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)
        if not len(self.conv_dim) == len(self.conv_stride) == len(self.conv_kernel) > 0:
            raise ConfigError(
                f"conv_dim, conv_stride and conv_kernel must be as long as each other, found {len(self.conv_dim)}, "
                f"{len(self.conv_stride)} and {len(self.conv_kernel)}"
            )
        if min(*self.conv_dim, *self.conv_stride, *self.conv_kernel) < 1:
            raise ConfigError("conv_dim, conv_stride and conv_kernel must be positive")
        if self.feat_extract_norm not in ("group", "layer"):
            raise ConfigError(f"feat_extract_norm must be 'group' or 'layer', found {self.feat_extract_norm!r}")
        if self.hidden_size % self.num_conv_pos_embedding_groups:
            raise ConfigError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_conv_pos_embedding_groups} groups "
                "(num_conv_pos_embedding_groups)"
            )

    def frames(self, samples: Any) -> Any:
        """How many frames the convolutions make of so many samples: an int, or an array of them."""
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    @property
    def samples_a_frame(self) -> int:
        """Samples from one frame to the next."""
        product = 1
        for stride in self.conv_stride:
            product *= stride
        return product


FIXED = {
    "add_adapter": (False, "an adapter after the encoder"),
    "adapter_attn_dim": (None, "adapters in the layers, one a language"),
}
IGNORED = {
    "num_feat_extract_layers": "is the length of conv_dim",
    **dict.fromkeys(("adapter_kernel_size", "adapter_stride", "num_adapter_layers", "output_hidden_size"),
                    "belong to an adapter, which is not supported"),
    **dict.fromkeys(("freeze_feat_extract_train", "mask_channel_length", "mask_channel_min_space", "mask_channel_other",
                     "mask_channel_prob", "mask_channel_selection", "mask_time_min_space", "mask_time_other",
                     "mask_time_selection", "no_mask_channel_overlap", "no_mask_time_overlap", "gradient_checkpointing",
                     "feat_extract_dropout", "hidden_dropout_prob", "tokenizer_class"),
                    "left over from fairseq; transformers does not read it"),
}  # fmt: skip

# -- what it owns ------------------------------------------------------------------------------------------------------


def declare_convolutions(config: Any, at: str) -> Tree:
    """The layers that read the wave, one by one, since they are not alike."""
    tree: Tree = {}
    for n, (width, kernel) in enumerate(zip(config.conv_dim, config.conv_kernel, strict=True)):
        before = config.conv_dim[n - 1] if n else 1
        init = jax.nn.initializers.he_normal()
        layer: Tree = {"conv": declare_conv(before, width, (kernel,), f"{at}{n}.conv", init, bias=config.conv_bias)}
        if n == 0 or config.feat_extract_norm == "layer":
            layer["norm"] = declare_norm(width, f"{at}{n}.layer_norm")
        tree[str(n)] = layer
    return tree


def declare_positions(config: Any, at: str) -> Tree:
    """The convolution that tells frames where they are: weights of a direction and a length (Salimans & Kingma 2016)."""
    D, size, groups = config.hidden_size, config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    std = 2 * (1 / (size * D)) ** 0.5
    name = f"{at}parametrizations.weight.original"
    axes = ("window", "channels", "embed")
    return {
        "length": Param(
            (size, 1, 1), ("window", "parts", "parts"), _length(std, D, groups), f"{name}0", "o i t -> t i o"
        ),
        "direction": Param((size, D // groups, D), axes, normal(std), f"{name}1", "o i t -> t i o"),
        "bias": Param((D,), ("embed",), zeros, f"{at}bias", decay=False),
    }


def _length(std: float, width: int, groups: int) -> Initialiser:
    """What a direction drawn at `std` is long."""
    return lambda key, shape, dtype: jnp.full(shape, std * width * groups**-0.5, dtype)


def position_aliases(at: str) -> dict[str, str]:
    """What PyTorch called a weight-normed convolution's tensors before, each with its present name."""
    return {f"{at}weight_{old}": f"{at}parametrizations.weight.original{new}" for new, old in enumerate("gv")}


def block_names(layer: str) -> BlockNames:
    """The checkpoint names of a block in Wav2Vec2's fashion, after `layer`, which holds `{}` for its number."""
    return BlockNames(
        query=layer + "attention.q_proj",
        key=layer + "attention.k_proj",
        value=layer + "attention.v_proj",
        out=layer + "attention.out_proj",
        attention_norm=layer + "layer_norm",
        up=layer + "feed_forward.intermediate_dense",
        down=layer + "feed_forward.output_dense",
        output_norm=layer + "final_layer_norm",
    )


def declare_trunk(config: Any, at: str, projection_norm: bool = True) -> Tree:
    """Everything up to the last hidden state, under names after `at`."""
    D, init = config.hidden_size, normal(config.initializer_range)
    layers = declare_post_norm(config, block_names(at + "encoder.layers.{}."), init)
    tree: Tree = {
        "features": declare_convolutions(config, at + "feature_extractor.conv_layers."),
        "projection": declare_linear(config.conv_dim[-1], D, at + "feature_projection.projection", init, ("channels", "embed")),
        "positions": declare_positions(config, at + "encoder.pos_conv_embed.conv."),
        "norm": declare_norm(D, at + "encoder.layer_norm"),
        "layers": stacked(config.num_hidden_layers, layers),
    }  # fmt: skip
    if projection_norm:
        tree["projection_norm"] = declare_norm(config.conv_dim[-1], at + "feature_projection.layer_norm")
    if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
        init = jax.nn.initializers.uniform(1.0)
        tree["masked"] = Param((D,), ("embed",), init, at + "masked_spec_embed", decay=False)
    return tree


TRUNK = ("features", "projection", "positions", "norm", "layers", "projection_norm")


# -- how it computes ---------------------------------------------------------------------------------------------------


def read_wave(params: Tree, input_values: jax.Array, config: Any, lengths_B: jax.Array | None = None) -> jax.Array:
    """The convolutions: waves [B, samples] to features [B, T, C].

    Where channels are normed over time, `lengths_B` says how many samples of each wave count; None counts all, padding too.
    """
    x_BTC = input_values[..., None]
    for n, stride in enumerate(config.conv_stride):
        layer = params[str(n)]
        x_BTC = conv(layer["conv"], x_BTC, stride)
        if "norm" in layer:
            if config.feat_extract_norm == "group":  # of the first layer alone
                frames_B = None if lengths_B is None else (lengths_B - config.conv_kernel[0]) // stride + 1
                x_BTC = _norm_over_time(layer["norm"], x_BTC, frames_B)
            else:
                x_BTC = layer_norm(layer["norm"], x_BTC, CONV_EPSILON)
        x_BTC = ACTIVATIONS[config.feat_extract_activation](x_BTC)
    return x_BTC


def _norm_over_time(params: Tree, x_BTC: jax.Array, frames_B: jax.Array | None) -> jax.Array:
    """Each channel normalised over the first so many frames, or all: group normalisation with a group for each channel."""
    x32 = x_BTC.astype(jnp.float32)
    real_BT = jnp.ones(x32.shape[:2], jnp.float32)
    if frames_B is not None:
        real_BT = (jnp.arange(x32.shape[1])[None] < frames_B[:, None]).astype(jnp.float32)
    share_BT = real_BT / real_BT.sum(1, keepdims=True)

    def mean(each_BTC: jax.Array) -> jax.Array:
        # A product: of a sum of shares XLA (of jaxlib 0.10) divides anew for every frame on CPUs, which is T² divisions.
        return jnp.einsum("BT,BTC->BC", share_BT, each_BTC, precision="highest")[:, None]

    centred = x32 - mean(x32)
    y = centred * jax.lax.rsqrt(mean(jnp.square(centred)) + CONV_EPSILON)
    scale, bias = (params[name].astype(jnp.float32)[None, None] for name in ("scale", "bias"))
    return (y * scale + bias).astype(x_BTC.dtype)


def add_positions(params: Tree, x_BTD: jax.Array, config: Any) -> jax.Array:
    """What a convolution over many frames says of each, added to it."""
    direction = params["direction"].astype(jnp.float32)
    length = jnp.sqrt(jnp.square(direction).sum((1, 2), keepdims=True))
    kernel = (direction / length * params["length"]).astype(x_BTD.dtype)
    size = config.num_conv_pos_embeddings
    around = [(size // 2, (size - 1) // 2)]  # an even window's last frame is dropped
    y_BTD = conv({"kernel": kernel}, x_BTD, padding=around, groups=config.num_conv_pos_embedding_groups)
    y_BTD = y_BTD + jnp.broadcast_to(params["bias"], y_BTD.shape)
    return x_BTD + ACTIVATIONS[config.feat_extract_activation](y_BTD)


def frame_mask(attention_mask: jax.Array, frames: int, config: Any) -> jax.Array:
    """[B, T] of bool, which frames are of the sound: as many as its samples make, from the first on."""
    return jnp.arange(frames)[None] < config.frames(attention_mask.astype(jnp.int32).sum(-1))[:, None]


def embed_wave(
    params: Tree,
    input_values: jax.Array,
    attention_mask: jax.Array | None,
    mask_time_indices: jax.Array | None = None,
    mask_feature_indices: jax.Array | None = None,
    *,
    config: Any,
    rng: jax.Array | None,
    norm_padding: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """What the encoder reads of a wave, but for where frames are; arguments and errors as of `encode`.

    Returns:
      The frames [B, T, D], the features they are made of [B, T, C], and which are real [B, T] (None: all).
    """
    if input_values.ndim != 2:
        raise InputError(f"input_values must be waves [batch, samples], found shape {input_values.shape}")
    T = config.frames(input_values.shape[1])
    if T < 1:
        raise InputError(f"a sound of {input_values.shape[1]} samples is too short for a single frame of this model")
    with jax.named_scope("convolutions"):
        alone = not norm_padding and attention_mask is not None
        lengths_B = attention_mask.astype(jnp.int32).sum(-1) if alone else None  # type: ignore[union-attr]
        wave = input_values.astype(params["projection"]["kernel"].dtype)
        features_BTC = read_wave(params["features"], wave, config, lengths_B)
    if "projection_norm" in params:
        features_BTC = layer_norm(params["projection_norm"], features_BTC, config.layer_norm_eps)
    x_BTD = dropout(linear(params["projection"], features_BTC), config.feat_proj_dropout, rng)
    if config.apply_spec_augment and mask_time_indices is not None:
        if "masked" not in params:
            raise InputError(
                "mask_time_indices hides frames, and this model (mask_time_prob 0) has nothing in their place"
            )
        x_BTD = jnp.where(mask_time_indices[..., None] != 0, params["masked"][None, None], x_BTD)
    if config.apply_spec_augment and mask_feature_indices is not None:
        x_BTD = jnp.where(mask_feature_indices[:, None] != 0, jnp.zeros((), x_BTD.dtype), x_BTD)
    return x_BTD, features_BTC, None if attention_mask is None else frame_mask(attention_mask, T, config)


def encode(
    params: Tree,
    input_values: jax.Array,
    attention_mask: jax.Array | None = None,
    mask_time_indices: jax.Array | None = None,
    mask_feature_indices: jax.Array | None = None,
    *,
    config: Any,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    norm_padding: bool = True,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """A speech encoder's hidden states.

    Args:
      params: the tree of the family's `declare`.
      input_values: waves [B, samples], as the feature extractor gives them.
      attention_mask: [B, samples], 1 for samples and 0 for padding, which comes last; None means no padding. Models with
        `feat_extract_norm="group"` were trained without.
      mask_time_indices: [B, T], not 0 for frames that are hidden (SpecAugment, pretraining).
      mask_feature_indices: [B, D], not 0 for numbers of every frame that are hidden.
      config: the model's numbers.
      rng: key for dropout; None means none.
      norm_padding: whether norms over time (`feat_extract_norm="group"`) count padding, as PyTorch's do; False gives what a sound
        alone would give.
      output_hidden_states: also return every layer's output.
      output_attentions: also return every layer's attention weights.
      execution: scan or loop, rematerialisation, kernel.

    Returns:
      `Output` with `last_hidden_state` [B, T, D] and `extract_features` [B, T, C].

    Raises:
      InputError: not waves, or shorter than a frame; frames are to be hidden by a model that has nothing in their place.
    """
    rng_wave, rng_embed, rng_layers = split_rng(rng, 3)
    x_BTD, features_BTC, real_BT = embed_wave(
        params, input_values, attention_mask, mask_time_indices, mask_feature_indices,
        config=config, rng=rng_wave, norm_padding=norm_padding,
    )  # fmt: skip
    view = View()
    if real_BT is not None:
        x_BTD = jnp.where(real_BT[..., None], x_BTD, jnp.zeros((), x_BTD.dtype))
        view = View(padding_mask(real_BT))
    x_BTD = add_positions(params["positions"], x_BTD, config)
    if not config.do_stable_layer_norm:
        x_BTD = layer_norm(params["norm"], x_BTD, config.layer_norm_eps)
    x_BTD = dropout(shard(x_BTD, "batch", "length", "embed"), config.hidden_dropout_prob, rng_embed)
    (x_BTD, _), states, maps = stack(
        params["layers"],
        partial(_layer, view=view, config=config),
        (x_BTD, None),
        rng=rng_layers,
        output_hidden_states=output_hidden_states,
        output_attentions=output_attentions,
        execution=execution,
    )
    if config.do_stable_layer_norm:
        x_BTD = layer_norm(params["norm"], x_BTD, config.layer_norm_eps)
    own = None if maps is None else tuple(pair[0] for pair in maps)
    return Output(last_hidden_state=x_BTD, extract_features=features_BTC, hidden_states=states, attentions=own)


def _layer(layer: Tree, carried: Any, *, config: Any, rng: jax.Array | None, **options: Any) -> Any:
    """A block, which in training is left out now and then (Fan et al. 2019, LayerDrop)."""
    (y_BTD, _), maps = block(layer, carried, config=config, rng=rng, norm=layer_norm,
                             norm_first=config.do_stable_layer_norm, **options)  # fmt: skip
    if rng is not None and config.layerdrop:
        y_BTD = jnp.where(jax.random.bernoulli(jax.random.fold_in(rng, 1), config.layerdrop), carried[0], y_BTD)
    return (y_BTD, None), maps
