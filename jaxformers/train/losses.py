"""Losses. Each is `loss(output, batch) -> (sum, count)`: a step divides once, after summing over devices and micro-batches.

Rows that only fill up a batch carry `example_weight` 0 and so add nothing to either.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.core.outputs import Output
from jaxformers.data.collate import IGNORE
from jaxformers.errors import InputError

Batch = dict[str, jax.Array]
LossFn = Callable[[Output, Batch], tuple[jax.Array, jax.Array]]


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
    return jnp.ones(batch["labels"].shape[:1], jnp.float32) if weights is None else weights


def classification(output: Output, batch: Batch, *, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Single-label classification: logits [B, C], labels [B]."""
    assert output.logits is not None
    weights = row_weights(batch)
    return (cross_entropy(output.logits, batch["labels"], smoothing) * weights).sum(), weights.sum()


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
    """Classification of every token whose label is not -100: logits [B, L, C], labels [B, L]."""
    assert output.logits is not None
    asked_BL = (batch["labels"] != IGNORE).astype(jnp.float32) * row_weights(batch)[:, None]
    labels_BL = jnp.where(batch["labels"] == IGNORE, 0, batch["labels"])
    return (cross_entropy(output.logits, labels_BL, smoothing) * asked_BL).sum(), asked_BL.sum()


def next_tokens(output: Output, batch: Batch, *, smoothing: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Causal language modelling: each token predicts the next one, logits [B, L, V], labels [B, L] that stand where the
    tokens do; -100 asks for nothing."""
    assert output.logits is not None
    later = batch | {"labels": batch["labels"][:, 1:]}
    return tokens(output.replace(logits=output.logits[:, :-1]), later, smoothing=smoothing)  # type: ignore[attr-defined]


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
        weights = batch["example_weight"] if "example_weight" in batch else jnp.ones(position.shape, jnp.float32)
        weights = weights * (position < length)
        total += (cross_entropy(logits_BL, jnp.minimum(position, length - 1)) * weights).sum()
        count += weights.sum()
    return total, count


def default_loss(head: str | None, config: Any, smoothing: float = 0.0) -> LossFn:
    """The loss transformers would use for this head.

    Raises:
      InputError: the head has none.
    """
    if head == "sequence-classification":
        if config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1):
            return regression
        if config.problem_type == "multi_label_classification":
            return multi_label
    if head in ("sequence-classification", "multiple-choice", "next-sentence-prediction"):
        return partial(classification, smoothing=smoothing)
    if head in ("token-classification", "masked-lm"):
        return partial(tokens, smoothing=smoothing)
    if head == "causal-lm":  # of a model that looks both ways (XLNet) a token is predicted where it stands
        return partial(next_tokens if config.LOOKS_BACK else tokens, smoothing=smoothing)
    if head == "question-answering":
        return spans
    raise InputError(f"the head {head!r} has no default loss: pass loss_fn(output, batch) -> (sum, count)")
