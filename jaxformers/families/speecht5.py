"""SpeechT5 (Ao et al. 2022, arXiv:2110.07205): one encoder-decoder between texts and sounds, with nets before and after it.

Its own: the nets (`speecht5_nets`). Before the encoder: words, or Wav2Vec2's convolutions; before the decoder: words, or frames
of a spectrum, with who is to speak; after the decoder: words, or frames, `reduction_factor` at a time, which convolutions refine.
Between them is `text_seq2seq` with post-norm blocks; in the encoder keys also answer by how far they are (Shaw et al. 2018).

The net before frames drops numbers whenever it runs (Shen et al. 2018), which needs a key: `rng` in training, `prenet_rng` else.
Speaking, a frame after the other, is `generate.voice`; waves of spectra are made by `families.speecht5_hifigan`.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import positions
from jaxformers.core.layers import declare_norm, dropout, layer_norm, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal, stacked
from jaxformers.core.transformer import declare_post_norm
from jaxformers.families import text_seq2seq
from jaxformers.families.bart import cache_for, fairseq
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family
from jaxformers.families.speech_encoder import SpeechConfig, block_names, frame_mask, position_aliases
from jaxformers.families.speecht5_nets import (
    declare_alpha,
    declare_frames,
    declare_postnet,
    declare_wave,
    listen,
    read_frames,
    refine,
    spoken,
    turning,
)
from jaxformers.families.text_encoder import Text
from jaxformers.families.text_seq2seq import Parts, shift_right
from jaxformers.parallel.mesh import shard

SPEAKS = ("text-to-speech", "speech-to-speech")
LISTENS = ("speech-seq2seq", "speech-to-speech")
INPUTS = ("input_ids", "input_values", "attention_mask", "inputs_embeds", "mask_time_indices", "mask_feature_indices",
          "decoder_input_ids", "decoder_input_values", "decoder_attention_mask", "decoder_inputs_embeds", "speaker_embeddings",
          "encoder_outputs")  # fmt: skip

# -- config ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechT5Config(SpeechConfig):
    """SpeechT5's numbers; the defaults are those of speecht5_asr and speecht5_tts."""

    vocab_size: int = 81
    num_decoder_layers: int = 6
    decoder_attention_heads: int = 12
    decoder_intermediate_size: int = 3072
    positional_dropout: float = 0.1
    scale_embedding: bool = False
    max_position_embeddings: int = 450
    max_speech_positions: int = 4000
    encoder_max_relative_position: int = 160
    num_mel_bins: int = 80
    speech_decoder_prenet_layers: int = 2
    speech_decoder_prenet_units: int = 256
    speech_decoder_prenet_dropout: float = 0.5
    speaker_embedding_dim: int = 512
    speech_decoder_postnet_layers: int = 5
    speech_decoder_postnet_units: int = 256
    speech_decoder_postnet_kernel: int = 5
    speech_decoder_postnet_dropout: float = 0.5
    reduction_factor: int = 2
    use_guided_attention_loss: bool = True
    guided_attention_loss_num_heads: int = 2
    guided_attention_loss_sigma: float = 0.4
    guided_attention_loss_scale: float = 10.0
    tie_word_embeddings: bool = True
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    decoder_start_token_id: int | None = 2

    SIZES = (
        *SpeechConfig.SIZES, "num_decoder_layers", "decoder_attention_heads", "decoder_intermediate_size", "num_mel_bins",
        "encoder_max_relative_position", "speech_decoder_prenet_layers", "speech_decoder_prenet_units", "speaker_embedding_dim",
        "speech_decoder_postnet_layers", "speech_decoder_postnet_units", "speech_decoder_postnet_kernel", "reduction_factor",
    )  # fmt: skip


KEYS = keys_of(
    SpeechT5Config,
    without=("do_stable_layer_norm", "layerdrop", "final_dropout", "use_weighted_layer_sum", "classifier_proj_size",
             "ctc_loss_reduction", "ctc_zero_infinity"),
    **SpeechConfig.KEYS,
    num_hidden_layers="encoder_layers",
    num_decoder_layers="decoder_layers",
    num_attention_heads="encoder_attention_heads",
    intermediate_size="encoder_ffn_dim",
    decoder_intermediate_size="decoder_ffn_dim",
    max_position_embeddings="max_text_positions",
)  # fmt: skip
FIXED = {"is_encoder_decoder": (True, "one stack alone")}
IGNORED = {
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop"), "how it is trained; no layer is left out here"),
    "num_feat_extract_layers": "is the length of conv_dim",
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), "the same as encoder_layers, encoder_attention_heads"),
}  # fmt: skip
config_from_hf = partial(read_config, SpeechT5Config, KEYS, FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "speecht5")

