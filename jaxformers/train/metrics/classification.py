"""Classes predicted and true: accuracy, precision, recall, F1 and Matthews correlation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxformers.errors import InputError

AVERAGES = ("binary", "macro", "micro", "weighted")


def accuracy(predicted: Any, labels: Any) -> float:
    """The share of equal entries.

    Args:
      predicted: an array of any shape and type.
      labels: of the same shape.

    Raises:
      InputError: the shapes differ, or there is nothing to compare. The same holds for all metrics here.

    >>> accuracy([1, 0, 1, 1], [1, 1, 1, 0])
    0.5
    """
    predicted, labels = paired(predicted, labels, "accuracy")
    return float(np.mean(predicted == labels))


def precision(
    predicted: Any, labels: Any, positive: Any = 1, *, average: str = "binary", classes: Sequence[Any] | None = None
) -> float:
    """The share of the predictions of a class that are true; 0 where it was never predicted. Arguments as of `f1`.

    >>> precision([1, 0, 1, 1], [1, 1, 1, 0])
    0.6666666666666666
    """
    return _averaged(predicted, labels, positive, average, classes, "precision")


def recall(
    predicted: Any, labels: Any, positive: Any = 1, *, average: str = "binary", classes: Sequence[Any] | None = None
) -> float:
    """The share of a class's examples that were found; 0 where it has none. Arguments as of `f1`.

    >>> recall([1, 0, 1, 1], [1, 1, 0, 0])
    0.5
    """
    return _averaged(predicted, labels, positive, average, classes, "recall")


def f1(
    predicted: Any, labels: Any, positive: Any = 1, *, average: str = "binary", classes: Sequence[Any] | None = None
) -> float:
    """The harmonic mean of precision and recall; 0 where there is no true positive.

    Args:
      predicted: [N] classes, as numbers or strings.
      labels: [N].
      positive: the class that counts with `average="binary"`.
      average: "binary"; "macro", the mean over classes; "weighted", the same weighted by their examples; "micro", over
        all examples and classes at once.
      classes: those that are averaged over; by default all that were predicted or are true.

    Returns:
      From 0 to 1.

    Raises:
      InputError: the shapes differ, there is no example, or the average is unknown.

    >>> f1([1, 0, 1, 1], [1, 1, 1, 0])  # 2 hits, 1 false alarm, 1 miss
    0.6666666666666666
    >>> f1(["a", "b", "c", "c"], ["a", "b", "b", "c"], average="macro")
    0.7777777777777777
    """
    return _averaged(predicted, labels, positive, average, classes, "f1")


def matthews_correlation(predicted: Any, labels: Any) -> float:
    """The correlation between predicted and true classes, from -1 to 1; 0 where either is one class throughout.

    For more than two classes it is the R_K of Gorodkin (2004), which for two is that of Matthews (1975).

    Args:
      predicted: [N] classes.
      labels: [N].

    >>> matthews_correlation([1, 1, 1, 0], [1, 1, 0, 0])
    0.5773502691896258
    """
    predicted, labels = paired(predicted, labels, "matthews_correlation")
    every, codes = np.unique(np.concatenate([predicted.ravel(), labels.ravel()]), return_inverse=True)
    said, true = codes.reshape(2, -1)
    hits, size = float((said == true).sum()), float(len(said))
    said_C, true_C = (np.bincount(codes, minlength=len(every)).astype(float) for codes in (said, true))
    spread = (size**2 - said_C @ said_C) * (size**2 - true_C @ true_C)
    return float((hits * size - said_C @ true_C) / np.sqrt(spread)) if spread else 0.0


def paired(predicted: Any, labels: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of one shape that is not empty."""
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape:
        raise InputError(f"{name} needs a prediction for each label, found {predicted.shape} and {labels.shape}")
    if not predicted.size:
        raise InputError(f"{name} of no examples is not defined")
    return predicted, labels


def ratio(part: Any, whole: Any) -> np.ndarray:
    """part / whole, and 0 where there is no whole."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def averaged(counts_3C: Any, average: str) -> dict[str, float]:
    """Precision, recall and F1 from the hits, the predictions and the examples of each class.

    Args:
      counts_3C: [3, C], in this order.
      average: "macro", "micro" or "weighted"; with one class all are the same.
    """
    hits, said, true = np.asarray(counts_3C, float)
    if average == "micro":
        hits, said, true = (counts.sum(keepdims=True) for counts in (hits, said, true))
    scores = {"precision": ratio(hits, said), "recall": ratio(hits, true), "f1": ratio(2 * hits, said + true)}
    weights = true if average == "weighted" else np.ones_like(true)
    return {name: float(ratio((score * weights).sum(), weights.sum())) for name, score in scores.items()}


def _averaged(
    predicted: Any, labels: Any, positive: Any, average: str, classes: Sequence[Any] | None, name: str
) -> float:
    if average not in AVERAGES:
        raise InputError(f"average must be one of {', '.join(AVERAGES)}; found {average!r}")
    predicted, labels = paired(predicted, labels, name)
    if average == "binary":
        classes = [positive]
    elif classes is None:
        classes = np.unique(np.concatenate([predicted.ravel(), labels.ravel()])).tolist()
    counts = []
    for each in classes:
        said, true = predicted == each, labels == each
        counts.append([(said & true).sum(), said.sum(), true.sum()])
    return averaged(np.reshape(counts, (-1, 3)).T, average)[name]
