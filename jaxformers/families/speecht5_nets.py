"""The nets before and after SpeechT5's encoder-decoder, of sounds: waves to vectors, frames of a spectrum to vectors, and back.

What is put between them is in `families.speecht5`. The net before frames drops numbers whenever it runs (Shen et al. 2018).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.images import batch_norm, declare_batch_norm
from jaxformers.core.layers import (
    conv,
    declare_conv,
    declare_linear,
    declare_norm,
    dropout,
    linear,
    random_words,
    split_rng,
)
from jaxformers.core.params import Param, Tree, normal, ones
from jaxformers.errors import InputError
from jaxformers.families.bart import fairseq
from jaxformers.families.speech_encoder import add_positions, declare_convolutions, declare_positions, embed_wave
from jaxformers.families.text_encoder import Text

# -- what they own -----------------------------------------------------------------------------------------------------


def declare_alpha(at: str) -> Param:
    """How much positions count beside words or frames (Li et al. 2019)."""
    return Param((), (), ones, at + "encode_positions.alpha", decay=False)


def declare_wave(config: Any, at: str) -> Tree:
    """The net before the encoder, of waves: Wav2Vec2's convolutions."""
    D, C, init = config.hidden_size, config.conv_dim[-1], normal(config.initializer_range)
    tree: Tree = {
        "features": declare_convolutions(config, at + "feature_encoder.conv_layers."),
        "projection": declare_linear(C, D, at + "feature_projection.projection", init, ("channels", "embed")),
        "projection_norm": declare_norm(C, at + "feature_projection.layer_norm"),
        "positions": declare_positions(config, at + "pos_conv_embed.conv."),
    }
    if config.mask_time_prob > 0 or config.mask_feature_prob > 0:
        init = jax.nn.initializers.uniform(1.0)
        tree["masked"] = Param((D,), ("embed",), init, at + "masked_spec_embed", decay=False)
    return tree


def declare_frames(config: Any, at: str) -> Tree:
    """The net before the decoder, of frames and of who speaks."""
    D, U, init = config.hidden_size, config.speech_decoder_prenet_units, normal(config.initializer_range)
    layers = {
        str(n): declare_linear(U if n else config.num_mel_bins, U, f"{at}layers.{n}", init, ("channels", "mlp"))
        for n in range(config.speech_decoder_prenet_layers)
    }
    return {
        "dense": layers,
        "final": declare_linear(U, D, at + "final_layer", init, ("mlp", "embed")),
        "speaker": declare_linear(
            config.speaker_embedding_dim + D, D, at + "speaker_embeds_layer", init, ("channels", "embed")
        ),
    }


def declare_postnet(config: Any, at: str) -> tuple[Tree, Tree]:
    """The net after the decoder, of frames; and its running statistics."""
    D, M, init = config.hidden_size, config.num_mel_bins, normal(config.initializer_range)
    depth, layers, stats = config.speech_decoder_postnet_layers, {}, {}
    widths = [M, *[config.speech_decoder_postnet_units] * (depth - 1), M]
    for n in range(depth):
        name, window = f"{at}layers.{n}.", (config.speech_decoder_postnet_kernel,)
        kernel = declare_conv(
            widths[n], widths[n + 1], window, name + "conv", jax.nn.initializers.he_normal(), bias=False
        )
        norm, stats[str(n)] = declare_batch_norm(widths[n + 1], name + "batch_norm")
        layers[str(n)] = {"conv": kernel, "norm": norm}
    tree = {
        "frames": declare_linear(D, M * config.reduction_factor, at + "feat_out", init, ("embed", "mlp")),
        "stop": declare_linear(D, config.reduction_factor, at + "prob_out", init),
        "convs": layers,
    }
    return tree, stats


# -- how they compute ------------------------------------------------------------------------------------------------


