"""What a model returns: one record whose fields carry transformers' names. A field that a head does not compute is None."""

from typing import Any

import flax.struct
import jax

from jaxformers.core.cache import Cache


@flax.struct.dataclass
class Output:
    """The result of a forward pass (a pytree; fields that do not exist are None).

    Shapes: B batch, L length, D model width, C classes, V vocabulary, H heads, N layers; of images P patches, Y rows, X columns,
    C channels.

    Args:
      last_hidden_state: [B, L, D].
      pooler_output: [B, D].
      logits: [B, C], [B, L, C], [B, L, V], or [B, L] for the cells of a table; by head.
      start_logits: [B, L], question answering.
      end_logits: [B, L], question answering.
      prediction_logits: [B, L, V], pretraining.
      seq_relationship_logits: [B, 2], pretraining: does the second text follow the first?
      sop_logits: [B, C], ALBERT's pretraining: do the two texts stand in their order?
      start_top_log_probs: [B, n], question answering by beams: the likeliest first tokens' probabilities.
      start_top_index: [B, n], where they stand.
      end_top_log_probs: [B, m · n], the m likeliest last tokens' after each of these; by rank, then by first token.
      end_top_index: [B, m · n], where they stand.
      logits_aggregation: [B, C], table question answering: what is to be done with the cells.
      cls_logits: [B], question answering by beams: positive says that the text holds no answer; or [B, C], what DeiT's first
        token says of the image.
      distillation_logits: [B, C], what DeiT's second token, which learnt from a teacher, says of it.
      mask: [B, P], 1 where MAE hid a patch.
      ids_restore: [B, P], the places that MAE's shuffled patches come from.
      logits_per_image: [B, T], how well each image fits each of T texts.
      logits_per_text: [T, B], the same, turned.
      text_embeds: [T, E], texts where they can be compared with images.
      image_embeds: [B, E], images where they can be compared with texts.
      reconstruction: [B, Y, X, C], an image whose hidden patches were drawn anew.
      cache: what a decoder remembers after these tokens; where it was given one.
      new_stats: what running statistics of batches come to in training, in the structure of `params["stats"]`.
      hidden_states: N + 1 arrays [B, L, D], the embeddings first; with `output_hidden_states=True`.
      reshaped_hidden_states: the same as maps of features [B, Y, X, D], where a model has both.
      attentions: N arrays [B, H, L, L]; with `output_attentions=True`.
      encoder_last_hidden_state: [B, S, D], of encoder-decoders, as all that follow.
      encoder_hidden_states: N + 1 arrays [B, S, D].
      encoder_attentions: N arrays [B, H, S, S].
      decoder_hidden_states: N + 1 arrays [B, L, D].
      decoder_attentions: N arrays [B, H, L, L].
      cross_attentions: N arrays [B, H, L, S], where the decoder looks in what the encoder read.
      extract_features: [B, T, C], what a speech encoder's convolutions made of the waves; of sounds, as all that follow.
      embeddings: [B, X], who speaks.
      cosines: [B, C], how near that is to each speaker the model was trained on.
      projected_states: [B, T, P], Wav2Vec2's pretraining: what is said of each frame.
      projected_quantized_states: [B, T, P], and the code of what is there.
      codevector_perplexity: a number, how many of the codes are in use.
      spectrogram: [B, T, M], frames of M bands that are to be heard.
      coarse_spectrogram: [B, T, M], these before they were refined.
      stop_logits: [B, T], how surely each frame is the last.
      waveform: [B, samples].
    """

    last_hidden_state: jax.Array | None = None
    pooler_output: jax.Array | None = None
    logits: jax.Array | None = None
    start_logits: jax.Array | None = None
    end_logits: jax.Array | None = None
    prediction_logits: jax.Array | None = None
    seq_relationship_logits: jax.Array | None = None
    sop_logits: jax.Array | None = None
    start_top_log_probs: jax.Array | None = None
    start_top_index: jax.Array | None = None
    end_top_log_probs: jax.Array | None = None
    end_top_index: jax.Array | None = None
    logits_aggregation: jax.Array | None = None
    cls_logits: jax.Array | None = None
    distillation_logits: jax.Array | None = None
    mask: jax.Array | None = None
    ids_restore: jax.Array | None = None
    logits_per_image: jax.Array | None = None
    logits_per_text: jax.Array | None = None
    text_embeds: jax.Array | None = None
    image_embeds: jax.Array | None = None
    reconstruction: jax.Array | None = None
    cache: Cache | None = None
    new_stats: dict[str, Any] | None = None
    hidden_states: tuple[jax.Array, ...] | None = None
    reshaped_hidden_states: tuple[jax.Array, ...] | None = None
    attentions: tuple[jax.Array, ...] | None = None
    encoder_last_hidden_state: jax.Array | None = None
    encoder_hidden_states: tuple[jax.Array, ...] | None = None
    encoder_attentions: tuple[jax.Array, ...] | None = None
    decoder_hidden_states: tuple[jax.Array, ...] | None = None
    decoder_attentions: tuple[jax.Array, ...] | None = None
    cross_attentions: tuple[jax.Array, ...] | None = None
    extract_features: jax.Array | None = None
    embeddings: jax.Array | None = None
    cosines: jax.Array | None = None
    projected_states: jax.Array | None = None
    projected_quantized_states: jax.Array | None = None
    codevector_perplexity: jax.Array | None = None
    spectrogram: jax.Array | None = None
    coarse_spectrogram: jax.Array | None = None
    stop_logits: jax.Array | None = None
    waveform: jax.Array | None = None

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def keys(self) -> list[str]:
        """The names of the fields that are there."""
        return [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]
