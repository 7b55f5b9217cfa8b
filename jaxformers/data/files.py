"""A data file as a `Table`: .csv, .tsv, .json, .jsonl, .txt, .conll (each also as .gz) and .parquet.

Here: `read_file`. A small file becomes columns in memory; of a large one the rows are kept in a store on disk (`store.py`), made
once, and are read when they are used. How each kind is read is in `records.py`, which files make which splits in `sources.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxformers.data.fingerprint import fingerprint
from jaxformers.data.records import READERS, BadRecords, Row, lines_of
from jaxformers.data.store import VERSION, Store, stored
from jaxformers.data.table import Table, as_table, did_you_mean
from jaxformers.errors import DataError

LARGE = 32 * 2**20  # bytes; a larger file is kept on disk
# Texts that are numbers and nothing else: 007, +1, 1_000 and blanks would lose something
_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def read_file(
    path: str | Path,
    *,
    encoding: str | None = None,
    name: str | None = None,
    column_names: tuple[str, ...] | None = None,
    on_disk: bool | None = None,
    bad: BadRecords | None = None,
) -> Table:
    """Reads one data file.

    Args:
      path: A .csv (quoted as usual), .tsv (no quoting), .json (a list of objects, `{"data": [...]}` or JSON lines),
        .jsonl, .txt (one row a line, column `text`), .conll (a token a line, a blank line between sentences; columns
        `tokens` and `ner_tags`) or .parquet file; the text kinds may be gzipped (.csv.gz).
      encoding: Encoding of a text file; UTF-8, with or without byte-order mark, when not given.
      name: What the table is called; the file's name when not given.
      column_names: Names for the columns of a csv or tsv file without a header line: one whose first line has as many
        fields and holds none of these names.
      on_disk: Whether rows are kept in a store on disk and read when they are used; by default those of a file of more
        than 32 MiB. The store is known by the file's place, size and time.
      bad: What is done with a record that cannot be read; the first one is an error when not given.

    Returns:
      The rows as a table. A csv or tsv column becomes int or float when every value of it is a number (`007` is none).

    Raises:
      DataError: The file is missing, of an unknown kind, empty, or cannot be read.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind is None:
        suffix = path.suffix or path.name
        raise DataError(
            f"{path} is not a data file: {suffix!r} is not one of {_known()}{did_you_mean(suffix, READERS)}"
        )
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    bad = BadRecords() if bad is None else BadRecords(bad.policy, bad.report)  # its count is this file's
    options: dict[str, Any] = {}
    if column_names is not None and kind in (".csv", ".tsv"):
        options = {"column_names": column_names}
    numbers = kind in (".csv", ".tsv")
    if path.stat().st_size > LARGE if on_disk is None else on_disk:
        table = as_table(_on_disk(path, kind, encoding, options, numbers, bad), name or path.name)
    else:
        columns = _columns(READERS[kind](path, encoding, bad, **options))
        if numbers:
            columns = {key: _numbers(texts) for key, texts in columns.items()}
        table = Table(columns, name or path.name)
    bad.tell(path.name)
    if not len(table):
        raise DataError(f"{path} is empty: it holds no rows")
    return table


def read_lines(path: str | Path, encoding: str | None = None) -> list[str]:
    """The lines of a text file of any name, without their ends; gzipped where it ends in .gz. Errors as in `read_file`."""
    return [line for _, line in lines_of(Path(path), encoding, BadRecords())]


def file_kind(path: Path) -> str | None:
    """The suffix that says how to read a file, such as `.csv` for `train.csv.gz`; None when it is no data file."""
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    suffix = suffix.lower()
    return suffix if suffix in READERS and not (suffix == ".parquet" and path.suffix.lower() == ".gz") else None


def _known() -> str:
    return ", ".join(READERS)


def _columns(rows: Iterator[Row]) -> dict[str, list[Any]]:
    """Columns of rows as they come. A key that only some rows have is None in the others: JSON leaves out what is null."""
    columns: dict[str, list[Any]] = {}
    for count, row in enumerate(rows):
        for key in row:
            if key not in columns:
                columns[key] = [None] * count
        for key, column in columns.items():
            column.append(row.get(key))
    return columns


def _on_disk(
    path: Path, kind: str, encoding: str | None, options: dict[str, Any], numbers: bool, bad: BadRecords
) -> Store:
    """The store of a file's rows, and what was left out when it was made."""
    found = path.stat()
    key = fingerprint(
        VERSION, str(path.resolve()), found.st_size, found.st_mtime_ns, kind, encoding, options, bad.policy
    )
    casts: dict[str, str | None] = {}  # true of the rows that have passed

    def rows() -> Iterator[Row]:
        for row in READERS[kind](path, encoding, bad, **options):
            for column, text in row.items() if numbers else ():
                known = casts.get(column, "int")
                if known == "int" and not _INTEGER.fullmatch(text):
                    known = "float"
                casts[column] = None if known == "float" and not _is_decimal(text) else known
            yield row

    store = stored(key, rows, casts=casts, facts={"file": str(path), "left_out": bad.messages})
    bad.messages = store.meta["left_out"]
    return store


def _is_decimal(text: str) -> bool:
    return _DECIMAL.fullmatch(text) is not None and math.isfinite(float(text))


def _numbers(texts: list[str]) -> list[Any]:
    """A column of texts as int or float, if all of them are such numbers."""
    if all(map(_INTEGER.fullmatch, texts)):
        return list(map(int, texts))
    return list(map(float, texts)) if all(map(_is_decimal, texts)) else texts
