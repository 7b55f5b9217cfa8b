"""The losses of speech: letters without places (CTC), Wav2Vec2's pretraining, speakers, speaking.

Of the form of those in `losses`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.core.outputs import Output
from jaxformers.data.collate import IGNORE
from jaxformers.train.losses import Batch, cross_entropy, row_weights

SCALE, MARGIN = 30.0, 0.4  # of the additive margin between speakers
LAST = 5.0  # how much the last frame counts, of which there is one a sound


def ctc(output: Output, batch: Batch, *, config: Any) -> tuple[jax.Array, jax.Array]:
    """Connectionist temporal classification (Graves et al. 2006): all ways to say the letters in so many frames.

    Logits [B, T, V]; labels [B, L], -100 after the last; frames that `attention_mask` [B, samples] leaves out say nothing.
    `config.ctc_loss_reduction` says whether rows are summed, as they are, or their means over letters are averaged.
    A text that does not fit into its frames has an infinite loss, or with `config.ctc_zero_infinity` none.
    """
    assert output.logits is not None
    logits_BTV, labels_BL = output.logits.astype(jnp.float32), batch["labels"]
    B, T, _ = logits_BTV.shape
    frames_B = jnp.full((B,), T)
    if "attention_mask" in batch:
        frames_B = config.frames(batch["attention_mask"].astype(jnp.int32).sum(-1))
    no_frame_BT = (jnp.arange(T)[None] >= frames_B[:, None]).astype(jnp.float32)
    no_letter_BL = (labels_BL == IGNORE).astype(jnp.float32)
    letters_BL = jnp.where(labels_BL == IGNORE, config.pad_token_id, labels_BL)
    loss_B = optax.ctc_loss(logits_BTV, no_frame_BT, letters_BL, no_letter_BL, blank_id=config.pad_token_id)
    count_B = (labels_BL != IGNORE).sum(-1)
    twice_B = ((labels_BL[:, 1:] == labels_BL[:, :-1]) & (labels_BL[:, 1:] != IGNORE)).sum(-1)
    fits_B = count_B + twice_B <= frames_B  # between two equal letters stands a blank
    loss_B = jnp.where(fits_B, loss_B, 0.0 if config.ctc_zero_infinity else jnp.inf)
    weights_B = row_weights(batch)
    loss_B = jnp.where(weights_B != 0, loss_B, 0.0)  # also where a row that fills the batch does not fit
    if config.ctc_loss_reduction == "sum":
        return (loss_B * weights_B).sum(), jnp.ones((), jnp.float32)
    return (loss_B / jnp.maximum(count_B, 1) * weights_B).sum(), weights_B.sum()


def contrastive(output: Output, batch: Batch, *, config: Any) -> tuple[jax.Array, jax.Array]:
    """Wav2Vec2's pretraining: of each hidden frame, its own code among the others; and that all codes are used.

    Logits [B, T, 1 + n], the first of which is right; `mask_time_indices` [B, T]; `codevector_perplexity`.
    """
    assert output.logits is not None
    assert output.codevector_perplexity is not None
    asked_BT = (batch["mask_time_indices"] != 0) * row_weights(batch)[:, None]
    loss_BT = cross_entropy(output.logits, jnp.zeros(output.logits.shape[:2], jnp.int32))
    codes = config.num_codevectors_per_group * config.num_codevector_groups
    unused = (codes - output.codevector_perplexity) / codes
    count = asked_BT.sum()
    return (loss_BT * asked_BT).sum() + config.diversity_loss_weight * unused * count, count


def speakers(output: Output, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Which speaker, with a margin (Wang et al. 2018, AM-softmax): cosines [B, C], labels [B]."""
    assert output.cosines is not None
    own_BC = jax.nn.one_hot(batch["labels"], output.cosines.shape[1])
    weights = row_weights(batch)
    return (cross_entropy(SCALE * (output.cosines - MARGIN * own_BC), batch["labels"]) * weights).sum(), weights.sum()


def spectrum(output: Output, batch: Batch, *, config: Any) -> tuple[jax.Array, jax.Array]:
    """Speaking (SpeechT5): how far frames are off, before and after they are refined, and whether each is the last.

    `spectrogram` and `coarse_spectrogram` [B, T, M], `stop_logits` [B, T]; labels [B, T, M], -100 where no frames are. With
    `config.use_guided_attention_loss` heads of the attention to what is read ([B, H, L, S], its mask `attention_mask` [B, S]) are
    held to its order (Tachibana et al. 2018).
    """
    labels_BTM, weights_B = batch["labels"], row_weights(batch)
    real_BT = (labels_BTM[..., 0] != IGNORE) & (weights_B != 0)[:, None]
    assert output.spectrogram is not None
    assert output.coarse_spectrogram is not None
    off_BTM = sum(jnp.abs(frames - labels_BTM) for frames in (output.spectrogram, output.coarse_spectrogram))
    last_BT = jnp.concatenate((~real_BT[:, 1:], jnp.ones_like(real_BT[:, :1])), axis=1).astype(jnp.float32)
    logits_BT = output.stop_logits.astype(jnp.float32)  # type: ignore[union-attr]
    stop_BT = LAST * last_BT * jax.nn.softplus(-logits_BT) + (1 - last_BT) * jax.nn.softplus(logits_BT)
    count = jnp.maximum(real_BT.sum(), 1)
    loss = jnp.where(real_BT, jnp.mean(off_BTM, axis=-1) + stop_BT, 0.0).sum() / count
    if config.use_guided_attention_loss:
        loss += _guided(output, batch, real_BT, config)
    rows = weights_B.sum()
    return loss * rows, rows


def _guided(output: Output, batch: Batch, real_BT: jax.Array, config: Any) -> jax.Array:
    """How far attention strays from the diagonal, its mean over all that are real."""
    heads, r = config.guided_attention_loss_num_heads, config.reduction_factor
    maps_BHLS = jnp.concatenate([each[:, :heads] for each in output.cross_attentions or ()], axis=1)
    B, H, L, S = maps_BHLS.shape
    out_BL = real_BT[:, r - 1 :: r][:, :L]
    in_BS = batch["attention_mask"] != 0 if "attention_mask" in batch else jnp.ones((B, S), bool)
    if in_BS.shape[1] != S:  # a mask of samples
        in_BS = jnp.arange(S)[None] < config.frames(in_BS.sum(-1))[:, None]
    done_BL, read_BS = (
        jnp.arange(mask.shape[1])[None] / jnp.maximum(mask.sum(-1, keepdims=True), 1) for mask in (out_BL, in_BS)
    )
    astray_BLS = 1 - jnp.exp(
        -jnp.square(read_BS[:, None] - done_BL[..., None]) / (2 * config.guided_attention_loss_sigma**2)
    )
    real_BLS = out_BL[..., None] & in_BS[:, None]
    total = jnp.where(real_BLS[:, None], maps_BHLS.astype(jnp.float32) * astray_BLS[:, None], 0.0).sum()
    return config.guided_attention_loss_scale * total / jnp.maximum(H * real_BLS.sum(), 1)
