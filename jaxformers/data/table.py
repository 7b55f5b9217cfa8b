"""A dataset as named columns of equal length: the one form in which data travels through jaxformers.

Here: `Table` (immutable; select, shuffle, map, rename, ...), `as_table` (whatever holds rows or columns becomes one),
`check_labels`, and the permutation every shuffle uses. Where tables come from is in `sources.py`, what batches are
made of them in `loader.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, overload

import numpy as np

from jaxformers.data.fingerprint import fingerprint
from jaxformers.data.mapping import mapped
from jaxformers.data.store import VERSION, content, stored
from jaxformers.errors import DataError

MANY = 100_000  # rows of a source that are not held in memory together with all that is made of them
Row = dict[str, Any]
Column = Any  # a list, a numpy array or a LazyColumn: what has a length and is indexed by position
MapFunction = Callable[[dict[str, Any]], Mapping[str, Any]]


class RowSource(Protocol):
    """Random access to rows: a TensorFlow Datasets data source, a Hugging Face Dataset, a list of dicts, a Table."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class Table:
    """An immutable, column-oriented dataset.

    Args:
      columns: Column name -> values; all of one length. Lists are copied, arrays are shared and seen read-only.
      name: What error messages call this dataset, such as `glue/mrpc train`.

    Raises:
      DataError: Columns differ in length, or a column is not a sequence.

    >>> table = Table({"text": ["good", "bad", "fine"], "label": [1, 0, 1]}, name="reviews")
    >>> table[1]
    {'text': 'bad', 'label': 0}
    >>> table[1:]["text"]
    ['bad', 'fine']
    >>> table.map(lambda batch: {"length": [len(text) for text in batch["text"]]}, remove_columns=["text"])
    Table('reviews', 3 rows: label, length)
    """

    def __init__(self, columns: Mapping[str, Column], name: str = "data"):
        self.name = name
        self._columns = {str(key): _column(values, str(key), name) for key, values in columns.items()}
        lengths = {key: len(column) for key, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"the columns of {name} differ in length: {_listed(f'{key} {n}' for key, n in lengths.items())}"
            )
        self._length = next(iter(lengths.values()), 0)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self._columns)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {len(self)} rows: {', '.join(self._columns)})"

    @overload
    def __getitem__(self, key: str) -> Column: ...
    @overload
    def __getitem__(self, key: slice) -> Table: ...
    @overload
    def __getitem__(self, key: int) -> Row: ...
    def __getitem__(self, key: str | slice | int) -> Any:
        """A column by name, a row by number, or a smaller table by slice."""
        if isinstance(key, str):
            self._require([key])
            return self._columns[key]
        if isinstance(key, slice):
            return self.select(range(*key.indices(len(self))))
        if not -len(self) <= key < len(self):
            raise IndexError(f"{self.name} has {len(self)} rows, row {key} was asked for")
        return {name: column[key] for name, column in self._columns.items()}

    def select(self, indices: Iterable[int]) -> Table:
        """The rows with these numbers, in this order."""
        chosen = np.fromiter(indices, np.int64)
        if len(chosen) and not (-len(self) <= chosen.min() and chosen.max() < len(self)):
            raise DataError(f"{self.name} has {len(self)} rows, rows {chosen.min()} to {chosen.max()} were asked for")
        taken: dict[int, np.ndarray] = {}  # columns of one source share the numbers of their rows
        return Table({key: _take(column, chosen, taken) for key, column in self._columns.items()}, self.name)

    def shuffle(self, seed: int) -> Table:
        """The same rows in an order that depends on nothing but `seed` and their number."""
        return self.select(permutation(len(self), seed))

    def map(
        self,
        function: MapFunction,
        batched: bool = True,
        batch_size: int = 1000,
        remove_columns: Iterable[str] = (),
        num_proc: int | None = None,
        on_disk: bool | None = None,
        key: str | None = None,
    ) -> Table:
        """Adds (or replaces) the columns that `function` returns.

        Args:
          function: Gets a dict of lists (`batched`) or one row, and returns new columns in the same form. A batched
            function may return another number of rows; then every old column must be in `remove_columns`.
          batched: Whether `function` sees many rows at once.
          batch_size: Rows a call, when batched.
          remove_columns: Columns the result no longer has.
          num_proc: Processes that share the work; this one alone when not given. What `function` is must then be
            known by its name to other processes: not a lambda, and not inside another function.
          on_disk: Whether the new columns are kept in the cache (`store.stored`) and read when they are used; by
            default those of a table on disk are. They are known by the content of the rows and of the function: its
            code and all it refers to. The same map over the same rows is done once.
          key: What the function is known by there, in place of its content.

        Returns:
          A new table.

        Raises:
          DataError: `function` returned no mapping, other columns than before, or columns of unequal length.
          InputError: `function` cannot be sent to other processes, or has no key in the cache.
        """
        removed = self._require(remove_columns)

        def parts() -> Iterator[dict[str, list[Any]]]:
            return mapped(self, function, batch_size if batched else 0, num_proc or 1)

        made: Mapping[str, Column]
        if self.on_disk if on_disk is None else on_disk:
            known = fingerprint(VERSION, self.fingerprint(), function if key is None else key, batched and batch_size)
            made = as_table(stored(known, lambda: _rows_of(parts())), self.name)._columns
        else:
            made = {}
            for part in parts():
                for name, values in part.items():
                    made.setdefault(name, []).extend(values)
        kept = {name: column for name, column in self._columns.items() if name not in removed and name not in made}
        return Table({**kept, **made}, self.name)

    def through(self, function: Callable[[Iterator[Row]], Iterable[Row]]) -> Table:
        """The rows that `function` makes of all rows, which it is given one after another: texts joined and cut anew, say.

        Those of a table on disk are kept there, as those of `map` are.
        """
        if self.on_disk:
            return as_table(
                stored(fingerprint(VERSION, self.fingerprint(), function), lambda: function(iter(self))), self.name
            )
        return _from_rows(list(function(iter(self))), self.name)

    @property
    def lazy(self) -> bool:
        """Whether any column is read when it is used."""
        return any(isinstance(column, LazyColumn) for column in self._columns.values())

    @property
    def on_disk(self) -> bool:
        """Whether rows are read from disk when they are used, and what is made of them had better stay there."""
        return any(column.on_disk for column in self._columns.values() if isinstance(column, LazyColumn))

    def fingerprint(self) -> str:
        """A key of what the columns hold, whatever the table is called; rows in memory are read for it."""
        return fingerprint({key: _content(column) for key, column in self._columns.items()})

    def cells(self) -> dict[str, list[Any]]:
        """All columns as lists; a source of rows is read row by row, once."""
        if self.lazy:
            rows = list(self)
            return {key: [row[key] for row in rows] for key in self._columns}
        return {key: list(column) for key, column in self._columns.items()}

    def rename(self, names: Mapping[str, str]) -> Table:
        """The same columns under new names, `{old: new}`."""
        self._require(names)
        renamed = [names.get(key, key) for key in self._columns]
        if len(set(renamed)) < len(renamed):
            raise DataError(f"renaming columns of {self.name} would give two columns one name: {_listed(renamed)}")
        return Table(dict(zip(renamed, self._columns.values(), strict=True)), self.name)

    def drop(self, names: Iterable[str]) -> Table:
        """All columns but these."""
        dropped = self._require(names)
        return Table({key: column for key, column in self._columns.items() if key not in dropped}, self.name)

    def with_column(self, name: str, values: Sequence[Any]) -> Table:
        """This table with one column more, or with that column replaced."""
        return Table({**self._columns, name: values}, self.name)

    def concat(self, *others: Table) -> Table:
        """The rows of this table followed by those of the others, which must have the same columns."""
        for other in others:
            if set(other.column_names) != set(self.column_names):
                raise DataError(
                    f"{self.name} has the columns {_listed(self.column_names)}, "
                    f"{other.name} has {_listed(other.column_names)}: only equal columns can be joined"
                )
        tables = (self, *others)
        if any(table.lazy for table in tables):
            return as_table(_Joined(tables), self.name)
        parts = [table.cells() for table in tables]
        return Table({key: [cell for part in parts for cell in part[key]] for key in self._columns}, self.name)

    def _require(self, names: Iterable[str]) -> set[str]:
        """These names as a set, or a DataError for the first that is not a column."""
        if isinstance(names, str):
            names = [names]
        wanted = list(names)
        for name in wanted:
            if name not in self._columns:
                raise DataError(
                    f"{self.name} has no column {name!r}{did_you_mean(name, self._columns)}; "
                    f"it has {_listed(self._columns)}"
                )
        return set(wanted)