# -- what it owns ------------------------------------------------------------------------------------------------------

ENCODER, DECODER = "speecht5.encoder.", "speecht5.decoder."


def declare(config: SpeechT5Config, head: str | None = None) -> Tree:
    """Every parameter of SpeechT5 with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init = config.hidden_size, normal(config.initializer_range)
    K = D // config.num_attention_heads
    reads = declare_post_norm(config, block_names(ENCODER + "wrapped_encoder.layers.{}."), init)
    encoder: Tree = {
        "layers": stacked(config.num_hidden_layers, reads),
        "norm": declare_norm(D, ENCODER + "wrapped_encoder.layer_norm"),
        "relative": Param((2 * config.encoder_max_relative_position, K), ("positions", "head_size"), init,
                          ENCODER + "wrapped_encoder.embed_positions.pe_k.weight"),
    }  # fmt: skip
    decoder: Tree = {"layers": stacked(config.num_decoder_layers, _writes(config))}
    tree: Tree = {"encoder": encoder, "decoder": decoder}
    if head in LISTENS:
        encoder["prenet"] = declare_wave(config, ENCODER + "prenet.")
    if head == "text-to-speech":
        encoder["alpha"] = declare_alpha(ENCODER + "prenet.")
    if head in SPEAKS:
        decoder["alpha"] = declare_alpha(DECODER + "prenet.")
        decoder["prenet"] = declare_frames(config, DECODER + "prenet.")
        tree["postnet"], stats = declare_postnet(config, "speech_decoder_postnet.")
        tree["stats"] = {"postnet": stats}
    if head in ("text-to-speech", "speech-seq2seq"):
        name = f"{ENCODER if head in SPEAKS else DECODER}prenet.embed_tokens.weight"
        words = Param((config.vocab_size, D), ("vocab", "table"), init, name)
        tree["embeddings"] = {"word": words}
        if head == "speech-seq2seq" and not config.tie_word_embeddings:
            table = Param(words.shape, words.axes, init, "text_decoder_postnet.lm_head.weight")
            tree["masked_lm"] = {"decoder": table}
    return tree


def _writes(config: SpeechT5Config) -> Tree:
    """A layer of the decoder: the encoder's block, and attention to what that has read."""
    init, layer = normal(config.initializer_range), DECODER + "wrapped_decoder.layers.{}."
    own = config.replace(
        num_attention_heads=config.decoder_attention_heads, intermediate_size=config.decoder_intermediate_size
    )
    names = block_names(layer)

    def attention(name: str) -> dict[str, str]:
        parts = {
            ours: f"{layer}{name}.{theirs}_proj" for ours, theirs in zip(("query", "key", "value"), "qkv", strict=True)
        }
        return {**parts, "out": f"{layer}{name}.out_proj", "attention_norm": f"{layer}{name}_layer_norm"}

    block, cross = (
        declare_post_norm(own, dataclasses.replace(names, **attention(name)), init)
        for name in ("self_attn", "encoder_attn")
    )
    return {**block, "cross": cross["attention"], "cross_norm": cross["attention_norm"]}


# -- how it computes ---------------------------------------------------------------------------------------------------


def embed(params: Tree, side: str, text: Text, config: SpeechT5Config, rng: jax.Array | None) -> jax.Array:
    """Words and positions, or vectors that a net has made, normed where the encoder reads them: [B, L, D]."""
    stack, x_BLD = params[side], text.inputs_embeds
    rng_places, rng_first = split_rng(rng, 2)
    if x_BLD is None:
        x_BLD = params["embeddings"]["word"][text.input_ids]
        length = x_BLD.shape[1]
        if side == "encoder":
            positions.check_length(length, config.max_position_embeddings)
            places = turning(stack["alpha"], length, config)
        else:
            scale = config.hidden_size**0.5 if config.scale_embedding else 1.0
            x_BLD, places = x_BLD * jnp.asarray(scale, x_BLD.dtype), fairseq(stack, text, length, config)  # type: ignore[arg-type]
        x_BLD = dropout(x_BLD + places.astype(x_BLD.dtype), config.positional_dropout, rng_places)
    x_BLD = shard(x_BLD, "batch", "length", "embed")
    if side == "decoder":
        return x_BLD
    return dropout(layer_norm(stack["norm"], x_BLD, config.layer_norm_eps), config.hidden_dropout_prob, rng_first)


