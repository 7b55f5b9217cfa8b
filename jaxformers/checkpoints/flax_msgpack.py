"""`flax_model.msgpack`, as the Flax half of transformers wrote it, under the names and layouts of PyTorch.

So that one mapping serves all formats: a path becomes a dotted name, `kernel` becomes `weight` with the output
dimension first, `embedding` and a norm's `scale` become `weight`, batch statistics become `running_mean` and
`running_var`. The msgpack is walked here and not by `flax.serialization.msgpack_restore`, which reads a whole model
into memory at once: here only names and shapes are read, and payloads stay in the mapped file until they are asked for.
"""

import dataclasses
import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxformers.checkpoints.stored import AGAIN, StoredTensor, array_at, map_file, sniff
from jaxformers.errors import CheckpointError

_DTYPES = {
    np.dtype(kind).name: np.dtype(kind)
    for kind in (ml_dtypes.bfloat16, "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
}

# Flax keeps the output dimension last, PyTorch first: Dense IO, Conv WIO and HWIO.
_KERNEL_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
_LEAF_NAMES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
_STATISTICS = {"mean": "running_mean", "var": "running_var"}

_CHUNKED = "__msgpack_chunked_array__"  # how flax splits an array over 1 GiB
_DEEPEST = 64
_MOST_VALUES = 1_000_000

_NUMBERS = {
    0xCA: ">f", 0xCB: ">d",
    0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
# first byte: (kind, how its length is written)
_SIZED = {
    0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I"),
    0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I"),
    0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"),
    0xDC: ("array", ">H"), 0xDD: ("array", ">I"),
    0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip
_NDARRAY, _SCALAR = 1, 3  # flax's own types in msgpack


@dataclasses.dataclass(frozen=True)
class _Bytes:
    start: int
    length: int


def read_flax_msgpack(path: Path) -> dict[str, StoredTensor]:
    """Read what a Flax weight file holds; payloads stay in the file.

    Args:
        path: flax_model.msgpack, or a shard of one.

    Returns:
        Tensors by PyTorch's names, in PyTorch's layouts.

    Raises:
        CheckpointError: it is not such a file, or is damaged.
    """
    return parse_flax_msgpack(map_file(path), path.name)


def parse_flax_msgpack(data: memoryview, source: str) -> dict[str, StoredTensor]:
    """The same for bytes.

    Args:
        data: the whole file.
        source: its name, for messages.

    Returns:
        Tensors by PyTorch's names, in PyTorch's layouts.

    Raises:
        CheckpointError: as `read_flax_msgpack`.
    """
    head = bytes(data[:64])
    what = sniff(head)
    if what is not None or not (0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        raise CheckpointError(f"{source} {what or 'is not a Flax weight file, which begins with a msgpack map'}")
    walk = _Walk(data, source)
    tree = walk.value(len(data), 0)
    if walk.at != len(data):
        raise CheckpointError(f"{source} is damaged: it goes on after its end, at byte {walk.at}; {AGAIN}")
    # Models with batch norms were saved as two collections, the others without any.
    collections = tree if tree.keys() <= {"params", "batch_stats"} else {"params": tree}
    found: dict[str, StoredTensor] = {}
    for collection, part in collections.items():
        for path, leaf in _leaves(part, (), source):
            name = pytorch_name(path, statistics=collection == "batch_stats")
            if name in found:
                raise CheckpointError(f"{source} holds two tensors that PyTorch both calls {name[:120]!r}")
            found[name] = _output_first(leaf) if path[-1] == "kernel" else leaf
    return found


def pytorch_name(path: Sequence[str], *, statistics: bool = False) -> str:
    """Name a Flax parameter as PyTorch does.

    Args:
        path: the keys from the root of the tree to the parameter.
        statistics: it is from the collection `batch_stats`.

    Returns:
        The dotted name.

    >>> pytorch_name(["bert", "encoder", "layer", "0", "attention", "self", "query", "kernel"])
    'bert.encoder.layer.0.attention.self.query.weight'
    """
    *modules, leaf = path
    return ".".join([*modules, (_STATISTICS if statistics else _LEAF_NAMES).get(leaf, leaf)])


def _leaves(tree: Any, path: tuple[str, ...], source: str) -> list[tuple[tuple[str, ...], StoredTensor]]:
    if isinstance(tree, StoredTensor) and path:
        return [(path, tree)]
    if isinstance(tree, Mapping):
        return [leaf for key, value in tree.items() for leaf in _leaves(value, (*path, key), source)]
    where = "/".join(path)[:120] or "its root"
    raise CheckpointError(f"{source} holds a {type(tree).__name__.strip('_')} at {where}, expected arrays only")


def _output_first(kernel: StoredTensor) -> StoredTensor:
    axes = _KERNEL_AXES.get(len(kernel.shape))
    if axes is None:
        return kernel
    return dataclasses.replace(
        kernel,
        shape=tuple(kernel.shape[axis] for axis in axes),
        read=lambda: np.ascontiguousarray(kernel.read().transpose(axes)),
    )


class _Walk:
    """Reads msgpack values one after the other; arrays become StoredTensor, byte strings their place in the file."""

    def __init__(self, data: memoryview, source: str) -> None:
        self.data, self.at, self.source = data, 0, source
        self.values = 0

    def damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.source} is damaged: {what} near byte {self.at}; {AGAIN}")

    def take(self, count: int, end: int) -> _Bytes:
        if count > end - self.at:
            if end == len(self.data):
                raise CheckpointError(
                    f"{self.source} is truncated: expected at least {self.at + count} bytes, have {end}; {AGAIN}"
                )
            raise self.damaged("an array is longer than its frame")
        self.at += count
        return _Bytes(self.at - count, count)

    def number(self, code: str, end: int) -> Any:
        return struct.unpack_from(code, self.data, self.take(struct.calcsize(code), end).start)[0]

    def value(self, end: int, depth: int) -> Any:
        """The next value, which must end before `end`."""
        self.values += 1
        if depth > _DEEPEST or self.values > _MOST_VALUES:
            raise self.damaged("its tree is deeper or larger than that of any model")
        first = self.number(">B", end)
        if first <= 0x7F:
            return first
        if first <= 0x8F:
            return self.map(first & 0x0F, end, depth)
        if first <= 0x9F:
            return [self.value(end, depth + 1) for _ in range(first & 0x0F)]
        if first <= 0xBF:
            return self.text(first & 0x1F, end)
        if first >= 0xE0:
            return first - 0x100
        if first in _NUMBERS:
            return self.number(_NUMBERS[first], end)
        if 0xD4 <= first <= 0xD8:
            return self.extension(1 << (first - 0xD4), end, depth)
        if first in _SIZED:
            kind, code = _SIZED[first]
            length = self.number(code, end)
            match kind:
                case "bin":
                    return self.take(length, end)
                case "ext":
                    return self.extension(length, end, depth)
                case "str":
                    return self.text(length, end)
                case "array":
                    return [self.value(end, depth + 1) for _ in range(length)]
                case _:
                    return self.map(length, end, depth)
        if first == 0xC1:
            raise self.damaged("a byte that msgpack does not use")
        return {0xC0: None, 0xC2: False, 0xC3: True}[first]

    def text(self, length: int, end: int) -> str:
        place = self.take(length, end)
        try:
            return str(self.data[place.start : place.start + length], "utf-8")
        except UnicodeDecodeError:
            raise self.damaged("a text that is not UTF-8") from None

    def map(self, length: int, end: int, depth: int) -> Any:
        found: dict[str, Any] = {}
        for _ in range(length):
            key = self.value(end, depth + 1)
            if not isinstance(key, str) or key in found:
                raise self.damaged("a key that is repeated or not a text")
            found[key] = self.value(end, depth + 1)
        return self.joined(found) if _CHUNKED in found else found

    def extension(self, length: int, end: int, depth: int) -> StoredTensor:
        kind = self.number(">b", end)
        end = self.at + length if length <= end - self.at else self.take(length, end).start
        if kind not in (_NDARRAY, _SCALAR):
            raise self.damaged(f"a value of type {kind}, which is not an array,")
        match self.value(end, depth + 1):
            case [list(shape), str(name), _Bytes() as payload] if self.at == end:
                return self.tensor(shape, name, payload)
        raise self.damaged("an array without shape, dtype and payload")

    def tensor(self, shape: list[Any], name: str, payload: _Bytes) -> StoredTensor:
        if name not in _DTYPES:
            raise CheckpointError(
                f"{self.source} holds an array of type {name[:40]!r}, which is not read; the types are "
                + ", ".join(_DTYPES)
            )
        dtype, data = _DTYPES[name], self.data
        sizes = self.sizes(shape)
        if math.prod(sizes) * dtype.itemsize != payload.length:
            raise self.damaged(f"an array of shape {sizes} and type {name} in {payload.length} bytes")
        return StoredTensor(sizes, dtype, lambda: array_at(data, dtype, payload.start, sizes))

    def sizes(self, shape: list[Any]) -> tuple[int, ...]:
        if len(shape) > 32 or any(type(size) is not int or not 0 <= size <= len(self.data) for size in shape):
            raise self.damaged("an array without a proper shape")
        return tuple(shape)

    def joined(self, found: dict[str, Any]) -> StoredTensor:
        """An array that was split: {'shape': {'0': ..}, 'chunks': {'0': array, ..}}."""
        match found:
            case {"shape": dict(shape), "chunks": dict(chunks)} if chunks:
                sizes, parts = self.sizes(list(shape.values())), list(chunks.values())
            case _:
                raise self.damaged("a split array without shape and parts")
        if (
            not all(isinstance(part, StoredTensor) and len(part.shape) == 1 for part in parts)
            or len({part.dtype for part in parts}) > 1
            or sum(part.shape[0] for part in parts) != math.prod(sizes)
        ):
            raise self.damaged("a split array whose parts do not fit")

        def read() -> np.ndarray:
            whole = np.empty(math.prod(sizes), parts[0].dtype)
            ends = list(itertools.accumulate(part.shape[0] for part in parts))
            for part, stop in zip(parts, ends, strict=True):
                whole[stop - part.shape[0] : stop] = part.read()
            return whole.reshape(sizes)

        return StoredTensor(sizes, parts[0].dtype, read)
