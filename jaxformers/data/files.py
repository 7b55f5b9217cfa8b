"""Readers of data files: .csv, .tsv, .json, .jsonl, .txt, .conll (each also as .gz) and .parquet.

Here: `read_file`, one file to one `Table`. Which files make which splits is decided in `sources.py`.

A file is read whole and once. What cannot be read is one sentence with the line it stands on: not UTF-8, a NUL byte,
a row with too many fields, two columns of one name, broken JSON.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from jaxformers.data.table import Table, as_table, did_you_mean
from jaxformers.errors import DataError, InputError

# Texts that are numbers and nothing else: 007, +1, 1_000 and blanks would lose something
_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def read_file(
    path: str | Path,
    *,
    encoding: str | None = None,
    name: str | None = None,
    column_names: tuple[str, ...] | None = None,
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
    reader = READERS[kind]
    if column_names is not None and kind in (".csv", ".tsv"):
        reader = partial(reader, column_names=column_names)
    table = reader(path, encoding)
    if not len(table):
        raise DataError(f"{path} is empty: it holds no rows")
    return Table({key: table[key] for key in table.column_names}, name or path.name)


def read_lines(path: str | Path, encoding: str | None = None) -> list[str]:
    """The lines of a text file of any name, without their ends; gzipped where it ends in .gz. Errors as in `read_file`."""
    return list(_lines(_text(Path(path), encoding)))


def file_kind(path: Path) -> str | None:
    """The suffix that says how to read a file, such as `.csv` for `train.csv.gz`; None when it is no data file."""
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    suffix = suffix.lower()
    return suffix if suffix in READERS and not (suffix == ".parquet" and path.suffix.lower() == ".gz") else None


def _known() -> str:
    return ", ".join(READERS)


def _text(path: Path, encoding: str | None) -> str:
    """The decoded contents of a text file."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name} is not a complete gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode(encoding or "utf-8-sig")
    except LookupError as error:
        raise InputError(f"encoding {encoding!r} is not known; utf-8, latin-1 and utf-16 are examples") from error
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind a byte-order mark, and hands over what it counted in
        start = error.object.rfind(b"\n", 0, error.start) + 1
        line = error.object.count(b"\n", 0, error.start) + 1
        column = len(error.object[start : error.start].decode(encoding or "utf-8", "replace")) + 1
        found = f"{path.name} line {line} is not {(encoding or 'utf-8').upper()} "
        found += f"(byte 0x{error.object[error.start]:02x} at column {column})"
        other = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        raise DataError(found if encoding else f"{found}; pass encoding={other!r} if that is what it is") from error
    nul = text.find("\0")
    if nul >= 0:
        raise DataError(f"{path.name} line {text.count(chr(10), 0, nul) + 1} holds a NUL byte: it is not a text file")
    return text


def _lines(text: str) -> Iterator[str]:
    r"""Lines without their ends. `str.splitlines` would also cut at U+2028 and others, which are text inside JSON."""
    return (line.rstrip("\n") for line in io.StringIO(text, newline=None))


def _read_separated(
    path: Path, encoding: str | None, column_names: tuple[str, ...] | None = None, **dialect: Any
) -> Table:
    """A csv or tsv file, with a header line or with columns of these names."""
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))  # 128 KiB else; more does not fit a C long everywhere
    reader = csv.reader(io.StringIO(_text(path, encoding), newline=""), strict=True, **dialect)
    header: list[str] = []
    columns: list[list[str]] = []  # filled row by row: a list of rows would be walked by every garbage collection
    line = 1
    try:
        for fields in reader:
            if not header:
                bare = column_names and len(fields) == len(column_names) and not {*fields} & {*column_names}
                header = _checked_header(list(column_names or ()) if bare else fields, path)
                columns = [[field] if bare else [] for field in fields]
            elif fields and len(fields) != len(header):  # a blank line has no fields
                raise DataError(f"{path.name} line {line} has {len(fields)} fields, the header has {len(header)}")
            elif fields:
                for column, field in zip(columns, fields, strict=True):
                    column.append(field)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path.name} line {line} is not valid {path.suffix[1:]}: {error}") from error
    return Table(dict(zip(header, map(_numbers, columns), strict=True)))


