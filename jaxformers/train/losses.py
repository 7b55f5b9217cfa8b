"""Losses. Each is `loss(output, batch) -> (sum, count)`: a step divides once, after summing over devices and micro-batches.

Rows that only fill up a batch carry `example_weight` 0 and so add nothing to either.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.core.images import resize
from jaxformers.core.layers import patches
from jaxformers.core.outputs import Output
from jaxformers.core.vocabulary import Words
from jaxformers.data.collate import IGNORE
from jaxformers.errors import InputError
from jaxformers.families.model import ANSWERS

Batch = dict[str, jax.Array]
LossFn = Callable[[Output, Batch], tuple[jax.Array, jax.Array]]
# What a batch may hold for a loss alone, beside a model's inputs.
TARGETS = ("labels", "start_positions", "end_positions", "is_impossible", "next_sentence_label", "sentence_order_label",
           "mixed_labels", "mixed_share")  # fmt: skip


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy in nats of integer labels, in float32: [..., C] and [...] -> [...]."""
    logits = logits.astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if smoothing:
        spread = -jax.nn.log_softmax(logits).mean(-1)
        loss = (1 - smoothing) * loss + smoothing * spread
    return loss


def row_weights(batch: Batch) -> jax.Array:
    """[B] float32: 1 for real rows, 0 for those that fill up the batch."""
    weights = batch.get("example_weight")
    if weights is not None:
        return weights
    rows = next(batch[name].shape[:1] for name in (*TARGETS, "pixel_values", "input_values") if name in batch)
    return jnp.ones(rows, jnp.float32)


