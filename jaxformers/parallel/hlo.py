"""A reader of compiled programs: the text of `compiled.as_text()` as computations, operations and the arrays they hold.

The text is that of one device's program after partitioning, of any backend. XLA's own `cost_analysis` counts the body of a loop
once, whatever the loop's length, and a scan over layers is a loop; so the text is read, and loops are counted as often as the
program says, or as the counter in their condition does. What is made of it: `collectives` and `costs`.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from jaxformers.errors import InputError

ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}  # of the others the name says it: s32, f8e4m3fn
CALLS = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation|branch_computations|called_computations)"
    r"=(\{[^}]*\}|%[\w.\-]+)"
)


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

    def calls(self) -> Iterator[str]:
        """All computations that its attributes name."""
        for match in CALLS.finditer(self.rest.split(", metadata={")[0]):
            for name in match[1].strip("{}").split(","):
                yield name.strip().lstrip("%")


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


class Program:
    """A program's computations by name, and the name of the one that it starts with.

    Args:
      text: `jax.stages.Compiled.as_text()`.

    Raises:
      InputError: `text` is no HLO module.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        self.entry = name = ""
        operations: dict[str, Operation] = {}
        for line in text.splitlines():
            if line.startswith("}"):
                self.computations[name] = Computation(name, operations)
            elif header := re.match(r"(ENTRY )?%([\w.\-]+) \(", line):
                name, operations = header[2], {}
                self.entry = name if header[1] else self.entry
            elif line.startswith("  ") and (op := _operation(line)):
                operations[op.name] = op
        if not self.entry:
            raise InputError("this is no text of a compiled program: it has no ENTRY computation")

    def times(self) -> Counter[str]:
        """How often each computation runs in one call of the program, at most; bodies of loops of unknown length, once."""
        calls = {name: self._calls(each) for name, each in self.computations.items()}
        order: list[str] = []
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name in seen or name not in calls:
                return
            seen.add(name)
            for other in calls[name]:
                visit(other)
            order.append(name)

        visit(self.entry)
        times: Counter[str] = Counter({self.entry: 1})
        for name in reversed(order):  # callers before what they call
            for other, each in calls[name].items():
                times[other] += times[name] * each
        return times

    def _calls(self, computation: Computation) -> Counter[str]:
        called: Counter[str] = Counter()
        for op in computation.operations.values():
            trips = (self.trips(op)[0] or 1) if op.code == "while" else 1
            for name in op.calls():
                called[name] += trips
        return called

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


def arrays(shape: str) -> list[tuple[str, float, tuple[int, ...], bool]]:
    """The arrays of a shape (a tuple has several): dtype, bytes, dimensions, and whether each lies in the device's memory."""
    found = []
    for kind, dims, layout in ARRAY.findall(shape):
        digits = re.search(r"\d+", kind)
        if bits := BITS.get(kind) or (digits and int(digits[0])):  # neither of which a token has
            sizes = tuple(map(int, dims.split(","))) if dims else ()
            found.append((kind, bits * math.prod(sizes) / 8, sizes, re.search(r"S\(\d+\)", layout) is None))
    return found


def size(shape: str) -> float:
    """Bytes of all arrays of a shape."""
    return sum(each for _, each, _, _ in arrays(shape))


def in_memory(shape: str) -> float:
    """Bytes of those that lie in the device's memory, not in the core's own."""
    return sum(each for _, each, _, here in arrays(shape) if here)
