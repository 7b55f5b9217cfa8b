"""What a compiled program costs, read from its text: matrix products, memory traffic, collectives, and how often each runs.

XLA's own `cost_analysis` counts the body of a loop once, whatever the loop's length, and a scan over layers is a loop; so the
text is read here. The text is that of `compiled.as_text()`: one device's program after partitioning, with memory spaces.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
         "u64": 8, "f64": 8, "s4": 0.5, "u4": 0.5, "f8e4m3fn": 1, "f8e5m2": 1}  # fmt: skip
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Operations that move nothing: they name what is already there, or hold others.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
        "partition-id", "replica-id", "custom-call", "iota", "opt-barrier"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Operation:
    """One instruction: `name = shape code(operands), rest`."""

    name: str
    shape: str
    code: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def called(self, key: str) -> str | None:
        """The computation that an attribute such as `calls=` names."""
        found = re.search(rf"\b{key}=%([\w.\-]+)", self.rest)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """A list of operations by name, in the order they run."""

    name: str
    operations: Mapping[str, Operation]

    @property
    def root(self) -> Operation:
        """The operation whose value is the computation's."""
        return next(op for op in self.operations.values() if op.root)

    def users(self, name: str) -> Iterator[tuple[Operation, int]]:
        """Who reads a value, and as which operand."""
        for op in self.operations.values():
            for place, operand in enumerate(op.operands):
                if operand == name:
                    yield op, place


@dataclasses.dataclass(frozen=True)
class Collective:
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
    collectives: tuple[Collective, ...]
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
    computations, entry = parse(text)
    reader = _Reader(computations)
    totals = {"flops": 0.0, "moved": 0.0, "seconds": 0.0}
    groups: dict[tuple[str, int], list[float]] = {}
    bounded = unread = kernels = 0
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        computation = computations[name]
        for op in computation.operations.values():
            if op.code == "while":
                trips, exact = reader.trips(op)
                bounded += trips is not None and not exact
                unread += trips is None
                waiting.append((op.called("body") or "", times * (trips or 1)))
                continue
            if op.code in ("call", "conditional"):
                branches = re.findall(r"%([\w.\-]+)", "".join(re.findall(r"branch_computations=\{[^}]*\}", op.rest)))
                named = [op.called(key) for key in ("to_apply", "true_computation", "false_computation")]
                waiting += [(each, times) for each in (*branches, *named) if each]
                continue
            flops, moved = reader.flops(computation, op), reader.moved(computation, op)
            kernels += times * ('custom_call_target="tpu_custom_call"' in op.rest and not flops)
            totals["flops"] += times * flops
            totals["moved"] += times * moved
            totals["seconds"] += times * max(flops / peak_flops, moved / memory_bandwidth)
            for kind, group, sent in reader.sent(computation, op):
                seen = groups.setdefault((kind, group), [0, 0.0])
                seen[0] += times
                seen[1] += times * sent
    collectives = tuple(Collective(*key, int(count), sent) for key, (count, sent) in sorted(groups.items()))
    return Costs(totals["flops"], totals["moved"], totals["seconds"], collectives, bounded, unread, kernels)


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a program by name, and the name of the one that it starts with."""
    computations: dict[str, Computation] = {}
    entry, name = "", ""
    operations: dict[str, Operation] = {}
    for line in text.splitlines():
        if line.startswith("}"):
            computations[name] = Computation(name, operations)
        elif header := re.match(r"(ENTRY )?%([\w.\-]+) \(", line):
            name, operations = header[2], {}
            entry = name if header[1] else entry
        elif line.startswith("  ") and (op := _operation(line)):
            operations[op.name] = op
    return computations, entry


def _operation(line: str) -> Operation | None:
    head = re.match(r"\s+(ROOT )?%([\w.\-]+) = ", line)
    if head is None:
        return None
    line = re.sub(r"/\*.*?\*/", "", line[head.end() :])
    end = _closing(line, 0) if line[0] == "(" else line.index(" ")
    shape, line = line[:end], line[end:].lstrip()
    start = line.index("(")
    end = _closing(line, start)
    operands = tuple(re.findall(r"%([\w.\-]+)", line[start:end]))
    if line[:start] == "parameter":
        operands = (line[start + 1 : end - 1],)  # its number
    elif line[:start] == "constant":
        operands = (line[start + 1 : end - 1],)  # its value
    return Operation(head[2], shape, line[:start], operands, line[end:], bool(head[1]))


def _closing(line: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if depth == 0:
            return place + 1
    return len(line)


def arrays(shape: str) -> list[tuple[float, tuple[int, ...], bool]]:
    """The arrays of a shape (a tuple has several): bytes, dimensions, and whether each lies in HBM."""
    found = []
    for kind, dims, layout in ARRAY.findall(shape):
        if kind in BYTES:
            sizes = tuple(map(int, dims.split(","))) if dims else ()
            found.append((BYTES[kind] * math.prod(sizes), sizes, re.search(r"S\(\d+\)", layout) is None))
    return found


def size(shape: str) -> float:
    """Bytes of all arrays of a shape."""
    return sum(each for each, _, _ in arrays(shape))


def in_memory(shape: str) -> float:
    """Bytes of those that lie in HBM, not in the core's own memory."""
    return sum(each for each, _, hbm in arrays(shape) if hbm)


