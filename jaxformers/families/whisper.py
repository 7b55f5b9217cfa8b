"""Whisper (Radford et al. 2022, arXiv:2212.04356): an encoder of log-mel spectra, and a decoder that writes what was said.

An encoder-decoder of `text_seq2seq` whose encoder's embeddings are two convolutions over frames, every second of which is kept.
It always hears 30 seconds. What a text begins with (language, task, times) is `generate.speech`'s work.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxformers.core import positions
from jaxformers.core.cache import Cache
from jaxformers.core.layers import (
    ACTIVATIONS,
    conv,
    declare_conv,
    declare_norm,
    dropout,
    layer_norm,
    split_rng,
)
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import text_seq2seq
from jaxformers.families.bart import cache_for, declare_layers
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family
from jaxformers.families.speech_heads import classify_sound, declare_head
from jaxformers.families.text_encoder import Text, TextConfig
from jaxformers.families.text_seq2seq import Parts, shift_right
from jaxformers.parallel.mesh import shard

INPUTS = ("input_features", "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds", "encoder_outputs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhisperConfig(TextConfig):
    """Whisper's numbers; the defaults are those of whisper-tiny."""

    vocab_size: int = 51865
    num_mel_bins: int = 80
    hidden_size: int = 384
    num_hidden_layers: int = 4
    num_decoder_layers: int = 4
    num_attention_heads: int = 6
    decoder_attention_heads: int = 6
    intermediate_size: int = 1536
    decoder_intermediate_size: int = 1536
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    activation_dropout: float = 0.0
    max_source_positions: int = 1500
    max_position_embeddings: int = 448
    layer_norm_eps: float = 1e-5
    use_weighted_layer_sum: bool = False
    classifier_proj_size: int = 256
    median_filter_width: int = 7
    pad_token_id: int = 50256
    bos_token_id: int = 50256
    eos_token_id: int = 50256
    decoder_start_token_id: int | None = 50257

    SIZES: ClassVar[tuple[str, ...]] = (
        *TextConfig.SIZES, "num_decoder_layers", "decoder_attention_heads", "decoder_intermediate_size", "num_mel_bins",
        "max_source_positions", "classifier_proj_size")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.decoder_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} does not divide into {self.decoder_attention_heads} heads (decoder)"
            )

    @property
    def frames(self) -> int:
        """Frames of the spectrum that the encoder hears: 3000, of 30 seconds."""
        return 2 * self.max_source_positions


KEYS = keys_of(
    WhisperConfig,
    without=("layer_norm_eps", "classifier_dropout"),
    hidden_size="d_model",
    num_hidden_layers="encoder_layers",
    num_decoder_layers="decoder_layers",
    num_attention_heads="encoder_attention_heads",
    intermediate_size="encoder_ffn_dim",
    decoder_intermediate_size="decoder_ffn_dim",
    hidden_act="activation_function",
    hidden_dropout_prob="dropout",
    attention_probs_dropout_prob="attention_dropout",
    initializer_range="init_std",
    max_position_embeddings="max_target_positions",
)
FIXED = {
    "scale_embedding": (False, "words multiplied by the width's root"),
    "is_encoder_decoder": (True, "one stack alone"),
}
IGNORED = {
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop"), "how it is trained; no layer is left out here"),
    **dict.fromkeys(("apply_spec_augment", "mask_time_prob", "mask_time_length", "mask_time_min_masks", "mask_feature_prob",
                     "mask_feature_length", "mask_feature_min_masks"),
                    "how it is trained: masks are drawn into the features by who trains (preprocess.spec_augment)"),
    "num_hidden_layers": "the same as encoder_layers",
    "forced_decoder_ids": "belongs to generation",
}  # fmt: skip
config_from_hf = partial(read_config, WhisperConfig, KEYS, FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "whisper")

# -- what it owns ------------------------------------------------------------------------------------------------------


