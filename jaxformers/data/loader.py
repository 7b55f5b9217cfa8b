"""Batches: which examples make which step, padded to which length, and the iterator that reads them ahead.

Here: `Batches`, a pure function from a step's number to its batch, and `iterate`, Grain's iterator over it, whose state
is one number. Where examples come from is in `sources.py`; moving a batch to the devices belongs to the trainer.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from jaxformers.data.buckets import choose_buckets
from jaxformers.data.collate import PAD_VALUES, pad, read_forms, read_lengths, stack
from jaxformers.data.table import RowSource, permutation
from jaxformers.errors import DataError, InputError

Batch = dict[str, np.ndarray]
Collator = Callable[[Batch, list[np.random.Generator]], Batch]


class Batches:
    """All batches of a run, by number: the same arguments give the same batches, on every machine and after a restart.

    A sequence, and so a source for Grain. A batch is a dict of numpy arrays: every column of the examples; an
    `attention_mask` if they have none; `example_weight` float32 [B], 0 for rows that only fill up a short batch (they
    repeat real rows, since a row of nothing but padding makes NaN in fused kernels); and `example_index` int32 [B], the
    number of the row in `examples`, -1 for fill.

    Args:
      examples: Rows of numbers: sequences under the names in `pad_values`, padded on their last axis; scalars; arrays
        of one shape. Integers become int32 and floats float32. Rows that differ from epoch to epoch (images that are
        changed at random) come from a method `draw(index, generator)`, whose generator depends on the seed, the
        epoch and the index alone.
      batch_size: Examples a step, over all processes.
      num_epochs: How often each example is visited.
      seed: With the epoch's number it decides the order, and nothing else does.
      shuffle: Whether each epoch has a random order.
      group_by_length: Whether batches are made of examples of like length. With `shuffle`, within windows of `window`
        batches of the random order, the batches of a window in random order again; without (evaluation), over the whole
        set. The longest batch comes first in its epoch, so that memory runs out at once or not at all. Without
        effect where examples hold no sequences: all are alike.
      window: Batches a window.
      buckets: Increasing lengths to pad to, the smallest that holds the longest row of the batch (over all processes).
        A dict gives columns lengths of their own, as `{"input_ids": (32, 64), "labels": (16, 32)}`: as many for each,
        and a batch is padded to the first place at which all its columns fit, so that there are no more shapes than
        places; one length alone stands at every place. Chosen to need the fewest padded tokens when not given.
      pad_values: Column -> fill, over `PAD_VALUES`.
      drop_last: Whether examples that do not fill a batch are left out of the epoch, rather than filled up.
      process_index: Which process this is, of
      process_count: how many. Each gets an equal, contiguous part of every batch; or
      places: the places in a batch whose rows it gets, in order.
      padding_side: `right` or `left`.
      collator: `collator(batch, generators) -> batch`, applied to each padded batch on the host: masking, augmentation. There is
        a numpy generator for each of this process's rows, which depends on the seed, the step and the row's place in the global
        batch: what is drawn does not depend on the number of processes, nor on where a run was resumed. One whose work changes
        from step to step has a method `at(step)`, which gives the collator of that step. Examples may have a collator of their
        own, `collate`, which comes first.
      draw: Whether rows are drawn, and what their own collator does is done; an evaluation takes them as they are.

    Raises:
      DataError: No examples, no batches, or a row that cannot become part of a batch.
      InputError: An argument is out of range.

    >>> examples = [{"input_ids": [5, 6, 7]}, {"input_ids": [8]}, {"input_ids": [9]}]
    >>> batches = Batches(examples, batch_size=2, buckets=(4, 8))
    >>> len(batches), batches[0]["input_ids"].tolist(), batches[1]["example_weight"].tolist()
    (2, [[5, 6, 7, 0], [8, 0, 0, 0]], [1.0, 0.0])
    """

    def __init__(
        self,
        examples: RowSource,
        *,
        batch_size: int,
        num_epochs: int = 1,
        seed: int = 0,
        shuffle: bool = False,
        group_by_length: bool = False,
        window: int = 50,
        buckets: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
        pad_values: Mapping[str, float] | None = None,
        drop_last: bool = False,
        process_index: int = 0,
        process_count: int = 1,
        places: Sequence[int] | np.ndarray | None = None,
        padding_side: str = "right",
        collator: Collator | None = None,
        draw: bool = True,
    ):
        for argument, value, least in (
            ("batch_size", batch_size, 1),
            ("num_epochs", num_epochs, 1),
            ("seed", seed, 0),
            ("window", window, 1),
            ("process_count", process_count, 1),
        ):
            if value < least:
                raise InputError(f"{argument} must be at least {least}, got {value}")
        if not 0 <= process_index < process_count:
            raise InputError(f"process_index must be in 0..{process_count - 1}, got {process_index}")
        if batch_size % process_count:
            raise InputError(f"batch size {batch_size} cannot be shared equally by {process_count} processes")
        if padding_side not in ("right", "left"):
            raise InputError(f"padding_side must be 'right' or 'left', got {padding_side!r}")

        self.name = getattr(examples, "name", "data")
        self.num_examples = len(examples)
        if not self.num_examples:
            raise DataError(f"dataset {self.name!r} has 0 examples")
        self.steps_per_epoch = self.num_examples // batch_size if drop_last else -(-self.num_examples // batch_size)
        if not self.steps_per_epoch:
            raise DataError(f"0 batches: {self.num_examples} examples < batch {batch_size} of dataset {self.name!r}")

        self._examples = examples
        self._batch_size, self._num_epochs, self._seed, self._window = batch_size, num_epochs, seed, window
        self._shuffle = shuffle
        share = batch_size // process_count
        self._mine = np.arange(share) + process_index * share if places is None else np.asarray(places)
        if not ((self._mine >= 0) & (self._mine < batch_size)).all():
            raise InputError(f"places must be in 0..{batch_size - 1}, got {self._mine.tolist()}")
        self._left = padding_side == "left"
        self._collator, self._draw = collator, draw
        self._forms = read_forms(examples, {**PAD_VALUES, **(pad_values or {})}, self.name)
        self._lengths = read_lengths(examples, self._forms)
        self._main = "input_ids" if "input_ids" in self._lengths else next(iter(self._lengths), None)
        self._group_by_length = group_by_length and self._main is not None
        self._buckets = self._checked_buckets(buckets)
        self._plan: tuple[int, list[np.ndarray]] = (-1, [])

    @property
    def batch_size(self) -> int:
        """Examples a step, over all processes."""
        return self._batch_size

    @property
    def lengths(self) -> np.ndarray:
        """int64 [num_examples]: tokens of each example, 0 where examples hold no sequences."""
        return self._lengths[self._main] if self._main else np.zeros(self.num_examples, np.int64)

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Column of sequences -> int64 [num_examples], its lengths; the one that `lengths` tells of comes first."""
        main = {self._main: self._lengths[self._main]} if self._main else {}
        return main | self._lengths

    @property
    def buckets(self) -> tuple[int, ...]:
        """The lengths batches are padded to, increasing; empty where examples hold no sequences."""
        return self._buckets[self._main] if self._main else ()

    def repeated(self, num_epochs: int) -> Batches:
        """The same batches over another number of epochs."""
        other = copy.copy(self)
        other._num_epochs = num_epochs
        return other

    def __len__(self) -> int:
        return self.steps_per_epoch * self._num_epochs

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        epoch, number = divmod(step, self.steps_per_epoch)
        planned, plan = self._plan
        if planned != epoch:
            plan = self.plan(epoch)
            self._plan = (epoch, plan)  # replaced whole: a reading thread sees the old one or the new one
        chosen = plan[number]
        numbers = chosen if len(chosen) == self._batch_size else np.resize(chosen, self._batch_size)  # repeats the rows
        numbers = numbers[self._mine]
        real = self._mine < len(chosen)
        rows = self._rows(numbers, epoch)
        batch: Batch = {}
        place = self.place_of(chosen)
        for key, form in self._forms.items():
            try:
                cells = [row[key] for row in rows]
            except KeyError:
                missing = next(number for number, row in zip(numbers, rows, strict=True) if key not in row)
                raise DataError(f"row {missing} of {self.name} has no {key!r}, row 0 has") from None
            if key not in self._lengths:
                batch[key] = stack(form, cells, numbers)
                continue
            batch[key], mask = pad(form, cells, numbers, self._buckets[key][place], self._left)
            if key == self._main and "attention_mask" not in self._forms:
                batch["attention_mask"] = mask.astype(np.int32)
        batch["example_weight"] = real.astype(np.float32)
        batch["example_index"] = np.where(real, numbers, -1).astype(np.int32)
        own = getattr(self._examples, "collate", None) if self._draw else None
        generators = [np.random.default_rng((self._seed, step, place)) for place in self._mine.tolist()]
        for collator in (own, self._collator):
            if collator is not None:
                batch = getattr(collator, "at", lambda step, same=collator: same)(step)(batch, generators)
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return (self[step] for step in range(len(self)))

    def _rows(self, numbers: np.ndarray, epoch: int) -> list[Any]:
        """The rows with these numbers, as they are or as they are drawn for this epoch."""
        draw = getattr(self._examples, "draw", None) if self._draw else None
        if draw is None:
            return [self._examples[index] for index in numbers.tolist()]
        return [draw(index, np.random.default_rng((self._seed, epoch, index))) for index in numbers.tolist()]

    def place_of(self, rows: np.ndarray) -> int:
        """Which of the buckets a batch of these rows is padded to: their number; 0 where there are none."""
        longest = {key: int(lengths[rows].max()) for key, lengths in self._lengths.items()}
        return max((bisect_left(self._buckets[key], length) for key, length in longest.items()), default=0)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The row numbers of each global batch of an epoch, a function of (seed, epoch); a short one is short here."""
        size = self._batch_size
        order = permutation(self.num_examples, self._seed, epoch) if self._shuffle else np.arange(self.num_examples)
        order = order[: self.steps_per_epoch * size]  # before sorting: what drop_last leaves out is random in length
        if not self._group_by_length:
            return [order[start : start + size] for start in range(0, len(order), size)]
        window = self._window * size if self._shuffle else len(order)
        plan: list[np.ndarray] = []
        for number, start in enumerate(range(0, len(order), window)):
            part = order[start : start + window]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            batches = [part[first : first + size] for first in range(0, len(part), size)]
            if self._shuffle:
                batches = [batches[place] for place in permutation(len(batches), self._seed, epoch, number + 1)]
            plan += batches
        longest = max(range(len(plan)), key=lambda place: self.lengths[plan[place][0]])  # rows of a batch are sorted
        return [plan[longest], *plan[:longest], *plan[longest + 1 :]]

    def _checked_buckets(self, given: Sequence[int] | Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
        """Buckets for each padded column. One without its own shares the main column's, and must have its lengths."""
        if self._main is None:
            return {}
        own: dict[str, Collection[int]] = (
            dict(given) if isinstance(given, Mapping) else {self._main: {*given}} if given else {}
        )
        if self._main not in own:
            own[self._main] = choose_buckets(self.lengths.tolist())
        for key in own:
            if key not in self._lengths:
                raise DataError(f"buckets are given for {key!r}, which is no column of sequences of {self.name}")
        result = {}
        for key, lengths in self._lengths.items():
            result[key] = tuple(sorted(own[key if key in own else self._main]))
            if len(result[key]) == 1:
                result[key] *= len(own[self._main])
            if len(result[key]) != len(own[self._main]):
                raise InputError(
                    f"{key} must have as many buckets as {self._main}, {len(own[self._main])}, or one; found {result[key]}"
                )
            row = int(lengths.argmax())
            if lengths[row] > result[key][-1]:
                raise DataError(
                    f"row {row} of {self.name} has {lengths[row]} {key}, the longest bucket is {result[key][-1]}: "
                    "truncate it"
                )
            different = np.flatnonzero(lengths != self.lengths)
            if key not in own and len(different):
                row = int(different[0])
                raise DataError(
                    f"row {row} of {self.name} has {self.lengths[row]} {self._main} and {lengths[row]} {key}; "
                    "a column with lengths of its own needs buckets of its own"
                )
        return result


