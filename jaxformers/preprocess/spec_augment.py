"""Masks over time and bands (SpecAugment, Park et al. 2019) and the distractors of Wav2Vec2's pretraining, drawn on the host.

Both are inputs of a model (`mask_time_indices`, `mask_feature_indices`, `sampled_negative_indices`), so that a forward pass stays
a pure function; they are a function of the generator alone.
"""

import numpy as np

from jaxformers.errors import InputError


def span_mask(
    shape: tuple[int, int], share: float, span: int, rng: np.random.Generator, *, lengths: np.ndarray | None = None,
    least: int = 0,
) -> np.ndarray:  # fmt: skip
    """Masks of spans that start anywhere and may overlap, as Wav2Vec2 and HuBERT are trained with.

    Args:
      shape: (B, L).
      share: how much of a row would be masked if no spans overlapped.
      span: steps of a span.
      rng: where it is drawn from.
      lengths: [B], how many steps of each row are real; None means all L.
      least: spans of a row at least, where they fit.

    Returns:
      [B, L] of bool, True where masked.

    Raises:
      InputError: `span` is no length within L.

    >>> span_mask((1, 8), 0.5, 4, np.random.default_rng(0)).sum()
    np.int64(4)
    """
    B, L = shape
    if not 1 <= span <= L:
        raise InputError(f"a span must be 1 to {L} steps long, found {span}")
    mask = np.zeros(shape, bool)
    for row in range(B):
        length = L if lengths is None else int(lengths[row])
        starts = length - span + 1
        if starts < 1:
            continue
        count = max(int(share * length / span + rng.random()), least)
        first = rng.choice(starts, min(count, starts, length // span), replace=False)
        mask[row, (first[:, None] + np.arange(span)).reshape(-1)] = True
    return mask


def negatives(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """For each masked step, others of the same sound that it is to be told apart from.

    Args:
      mask: [B, L] of bool, where masked.
      count: how many for each.
      rng: where they are drawn from.

    Returns:
      [B, L, count] of int32: places in the flat [B · L]; of a step that is not masked, its own.

    Raises:
      InputError: a sound with a single masked step, which has no other.
    """
    B, L = mask.shape
    found = np.broadcast_to(np.arange(B * L).reshape(B, L, 1), (B, L, count)).astype(np.int32)
    for row in range(B):
        masked = np.flatnonzero(mask[row])
        if len(masked) == 1:
            raise InputError(f"sound {row} has one masked step alone, which has no other to be told apart from")
        if len(masked):
            other = rng.integers(0, len(masked) - 1, (len(masked), count))
            other += other >= np.arange(len(masked))[:, None]  # all but its own
            found[row, masked] = row * L + masked[other]
    return found