def declare(config: WhisperConfig, head: str | None = None) -> Tree:
    """Every parameter of Whisper with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, P, init = config.hidden_size, config.max_source_positions, normal(config.initializer_range)

    def fixed(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Sines and cosines, from the first wave of one step to the last of 10000."""
        rates = jnp.exp(-jnp.log(10000.0) / (D // 2 - 1) * jnp.arange(D // 2))
        angles = jnp.arange(P)[:, None] * rates[None]
        return jnp.concatenate((jnp.sin(angles), jnp.cos(angles)), 1).astype(dtype)

    def side(name: str) -> Tree:
        return {
            "layers": declare_layers(config, name, key_bias=False),
            "final_norm": declare_norm(D, f"model.{name}.layer_norm"),
        }

    table, name = ("positions", "table"), "embed_positions.weight"
    encoder = side("encoder") | {
        "conv1": declare_conv(config.num_mel_bins, D, (3,), "model.encoder.conv1", init),
        "conv2": declare_conv(D, D, (3,), "model.encoder.conv2", init),
        "position": Param((P, D), table, fixed, f"model.encoder.{name}", decay=False),
    }
    if head == "audio-classification":
        return {"encoder": encoder, **declare_head(config, head)}
    decoder = side("decoder")
    decoder["position"] = Param((config.max_position_embeddings, D), table, init, f"model.decoder.{name}")
    words = Param((config.vocab_size, D), ("vocab", "table"), init, "model.decoder.embed_tokens.weight")
    tree: Tree = {"embeddings": {"word": words}, "encoder": encoder, "decoder": decoder}
    if head == "speech-seq2seq" and not config.tie_word_embeddings:
        tree["masked_lm"] = {"decoder": Param(words.shape, words.axes, init, "proj_out.weight")}
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def embed(params: Tree, side: str, text: Text, config: WhisperConfig, rng: jax.Array | None) -> jax.Array:
    """Of the encoder two convolutions over frames [B, frames, bands], of the decoder words; and positions: [B, L, D]."""
    stack, x_BLD = params[side], text.inputs_embeds
    if side == "encoder":
        assert x_BLD is not None
        for name, stride in (("conv1", 1), ("conv2", 2)):
            x_BLD = ACTIVATIONS["gelu"](conv(stack[name], x_BLD, stride, padding=1))
        places = jax.lax.stop_gradient(stack["position"])[None]  # which are not learnt
    else:
        if x_BLD is None:
            x_BLD = params["embeddings"]["word"][text.input_ids]
        places = positions.learned(stack["position"], x_BLD.shape[1], text.position_ids)
    x_BLD = shard(x_BLD + places, "batch", "length", "embed")
    return dropout(x_BLD, config.hidden_dropout_prob, rng)


def finish(stack: Tree, x_BLD: jax.Array, config: WhisperConfig, rng: jax.Array | None) -> jax.Array:
    """The norm after the last layer."""
    return layer_norm(stack["final_norm"], x_BLD, config.layer_norm_eps)


PARTS = Parts(embed, partial(text_seq2seq.block, norm=layer_norm, norm_first=True), finish)


def heard(params: Tree, input_features: jax.Array, config: WhisperConfig) -> jax.Array:
    """The spectrum [B, bands, frames] as frames [B, frames, bands]. Raises `InputError` for another shape."""
    wanted = (config.num_mel_bins, config.frames)
    if input_features.ndim != 3 or input_features.shape[1:] != wanted:
        raise InputError(
            f"input_features must be a spectrum [batch, {wanted[0]}, {wanted[1]}] (Whisper's feature extractor fills and cuts "
            f"every sound to that), found shape {input_features.shape}"
        )
    return jnp.swapaxes(input_features, 1, 2).astype(params["encoder"]["conv1"]["kernel"].dtype)


def forward(
    params: Tree,
    input_features: jax.Array | None = None,
    decoder_input_ids: jax.Array | None = None,
    decoder_attention_mask: jax.Array | None = None,
    decoder_inputs_embeds: jax.Array | None = None,
    encoder_outputs: jax.Array | None = None,
    *,
    config: WhisperConfig,
    cache: Cache | None = None,
    **options: Any,
) -> Output:
    """Whisper's hidden states.

    Args:
      params: the tree of `declare`; `layers` may also be a sequence of single layers.
      input_features: log-mel spectra [B, bands, frames], for the encoder.
      decoder_input_ids: [B, L] token ids, for the decoder.
      decoder_attention_mask: [B, L] of these, 1 for tokens and 0 for padding; None means no padding.
      decoder_inputs_embeds: [B, L, D] in place of `decoder_input_ids`.
      encoder_outputs: [B, S, D], the encoder's states, where they are known, in place of `input_features`.
      config: the model's numbers.
      cache: what the decoder read before (`core.cache`), with L slots left; `input_features` are given with the first part alone.
      **options: `rng`, `output_hidden_states`, `output_attentions`, `execution`, as for `text_seq2seq.encode`.

    Returns:
      `Output` with `last_hidden_state` [B, L, D] and `encoder_last_hidden_state` [B, S, D], and `cache` where one was given.

    Raises:
      InputError: not one of the inputs of either side, or features of another shape than 30 seconds have.
    """
    known = encoder_outputs is not None or (cache is not None and cache.cross is not None)
    if (input_features is None) != known:
        raise InputError("give input_features, or what the encoder made of them, and not both")
    frames = None if input_features is None else heard(params, input_features, config)
    return text_seq2seq.forward(
        params, None, None, decoder_input_ids, decoder_attention_mask, frames, decoder_inputs_embeds, encoder_outputs,
        config=config, parts=PARTS, cache=cache, **options,
    )  # fmt: skip


def encode(params: Tree, input_features: jax.Array, *, config: WhisperConfig, **options: Any) -> Output:
    """The encoder's states [B, S, D] of spectra [B, bands, frames]; options and errors as for `forward`."""
    frames = heard(params, input_features, config)
    return text_seq2seq.encode(params, inputs_embeds=frames, config=config, parts=PARTS, **options)


def classify(
    params: Tree, input_features: jax.Array, *, config: WhisperConfig, rng: jax.Array | None = None,
    output_hidden_states: bool = False, **options: Any,
) -> Output:  # fmt: skip
    """Classes of a sound, of the encoder's states alone: logits [B, C]."""
    rng_trunk, rng_head = split_rng(rng, 2)
    weighted = "layer_weights" in params
    trunk = encode(params, input_features, config=config, rng=rng_trunk,
                   output_hidden_states=output_hidden_states or weighted, **options)  # fmt: skip
    fields = classify_sound(params, trunk, None, config, rng_head)
    return Output(**fields, hidden_states=trunk.hidden_states if output_hidden_states else None,
                  attentions=trunk.attentions)  # fmt: skip


HEADS = {
    None: forward,
    "speech-seq2seq": text_seq2seq.heads_over(forward)["seq2seq-lm"],
    "audio-classification": classify,
}

FAMILY = Family(
    name="whisper",
    config_class=WhisperConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={
        None: "WhisperModel",
        "speech-seq2seq": "WhisperForConditionalGeneration",
        "audio-classification": "WhisperForAudioClassification",
    },
    prefix="model.",
    prefixes={"audio-classification": ""},
    trunk=("embeddings", "encoder", "decoder"),
    inputs=INPUTS,
    cache=cache_for,
    encode=encode,
    decoder_inputs=shift_right,
    ties={"proj_out.weight": "model.decoder.embed_tokens.weight"},
)