def turning(alpha: jax.Array, length: int, config: Any, first: jax.Array | int = 0) -> jax.Array:
    """Sines and cosines in turn, as strong as `alpha`: [1, L, D], the first of place `first`."""
    D = config.hidden_size
    rates = 10000.0 ** (-2 * (jnp.arange(D) // 2) / D)
    angles = (first + jnp.arange(length))[:, None] * rates[None]
    return (alpha * jnp.where(jnp.arange(D)[None] % 2 == 0, jnp.sin(angles), jnp.cos(angles)))[None]


def listen(
    params: Tree, input_values: jax.Array, attention_mask: jax.Array | None, *masks: Any, config: Any,
    rng: jax.Array | None, norm_padding: bool,
) -> tuple[jax.Array, jax.Array | None]:  # fmt: skip
    """The net before the encoder, of waves: vectors [B, T, D] that know their places, and which are real [B, T]."""
    net = params["encoder"]["prenet"]
    x_BTD, _, real_BT = embed_wave(
        net, input_values, attention_mask, *masks, config=config, rng=rng, norm_padding=norm_padding
    )
    if real_BT is not None and not norm_padding:
        x_BTD = jnp.where(real_BT[..., None], x_BTD, jnp.zeros((), x_BTD.dtype))
    x_BTD = add_positions(net["positions"], x_BTD, config)
    T = x_BTD.shape[1]
    places = fairseq({}, Text(position_ids=jnp.arange(T)[None]), T, config)
    if real_BT is not None:
        places = jnp.where(real_BT[..., None], places, 0.0)
    return x_BTD + places.astype(x_BTD.dtype), real_BT


def read_frames(
    decoder: Tree, frames_BLM: jax.Array, speaker_embeddings: jax.Array | None, key: jax.Array | None,
    config: Any, first: jax.Array | int = 0,
) -> jax.Array:  # fmt: skip
    """The net before the decoder, of frames: vectors [B, L, D] that know their places and who speaks.

    Args:
      decoder: its tree.
      frames_BLM: [B, L, bands].
      speaker_embeddings: [B, X]; None is nobody.
      key: for what is dropped, the same numbers of every row, in training or not.
      config: the model's numbers.
      first: the place of the first frame.

    Raises:
      InputError: there is no key, and numbers are to be dropped.
    """
    net, rate, x = decoder["prenet"], config.speech_decoder_prenet_dropout, frames_BLM
    if key is None and rate:
        raise InputError(
            "SpeechT5 drops numbers of the frames it reads whenever it speaks: give prenet_rng (a key), or load it with "
            "speech_decoder_prenet_dropout=0"
        )
    x = x.astype(net["final"]["kernel"].dtype)
    for n in range(config.speech_decoder_prenet_layers):
        x = jax.nn.relu(linear(net["dense"][str(n)], x))
        if rate:
            words = random_words(jax.random.fold_in(key, n), x.shape[1:])  # type: ignore[arg-type]
            x = jnp.where(words[None] >= jnp.uint32(round(rate * 2**32)), x / (1.0 - rate), jnp.zeros((), x.dtype))
    x = linear(net["final"], x)
    x_BLD = x + turning(decoder["alpha"], x.shape[1], config, first).astype(x.dtype)
    if speaker_embeddings is None:
        return x_BLD
    norm = jnp.linalg.norm(speaker_embeddings, axis=1, keepdims=True)
    who_B1X = (speaker_embeddings / jnp.maximum(norm, 1e-12))[:, None].astype(x.dtype)
    who_BLX = jnp.broadcast_to(who_B1X, (*x_BLD.shape[:2], who_B1X.shape[-1]))
    return jax.nn.relu(linear(net["speaker"], jnp.concatenate((x_BLD, who_BLX), axis=-1)))


def refine(
    params: Tree, frames_BTM: jax.Array, config: Any, real_BT: jax.Array | None = None,
    rng: jax.Array | None = None,
) -> tuple[jax.Array, Tree]:  # fmt: skip
    """The last net: convolutions that add to frames what they lack.

    Args:
      params: the model's.
      frames_BTM: [B, T, bands].
      config: the model's numbers.
      real_BT: [B, T], frames beyond which a sound of its own length has none; None: all are, as PyTorch has it in training.
      rng: key for dropout, and whether statistics are those of the batch.

    Returns:
      The frames, and what running statistics come to.
    """
    x, net, stats = frames_BTM, params["postnet"]["convs"], {}
    depth = config.speech_decoder_postnet_layers
    for n, key in enumerate(split_rng(rng, depth)):
        if real_BT is not None:
            x = jnp.where(real_BT[..., None], x, jnp.zeros((), x.dtype))
        layer, before = net[str(n)], params["stats"]["postnet"][str(n)]
        x = conv(layer["conv"], x, padding=(config.speech_decoder_postnet_kernel - 1) // 2)
        x, stats[str(n)] = batch_norm(layer["norm"], before, x, rng is not None)
        x = dropout(jnp.tanh(x) if n < depth - 1 else x, config.speech_decoder_postnet_dropout, key)
    return frames_BTM + x, {"postnet": stats}


def spoken(params: Tree, x_BLD: jax.Array, config: Any) -> tuple[jax.Array, jax.Array]:
    """What the decoder's states say: frames [B, L · r, bands], not yet refined, and how surely each is the last [B, L · r]."""
    net, B = params["postnet"], len(x_BLD)
    return linear(net["frames"], x_BLD).reshape(B, -1, config.num_mel_bins), linear(net["stop"], x_BLD).reshape(B, -1)
