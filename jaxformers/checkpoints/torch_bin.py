"""`pytorch_model.bin` read without executing anything.

Both layouts: the zip archive of PyTorch 1.6 and later (`data.pkl` beside one member a storage) and the sequence of
pickles and raw storages before it. The pickles are run by opcodes.py, which can build nothing but dicts, lists, tuples
and plain values; this file adds the storage types, tensors and parameters of PyTorch as records, each checked to lie
inside its storage, and each storage inside the file. Tensors are copied out of the mapped file one at a time.

Not here: other things PyTorch can save (optimizers, modules, quantised and float8 tensors): refused by name.
"""

import dataclasses
import enum
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxformers.checkpoints import opcodes
from jaxformers.checkpoints.stored import AGAIN, StoredTensor, array_at, map_file, sniff
from jaxformers.errors import CheckpointError

_MAGIC = 0x1950A86A20F9469CFC6C  # the first value of the older layout
_MOST_DIMENSIONS = 32

_STORAGE_TYPES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}


class _Rebuild(enum.Enum):
    """What a file may ask to have rebuilt."""

    ORDERED_DICT = "collections.OrderedDict"
    TENSOR = "torch._utils._rebuild_tensor_v2"
    PARAMETER = "torch._utils._rebuild_parameter"


_NAMES: dict[str, object] = {**_STORAGE_TYPES, **{member.value: member for member in _Rebuild}}


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# Where the bytes of a storage start. Called when a tensor is described, so that a bad place is known before any read.
_Place = Callable[[_Storage], int]


def read_torch_bin(path: Path) -> dict[str, StoredTensor]:
    """Read what a PyTorch weight file holds; payloads stay in the file.

    Args:
        path: pytorch_model.bin, or a shard of one.

    Returns:
        Tensors by name.

    Raises:
        CheckpointError: it is not such a file, is damaged, or asks for anything that weights do not need.
    """
    data = map_file(path)
    with open(path, "rb") as file:
        return parse_torch_bin(data, path.name, file)


def parse_torch_bin(data: memoryview, source: str, file: BinaryIO | None = None) -> dict[str, StoredTensor]:
    """The same for bytes.

    Args:
        data: the whole file.
        source: its name, for messages.
        file: the same bytes as an open file, where there is one (the directory of an archive is read from it).

    Returns:
        Tensors by name.

    Raises:
        CheckpointError: as `read_torch_bin`.
    """
    head = bytes(data[:64])
    if head.startswith(b"PK\x03\x04"):
        return _read_archive(data, source, file or io.BytesIO(data))
    if head[:1] == b"\x80":
        return _read_sequence(data, source)
    raise CheckpointError(f"{source} {sniff(head) or 'is not a file that PyTorch writes'}")


def _read_archive(data: memoryview, source: str, file: BinaryIO) -> dict[str, StoredTensor]:
    members = _members(data, source, file)
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{source} is a zip archive without the one data.pkl that PyTorch puts into it")
    root = pickles[0].removesuffix("data.pkl")
    intact: set[str] = set()

    def content(name: str) -> memoryview:
        start, size, checksum = members[name]
        if checksum and name not in intact and zlib.crc32(data[start : start + size]) != checksum:
            raise CheckpointError(f"{source} is damaged: {name[:80]!r} in it does not match its checksum; {AGAIN}")
        intact.add(name)  # many tensors may share a storage. A checksum of 0 is how PyTorch writes without one.
        return data[start : start + size]

    order = f"{root}byteorder"
    if order in members and bytes(content(order)) != b"little":
        raise CheckpointError(f"{source} was written in {bytes(content(order)[:16])!r} byte order, expected b'little'")
    state, _ = _run(content(pickles[0]), 0, source, len(data))

    def place(storage: _Storage) -> int:
        name = f"{root}data/{storage.key}"
        expected = storage.count * storage.dtype.itemsize
        if name not in members:
            raise CheckpointError(
                f"{source} is damaged: it holds no storage {storage.key[:80]!r}, which a tensor names"
            )
        if members[name][1] < expected:
            raise CheckpointError(
                f"{source} is damaged: storage {storage.key[:80]!r} has {members[name][1]} bytes, expected {expected}"
            )
        return members[name][0]

    return _describe(state, data, source, place, lambda storage: content(f"{root}data/{storage.key}"))


def _members(data: memoryview, source: str, file: BinaryIO) -> dict[str, tuple[int, int, int]]:
    """Name to (start, size, checksum) of the members of an archive, all stored plainly and side by side."""
    try:
        with zipfile.ZipFile(file) as archive:
            listed = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError, OSError) as error:
        raise CheckpointError(f"{source} is truncated or damaged ({error}); {AGAIN}") from error
    members: dict[str, tuple[int, int, int]] = {}
    free = 0  # the first byte no member has claimed
    for info in listed:
        name, at = info.filename, info.header_offset
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise CheckpointError(f"{source} holds {name[:80]!r} compressed or encrypted, which PyTorch never writes")
        if name in members or at < free or bytes(data[at : at + 4]) != b"PK\x03\x04" or at + 30 > len(data):
            raise CheckpointError(f"{source} is damaged: its members repeat or overlap at {name[:80]!r}; {AGAIN}")
        name_length, extra_length = struct.unpack_from("<HH", data, at + 26)
        start = at + 30 + name_length + extra_length
        free = start + info.file_size
        if free > len(data):
            raise CheckpointError(f"{source} is truncated in {name[:80]!r}: expected {free} bytes, have {len(data)}")
        members[name] = (start, info.file_size, info.CRC)
    return members


