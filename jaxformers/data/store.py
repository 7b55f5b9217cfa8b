"""Rows on disk, read when they are asked for: what keeps the memory of a run the same while its data grows.

Here: `Store`, which gives any row by its number, and `stored`, which makes one in the cache from rows as they come. A row is read
by `pread` into memory of its own; nothing is mapped, so what was read does not stay. On disk a store is a folder: `rows.bin` (for
each row a checksum and its cells), `bounds.bin` (where each begins), `meta.json`, written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxformers.errors import DataError

LOG = logging.getLogger("jaxformers")
VERSION = 1
_CELL = struct.Struct("<cQ")  # what a cell is, and of how many bytes
_LISTS = {b"i": "<i4", b"q": "<i8", b"d": "<f8"}


class Store:
    """The rows of a folder that `stored` made, a `RowSource`.

    Args:
      folder: where they are.

    Raises:
      DataError: a row is damaged.
    """

    on_disk = True

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text("utf-8"))
        self.column_names: tuple[str, ...] = tuple(self.meta["columns"])
        self._casts = [{"int": int, "float": float}.get(self.meta["casts"].get(name)) for name in self.column_names]
        self._rows, self._bounds = (os.open(self.folder / name, os.O_RDONLY) for name in ("rows.bin", "bounds.bin"))

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.folder,)

    def __del__(self) -> None:
        for place in ("_rows", "_bounds"):
            with contextlib.suppress(AttributeError, OSError):
                os.close(getattr(self, place))

    def __len__(self) -> int:
        return int(self.meta["rows"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        begin, end = struct.unpack("<QQ", os.pread(self._bounds, 16, 8 * index))
        record = os.pread(self._rows, end - begin, begin)
        if len(record) < 4 or zlib.crc32(record[4:]) != int.from_bytes(record[:4], "little"):
            raise DataError(f"row {index} of {self.folder} is damaged: delete that folder, and it is made anew")
        row: dict[str, Any] = {}
        place = 4
        for name, cast in zip(self.column_names, self._casts, strict=True):
            if place == len(record):  # a column that no earlier row had
                row[name] = None
                continue
            kind, size = _CELL.unpack_from(record, place)
            place += _CELL.size
            cell = _decoded(kind, record[place : place + size])
            row[name] = cell if cast is None else cast(cell)
            place += size
        return row

    def fingerprint(self) -> str:
        """A key of what the rows hold."""
        return str(self.meta["content"])


class Writer:
    """Rows into a new folder, one after another, and `finish`, when the files are closed, says what they are.

    Args:
      folder: an empty folder.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._rows = open(folder / "rows.bin", "wb", buffering=1 << 20)  # noqa: SIM115
        self._bounds = open(folder / "bounds.bin", "wb", buffering=1 << 16)  # noqa: SIM115
        self._bounds.write(struct.pack("<Q", 0))
        self._columns: dict[str, None] = {}  # in the order in which they were met
        self._count = self._end = 0
        self._content = hashlib.blake2b(digest_size=16)

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes a row. A key that earlier rows have not is a column of its own, None in those."""
        self._columns |= dict.fromkeys(row)
        record = b"".join(_encoded(key, row.get(key)) for key in self._columns)
        self._content.update(record)
        self._rows.write(zlib.crc32(record).to_bytes(4, "little") + record)
        self._end += len(record) + 4
        self._bounds.write(struct.pack("<Q", self._end))
        self._count += 1

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._rows, self._bounds):
            file.close()

    def finish(self, casts: Mapping[str, str], facts: Mapping[str, Any]) -> None:
        """Writes down what the store holds; `casts` says which columns of texts are `int` or `float`."""
        self._content.update(json.dumps([[*self._columns], dict(casts)]).encode())
        meta = {"version": VERSION, "rows": self._count, "columns": [*self._columns], "casts": dict(casts),
                "content": self._content.hexdigest(), **facts}  # fmt: skip
        (self._folder / "meta.json").write_text(json.dumps(meta), "utf-8")


def stored(
    key: str,
    rows: Callable[[], Iterable[Mapping[str, Any]]],
    *,
    casts: Mapping[str, str | None] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Store:
    """The store of this key in the cache, made of `rows` if it is not there yet.

    Args:
      key: what the rows depend on, in hexadecimal digits (`fingerprint`).
      rows: () -> an iterable of dicts, called where the store must be made.
      casts: read when the rows have passed: column of texts -> `int` or `float`.
      facts: read then too: what `meta.json` is to remember beside.

    Returns:
      The store, under `JAXFORMERS_CACHE` (`~/.cache/jaxformers`) in `data/KEY`. Nothing deletes it but you.

    Raises:
      DataError: a cell cannot be stored, or the disk refuses.
    """
    from jaxformers.core.compilation import cache_folder  # which imports JAX, and only what is kept on disk needs it

    place = cache_folder() / "data" / key
    if not (place / "meta.json").is_file():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f"{key[:8]}-", dir=place.parent))
            try:
                with Writer(made) as writer:
                    for row in rows():
                        writer.add(row)
                writer.finish({name: cast for name, cast in (casts or {}).items() if cast}, facts or {})
                with contextlib.suppress(OSError):  # another process made the same in the meantime
                    made.rename(place)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        except OSError as error:
            raise DataError(
                f"rows cannot be kept in {place.parent}: {error.strerror or error}; set JAXFORMERS_CACHE"
            ) from error
    return Store(place)


def _encoded(key: str, cell: Any) -> bytes:
    kind, data = _kind(key, cell)
    return _CELL.pack(kind, len(data)) + data


def _kind(key: str, cell: Any) -> tuple[bytes, bytes]:
    if isinstance(cell, str):
        return b"t", cell.encode("utf-8", "surrogatepass")
    if isinstance(cell, bytes):
        return b"b", cell
    if isinstance(cell, np.ndarray) and cell.ndim and cell.dtype.kind in "biuf":
        return b"a", json.dumps([cell.dtype.str, cell.shape]).encode() + b"\n" + cell.tobytes()
    if isinstance(cell, list) and cell:
        types = set(map(type, cell))
        if types == {int} and min(cell) >= -(2**63) and max(cell) < 2**63:
            kind = b"i" if min(cell) >= -(2**31) and max(cell) < 2**31 else b"q"
            return kind, np.array(cell, _LISTS[kind]).tobytes()
        if types == {float}:
            return b"d", np.array(cell, "<f8").tobytes()
    try:
        return b"j", json.dumps(cell, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):
        raise DataError(f"column {key!r} holds {cell!r:.60}, which cannot be kept on disk") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError


def _decoded(kind: bytes, data: bytes) -> Any:
    if kind in _LISTS:
        return np.frombuffer(data, _LISTS[kind]).tolist()
    if kind == b"t":
        return data.decode("utf-8", "surrogatepass")
    if kind == b"b":
        return data
    if kind == b"a":
        head, _, values = data.partition(b"\n")
        dtype, shape = json.loads(head)
        return np.frombuffer(values, dtype).reshape(shape)
    return json.loads(data.decode("utf-8", "surrogatepass"))


def content(rows: Iterable[Mapping[str, Any]]) -> str:
    """A key of what these rows hold, as their store would have."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        for key, cell in row.items():
            digest.update(key.encode() + _encoded(key, cell))
    return digest.hexdigest()
