"""Opening the weights of a model folder: which file, safetensors, shards. Every format gives the same `Weights`.

Not here: the PyTorch and Flax formats (torch_bin.py, flax_msgpack.py), and which tensor goes where in a model.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jaxformers.checkpoints.files import INDEX, WEIGHT_FILES, contents, read_json
from jaxformers.checkpoints.flax_msgpack import pytorch_name, read_flax_msgpack
from jaxformers.checkpoints.stored import AGAIN, StoredTensor, array_at, map_file, sniff
from jaxformers.checkpoints.torch_bin import read_torch_bin
from jaxformers.errors import CheckpointError, ConfigError

_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself

_SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


class Weights:
    """The tensors of a checkpoint, under PyTorch's names and layouts, read one at a time.

    Nothing but names, shapes and dtypes is in memory; the payloads are mapped from the files until `close`.

    Args:
        source: the file they come from, for messages.
        tensors: the tensors by name.
    """

    def __init__(self, source: str, tensors: Mapping[str, StoredTensor]) -> None:
        self.source = source
        self._tensors = dict(tensors)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Give shape and dtype of every tensor, without reading payloads."""
        return {name: (tensor.shape, tensor.dtype) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """Read one tensor.

        Args:
            name: one of `shapes()`.

        Returns:
            A C-contiguous array that owns its memory; bfloat16 as `ml_dtypes.bfloat16`.

        Raises:
            CheckpointError: there is no such tensor, or its bytes are damaged.
        """
        if name not in self._tensors:
            close = difflib.get_close_matches(name, self._tensors, 1)
            hint = f"; the nearest is {close[0]!r}" if close else ""
            raise CheckpointError(f"{self.source} holds no tensor {name!r}{hint}")
        return self._tensors[name].read()

    def close(self) -> None:
        """Let go of the files."""
        self._tensors.clear()

    def __enter__(self) -> "Weights":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_weights(folder: Path) -> Weights:
    """Open the weights of a model folder, the first of `files.WEIGHT_FILES` that is there.

    Args:
        folder: a folder in Hugging Face layout.

    Returns:
        Its weights; close them, or use them in a `with`.

    Raises:
        CheckpointError: there are none, or a file is damaged, incomplete or not what its name says.
    """
    name = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if name is None:
        looked = ", ".join(WEIGHT_FILES)
        raise CheckpointError(f"{folder} holds no weights: looked for {looked}; {contents(folder)}")
    return Weights(name, _open_sharded(folder, name) if name.endswith(INDEX) else _open_file(folder / name))


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Read what a safetensors file holds; payloads stay in the file.

    Args:
        path: model.safetensors, or a shard of one.

    Returns:
        Tensors by name.

    Raises:
        CheckpointError: it is not such a file, is damaged, or holds a type that is not read.
    """
    data = map_file(path)
    start, entries = _header(data, path.name)
    try:  # what the library finds wrong with it beyond that: tensors that overlap, sizes that do not fit their types
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is damaged ({error}); {AGAIN}") from error
    found = {}
    for name, entry in entries.items():
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise CheckpointError(
                f"{path.name} holds {name[:120]!r} as {entry['dtype']}, which is not read; the types are "
                + ", ".join(_SAFETENSORS_DTYPES)
            )
        dtype, shape = _SAFETENSORS_DTYPES[entry["dtype"]], tuple(entry["shape"])
        read = functools.partial(array_at, data, dtype, start + entry["data_offsets"][0], shape)
        found[name] = StoredTensor(shape, dtype, read)
    return found


def _header(data: memoryview, source: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Where the payload of a safetensors file starts, and its tensors' entries. Says what is wrong in words the library lacks.

    A file begins with the length of its header (8 bytes), the header in JSON, then the payload it describes.
    """
    size, head = len(data), bytes(data[:64])
    header_size = int.from_bytes(head[:8], "little")
    if size < 9 or header_size > _HEADER_BYTES or head[8:9] not in (b"{", b" "):
        unknown = f"is not a safetensors file: its header would have {header_size} bytes"
        short = f"is truncated: it has only {size} bytes; {AGAIN}" if size < 9 else unknown
        raise CheckpointError(f"{source} {sniff(head) or short}")
    header = bytes(data[8 : 8 + header_size])
    if len(header) < header_size:
        raise CheckpointError(
            f"{source} is truncated: expected more than {8 + header_size} bytes, have {size}; {AGAIN}"
        )
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        expected = 8 + header_size + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        raise CheckpointError(f"{source} is damaged: its header does not describe tensors; {AGAIN}") from None
    if size < expected:
        raise CheckpointError(f"{source} is truncated: expected {expected} bytes, have {size}; {AGAIN}")
    if size > expected:
        raise CheckpointError(
            f"{source} has {size - expected} bytes after its last tensor: expected {expected} bytes, have {size}; {AGAIN}"
        )
    return 8 + header_size, entries


_READERS: dict[str, Callable[[Path], dict[str, StoredTensor]]] = {
    ".safetensors": read_safetensors,
    ".msgpack": read_flax_msgpack,
    ".bin": read_torch_bin,
}


def _open_file(path: Path) -> dict[str, StoredTensor]:
    tensors = _READERS[path.suffix](path)
    target = path.resolve()
    if not (path.is_symlink() and target.parent.name == "blobs" and len(target.name) == 64):
        return tensors

    # In the hub's cache a weight file links to a file named by its SHA-256: the only checksum a safetensors file has.
    @functools.cache
    def check() -> None:
        with open(target, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != target.name:
                raise CheckpointError(f"{path.name} is damaged: it does not match its hash; {AGAIN} ({target})")

    def checked(read: Callable[[], np.ndarray]) -> np.ndarray:
        check()
        return read()

    return {
        name: dataclasses.replace(tensor, read=functools.partial(checked, tensor.read))
        for name, tensor in tensors.items()
    }


def _open_sharded(folder: Path, index: str) -> dict[str, StoredTensor]:
    suffix = Path(index.removesuffix(INDEX)).suffix
    try:
        listed = read_json(folder / index).get("weight_map")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise CheckpointError(f"{index} holds no weight_map from names of tensors to names of files")
    files = sorted(set(listed.values()))
    for file in files:
        if any(sign in file for sign in "/\\:\0") or not file.endswith(suffix):
            raise CheckpointError(f"{index} names {file[:120]!r}, expected a plain {suffix} file in its own folder")
    if absent := [file for file in files if not (folder / file).is_file()]:
        raise CheckpointError(
            f"{index} names {', '.join(absent[:5])}, {len(absent)} of {len(files)} that are not there"
        )
    owner = {pytorch_name(name.split("/")) if suffix == ".msgpack" else name: file for name, file in listed.items()}
    found: dict[str, StoredTensor] = {}
    for file in files:
        # A tensor the index does not list is kept: whether it belongs to the model is not decided here.
        found |= {name: t for name, t in _open_file(folder / file).items() if owner.get(name, file) == file}
    if lost := [name for name in owner if name not in found]:
        raise CheckpointError(
            f"{owner[lost[0]]} lacks {lost[0][:120]!r}, which {index} says it holds "
            f"({len(lost)} of {len(owner)} tensors are missing)"
        )
    return found