class BatchIterator(Iterator[Batch]):
    """Reads batches ahead in threads; made by `iterate`. Its state is the number of batches it has handed out."""

    def __init__(self, batches: Batches, start: int, prefetch: int, num_threads: int):
        import grain

        options = grain.ReadOptions(
            num_threads=num_threads, prefetch_buffer_size=max(prefetch, num_threads) if prefetch else 0
        )
        self._size = len(batches)
        self._iterator = iter(grain.MapDataset.source(batches).to_iter_dataset(options))
        self.set_state({"next_index": start})

    @property
    def position(self) -> int:
        """How many batches have been handed out, that is the number of the next one."""
        return self._iterator.get_state()["next_index"]

    def __next__(self) -> Batch:
        position = self.position
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except BaseException:
            # Grain has let go of the failed batch but not counted it: without this, the next call would give the
            # batch after it under the number of this one
            self._iterator.set_state({"next_index": position})
            raise

    def get_state(self) -> dict[str, int]:
        """Where the iterator stands, as plain JSON."""
        return {"next_index": self.position}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes to where `get_state` was called."""
        position = state["next_index"]
        if not 0 <= position <= self._size:
            raise InputError(f"the data cannot go on at batch {position}: there are {self._size} batches")
        self._iterator.set_state({"next_index": position})

    def close(self) -> None:
        """Ends the reading threads; what they are reading is finished first."""
        self._iterator.close()

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def iterate(batches: Batches, *, start: int = 0, prefetch: int = 2, num_threads: int = 1) -> BatchIterator:
    """An iterator over all batches from number `start`, reading ahead.

    Args:
      batches: What to read.
      start: Number of the first batch, as the `position` of an earlier iterator.
      prefetch: Batches read ahead; 0 reads in the calling thread.
      num_threads: Threads that read.

    >>> batches = Batches([{"input_ids": [5, 6]}, {"input_ids": [7]}, {"input_ids": [8]}], batch_size=1)
    >>> with iterate(batches, start=1) as stream:
    ...     print(next(stream)["input_ids"][0, 0], stream.get_state())
    7 {'next_index': 2}
    """
    return BatchIterator(batches, start, prefetch, num_threads)