def distances(stack: Tree, steps_LS: jax.Array, both_ways: bool, config: SpeechT5Config) -> Any:
    """In the encoder what queries answer to how far a key is, up to a distance: see `text_seq2seq.View.bias`."""
    if not both_ways:
        return None
    most = config.encoder_max_relative_position
    index_LS = jnp.clip(-steps_LS, -most, most - 1) + most

    def bias(q_BLHK: jax.Array) -> jax.Array:
        q_BLHK = q_BLHK * jnp.asarray(q_BLHK.shape[-1] ** -0.5, q_BLHK.dtype)
        by_BHLR = jnp.einsum("BLHK,RK->BHLR", q_BLHK, stack["relative"])
        return jnp.take_along_axis(by_BHLR, index_LS[None, None], axis=3)

    return bias


PARTS = Parts(
    embed=embed,
    block=partial(text_seq2seq.block, norm=layer_norm, norm_first=False),
    finish=lambda stack, x_BLD, config, rng: x_BLD,
    bias=distances,
)


def forward(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    decoder_input_ids: jax.Array | None = None,
    decoder_attention_mask: jax.Array | None = None,
    inputs_embeds: jax.Array | None = None,
    decoder_inputs_embeds: jax.Array | None = None,
    encoder_outputs: jax.Array | None = None,
    *,
    input_values: jax.Array | None = None,
    mask_time_indices: jax.Array | None = None,
    mask_feature_indices: jax.Array | None = None,
    decoder_input_values: jax.Array | None = None,
    speaker_embeddings: jax.Array | None = None,
    config: SpeechT5Config,
    rng: jax.Array | None = None,
    prenet_rng: jax.Array | None = None,
    norm_padding: bool = True,
    **options: Any,
) -> Output:
    """SpeechT5's hidden states. Which inputs it takes its head says: on each side texts or sounds, without a head vectors.

    Args:
      params: the tree of `declare`; `layers` may also be a sequence of single layers.
      input_ids: [B, S] token ids, for an encoder of texts.
      attention_mask: of what the encoder reads, 1 for tokens or samples and 0 for padding; None means no padding.
      decoder_input_ids: [B, L] token ids, for a decoder of texts.
      decoder_attention_mask: [B, L], of what the decoder reads.
      inputs_embeds, decoder_inputs_embeds: [B, S, D] and [B, L, D], in place of either.
      encoder_outputs: [B, S, D], the encoder's states, where they are known.
      input_values: waves [B, samples], for an encoder of sounds.
      mask_time_indices, mask_feature_indices: what of these is hidden, see `speech_encoder.encode`.
      decoder_input_values: frames [B, L, bands], for a decoder of sounds: of `reduction_factor` frames the last.
      speaker_embeddings: [B, X], who speaks.
      config: the model's numbers.
      rng: key for dropout; None means none.
      prenet_rng: key for what the net before frames drops, where `rng` is None.
      norm_padding: whether padding of waves is heard as in PyTorch; False gives what a sound alone would give.
      **options: `cache`, `output_hidden_states`, `output_attentions`, `execution`, as for `text_seq2seq.forward`.

    Raises:
      InputError: not one of the inputs of either side, or no key where one is needed.
    """
    rng_wave, rng_frames, rng = split_rng(rng, 3)
    if input_values is not None:
        inputs_embeds, attention_mask = listen(
            params, input_values, attention_mask, mask_time_indices, mask_feature_indices, config=config, rng=rng_wave,
            norm_padding=norm_padding,
        )  # fmt: skip
    elif encoder_outputs is not None and attention_mask is not None and "prenet" in params["encoder"]:
        attention_mask = frame_mask(attention_mask, encoder_outputs.shape[1], config)
    if decoder_input_values is not None:
        key = rng_frames if prenet_rng is None else prenet_rng
        decoder_inputs_embeds = read_frames(params["decoder"], decoder_input_values, speaker_embeddings, key, config)
    return text_seq2seq.forward(
        params, input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, inputs_embeds, decoder_inputs_embeds,
        encoder_outputs, config=config, parts=PARTS, rng=rng, **options,
    )  # fmt: skip


