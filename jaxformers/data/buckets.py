"""The few lengths that batches are padded to, so that few programs are compiled and few pad tokens computed.

Here: `choose_buckets` (the best set for given lengths) and `bucket_for`. The loader applies them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from jaxformers.errors import DataError, InputError


def choose_buckets(
    lengths: Sequence[int], *, count: int = 6, multiple: int = 8, maximum: int | None = None
) -> tuple[int, ...]:
    """The at most `count` padded lengths under which these examples need the fewest padded tokens.

    Exact: dynamic programming over the histogram of rounded lengths.

    Args:
      lengths: Tokens of each example.
      count: Most buckets, that is most programs compiled.
      multiple: Buckets are multiples of this, for the hardware's tiles.
      maximum: No bucket is longer, as for a model with so many positions; it may itself be a bucket without being a
        multiple.

    Returns:
      Increasing lengths; the last covers the longest example.

    Raises:
      DataError: No lengths, or an example is longer than `maximum`.

    >>> choose_buckets([5, 6, 7, 20, 21, 60], count=2)
    (24, 64)
    >>> choose_buckets([5, 6, 7, 20, 21, 60], count=2, maximum=62)
    (24, 62)
    """
    if count < 1 or multiple < 1:
        raise InputError(f"buckets need count and multiple of at least 1, got count={count} and multiple={multiple}")
    sizes = np.asarray(lengths, np.int64)
    if not len(sizes):
        raise DataError("no lengths to choose buckets for")
    if maximum is not None and sizes.max() > maximum:
        raise DataError(f"an example has {sizes.max()} tokens, more than the maximum of {maximum}: truncate it")
    rounded = np.maximum(-(-sizes // multiple), 1) * multiple
    if maximum is not None:
        rounded = np.minimum(rounded, maximum)
    values, examples = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(examples)])  # below[i]: examples in the i shortest candidate lengths

    # cost[i]: padded tokens of those examples with the buckets used so far, the last of them at values[i - 1]
    cost = np.where(below == 0, 0, np.iinfo(np.int64).max // 2)
    previous_cuts = []
    for _ in range(min(count, len(values))):
        cuts, new = np.zeros(len(below), np.int64), cost.copy()
        for i in range(1, len(below)):
            options = cost[:i] + (below[i] - below[:i]) * values[i - 1]
            cuts[i] = np.argmin(options)
            new[i] = options[cuts[i]]
        cost = new
        previous_cuts.append(cuts)

    buckets, end = [], len(values)
    for cuts in reversed(previous_cuts):
        buckets.append(int(values[end - 1]))
        end = int(cuts[end])
        if end == 0:
            break
    return tuple(reversed(buckets))


def bucket_for(length: int, buckets: Sequence[int]) -> int:
    """The smallest of the increasing `buckets` that holds `length` tokens.

    >>> bucket_for(17, (8, 24, 64))
    24
    """
    place = bisect_left(buckets, length)
    if place == len(buckets):
        raise DataError(f"an example has {length} tokens, the longest bucket is {buckets[-1]}: truncate the example")
    return buckets[place]
