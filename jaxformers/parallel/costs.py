"""What a compiled program costs: matrix products, memory traffic, collectives, and how often each runs.

Everything is of one device and one call of the program.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from jaxformers.parallel.collectives import KINDS, Collective, collectives
from jaxformers.parallel.hlo import Computation, Operation, Program, arrays, in_memory, size

# Operations that move nothing: they name what is already there, or hold others.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
        "partition-id", "replica-id", "custom-call", "iota", "opt-barrier"}  # fmt: skip
FLOATS = ("bf16", "f16", "f32")
HOLDERS = ("while", "call", "conditional")  # what runs in them is counted where it stands


@dataclasses.dataclass(frozen=True)
class Sent:
    """Collectives of one kind and group size: how many run in a step, and the bytes each device sends in all of them.

    A ring is assumed: an all-gather of n bytes among g devices sends n(g-1)/g from each, an all-reduce twice that.
    """

    kind: str
    group: int
    count: int
    sent: float


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one step costs one device.

    Args:
      flops: of matrix products and convolutions, recomputation included.
      moved: bytes between the chip's memory (HBM) and its cores.
      local_seconds: sum over operations of the longer of computing and moving.
      collectives: what goes between devices.
      bounded_loops: loops that may end early, counted as often as they can run.
      unread_loops: loops whose length could not be read, counted once.
      unread_kernels: runs of kernels that do not say what they cost, counted as nothing.
    """

    flops: float
    moved: float
    local_seconds: float
    collectives: tuple[Sent, ...]
    bounded_loops: int
    unread_loops: int
    unread_kernels: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends to others."""
        return sum(each.sent for each in self.collectives)


def costs(text: str, peak_flops: float, memory_bandwidth: float) -> Costs:
    """Reads a compiled program's text.

    Args:
      text: `compiled.as_text()`.
      peak_flops: of one device, per second.
      memory_bandwidth: bytes per second.
    """
    program = Program(text)
    times, reader = program.times(), _Reader(program.computations)
    flops = moved = seconds = 0.0
    bounded = unread = kernels = 0
    for name in _running(program):
        computation = program.computations[name]
        for op in computation.operations.values():
            if op.code in HOLDERS:
                trips, exact = program.trips(op) if op.code == "while" else (1, True)
                bounded += trips is not None and not exact
                unread += trips is None
                continue
            computed, carried = reader.flops(computation, op), reader.moved(computation, op)
            kernels += times[name] * ('custom_call_target="tpu_custom_call"' in op.rest and not computed)
            flops += times[name] * computed
            moved += times[name] * carried
            seconds += times[name] * max(computed / peak_flops, carried / memory_bandwidth)
    groups: dict[tuple[str, int], list[Collective]] = {}
    for each in collectives(program):
        groups.setdefault((each.kind, each.size), []).append(each)
    sent = tuple(
        Sent(*key, sum(each.times for each in found), sum(each.sent for each in found))
        for key, found in sorted(groups.items())
    )
    return Costs(flops, moved, seconds, sent, bounded, unread, kernels)


def _running(program: Program) -> list[str]:
    """The computations whose operations run one by one: the first, bodies of loops, branches; not what is fused."""
    found = [program.entry]
    for name in found:
        for op in program.computations[name].operations.values():
            if op.code in HOLDERS:
                inner = [op.called("body") or ""] if op.code == "while" else op.calls()
                found += [each for each in inner if each in program.computations and each not in found]
    return found


class _Reader:
    def __init__(self, computations: Mapping[str, Computation]) -> None:
        self.computations = computations

    # -- computing -----------------------------------------------------------------------------------------------------

    def flops(self, computation: Computation, op: Operation) -> float:
        """Of the matrix products in an operation, and in what it holds."""
        if op.code in ("convolution", "dot"):
            return self._product(computation, op)
        if op.code == "custom-call":  # a kernel says itself what it costs, but for splash attention's
            said = re.search(r'"flops":\s*"?(\d+)', op.rest)
            return float(said[1]) if said else self._attention(computation, op)
        inner = op.called("calls") if op.code in ("fusion", "async-start") else None
        if inner is None:
            return 0.0
        fused = self.computations[inner]
        return sum(self.flops(fused, each) for each in fused.operations.values())

    def _attention(self, computation: Computation, op: Operation) -> float:
        """Of splash attention: its products of queries, keys and values, as if every query looked at every key."""
        kernel = re.match(r"splash_m[hq]a_(fwd|dq|dkv)", op.name)
        if kernel is None:
            return 0.0
        given = [array for name in op.operands for array in arrays(computation.operations[name].shape)]
        # [rows, heads, tokens, head size], or without the rows where a device has one
        queries, keys = [dims for kind, _, dims, _ in given if kind in FLOATS and len(dims) >= 3][:2]
        return {"fwd": 2, "dq": 3, "dkv": 4}[kernel[1]] * 2.0 * math.prod(queries) * keys[-2]

    def _product(self, computation: Computation, op: Operation) -> float:
        """2 × multiplications. A batch dimension of a product is a spatial one here, most of whose places are padding."""
        left, right = (arrays(computation.operations[name].shape)[0][2] for name in op.operands[:2])
        out = arrays(op.shape)[0][2]
        if op.code == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.rest)
            dims = [int(d) for d in contracted[1].split(",") if d] if contracted else []
            return 2.0 * math.prod(out) * math.prod(left[d] for d in dims)
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.rest)
        assert labels is not None
        ours, theirs, result = labels[1], labels[2], labels[3]
        total = 2.0 * out[result.index("b")] * out[result.index("f")] * right[theirs.index("i")]
        for spatial in sorted(set(result) - {"b", "f"}):
            total *= _places(
                left[ours.index(spatial)],
                right[theirs.index(spatial)],
                out[result.index(spatial)],
                _window(op.rest, int(spatial)),
            )
        batches = re.search(r"batch_group_count=(\d+)", op.rest)
        return total / int(batches[1]) if batches else total

    # -- moving --------------------------------------------------------------------------------------------------------

    def moved(self, computation: Computation, op: Operation) -> float:
        """Bytes that an operation reads from HBM and writes to it."""
        if op.code == "custom-call" and self.flops(computation, op):
            return in_memory(op.shape) + sum(in_memory(computation.operations[name].shape) for name in op.operands)
        if op.code in FREE or op.code.endswith("-done") or op.code.startswith(KINDS):
            return 0.0
        if op.code.endswith("-start"):  # a copy: its result is (target, source, …)
            target, *source = arrays(op.shape)[:2]
            return target[1] * sum(hbm for _, _, _, hbm in (target, *source))
        read = sum(self._read(computation, op, place) for place in range(len(op.operands)))
        return read + self._written(computation, op)

    def _read(self, computation: Computation, op: Operation, place: int) -> float:
        """Bytes of an operand that an operation needs: of a slice, its own size."""
        given = computation.operations[op.operands[place]].shape
        if not in_memory(given):
            return 0.0
        if op.code in ("dynamic-slice", "slice", "gather"):
            return min(size(op.shape), size(given))
        if op.code == "dynamic-update-slice" and place == 0:
            return 0.0
        if op.code == "fusion":
            fused = self.computations[op.called("calls") or ""]
            return min(self._needed(fused, str(place)), size(given))
        return in_memory(given)

    def _needed(self, fused: Computation, number: str) -> float:
        parameter = next(op for op in fused.operations.values() if op.code == "parameter" and op.operands == (number,))
        return self._used(fused, parameter)

    def _used(self, fused: Computation, value: Operation) -> float:
        """Bytes of a value that a fused computation looks at."""
        total = 0.0
        for user, place in fused.users(value.name):
            if _same_bytes(user):
                total += self._used(fused, user)
            elif user.code in ("dynamic-slice", "slice", "gather") and place == 0:
                total += size(user.shape)
            elif user.code == "dynamic-update-slice" and place == 0:
                continue
            elif user.code == "fusion":
                total += self._needed(self.computations[user.called("calls") or ""], str(place))
            else:
                return size(value.shape)
        return total

    def _written(self, computation: Computation, op: Operation) -> float:
        """Bytes of a result; of an update in place, the update's."""
        if op.code == "dynamic-update-slice":
            return in_memory(op.shape) and size(computation.operations[op.operands[1]].shape)
        if op.code != "fusion":
            return in_memory(op.shape)
        fused = self.computations[op.called("calls") or ""]
        root = fused.root
        parts = [fused.operations[name] for name in root.operands] if root.code == "tuple" else [root]
        total = 0.0
        for part, (_, whole, _, hbm) in zip(parts, arrays(op.shape), strict=False):
            while _same_bytes(part):
                part = fused.operations[part.operands[0]]
            update = part.code == "dynamic-update-slice"
            total += hbm * (size(fused.operations[part.operands[1]].shape) if update else whole)
        return total


def _same_bytes(op: Operation) -> bool:
    """Whether an operation only gives its operand another shape or layout, in place."""
    return op.code == "bitcast" or (
        op.code == "fusion" and "output_to_operand_aliasing" in op.rest and len(op.operands) == 1
    )


def _window(rest: str, spatial: int) -> dict[str, tuple[int, ...]]:
    """A convolution's window along one spatial dimension."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    window = {"stride": (1,), "pad": (0, 0), "lhs_dilate": (1,), "rhs_dilate": (1,)}
    for word in found[1].split() if found else ():
        key, value = word.split("=")
        window[key] = tuple(int(n) for n in value.split("x")[spatial].split("_"))
    return window


def _places(length: int, kernel: int, out: int, window: Mapping[str, tuple[int, ...]]) -> int:
    """How many pairs of a result's place and a kernel's place meet a real element of the input, along one dimension."""
    (stride,), (dilate,), (spread,), low = (
        window["stride"],
        window["lhs_dilate"],
        window["rhs_dilate"],
        window["pad"][0],
    )
    met = 0
    for place in range(out):
        for tap in range(kernel):
            at = place * stride + tap * spread - low
            met += at % dilate == 0 and 0 <= at // dilate < length
    return met