def classification(output: Output, batch: Batch, *, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Single-label classification: logits [B, C], labels [B].

    Of rows that are mixed of two (MixUp, CutMix) `mixed_labels` [B] are the other's labels, `mixed_share` [B] is its share.
    """
    assert output.logits is not None
    weights = row_weights(batch)
    loss_B = cross_entropy(output.logits, batch["labels"], smoothing)
    if "mixed_labels" in batch:
        other_B = cross_entropy(output.logits, batch["mixed_labels"], smoothing)
        loss_B += batch["mixed_share"] * (other_B - loss_B)
    return (loss_B * weights).sum(), weights.sum()


def regression(output: Output, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Mean squared error: logits [B, C], labels [B] or [B, C] of floats."""
    assert output.logits is not None
    predicted_BC = output.logits.astype(jnp.float32)
    target_BC = batch["labels"].astype(jnp.float32).reshape(predicted_BC.shape)
    weights = row_weights(batch)
    return (jnp.square(predicted_BC - target_BC).mean(-1) * weights).sum(), weights.sum()


def multi_label(output: Output, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Binary cross-entropy of each class: logits [B, C], labels [B, C] of 0 and 1."""
    assert output.logits is not None
    weights = row_weights(batch)
    loss_BC = optax.sigmoid_binary_cross_entropy(output.logits.astype(jnp.float32), batch["labels"].astype(jnp.float32))
    return (loss_BC.mean(-1) * weights).sum(), weights.sum()


def tokens(output: Output, batch: Batch, *, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Classification of every token whose label is not -100: logits [B, L, C] (or `Words`), labels [B, L]."""
    assert output.logits is not None
    asked_BL = (batch["labels"] != IGNORE).astype(jnp.float32) * row_weights(batch)[:, None]
    labels_BL = jnp.where(batch["labels"] == IGNORE, 0, batch["labels"])
    logits: Any = output.logits
    if isinstance(logits, Words):
        return logits.cross_entropy(labels_BL, asked_BL, smoothing), asked_BL.sum()
    return (cross_entropy(logits, labels_BL, smoothing) * asked_BL).sum(), asked_BL.sum()


def next_tokens(output: Output, batch: Batch, *, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Causal language modelling: each token predicts the next one, logits [B, L, V], labels [B, L] that stand where the
    tokens do; -100 asks for nothing."""
    # The labels move, not the logits: they are many, and on a mesh their columns may lie on several devices.
    later_BL = jnp.pad(batch["labels"][:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    return tokens(output, batch | {"labels": later_BL}, smoothing=smoothing)


def spans(output: Output, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Extractive answers: mean of the cross-entropies of `start_positions` and `end_positions` [B].

    A position beyond the text (an answer that was cut off) asks for nothing, as in transformers.
    """
    assert output.start_logits is not None
    assert output.end_logits is not None
    length = output.start_logits.shape[1]
    total = count = jnp.zeros((), jnp.float32)
    for logits_BL, key in ((output.start_logits, "start_positions"), (output.end_logits, "end_positions")):
        position = batch[key]
        weights = row_weights(batch) * (position < length)
        total += (cross_entropy(logits_BL, jnp.minimum(position, length - 1)) * weights).sum()
        count += weights.sum()
    return total, count


def beams(output: Output, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Answers found by beams: that of `spans`, and half the binary cross-entropy of `is_impossible` [B] where it is there.

    The model must have been given `start_positions`, after which the ends are judged.
    """
    answers = spans(output, batch)
    if "is_impossible" not in batch:
        return answers
    assert output.cls_logits is not None
    weights = row_weights(batch)
    loss_B = optax.sigmoid_binary_cross_entropy(output.cls_logits.astype(jnp.float32), batch["is_impossible"])
    return _joined(answers, ((loss_B * weights).sum(), weights.sum()), 0.5)


def replaced(output: Output, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """ELECTRA's pretraining, the binary cross-entropy of every real token: logits [B, L], labels [B, L] of 0 and 1, or -100."""
    assert output.logits is not None
    asked_BL = (batch["labels"] != IGNORE) * row_weights(batch)[:, None] * batch.get("attention_mask", 1)
    loss_BL = optax.sigmoid_binary_cross_entropy(output.logits.astype(jnp.float32), batch["labels"].clip(0))
    return (loss_BL * asked_BL).sum(), asked_BL.sum()


def pretraining(output: Output, batch: Batch, *, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """What a family learns from before all else: BERT's masked words and next sentence, ALBERT's words and order of two
    texts, ELECTRA's replaced tokens.

    Words: `labels` [B, L], -100 where none is asked. Texts: `next_sentence_label` or `sentence_order_label` [B].
    """
    if output.prediction_logits is None:
        return replaced(output, batch)
    key = "next_sentence_label" if output.sop_logits is None else "sentence_order_label"
    if key not in batch:
        raise InputError(f"this pretraining learns from labels and {key}, and the data has no {key}")
    logits_BC = output.seq_relationship_logits if output.sop_logits is None else output.sop_logits
    texts = classification(Output(logits=logits_BC), {**batch, "labels": batch[key]}, smoothing=smoothing)
    return _joined(tokens(Output(logits=output.prediction_logits), batch, smoothing=smoothing), texts)


def hidden_pixels(output: Output, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """SimMIM's pretraining, how far a drawn pixel is from the image's where it was hidden: reconstruction and `pixel_values`
    [B, Y, X, C], `bool_masked_pos` [B, P]."""
    assert output.reconstruction is not None
    B, Y, X, C = batch["pixel_values"].shape
    hidden_BP = (batch["bool_masked_pos"] != 0) * row_weights(batch)[:, None]
    side = round((Y * X / hidden_BP.shape[1]) ** 0.5)  # pixels along a patch
    hidden_BYX = hidden_BP.reshape(B, Y // side, X // side).repeat(side, 1).repeat(side, 2)
    far_BYX = jnp.abs(output.reconstruction.astype(jnp.float32) - batch["pixel_values"]).sum(-1)
    return (far_BYX * hidden_BYX).sum(), (hidden_BYX.sum() + 1e-5) * C  # transformers' way not to divide by nothing


def hidden_patches(output: Output, batch: Batch, *, normalise: bool = False) -> tuple[jax.Array, jax.Array]:
    """MAE's pretraining, the mean squared error of hidden patches: logits [B, P, pixels] and `pixel_values` [B, Y, X, C].

    `normalise` asks for the pixels of each patch less their mean and over their deviation, in place of themselves.
    """
    assert output.logits is not None
    assert output.mask is not None
    B, P, pixels = output.logits.shape
    images = batch["pixel_values"].astype(jnp.float32)
    target_BPK = patches(images, round((pixels / images.shape[-1]) ** 0.5)).reshape(B, P, pixels)
    if normalise:
        target_BPK = target_BPK - target_BPK.mean(-1, keepdims=True)
        target_BPK = target_BPK / jnp.sqrt(target_BPK.var(-1, keepdims=True, ddof=1) + 1e-6)
    far_BP = jnp.square(output.logits.astype(jnp.float32) - target_BPK).mean(-1)
    hidden_BP = output.mask.astype(jnp.float32) * row_weights(batch)[:, None]
    return (far_BP * hidden_BP).sum(), hidden_BP.sum()


def places(output: Output, batch: Batch, *, ignore: int = 255) -> tuple[jax.Array, jax.Array]:
    """Semantic segmentation, what each pixel is: logits [B, y, x, C], drawn to the size of labels [B, Y, X]; `ignore` asks for
    nothing. Of one class, whether it is there (and then what is not asked counts as right)."""
    assert output.logits is not None
    labels = batch["labels"]
    logits = resize(output.logits.astype(jnp.float32), (labels.shape[1], labels.shape[2]))
    asked = (labels != ignore) * row_weights(batch)[:, None, None]
    if logits.shape[-1] == 1:
        asked = asked * (labels >= 0)
        loss = optax.sigmoid_binary_cross_entropy(logits[..., 0], labels.astype(jnp.float32))
        return (loss * asked).sum(), row_weights(batch).sum() * labels[0].size
    loss = cross_entropy(logits, jnp.where(labels == ignore, 0, labels))
    return (loss * asked).sum(), asked.sum()


def contrast(output: Output, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """CLIP's pretraining, each image of the batch against all texts and each text against all images: logits [B, B]."""
    assert output.logits_per_image is not None
    assert output.logits_per_text is not None
    weights = row_weights(batch)
    total, own = jnp.zeros((), jnp.float32), jnp.arange(len(weights))
    for logits_BB in (output.logits_per_image, output.logits_per_text):
        real_BB = jnp.where(weights[None] > 0, logits_BB.astype(jnp.float32), jnp.finfo(jnp.float32).min)
        total += (cross_entropy(real_BB, own) * weights).sum() / 2
    return total, weights.sum()


def _joined(
    first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array], weight: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Two means as one sum and the first's count. Over several batches the second is a mean weighted by that count."""
    return first[0] + weight * first[1] * second[0] / jnp.maximum(second[1], 1), first[1]


def default_loss(head: str | None, config: Any, smoothing: float = 0.0) -> LossFn:
    """The loss transformers would use for this head.

    Raises:
      InputError: the head has none.
    """
    if head in ("sequence-classification", "image-classification"):
        if config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1):
            return regression
        if config.problem_type == "multi_label_classification":
            return multi_label
    if head in ("sequence-classification", "image-classification", "audio-classification", "multiple-choice",
                "next-sentence-prediction"):  # fmt: skip
        return partial(classification, smoothing=smoothing)
    if head in ("token-classification", "audio-frame-classification", "masked-lm", *ANSWERS):
        return partial(tokens, smoothing=smoothing)
    if head == "causal-lm":  # of a model that looks both ways (XLNet) a token is predicted where it stands
        return partial(next_tokens if config.LOOKS_BACK else tokens, smoothing=smoothing)
    if head == "question-answering":
        return spans
    if head == "question-answering-beam":
        return beams
    if head == "pretraining" and hasattr(config, "norm_pix_loss"):  # of images
        return partial(hidden_patches, normalise=config.norm_pix_loss)
    if head in ("text-to-speech", "speech-to-speech"):
        from jaxformers.train import speech_losses  # which stands on this file

        return partial(speech_losses.spectrum, config=config)
    if head in ("ctc", "audio-xvector") or (head == "pretraining" and hasattr(config, "num_codevectors_per_group")):
        from jaxformers.train import speech_losses  # which stands on this file

        if head == "audio-xvector":
            return speech_losses.speakers
        return partial(speech_losses.ctc if head == "ctc" else speech_losses.contrastive, config=config)
    if head == "pretraining":
        return partial(pretraining, smoothing=smoothing)
    if head == "semantic-segmentation":
        return partial(places, ignore=config.semantic_loss_ignore_index)
    if head == "zero-shot-image-classification":
        return contrast
    if head == "masked-image-modeling" and hasattr(config, "vocab_size"):  # patches have names
        return partial(tokens, smoothing=smoothing)
    if head == "masked-image-modeling":
        return hidden_pixels
    raise InputError(f"the head {head!r} has no default loss: pass loss_fn(output, batch) -> (sum, count)")
