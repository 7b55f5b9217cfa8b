"""A function over the rows of a table, part by part, in this process or in several; `Table.map` is what people call."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

from jaxformers.errors import DataError, InputError

if TYPE_CHECKING:
    from jaxformers.data.table import Table

Function = Callable[[dict[str, Any]], Mapping[str, Any]]
AHEAD = 2  # parts that wait for each process


def mapped(table: Table, function: Function, batch_size: int, num_proc: int) -> Iterator[dict[str, list[Any]]]:
    """What `function` returns for each part of the table, in order, as columns of equal length.

    Args:
      table: what it is mapped over.
      function: gets a dict of lists, or one row where `batch_size` is 0.
      batch_size: rows a call.
      num_proc: processes; 1 is this one.

    Raises:
      DataError, InputError: as in `Table.map`.
    """
    if num_proc < 1:
        raise InputError(f"num_proc must be at least 1, found {num_proc}")
    names: set[str] | None = None
    starts = range(0, len(table), batch_size or 1)
    given = (_given(table, start, batch_size) for start in starts)
    for start, found in zip(starts, _results(table.name, function, given, num_proc), strict=True):
        if not isinstance(found, Mapping):
            raise DataError(
                f"the function mapped over {table.name} must return a dict, it returned {type(found).__name__}"
            )
        new = {str(key): values if batch_size else [values] for key, values in found.items()}
        last = min(start + (batch_size or 1), len(table)) - 1
        if names is not None and set(new) != names:
            raise DataError(
                f"the function mapped over {table.name} returned the columns {_listed(names)} for the first rows "
                f"and {_listed(new)} for rows {start} to {last}"
            )
        names = set(new)
        lengths = {key: len(values) for key, values in new.items()}
        if len(set(lengths.values())) > 1:
            sizes = _listed(f"{key} {length}" for key, length in lengths.items())
            raise DataError(
                f"the function mapped over {table.name} returned columns of unequal length for rows {start} to {last}: {sizes}"
            )
        yield new


def _given(table: Table, start: int, batch_size: int) -> dict[str, Any]:
    return table[start : start + batch_size].cells() if batch_size else table[start]


def _results(name: str, function: Function, given: Iterator[dict[str, Any]], num_proc: int) -> Iterator[Any]:
    if num_proc == 1:
        yield from map(function, given)
        return
    try:
        ForkingPickler.dumps(function)
    except Exception as error:
        raise InputError(
            f"the function mapped over {name} cannot be sent to {num_proc} processes ({str(error).splitlines()[0]}): define "
            "it at the top of a module, and give it what it needs by functools.partial"
        ) from error
    # A fork of a process in which JAX runs threads may never wake up, so each process starts anew.
    with ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[Any]] = deque()
        for part in given:
            waiting.append(pool.submit(function, part))
            if len(waiting) >= AHEAD * num_proc:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _listed(names: Any) -> str:
    return ", ".join(names) or "no columns"
