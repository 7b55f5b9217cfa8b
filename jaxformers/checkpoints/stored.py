"""A tensor as it lies in a file, and what a file's first bytes say it is: what the readers of all formats share.

Not here: the formats themselves (readers.py for safetensors, torch_bin.py, flax_msgpack.py).
"""

import dataclasses
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxformers.errors import CheckpointError

AGAIN = "delete it and download it again"

_SIGNS = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the file itself: run 'git lfs pull' in its folder"),
    (b"<!doctype", f"is a web page, not weights: {AGAIN}"),
    (b"<html", f"is a web page, not weights: {AGAIN}"),
    (b"pk\x03\x04", "is a zip archive, as PyTorch writes (pytorch_model.bin)"),
    (b"\x89hdf", "is an HDF5 file, as Keras writes, which is not read here"),
    (b"gguf", "is a GGUF file, which is not read here"),
)
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """What is known of a tensor without its payload, and how to get it.

    Attributes:
        shape: its dimensions.
        dtype: its numpy dtype (bfloat16 is `ml_dtypes.bfloat16`).
        read: gives the tensor as an array of its own, C-contiguous; never a view of the file, which may change.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def map_file(path: Path) -> memoryview:
    """Map a whole file into memory, read-only; it is unmapped when the last reference goes.

    Args:
        path: the file.

    Returns:
        Its bytes; an empty file gives an empty view.

    Raises:
        CheckpointError: the file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            if path.stat().st_size == 0:  # mmap refuses to map nothing
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror} ({path})") from error


def array_at(
    data: memoryview, dtype: np.dtype, offset: int, shape: Sequence[int], strides: Sequence[int] | None = None
) -> np.ndarray:
    """Copy an array out of mapped bytes, and let go of the pages it lay on, which would count as this process's memory.

    Args:
        data: the bytes.
        dtype: dtype of the elements, little-endian in the file.
        offset: where the first element starts, in bytes; need not be aligned.
        shape: dimensions.
        strides: strides in bytes; None means C order.

    Returns:
        A C-contiguous array that owns its memory.
    """
    view = np.ndarray(shape, dtype, data, offset, strides)
    array = view.copy(order="C")
    if isinstance(data.obj, mmap.mmap) and array.nbytes > mmap.PAGESIZE and hasattr(mmap, "MADV_DONTNEED"):
        low, high = np.lib.array_utils.byte_bounds(view)
        first = offset - offset % mmap.PAGESIZE
        data.obj.madvise(mmap.MADV_DONTNEED, first, offset + high - low - first)
    return array


def sniff(head: bytes) -> str | None:
    """Say what a file is that is not what its name says.

    Args:
        head: its first bytes, 64 are enough.

    Returns:
        The predicate of a sentence ("is a git-lfs pointer, ..."), or None when nothing is recognised.

    >>> sniff(b"<!DOCTYPE html><html>")
    'is a web page, not weights: delete it and download it again'
    """
    if not head:
        return f"is empty: {AGAIN}"
    start = head.lstrip().lower()
    for sign, what in _SIGNS:
        if start.startswith(sign):
            return what
    if head.startswith(_PICKLE_STARTS):
        return "is a pickle, as PyTorch before 1.6 wrote (pytorch_model.bin)"
    if head[8:10] == b'{"':
        return "is a safetensors file"
    return None
