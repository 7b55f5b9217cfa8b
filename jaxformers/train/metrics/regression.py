"""Numbers predicted and true: Pearson and Spearman correlation, and the perplexity of a loss."""

import math
from typing import Any

import numpy as np

from jaxformers.errors import InputError
from jaxformers.train.metrics.classification import paired


def pearson(predicted: Any, labels: Any) -> float:
    """Pearson's correlation, from -1 to 1; nan where either is constant, and so has none.

    Args:
      predicted: [N] numbers, N at least 2.
      labels: [N].

    Raises:
      InputError: the shapes differ, or there are fewer than two numbers.

    >>> round(pearson([1, 2, 3, 5], [1, 2, 3, 4]), 4)
    0.9827
    """
    return _correlation(*_numbers(predicted, labels, "pearson"))


def spearman(predicted: Any, labels: Any) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal numbers sharing the mean of theirs. Otherwise as `pearson`.

    >>> spearman([1, 2, 3, 50], [1, 2, 3, 4])
    1.0
    >>> round(spearman([1, 2, 2, 3], [1, 2, 3, 4]), 4)
    0.9487
    """
    predicted, labels = _numbers(predicted, labels, "spearman")
    if np.isnan(predicted).any() or np.isnan(labels).any():
        return math.nan  # nan has no rank
    return _correlation(_ranks(predicted), _ranks(labels))


def perplexity(loss: float, count: float = 1) -> float:
    """e to the mean loss: how many words a language model wavers between; inf where that is beyond a float.

    Args:
      loss: the mean negative log-likelihood of a token in nats, or with `count` the sum.
      count: tokens that were summed over.

    >>> round(perplexity(6.0, count=2), 4)
    20.0855
    """
    if not count > 0:
        raise InputError(f"perplexity needs the loss of at least one token, found count={count!r}")
    try:
        return math.exp(loss / count)
    except OverflowError:
        return math.inf


def _numbers(predicted: Any, labels: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    predicted, labels = paired(predicted, labels, name)
    if predicted.size < 2:
        raise InputError(f"{name} needs at least two numbers, found one")
    return predicted.ravel().astype(np.float64), labels.ravel().astype(np.float64)


def _correlation(x_N: np.ndarray, y_N: np.ndarray) -> float:
    if (x_N == x_N[0]).all() or (y_N == y_N[0]).all():
        return math.nan
    x_N, y_N = (z_N - z_N.mean() for z_N in (x_N, y_N))
    x_N, y_N = (z_N / np.abs(z_N).max() for z_N in (x_N, y_N))  # or the squares of large numbers would overflow
    x_N, y_N = (z_N / np.linalg.norm(z_N) for z_N in (x_N, y_N))
    return float(np.clip(x_N @ y_N, -1, 1))


def _ranks(x_N: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal numbers have the mean of their ranks."""
    _, places, counts = np.unique(x_N, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
