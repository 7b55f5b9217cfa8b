"""Wav2Vec2 (Baevski et al. 2020, arXiv:2006.11477): an encoder of waves, base and large, and what it is pretrained by.

Its forward pass is `families.speech_encoder`, its heads are `families.speech_heads`. Its own is here: the quantizer, whose
codes of hidden frames the encoder learns to tell from those of other frames.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.layers import declare_linear, dropout, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal
from jaxformers.errors import ConfigError
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward
from jaxformers.families.speech_encoder import (
    FIXED,
    IGNORED,
    INPUTS,
    TRUNK,
    SpeechConfig,
    declare_trunk,
    encode,
    position_aliases,
)
from jaxformers.families.speech_heads import (
    CLASS_NAMES,
    HEADS,
    attach,
    classify_frames,
    declare_head,
    declare_speakers,
    embed_speaker,
)

TEMPERATURE = 2.0  # of the quantizer's choices, where a caller says none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config(SpeechConfig):
    """Wav2Vec2's numbers; the defaults are those of wav2vec2-base."""

    feat_quantizer_dropout: float = 0.0
    num_codevectors_per_group: int = 320
    num_codevector_groups: int = 2
    contrastive_logits_temperature: float = 0.1
    num_negatives: int = 100
    codevector_dim: int = 256
    proj_codevector_dim: int = 256
    diversity_loss_weight: float = 0.1
    tdnn_dim: tuple[int, ...] = (512, 512, 512, 512, 1500)
    tdnn_kernel: tuple[int, ...] = (5, 3, 3, 1, 1)
    tdnn_dilation: tuple[int, ...] = (1, 2, 3, 1, 1)
    xvector_output_dim: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codevector_dim % self.num_codevector_groups:
            raise ConfigError(
                f"codevector_dim {self.codevector_dim} does not divide into {self.num_codevector_groups} groups "
                "(num_codevector_groups)"
            )
        if not len(self.tdnn_dim) == len(self.tdnn_kernel) == len(self.tdnn_dilation) > 0:
            raise ConfigError("tdnn_dim, tdnn_kernel and tdnn_dilation must be as long as each other")


KEYS = keys_of(Wav2Vec2Config, **SpeechConfig.KEYS)
config_from_hf = partial(read_config, Wav2Vec2Config, KEYS, FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "wav2vec2")