def _read_sequence(data: memoryview, source: str) -> dict[str, StoredTensor]:
    storages: dict[str, _Storage] = {}
    magic, at = _run(data, 0, source, len(data))
    if type(magic) is not int or magic != _MAGIC:
        raise CheckpointError(f"{source} is a pickle, but not one of weights that PyTorch wrote; nothing was executed")
    _, at = _run(data, at, source, len(data))  # protocol version
    system, at = _run(data, at, source, len(data))
    if type(system) is not dict or system.get("little_endian") is not True:
        raise CheckpointError(f"{source} was not written in little-endian byte order, which is all that is read")
    state, at = _run(data, at, source, len(data), storages)
    keys, at = _run(data, at, source, len(data))
    if type(keys) is not list or any(type(key) is not str or key not in storages for key in keys):
        raise CheckpointError(f"{source} is damaged: its list of storages does not fit its tensors; {AGAIN}")
    starts: dict[str, int] = {}
    for key in keys:
        starts[key] = at + 8  # each storage follows its number of elements
        if at + 8 <= len(data) and struct.unpack_from("<q", data, at)[0] != storages[key].count:
            raise CheckpointError(f"{source} is damaged: storage {key[:80]!r} has another size than its tensors say")
        at += 8 + storages[key].count * storages[key].dtype.itemsize
    if at != len(data):
        cut = "is truncated" if len(data) < at else "has more bytes than it should"
        raise CheckpointError(f"{source} {cut}: expected {at} bytes, have {len(data)}; {AGAIN}")

    def place(storage: _Storage) -> int:
        if storage.key not in starts:
            raise CheckpointError(
                f"{source} is damaged: it holds no storage {storage.key[:80]!r}, which a tensor names"
            )
        return starts[storage.key]

    return _describe(state, data, source, place, lambda storage: data)


def _run(
    data: memoryview, start: int, source: str, most_bytes: int, storages: dict[str, _Storage] | None = None
) -> tuple[Any, int]:
    """One pickle, with PyTorch's names; no tensor may take more than `most_bytes`; storages are noted in `storages`."""
    seen: dict[str, _Storage] = {} if storages is None else storages

    def odd(what: str) -> CheckpointError:
        return CheckpointError(f"{source} is damaged: {what}; nothing was executed")

    def persistent(value: Any) -> _Storage:
        match value:
            case ("storage", np.dtype() as dtype, str(key), _, int(count)) if count >= 0:
                pass
            case ("storage", np.dtype() as dtype, str(key), _, int(count), None) if count >= 0:
                pass
            case _:
                raise odd("it refers to something that is not a storage of its own")
        storage = _Storage(key, dtype, int(count))
        if seen.setdefault(key, storage) != storage:
            raise odd(f"it gives storage {key[:80]!r} two types or sizes")
        return storage

    def tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        if (
            type(storage) is not _Storage
            or type(shape) is not tuple
            or type(strides) is not tuple
            or len(shape) != len(strides)
            or len(shape) > _MOST_DIMENSIONS
            or any(type(number) is not int or number < 0 for number in (offset, *shape, *strides))
        ):
            raise odd("a tensor in it has no proper storage, offset, shape and strides")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:
            raise odd(f"a tensor of shape {shape} reaches element {last} of a storage of {storage.count}")
        if math.prod(max(size, 1) for size in shape) * storage.dtype.itemsize > most_bytes:
            raise odd(f"a tensor of shape {shape} repeats its elements to more than the file's size")
        return _Tensor(storage, offset, shape, strides)

    def reduce(function: Any, arguments: Any) -> Any:
        arguments = arguments if type(arguments) is tuple else (None,)
        match function, len(arguments):
            case _Rebuild.ORDERED_DICT, 0:
                return {}
            case _Rebuild.TENSOR, 6 | 7:
                return tensor(*arguments)
            case _Rebuild.PARAMETER, 3 if type(arguments[0]) is _Tensor:
                return arguments[0]
        raise odd("it rebuilds something from arguments that do not fit")

    return opcodes.run(data, start, source, names=_NAMES, reduce=reduce, persistent=persistent)


def _describe(
    state: Any, data: memoryview, source: str, place: _Place, check: Callable[[_Storage], object]
) -> dict[str, StoredTensor]:
    """Turn a state dict of records into tensors that can be read."""
    if type(state) is not dict:
        raise CheckpointError(f"{source} holds a {type(state).__name__}, expected a dict of weights by name")
    found = {}
    for name, value in state.items():
        if type(value) is not _Tensor:
            raise CheckpointError(
                f"{source} holds a {type(value).__name__.strip('_').lower()} under {name[:120]!r}, expected a tensor: "
                "save the model's state_dict() alone"
            )
        found[name] = _stored(value, data, place(value.storage), check)
    return found


def _stored(tensor: _Tensor, data: memoryview, start: int, check: Callable[[_Storage], object]) -> StoredTensor:
    dtype, shape = tensor.storage.dtype, tensor.shape
    # A stride along a dimension of 1 or in an empty tensor is never used and may be any number.
    used = 0 not in shape
    strides = [
        stride * dtype.itemsize if used and size > 1 else 0 for size, stride in zip(shape, tensor.strides, strict=True)
    ]
    offset = start + (tensor.offset * dtype.itemsize if used else 0)

    def read() -> np.ndarray:
        check(tensor.storage)
        return array_at(data, dtype, offset, shape, strides)

    return StoredTensor(shape, dtype, read)
