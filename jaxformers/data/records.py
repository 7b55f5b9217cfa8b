"""The records of a data file, one after another: what is read is a line or a batch of rows, never the file.

Here: `READERS`, for each kind of file a function to an iterator of rows, and `BadRecords`, which says what is done with one that
cannot be read. Every error names the file and the line: not UTF-8, a NUL byte, a row with too many fields, broken JSON.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from jaxformers.errors import DataError, InputError

LOG = logging.getLogger("jaxformers")
Row = Mapping[str, Any]
_ESCAPED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of a byte that is none of the encoding
_BATCH = 1000  # rows of a parquet file that are in memory at once


class BadRecords:
    """What is done with a record that cannot be read: `raise` stops at it, `skip` leaves it out and counts it.

    Args:
      policy: `raise` or `skip`.
      report: a text file that is to hold a line for each record left out: which file, which line, what is wrong. What it
        holds already is not said again.

    Raises:
      InputError: there is no such policy.
    """

    def __init__(self, policy: str = "raise", report: str | Path | None = None):
        if policy not in ("raise", "skip"):
            raise InputError(f"on_bad_record must be raise or skip, found {policy!r}")
        self.policy, self.report = policy, Path(report) if report else None
        self.messages: list[str] = []

    def __call__(self, error: DataError) -> None:
        """Raises `error`, or takes it down."""
        if self.policy == "raise":
            raise error
        self.messages.append(str(error))

    def tell(self, name: str) -> None:
        """One line in the log and the report, where anything of `name` was left out."""
        if not self.messages:
            return
        where = ""
        if self.report is not None:
            self.report.parent.mkdir(parents=True, exist_ok=True)
            known = {*self.report.read_text("utf-8").splitlines()} if self.report.is_file() else set()
            with open(self.report, "a", encoding="utf-8") as file:
                file.writelines(f"{message}\n" for message in self.messages if message not in known)
            where = f"; all of them are in {self.report}"
        LOG.warning(
            "%d bad records of %s are left out, the first: %s%s", len(self.messages), name, self.messages[0], where
        )


class _BadLineError(DataError):
    """A line that is no text; the next one may be."""


class _Lines:
    """The lines of a text file, decoded one by one; `number` is that of the last one.

    An iterator that goes on behind a bad line, which a generator cannot.
    """

    def __init__(self, path: Path, encoding: str | None, newline: str | None = None):
        self.number = 0
        self._path, self._encoding = path, encoding
        name = encoding or "utf-8-sig"
        try:
            codecs.lookup(name)
            opened = gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")  # noqa: SIM115
        except LookupError as error:
            raise InputError(f"encoding {encoding!r} is not known; utf-8, latin-1 and utf-16 are examples") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        self._file = io.TextIOWrapper(cast(BinaryIO, opened), name, "surrogateescape", newline)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = self._file.readline()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{self._path.name} is not a complete gzip file: {error}") from error
        except OSError as error:
            raise DataError(f"{self._path} cannot be read: {error.strerror or error}") from error
        except UnicodeError as error:  # utf-16 without its mark, say
            raise DataError(f"{self._path.name} is not {self._encoding}: {error}") from error
        if not line:
            raise StopIteration
        self.number += 1
        here = f"{self._path.name} line {self.number}"
        if not line.isascii() and (bad := _ESCAPED.search(line)):
            byte = ord(bad[0]) - 0xDC00
            found = (
                f"{here} is not {(self._encoding or 'utf-8').upper()} (byte 0x{byte:02x} at column {bad.start() + 1})"
            )
            other = "utf-16" if self.number == 1 and line[:2] in ("\udcff\udcfe", "\udcfe\udcff") else "latin-1"
            raise _BadLineError(found if self._encoding else f"{found}; pass encoding={other!r} if that is what it is")
        if "\0" in line:
            raise _BadLineError(f"{here} holds a NUL byte: it is not a text file")
        return line


def lines_of(path: Path, encoding: str | None, bad: BadRecords) -> Iterator[tuple[int, str]]:
    r"""Numbers and lines without their ends. `str.splitlines` would also cut at U+2028 and others, which are text in JSON."""
    with _Lines(path, encoding) as lines:
        while True:
            try:
                line = next(lines)
            except StopIteration:
                return
            except _BadLineError as error:
                bad(error)
                continue
            yield lines.number, line.rstrip("\n")


def _read_separated(
    path: Path, encoding: str | None, bad: BadRecords, column_names: tuple[str, ...] | None = None, **dialect: Any
) -> Iterator[Row]:
    """A csv or tsv file, with a header line or with columns of these names; every cell is a text."""
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))  # 128 KiB else; more does not fit a C long everywhere
    header: list[str] = []
    with _Lines(path, encoding, newline="") as lines:
        reader = csv.reader(lines, strict=True, **dialect)
        while True:
            line = lines.number + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                bad(DataError(f"{path.name} line {line} is not valid {path.suffix[1:]}: {error}"))
                continue
            except _BadLineError as error:
                if not header:
                    raise
                bad(error)
                continue
            if not header:
                bare = column_names and len(fields) == len(column_names) and not {*fields} & {*column_names}
                header = _checked_header(list(column_names or ()) if bare else fields, path)
                if not bare:
                    continue
            if fields and len(fields) != len(header):  # a blank line has no fields
                bad(DataError(f"{path.name} line {line} has {len(fields)} fields, the header has {len(header)}"))
            elif fields:
                yield dict(zip(header, fields, strict=True))


def _checked_header(names: list[str], path: Path) -> list[str]:
    for place, name in enumerate(names):
        if not name:
            raise DataError(
                f"{path.name} has no name for column {place + 1} in its first line {names}: a header line is expected"
            )
        if name in names[:place]:
            raise DataError(f"{path.name} has two columns named {name!r}")
    return names


def _read_csv(path: Path, encoding: str | None, bad: BadRecords, **names: Any) -> Iterator[Row]:
    return _read_separated(path, encoding, bad, **names)


def _read_tsv(path: Path, encoding: str | None, bad: BadRecords, **names: Any) -> Iterator[Row]:
    return _read_separated(path, encoding, bad, delimiter="\t", quoting=csv.QUOTE_NONE, **names)


def _read_json(path: Path, encoding: str | None, bad: BadRecords) -> Iterator[Row]:
    """A list of objects is one value, and so is read whole; JSON lines are read as such."""
    text = "".join(f"{line}\n" for _, line in lines_of(path, encoding, BadRecords()))
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":  # one object a line: JSON lines
            yield from _read_jsonl(path, encoding, bad)
            return
        raise DataError(f"{path.name} is not valid JSON: {error}") from error
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise DataError(
            f'{path.name} must hold a list of objects or {{"data": [...]}}, it holds a JSON {type(rows).__name__}'
        )
    for index, row in enumerate(rows):
        if isinstance(row, dict):
            yield row
        else:
            bad(DataError(f"the rows of {path.name} must be dicts, row {index} is {type(row).__name__}"))


def _read_jsonl(path: Path, encoding: str | None, bad: BadRecords) -> Iterator[Row]:
    for number, line in lines_of(path, encoding, bad):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad(DataError(f"{path.name} line {number} is not valid JSON: {error}"))
            continue
        if isinstance(row, dict):
            yield row
        else:
            bad(DataError(f"{path.name} line {number} must be a JSON object, it is {type(row).__name__}"))


def _read_txt(path: Path, encoding: str | None, bad: BadRecords) -> Iterator[Row]:
    return ({"text": line} for _, line in lines_of(path, encoding, bad))


def _read_conll(path: Path, encoding: str | None, bad: BadRecords) -> Iterator[Row]:
    """Sentences as CoNLL-2003 and WNUT lay them out: the token first and its tag last in a line, separated by blanks."""
    tokens: list[str] = []
    tags: list[str] = []
    failed = len(bad.messages)  # a sentence with a line that cannot be read is left out whole
    for number, line in itertools.chain(lines_of(path, encoding, bad), [(0, "")]):
        fields = line.split("\t") if "\t" in line else line.split(" ")
        fields = [field for field in (field.strip() for field in fields) if field]
        if not fields:
            if tokens and len(bad.messages) == failed:
                yield {"tokens": tokens, "ner_tags": tags}
            tokens, tags, failed = [], [], len(bad.messages)
        elif fields[0] == "-DOCSTART-":
            continue
        elif len(fields) < 2:
            bad(DataError(f"{path.name} line {number} has a token and no tag: {line!r:.60}"))
        else:
            tokens.append(fields[0])
            tags.append(fields[-1])


def _read_parquet(path: Path, encoding: str | None, bad: BadRecords) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f'{path.name} needs PyArrow: pip install "jaxformers[parquet]"') from error
    try:
        file = pyarrow.parquet.ParquetFile(path)  # read_table would also look at the folders' names
        names = file.schema_arrow.names
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise DataError(f"{path.name} has two columns named {repeated[0]!r}")
        for batch in file.iter_batches(batch_size=_BATCH):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is not a readable parquet file: {str(error).splitlines()[0]}") from error


READERS: dict[str, Callable[..., Iterator[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
    ".conll": _read_conll,
    ".parquet": _read_parquet,
}