def _checked_header(names: list[str], path: Path) -> list[str]:
    for place, name in enumerate(names):
        if not name:
            raise DataError(
                f"{path.name} has no name for column {place + 1} in its first line {names}: a header line is expected"
            )
        if name in names[:place]:
            raise DataError(f"{path.name} has two columns named {name!r}")
    return names


def _numbers(texts: list[str]) -> list[Any]:
    """A column of texts as int or float, if all of them are such numbers."""
    if all(map(_INTEGER.fullmatch, texts)):
        return list(map(int, texts))
    if all(map(_DECIMAL.fullmatch, texts)) and all(map(math.isfinite, map(float, texts))):
        return list(map(float, texts))
    return texts


def _read_csv(path: Path, encoding: str | None, **names: Any) -> Table:
    return _read_separated(path, encoding, **names)


def _read_tsv(path: Path, encoding: str | None, **names: Any) -> Table:
    return _read_separated(path, encoding, delimiter="\t", quoting=csv.QUOTE_NONE, **names)


def _read_json(path: Path, encoding: str | None) -> Table:
    text = _text(path, encoding)
    if not text.strip():
        return Table({})
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":  # one object a line: JSON lines
            return _json_lines(text, path)
        raise DataError(f"{path.name} is not valid JSON: {error}") from error
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise DataError(
            f'{path.name} must hold a list of objects or {{"data": [...]}}, it holds a JSON {type(rows).__name__}'
        )
    return as_table(rows, path.name)


def _read_jsonl(path: Path, encoding: str | None) -> Table:
    return _json_lines(_text(path, encoding), path)


def _json_lines(text: str, path: Path) -> Table:
    rows = []
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path.name} line {number} is not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path.name} line {number} must be a JSON object, it is {type(row).__name__}")
        rows.append(row)
    return as_table(rows, path.name)


def _read_txt(path: Path, encoding: str | None) -> Table:
    return Table({"text": list(_lines(_text(path, encoding)))})


def _read_conll(path: Path, encoding: str | None) -> Table:
    """Sentences as CoNLL-2003 and WNUT lay them out: the token first and its tag last in a line, separated by blanks."""
    sentences: list[tuple[list[str], list[str]]] = [([], [])]
    for number, line in enumerate(_lines(_text(path, encoding)), start=1):
        fields = line.split("\t") if "\t" in line else line.split(" ")
        fields = [field for field in (field.strip() for field in fields) if field]
        if not fields:
            sentences.append(([], []))
        elif fields[0] == "-DOCSTART-":
            continue
        elif len(fields) < 2:
            raise DataError(f"{path.name} line {number} has a token and no tag: {line!r:.60}")
        else:
            sentences[-1][0].append(fields[0])
            sentences[-1][1].append(fields[-1])
    kept = [sentence for sentence in sentences if sentence[0]]
    return Table({"tokens": [tokens for tokens, _ in kept], "ner_tags": [tags for _, tags in kept]})


def _read_parquet(path: Path, encoding: str | None) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f'{path.name} needs PyArrow: pip install "jaxformers[parquet]"') from error
    try:
        table = pyarrow.parquet.ParquetFile(path).read()  # read_table would also look at the folders' names
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is not a readable parquet file: {str(error).splitlines()[0]}") from error
    repeated = [name for name in table.column_names if table.column_names.count(name) > 1]
    if repeated:
        raise DataError(f"{path.name} has two columns named {repeated[0]!r}")
    return Table(table.to_pydict())


READERS: dict[str, Callable[..., Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
    ".conll": _read_conll,
    ".parquet": _read_parquet,
}
