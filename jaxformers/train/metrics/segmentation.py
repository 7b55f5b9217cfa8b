"""Maps of classes predicted and true: mean intersection over union, and how many places are right."""

from typing import Any

import numpy as np

from jaxformers.errors import InputError


def class_counts(predicted: Any, labels: Any, classes: int, ignore: int = 255) -> np.ndarray:
    """How many places of each class (a row) were taken for each (a column): of several sets, they add.

    Args:
      predicted: integers of any shape, from 0 to classes - 1.
      labels: of the same shape; where they are `ignore` nothing is counted.
      classes: how many there are.
      ignore: the label of places that belong to no class.

    Returns:
      int64 [classes, classes].

    Raises:
      InputError: the shapes differ, or a number is that of no class.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape:
        raise InputError(f"mean IoU compares predictions {list(predicted.shape)} with labels {list(labels.shape)}")
    asked = labels != ignore
    true, said = labels[asked].astype(np.int64), predicted[asked].astype(np.int64)
    for what, values in (("a label", true), ("a prediction", said)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise InputError(f"{what} must be from 0 to {classes - 1}, found {values.min()} to {values.max()}")
    return np.bincount(true * classes + said, minlength=classes**2).reshape(classes, classes)


def segmentation_scores(counts: np.ndarray) -> dict[str, Any]:
    """What `mean_iou` gives, of the counts of `class_counts`.

    Raises:
      InputError: nothing was counted.
    """
    if not counts.sum():
        raise InputError("mean IoU needs at least one place that belongs to a class")
    right, true, said = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore"):  # a class that is nowhere has no score
        iou, accuracy = right / (true + said - right), right / true
    return {
        "mean_iou": float(np.nanmean(iou)),
        "mean_accuracy": float(np.nanmean(accuracy)),
        "overall_accuracy": float(right.sum() / counts.sum()),
        "per_category_iou": iou.tolist(),
        "per_category_accuracy": accuracy.tolist(),
    }


def mean_iou(
    predicted: Any, labels: Any, num_labels: int, *, ignore_index: int = 255, reduce_labels: bool = False
) -> dict[str, Any]:
    """Semantic segmentation's scores, over all places of all maps, under the names of Hugging Face's `evaluate`.

    Args:
      predicted: maps of class numbers: an array, or a list of arrays of any shapes.
      labels: the true ones, of the same shapes.
      num_labels: how many classes there are.
      ignore_index: the label of places that do not count.
      reduce_labels: whether labels count from 1, with 0 for no class (as ADE20K's do).

    Returns:
      `mean_iou`: of each class the places that are both predicted and true over those that are either, on average over the
      classes that are anywhere; `mean_accuracy`, the share of each class's places that was found, likewise; `overall_accuracy`;
      and both for each class, `per_category_iou` and `per_category_accuracy`, NaN where it is nowhere.

    Raises:
      InputError: shapes or numbers do not fit, or there is nothing to compare.

    >>> mean_iou([[0, 0, 1, 1]], [[0, 1, 1, 255]], num_labels=2)["mean_iou"]
    0.5
    """
    total = np.zeros((num_labels, num_labels), np.int64)
    for said, true in zip(predicted, labels, strict=True):
        true = np.asarray(true).astype(np.int64)
        if reduce_labels:
            true = np.where((true == 0) | (true == ignore_index), ignore_index, true - 1)
        total += class_counts(said, true, num_labels, ignore_index)
    return segmentation_scores(total)
