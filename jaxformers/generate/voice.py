"""What SpeechT5 says: it writes a spectrum, a few frames at a time, until it says that it has ended; a vocoder makes it sound.

One compiled program reads and writes, for few shapes; another refines what was written, and makes waves of it.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.cache import by_layer
from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.families.bart import cache_for
from jaxformers.families.speecht5_nets import read_frames, refine, spoken
from jaxformers.families.text_seq2seq import keep_source
from jaxformers.generate.run import prepared, slots_for
from jaxformers.parallel.distributed import fetch
from jaxformers.parallel.mesh import activate

HEADS = ("text-to-speech", "speech-to-speech")


@dataclasses.dataclass(frozen=True)
class SpeechOutput:
    """What was said, in rows that are padded with zeros.

    Args:
      spectrogram: [B, T, bands] float32, log-mel.
      spectrogram_lengths: [B], frames of each.
      waveform: [B, samples] float32, between -1 and 1; None without a vocoder.
      waveform_lengths: [B], samples of each.
    """

    spectrogram: np.ndarray
    spectrogram_lengths: np.ndarray
    waveform: np.ndarray | None = None
    waveform_lengths: np.ndarray | None = None


def generate_speech(
    model: Model,
    input_ids: Any = None,
    attention_mask: Any = None,
    *,
    input_values: Any = None,
    speaker_embeddings: Any,
    threshold: float = 0.5,
    minlenratio: float = 0.0,
    maxlenratio: float = 20.0,
    vocoder: Model | None = None,
    rng: jax.Array | int | None = None,
) -> SpeechOutput:
    """Says texts; or with the head `speech-to-speech` what is said in waves, in another voice.

    Args:
      model: SpeechT5 with the head `text-to-speech` or `speech-to-speech`.
      input_ids: [B, L] token ids.
      attention_mask: of these, or of `input_values`: 1 for what is there and 0 for padding; None means that padding is what
        has the padding token's id, and that waves have none.
      input_values: waves [B, samples].
      speaker_embeddings: [B, X] or [1, X], who speaks (`speaker_embedding_dim` numbers, such as x-vectors).
      threshold: how likely a frame must be the last (the sum over the frames of a step).
      minlenratio, maxlenratio: the least and the most frames of a row, for each token (or frame of a wave) that it reads.
      vocoder: makes waves of spectra (`speecht5_hifigan`); None leaves it at spectra.
      rng: key (or seed) for what the net before frames drops, which it always does; None is the seed 0.

    Raises:
      InputError: another model, inputs of another shape, or nobody who speaks.
    """
    if model.family.name != "speecht5" or model.head not in HEADS:
        raise InputError(
            f"speaking needs SpeechT5 with the head {HEADS[0]!r}, found {model.family.name}, {model.head!r}"
        )
    config = model.config
    reads = {"text-to-speech": ("input_ids", input_ids), "speech-to-speech": ("input_values", input_values)}
    name, source = reads[model.head]
    if source is None:
        raise InputError(f"this model reads {name}: give it")
    source, mask = _padded(name, source, attention_mask, config)
    sound = _vocoder(vocoder, config.num_mel_bins)
    B = len(source)
    speakers = np.asarray([] if speaker_embeddings is None else speaker_embeddings, np.float32)
    if speakers.ndim != 2 or speakers.shape[0] not in (1, B) or speakers.shape[1] != config.speaker_embedding_dim:
        raise InputError(
            f"speaker_embeddings must be [{B} or 1, {config.speaker_embedding_dim}], found shape {speakers.shape}"
        )
    read_B = mask.sum(1) if name == "input_ids" else config.frames(mask.sum(1))
    least_B, most_B = (
        (read_B * ratio / config.reduction_factor).astype(np.int32) for ratio in (minlenratio, maxlenratio)
    )
    most_B = np.maximum(most_B, 1)
    if name == "input_ids":
        width = source.shape[1]
        more = min(slots_for(width), max(width, config.max_position_embeddings)) - width
        source, mask = (np.pad(each, ((0, 0), (0, more))) for each in (source, mask))
    params, key = prepared(model)
    seed = jax.random.key(rng or 0) if rng is None or isinstance(rng, int) else rng
    frames, lengths = _write(
        params, source, mask, np.broadcast_to(speakers, (B, speakers.shape[1])), seed,
        (np.float32(threshold), least_B, most_B), key=key, name=name, slots=slots_for(int(most_B.max())),
    )  # fmt: skip
    lengths_B = np.array(fetch(lengths))
    longest = int(lengths_B.max())
    kept = -(-slots_for(longest) // config.reduction_factor) * config.reduction_factor
    kept = min(kept, frames.shape[1])
    fine, wave = _finish(params, frames[:, :kept], lengths, key=key, **sound)
    spectrogram = np.array(fetch(fine))[:, :longest]
    if wave is None:
        return SpeechOutput(spectrogram, lengths_B)
    assert vocoder is not None
    each = vocoder.config.samples_a_frame
    return SpeechOutput(spectrogram, lengths_B, np.array(fetch(wave))[:, : longest * each], lengths_B * each)


def _padded(name: str, source: Any, mask: Any, config: Any) -> tuple[np.ndarray, np.ndarray]:
    """What is read and its mask, checked."""
    array = np.asarray(source)
    kinds, dtype = ("iu", np.int32) if name == "input_ids" else ("f", np.float32)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in kinds:
        raise InputError(f"{name} must be numbers [batch, length], found {array.dtype} of shape {array.shape}")
    if name == "input_ids" and (array.min() < 0 or array.max() >= config.vocab_size):
        raise InputError(f"{name} must be below the vocabulary's size {config.vocab_size}, found {array.max()}")
    if mask is None:
        mask = array != config.pad_token_id if name == "input_ids" else np.ones(array.shape, bool)
    mask = np.asarray(mask) != 0
    if mask.shape != array.shape:
        raise InputError(f"attention_mask must be of the shape of {name} {array.shape}, found {mask.shape}")
    return array.astype(dtype), mask.astype(np.int32)


def _vocoder(vocoder: Model | None, bands: int) -> dict[str, Any]:
    if vocoder is None:
        return {"vocoder": None, "vocoder_key": None}
    if "spectrogram" not in vocoder.family.inputs or vocoder.config.model_in_dim != bands:
        raise InputError(f"vocoder must make waves of spectra with {bands} bands, found {vocoder.family.name}")
    return {"vocoder": vocoder.params, "vocoder_key": (vocoder.family, vocoder.config)}


@partial(jax.jit, static_argnames=("key", "name", "slots"))
def _write(
    params: Tree, source: jax.Array, mask: jax.Array, speakers_BX: jax.Array, rng: jax.Array, limits: Any, *, key: Any,
    name: str, slots: int,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Frames [B, slots · r, M], not yet refined, and how many are of each row: [B]."""
    (family, _, config, mesh), (threshold, least_B, most_B) = key, limits
    B, r, decoder = len(source), config.reduction_factor, params["decoder"]
    with activate(mesh):
        states_BSD = family.encode(params, **{name: source}, attention_mask=mask, config=config).last_hidden_state
        real_BS = mask
        if name == "input_values":
            real_BS = jnp.arange(states_BSD.shape[1])[None] < config.frames(mask.sum(-1))[:, None]
        cache = cache_for(config, B, slots, states_BSD.dtype)
        cache = by_layer(cache) if isinstance(decoder["layers"], tuple) else cache
        cache = dataclasses.replace(cache, cross=keep_source(decoder["layers"], states_BSD, real_BS))

    def goes_on(state: Any) -> jax.Array:
        return (state[-2] == 0).any()

    def step(state: Any) -> Any:
        cache, last_B1M, frames, lengths_B, count = state
        with activate(mesh):
            drops = jax.random.fold_in(rng, count)
            x_B1D = read_frames(decoder, last_B1M, speakers_BX, drops, config, first=count)
            output = family.forward(None)(params, decoder_inputs_embeds=x_B1D, config=config, cache=cache)
            new_BRM, stop_BR = spoken(params, output.last_hidden_state, config)
        frames = jax.lax.dynamic_update_slice(frames, new_BRM.astype(frames.dtype), (0, count * r, 0))
        count += 1
        ends_B = jax.nn.sigmoid(stop_BR.astype(jnp.float32)).sum(-1) >= threshold
        ends_B = (ends_B & (count >= least_B)) | (count >= most_B)
        lengths_B = jnp.where((lengths_B == 0) & ends_B, count * r, lengths_B)
        return output.cache, new_BRM[:, -1:].astype(last_B1M.dtype), frames, lengths_B, count

    M, zero = config.num_mel_bins, jnp.int32(0)
    first = (cache, jnp.zeros((B, 1, M)), jnp.zeros((B, slots * r, M)), jnp.zeros(B, jnp.int32), zero)
    _, _, frames, lengths_B, _ = jax.lax.while_loop(goes_on, step, first)
    return frames, lengths_B


@partial(jax.jit, static_argnames=("key", "vocoder_key"))
def _finish(
    params: Tree, frames_BTM: jax.Array, lengths_B: jax.Array, *, key: Any, vocoder: Tree | None, vocoder_key: Any
) -> tuple[jax.Array, jax.Array | None]:
    """The refined spectra, and their waves; as each alone would be, and 0 beyond its end."""
    _, _, config, mesh = key
    real_BT = jnp.arange(frames_BTM.shape[1])[None] < lengths_B[:, None]
    with activate(mesh):
        fine_BTM, _ = refine(params, frames_BTM, config, real_BT)
        fine_BTM = jnp.where(real_BT[..., None], fine_BTM, 0.0).astype(jnp.float32)
        if vocoder_key is None:
            return fine_BTM, None
        family, own = vocoder_key
        wave_BS = family.forward(None)(vocoder, fine_BTM, real_BT, config=own).waveform
    return fine_BTM, wave_BS.astype(jnp.float32)
