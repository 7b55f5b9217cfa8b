"""Several tables as one, in given shares: `mix`. The order is a function of the seed, so a resumed run goes on in it exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxformers.data.table import Table, permutation
from jaxformers.errors import DataError, InputError


def mix(tables: Sequence[Table], weights: Sequence[float], *, seed: int = 0, size: int | None = None) -> Table:
    """A table in which each of `tables` has its share of the rows, in an order that depends on the seed alone.

    The shares are met exactly, but for rounding to whole rows. A table's rows come in random order, and again in another one when
    all have come; nothing is copied, a row of the mixture is 8 bytes.

    Args:
      tables: what is mixed; all have the same columns.
      weights: how much of each; only their ratios count.
      seed: for the order.
      size: rows of the mixture; by default as few as hold each row of each table (of those with a weight). A table that is too
        small for its share comes again, one that is too large is not exhausted: for a run of N steps give N × the batch.

    Raises:
      DataError: a table with a weight is empty, or columns differ.
      InputError: weights do not fit.

    >>> few, many = Table({"from": ["few"] * 2}), Table({"from": ["many"] * 9})
    >>> sorted(mix([few, many], [1, 3])["from"])
    ['few', 'few', 'few', 'many', 'many', 'many', 'many', 'many', 'many', 'many', 'many', 'many']
    """
    if len(weights) != len(tables) or not tables:
        raise InputError(f"a mixture needs tables and a weight for each, found {len(tables)} and {len(weights)}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights):
        raise InputError(f"weights must be positive numbers, found {', '.join(map(str, weights))}")
    pairs = [(table, weight / sum(weights)) for table, weight in zip(tables, weights, strict=True) if weight]
    for table, _ in pairs:
        if not len(table):
            raise DataError(f"{table.name} is empty and cannot be mixed with others")
    if size is None:
        size = max(math.ceil(round(len(table) / share, 6)) for table, share in pairs)
    counts = _whole([share * size for _, share in pairs], size)
    source = permutation(size, seed)
    chosen = np.empty(size, np.int64)
    begin = offset = 0
    for number, ((table, _), count) in enumerate(zip(pairs, counts, strict=True)):
        passes = -(-count // len(table))
        orders = [permutation(len(table), seed, number, again) for again in range(passes)]
        chosen[source[begin : begin + count]] = np.concatenate([*orders, np.zeros(0, np.int64)])[:count] + offset
        begin, offset = begin + count, offset + len(table)
    first, *others = (table for table, _ in pairs)
    joined = first.concat(*others)
    joined.name = " + ".join(dict.fromkeys(table.name for table, _ in pairs))
    return joined.select(chosen)


def _whole(shares: Sequence[float], size: int) -> list[int]:
    """Whole numbers nearest to these that sum to `size`: the largest remainders are rounded up."""
    counts = [int(share) for share in shares]
    order = sorted(range(len(shares)), key=lambda place: counts[place] - shares[place])
    for place in order[: size - sum(counts)]:
        counts[place] += 1
    return counts