def encode(
    params: Tree, input_ids: jax.Array | None = None, attention_mask: jax.Array | None = None, *,
    input_values: jax.Array | None = None, config: SpeechT5Config, rng: jax.Array | None = None, norm_padding: bool = True,
    **options: Any,
) -> Output:  # fmt: skip
    """The encoder's states [B, S, D] of texts or of waves; arguments and errors as of `forward`."""
    rng_wave, rng = split_rng(rng, 2)
    vectors = None
    if input_values is not None:
        vectors, attention_mask = listen(
            params, input_values, attention_mask, config=config, rng=rng_wave, norm_padding=norm_padding
        )
    return text_seq2seq.encode(
        params, input_ids, attention_mask, vectors, config=config, parts=PARTS, rng=rng, **options
    )


def speak(
    params: Tree, *inputs: Any, config: SpeechT5Config, rng: jax.Array | None = None, output_attentions: bool | None = None,
    **options: Any,
) -> Output:  # fmt: skip
    """The frames that follow those the decoder is given: `spectrogram` [B, L · r, bands], and before it is refined
    `coarse_spectrogram`; `stop_logits` [B, L · r].

    Arguments and errors are `forward`'s; attention is returned also where the loss looks at it (`use_guided_attention_loss`).
    """
    rng_trunk, rng_net = split_rng(rng, 2)
    maps = config.use_guided_attention_loss if output_attentions is None else output_attentions
    trunk = forward(params, *inputs, config=config, rng=rng_trunk, output_attentions=maps, **options)
    assert trunk.last_hidden_state is not None
    coarse_BTM, stop_BT = spoken(params, trunk.last_hidden_state, config)
    fine_BTM, stats = refine(params, coarse_BTM, config, rng=rng_net)
    return trunk.replace(  # type: ignore[attr-defined]
        last_hidden_state=None, spectrogram=fine_BTM, coarse_spectrogram=coarse_BTM, stop_logits=stop_BT,
        new_stats=stats if rng is not None else None,
    )  # fmt: skip


def decoder_inputs(labels: jax.Array, config: SpeechT5Config) -> jax.Array:
    """What a decoder reads to predict `labels`: of texts [B, L] as `shift_right`; of frames [B, T, bands] (-100 where there are
    none) the last of each `reduction_factor`, one place later, after silence."""
    if labels.ndim == 2:
        return shift_right(labels, config)
    thin_BLM = labels[:, config.reduction_factor - 1 :: config.reduction_factor]
    shifted_BLM = jnp.concatenate((jnp.zeros_like(thin_BLM[:, :1]), thin_BLM[:, :-1]), axis=1)
    return jnp.where(shifted_BLM == -100, 0.0, shifted_BLM)


HEADS = {
    None: forward,
    "speech-seq2seq": text_seq2seq.predict_words(forward),
    "text-to-speech": speak,
    "speech-to-speech": speak,
}

FAMILY = Family(
    name="speecht5",
    config_class=SpeechT5Config,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={
        None: "SpeechT5Model",
        "speech-seq2seq": "SpeechT5ForSpeechToText",
        "text-to-speech": "SpeechT5ForTextToSpeech",
        "speech-to-speech": "SpeechT5ForSpeechToSpeech",
    },
    prefix="speecht5.",
    trunk=("embeddings", "encoder", "decoder"),
    inputs=INPUTS,
    cache=cache_for,
    encode=encode,
    decoder_inputs=decoder_inputs,
    ties={"text_decoder_postnet.lm_head.weight": DECODER + "prenet.embed_tokens.weight"},
    aliases=position_aliases(ENCODER + "prenet.pos_conv_embed.conv."),
    buffers=(
        ENCODER + "prenet.pos_sinusoidal_embed.weights",
        DECODER + "prenet.embed_positions.weights",
        *(f"{side}prenet.encode_positions.pe" for side in (ENCODER, DECODER)),
        "speech_decoder_postnet.layers.{}.batch_norm.num_batches_tracked",
    ),
)