def declare(config: Wav2Vec2Config, head: str | None = None) -> Tree:
    """Every parameter of Wav2Vec2 with `head`: shape, axes, initialiser, checkpoint name and layout."""
    tree = {**declare_trunk(config, "wav2vec2."), **declare_head(config, head)}
    init = normal(config.initializer_range)
    if head == "audio-xvector":
        tree |= declare_speakers(config, init)
    if head == "pretraining":
        G, V, E = config.num_codevector_groups, config.num_codevectors_per_group, config.codevector_dim
        P, uniform = config.proj_codevector_dim, jax.nn.initializers.uniform(1.0)
        axes = ("parts", "vocab", "head_size")
        tree["quantizer"] = {
            "choose": declare_linear(
                config.conv_dim[-1], G * V, "quantizer.weight_proj", normal(1.0), ("channels", "vocab")
            ),
            "codes": Param((G, V, E // G), axes, uniform, "quantizer.codevectors", "() (g v) e -> g v e"),
        }
        tree["project_states"] = declare_linear(config.hidden_size, P, "project_hid", init, ("embed", "mlp"))
        tree["project_codes"] = declare_linear(E, P, "project_q", init, ("embed", "mlp"))
    return tree


def quantize(
    params: Tree, features_BTC: jax.Array, config: Wav2Vec2Config, counted: jax.Array | None, rng: jax.Array | None,
    temperature: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """A code out of each group for every frame, side by side: the likeliest, or with `rng` one drawn by Gumbel's noise, with
    the gradient of the soft choice (Jang et al. 2016).

    Args:
      params: `choose` and `codes`.
      features_BTC: what the convolutions say.
      config: the model's numbers.
      counted: [B, T], not 0 for frames that count in how many codes are used; None counts all.
      rng: key for the noise; None takes the likeliest.
      temperature: of the soft choice; a number, or [B].

    Returns:
      Codes [B, T, E], and how many of all are used, summed over groups: the exponential of their entropy.
    """
    G, V = config.num_codevector_groups, config.num_codevectors_per_group
    B, T, _ = features_BTC.shape
    logits_BTGV = linear(params["choose"], features_BTC).reshape(B, T, G, V).astype(jnp.float32)
    if rng is None:
        chosen_BTGV = jax.nn.one_hot(logits_BTGV.argmax(-1), V)
        share_BTGV = chosen_BTGV
    else:
        warmth_B111 = jnp.asarray(temperature, jnp.float32).reshape(-1, 1, 1, 1)
        soft_BTGV = jax.nn.softmax((logits_BTGV + jax.random.gumbel(rng, logits_BTGV.shape)) / warmth_B111)
        hard_BTGV = jax.nn.one_hot(soft_BTGV.argmax(-1), V)
        chosen_BTGV = hard_BTGV - jax.lax.stop_gradient(soft_BTGV) + soft_BTGV
        share_BTGV = jax.nn.softmax(logits_BTGV)
    counted_BT = jnp.ones((B, T)) if counted is None else (counted != 0).astype(jnp.float32)
    mean_GV = jnp.einsum("BT,BTGV->GV", counted_BT, share_BTGV) / counted_BT.sum()
    used = jnp.exp(-jax.scipy.special.xlogy(mean_GV, mean_GV).sum(-1)).sum()
    codes_BTGE = jnp.einsum("BTGV,GVE->BTGE", chosen_BTGV.astype(params["codes"].dtype), params["codes"])
    return codes_BTGE.reshape(B, T, -1), used


def pretrain(
    params: Tree, input_values: jax.Array, attention_mask: jax.Array | None = None,
    mask_time_indices: jax.Array | None = None, sampled_negative_indices: jax.Array | None = None,
    gumbel_temperature: jax.Array | float = TEMPERATURE, *, config: Wav2Vec2Config, rng: jax.Array | None = None,
    **options: Any,
) -> Output:  # fmt: skip
    """What is pretrained: states of hidden frames, and codes of what they hid; `losses.contrastive` compares them.

    Args:
      mask_time_indices: [B, T], not 0 for frames that are hidden.
      sampled_negative_indices: [B, T, n], places in [B · T] of the codes that each frame's own is to be told from, which are of
        its own sound (`preprocess.spec_augment.negatives`), so that places in [T] say the same; without, only the states and
        codes are computed.
      gumbel_temperature: of the quantizer's choices, in training; a number, or [B].
      rng: key for dropout and for the quantizer's choices; None means no dropout and the likeliest codes.

    Others as for `speech_encoder.encode`.

    Returns:
      `Output` with `projected_states` and `projected_quantized_states` [B, T, P], `codevector_perplexity` (a number), and with
      negatives `logits` [B, T, 1 + n]: how near a frame's state is to its own code, and to each of the others.
    """
    rng_trunk, rng_features, rng_codes = split_rng(rng, 3)
    trunk = encode(params, input_values, attention_mask, mask_time_indices, config=config, rng=rng_trunk, **options)
    assert trunk.last_hidden_state is not None
    assert trunk.extract_features is not None
    states_BTP = linear(params["project_states"], trunk.last_hidden_state)
    features_BTC = dropout(trunk.extract_features, config.feat_quantizer_dropout, rng_features)
    codes_BTE, used = quantize(
        params["quantizer"], features_BTC, config, mask_time_indices, rng_codes, gumbel_temperature
    )
    codes_BTP = linear(params["project_codes"], codes_BTE)
    logits = None
    if sampled_negative_indices is not None:
        # Of the same sound: a batch may be cut into parts of rows, whose places in the whole are others.
        others_BTnP = jax.vmap(lambda codes, places: codes[places])(
            codes_BTP, sampled_negative_indices % codes_BTP.shape[1]
        )
        all_BTnP = jnp.concatenate((codes_BTP[:, :, None], others_BTnP), 2).astype(jnp.float32)
        near_BTn = _cosine(states_BTP.astype(jnp.float32)[:, :, None], all_BTnP) / config.contrastive_logits_temperature
        same_BTn = (codes_BTP[:, :, None] == others_BTnP).all(
            -1
        )  # no other code at all: it cannot be told from its own
        logits = near_BTn.at[:, :, 1:].set(jnp.where(same_BTn, jnp.finfo(jnp.float32).min, near_BTn[:, :, 1:]))
    return Output(
        logits=logits,
        projected_states=states_BTP,
        projected_quantized_states=codes_BTP,
        codevector_perplexity=used,
        hidden_states=trunk.hidden_states,
        attentions=trunk.attentions,
    )


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / jnp.maximum(lengths, 1e-8)


WAV2VEC2_HEADS: dict[str | None, Forward] = {
    **HEADS,
    "audio-frame-classification": attach(classify_frames),
    "audio-xvector": attach(embed_speaker),
    "pretraining": pretrain,
}

FAMILY = Family(
    name="wav2vec2",
    config_class=Wav2Vec2Config,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=WAV2VEC2_HEADS,
    architectures={head: "Wav2Vec2" + name for head, name in CLASS_NAMES.items()},
    prefix="wav2vec2.",
    trunk=TRUNK,
    inputs=INPUTS,
    aliases=position_aliases("wav2vec2.encoder.pos_conv_embed.conv."),
)