class LazyColumn:
    """One column of a source that gives whole rows; a row is read when a cell of it is asked for.

    The columns of one table share a `_LastRow`, so that reading a row reads the source once.
    """

    def __init__(self, rows: _LastRow, key: str, indices: np.ndarray):
        self._rows, self._key, self._indices = rows, key, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Any:
        number = int(self._indices[index])
        row = self._rows(number)
        if self._key not in row:
            raise DataError(f"row {number} of {self._rows.name} has no {self._key!r}; it has {_listed(row)}")
        return row[self._key]

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    @property
    def on_disk(self) -> bool:
        """Whether the source says so, or has too many rows to be held."""
        source = self._rows.source
        return getattr(source, "on_disk", len(source) > MANY)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the numbers in its cells, or in lists there, stand for, where the source (of TensorFlow Datasets, or of the hub)
        says so."""
        features: Any = getattr(self._rows.source, "features", None)
        # what else has features may mean something else by them
        feature = features[self._key] if hasattr(features, "keys") and self._key in features else None
        names = getattr(getattr(feature, "feature", feature), "names", None)
        return tuple(names) if names else None

    def take(self, indices: np.ndarray, taken: dict[int, np.ndarray]) -> LazyColumn:
        """The same column for a selection of rows; nothing is read. `taken` remembers selections of shared numbers."""
        number = id(self._indices)
        if number not in taken:
            taken[number] = self._indices[indices]
        return LazyColumn(self._rows, self._key, taken[number])

    def fingerprint(self) -> str:
        """A key of the cells: by what the source says of itself, else by reading them."""
        source = self._rows.source
        if hasattr(source, "fingerprint"):
            return fingerprint(source.fingerprint(), self._key, self._indices)
        return content({self._key: cell} for cell in self)


class _Joined:
    """The rows of several tables of the same columns, one table after another."""

    def __init__(self, tables: Sequence[Table]):
        self._tables = tables
        self._ends = np.cumsum([len(table) for table in tables])
        self.on_disk = any(table.on_disk for table in tables)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Row:
        number = int(np.searchsorted(self._ends, index, side="right"))
        table = self._tables[number]
        return table[index - int(self._ends[number]) + len(table)]

    def fingerprint(self) -> str:
        """A key of what the tables hold."""
        return fingerprint([table.fingerprint() for table in self._tables])


class _LastRow:
    """Reads rows and remembers the last one. The memory is one tuple, replaced whole: safe between threads."""

    def __init__(self, source: RowSource, name: str):
        self.source, self.name = source, name
        self._last: tuple[int, Mapping[str, Any]] | None = None

    def __call__(self, index: int) -> Mapping[str, Any]:
        last = self._last
        if last is None or last[0] != index:
            self._last = last = (index, self.source[index])
        return last[1]


def as_table(data: Any, name: str = "data") -> Table:
    """Makes a `Table` of anything that holds rows or columns.

    Args:
      data: A Table, a dict of columns, a pandas DataFrame, a list of dict rows, or anything with `__len__` and
        `__getitem__` that gives dict rows (a TensorFlow Datasets data source, a Hugging Face Dataset): such rows are
        read only when they are used.
      name: What error messages call it.

    Raises:
      DataError: `data` is none of these.

    >>> as_table([{"text": "good", "label": 1}, {"text": "bad"}])["label"]
    [1, None]
    """
    if isinstance(data, Table):
        return Table(data._columns, name)
    if isinstance(data, Mapping):
        return Table(data, name)
    if is_frame(data):
        repeated = data.columns[data.columns.duplicated()]
        if len(repeated):
            raise DataError(f"{name} has two columns named {str(repeated[0])!r}")
        return Table({str(key): data[key].tolist() for key in data.columns}, name)
    if isinstance(data, (list, tuple)):
        return _from_rows(data, name)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, (str, bytes, np.ndarray)):
        rows = _LastRow(data, name)
        if len(data) == 0:
            return Table({}, name)
        if not isinstance(rows(0), Mapping):
            raise DataError(f"the rows of {name} must be dicts, row 0 is {type(rows(0)).__name__}")
        everything = np.arange(len(data))
        return Table({str(key): LazyColumn(rows, key, everything) for key in rows(0)}, name)
    raise DataError(
        f"{name} must be a Table, a dict of columns, a list of dict rows, a DataFrame or a dataset with rows; "
        f"it is {type(data).__name__}"
    )


def check_labels(table: Table, column: str, num_labels: int) -> None:
    """Raises a DataError for the first label that is not an integer in `[0, num_labels)`.

    A cell may also be a sequence of labels, one a token; there -100 marks tokens without one. XLA would clamp such a
    label in silence, so this is checked before training.

    >>> check_labels(Table({"label": [0, 1, 7]}, name="reviews"), "label", num_labels=2)
    Traceback (most recent call last):
        ...
    jaxformers.errors.DataError: label 7 at record 2 of reviews, model has 2 classes (0..1)
    """
    for record, cell in enumerate(table[column]):
        sequence = isinstance(cell, (list, tuple, np.ndarray))
        for label in cell if sequence else (cell,):
            if not isinstance(label, (int, np.integer)):
                raise DataError(f"label {label!r} at record {record} of {table.name} is not an integer")
            if not (0 <= label < num_labels or (sequence and label == -100)):
                raise DataError(
                    f"label {label} at record {record} of {table.name}, "
                    f"model has {num_labels} classes (0..{num_labels - 1})"
                )


def permutation(size: int, *seeds: int) -> np.ndarray:
    """A random order of `range(size)`, a pure function of its arguments.

    It is made of the raw bits of PCG64, which NumPy promises never to change, and not of `Generator.permutation`,
    which it may: a resumed run must see the old order under a newer NumPy too.

    Returns:
      int64 [size].
    """
    return np.argsort(np.random.PCG64(seeds).random_raw(size), kind="stable")


def is_frame(data: Any) -> bool:
    """Whether this is a pandas DataFrame, found out without importing pandas."""
    return type(data).__name__ == "DataFrame" and hasattr(data, "itertuples")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest of `choices`, or nothing when none is near."""
    near = difflib.get_close_matches(name, list(choices), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no columns"


def _column(values: Any, key: str, name: str) -> Column:
    if isinstance(values, LazyColumn):
        return values
    if isinstance(values, np.ndarray) and values.ndim:
        view = values.view()
        view.flags.writeable = False
        return view
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__len__"):
        raise DataError(f"column {key!r} of {name} must be a sequence of values, it is {type(values).__name__}")
    return list(values)


def _content(column: Column) -> str:
    if isinstance(column, LazyColumn):
        return column.fingerprint()
    return fingerprint(column) if isinstance(column, np.ndarray) else content({"": cell} for cell in column)


def _rows_of(parts: Iterable[Mapping[str, Sequence[Any]]]) -> Iterator[Row]:
    """Rows of parts of columns; what is no list or array of one length was found before."""
    return (dict(zip(part, cells, strict=True)) for part in parts for cells in zip(*part.values(), strict=True))


def _take(column: Column, indices: np.ndarray, taken: dict[int, np.ndarray]) -> Column:
    if isinstance(column, LazyColumn):
        return column.take(indices, taken)
    return column[indices] if isinstance(column, np.ndarray) else [column[index] for index in indices.tolist()]


def _from_rows(rows: Sequence[Any], name: str) -> Table:
    """Columns of dict rows. A key that only some rows have is None in the others: JSON files leave out what is null."""
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"the rows of {name} must be dicts, row {index} is {type(row).__name__}")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return Table({key: [row.get(key) for row in rows] for key in keys}, name)