class _Reader:
    def __init__(self, computations: Mapping[str, Computation]) -> None:
        self.computations = computations

    # -- loops ---------------------------------------------------------------------------------------------------------

    def trips(self, loop: Operation) -> tuple[int | None, bool]:
        """How often a loop's body runs, and whether that is sure or only the most it can.

        As the program says, or from the counter that its condition compares with a limit; other conditions may end it earlier.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1]), True
        condition, body = (self.computations[loop.called(key) or ""] for key in ("condition", "body"))
        root = condition.root
        tests = [condition.operations[name] for name in root.operands] if root.code == "and" else [root]
        limits = [limit for test in tests if (limit := self._limit(condition, body, test)) is not None]
        return (min(limits), len(tests) == 1) if limits else (None, False)

    def _limit(self, condition: Computation, body: Computation, test: Operation) -> int | None:
        """How often a counter stays below its limit."""
        sides = [condition.operations.get(name) for name in test.operands]
        if test.code != "compare" or "direction=LT" not in test.rest or None in sides:
            return None
        counter, limit = sides
        assert counter is not None
        assert limit is not None
        place = re.search(r"index=(\d+)", counter.rest)
        if limit.code != "constant" or counter.code != "get-tuple-element" or place is None:
            return None
        step = self._step(body, body.root.operands[int(place[1])], int(place[1]))
        return max(1, math.ceil(int(limit.operands[0]) / step)) if step else None

    def _step(self, body: Computation, name: str, place: int) -> int | None:
        """What the body adds to its counter."""
        op = body.operations[name]
        if op.code == "get-tuple-element":
            return 0 if re.search(rf"index={place}\b", op.rest) else None
        if op.code in ("copy", "bitcast"):
            return self._step(body, op.operands[0], place)
        if op.code == "fusion":
            return self._fused_step(op)
        if op.code == "add":
            constants = [self._constant(body, operand) for operand in op.operands]
            others = [o for o, c in zip(op.operands, constants, strict=True) if c is None]
            if len(others) == 1:
                before = self._step(body, others[0], place)
                return None if before is None else before + sum(c for c in constants if c is not None)
        return None

    def _fused_step(self, op: Operation) -> int | None:
        added = [
            self._constant(fused, operand)
            for fused in [self.computations[op.called("calls") or ""]]
            for each in fused.operations.values()
            if each.code == "add"
            for operand in each.operands
        ]
        return sum(value for value in added if value is not None) or None

    def _constant(self, computation: Computation, name: str) -> int | None:
        op = computation.operations.get(name)
        return int(op.operands[0]) if op and op.code == "constant" and op.operands[0].lstrip("-").isdigit() else None

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
        queries, keys = [dims for _, dims, _ in given if len(dims) == 4][:2]
        return {"fwd": 2, "dq": 3, "dkv": 4}[kernel[1]] * 2.0 * math.prod(queries) * keys[-2]

    def _product(self, computation: Computation, op: Operation) -> float:
        """2 × multiplications. A batch dimension of a product is a spatial one here, most of whose places are padding."""
        left, right = (arrays(computation.operations[name].shape)[0][1] for name in op.operands[:2])
        out = arrays(op.shape)[0][1]
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
        if op.code in FREE or op.code.endswith("-done") or op.code.startswith(COLLECTIVES):
            return 0.0
        if op.code.endswith("-start"):  # a copy: its result is (target, source, …)
            target, *source = arrays(op.shape)[:2]
            return target[0] * sum(hbm for _, _, hbm in (target, *source))
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
        for part, (whole, _, hbm) in zip(parts, arrays(op.shape), strict=False):
            while _same_bytes(part):
                part = fused.operations[part.operands[0]]
            update = part.code == "dynamic-update-slice"
            total += hbm * (size(fused.operations[part.operands[1]].shape) if update else whole)
        return total

    # -- between devices -----------------------------------------------------------------------------------------------

    def sent(self, computation: Computation, op: Operation) -> Iterator[tuple[str, int, float]]:
        """The collectives in an operation: kind, devices of a group, and bytes that each sends."""
        if op.code in ("fusion", "async-start") and (inner := op.called("calls")):
            fused = self.computations[inner]
            scattered = "all-reduce-scatter" in op.name or "all-reduce-scatter" in inner
            for each in fused.operations.values():
                for kind, group, sent in self.sent(fused, each):
                    # An all-reduce of which each device keeps a piece is what a reduce-scatter is called here.
                    yield (
                        ("reduce-scatter", group, sent / 2)
                        if scattered and kind == "all-reduce"
                        else (kind, group, sent)
                    )
            return
        kind = op.code.removesuffix("-start")
        if kind not in COLLECTIVES:
            return
        group = _group(op.rest)
        share = (group - 1) / group
        given = sum(size(computation.operations[name].shape) for name in op.operands)
        if kind == "collective-permute":
            yield kind, 2, given
        elif kind == "all-gather":
            yield kind, group, given * (group - 1)
        else:
            yield kind, group, given * share * (2 if kind == "all-reduce" else 1)


def _same_bytes(op: Operation) -> bool:
    """Whether an operation only gives its operand another shape or layout, in place."""
    return op.code == "bitcast" or (
        op.code == "fusion" and "output_to_operand_aliasing" in op.rest and len(op.operands) == 1
    )


def _group(rest: str) -> int:
    """How many devices take part in a collective together."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return found[1].count(",") + 1
    return 2


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
