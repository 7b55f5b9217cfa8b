"""What a compiled program says over the wire: a reader of HLO text that counts collectives by kind and bytes.

>>> compiled = jax.jit(step).lower(state, batch).compile()        # doctest: +SKIP
>>> volume(collectives(compiled.as_text()))                       # doctest: +SKIP
{'all-reduce': 91242860}

The text is the program of one device, so that a figure here is what each device takes part in. Bodies of loops count as often
as the compiler knows that they run. The communication volume of a mesh can thus be asserted without having its devices.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from jaxformers.errors import InputError

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?[\]})]) ([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+[a-z0-9]*)\[([0-9,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a program.

    Args:
      kind: one of `KINDS`.
      dtypes: of the arrays it joins.
      bytes: of the whole arrays, once: what an all-reduce sums, what an all-gather gives, what a reduce-scatter takes, what an
        all-to-all or a collective-permute moves on one device.
      size: devices in a group.
      times: how often it runs in one call of the program.
      name: the operation's name in the text.
      source: the operation it comes from, as JAX calls it; empty where the text does not say.
    """

    kind: str
    dtypes: tuple[str, ...]
    bytes: int
    size: int
    times: int
    name: str
    source: str = ""

    @property
    def sent(self) -> float:
        """Bytes that each device sends in one call of the program, all runs together, by the usual ring algorithms."""
        n = max(self.size, 1)
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}.get(self.kind, (n - 1) / n)
        return self.times * self.bytes * share


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program.

    Args:
      text: `jax.stages.Compiled.as_text()`, of any backend; asynchronous pairs count once.

    Returns:
      One record for each operation that runs, in the order of the text.

    Raises:
      InputError: `text` is no HLO module.
    """
    computations, entry = _computations(text)
    times = _times(computations, entry)
    return [
        found
        for name, lines in computations.items()
        if times[name]
        for line in lines
        if (found := _read(line, name, times[name])) is not None
    ]


def volume(found: Iterable[Collective]) -> dict[str, int]:
    """Bytes of all runs by kind: `sum(times · bytes)`, for the kinds that are there."""
    total: Counter[str] = Counter()
    for each in found:
        total[each.kind] += each.times * each.bytes
    return dict(total)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    found: dict[str, list[str]] = {}
    entry = None
    inside: list[str] | None = None
    for line in text.splitlines():
        if inside is None:
            if start := _COMPUTATION.match(line):
                inside = found[start[2]] = []
                entry = start[2] if start[1] else entry
        elif line.startswith("}"):
            inside = None
        else:
            inside.append(line)
    if entry is None:
        raise InputError("this is no text of a compiled program: it has no ENTRY computation")
    return found, entry


def _times(computations: dict[str, list[str]], entry: str) -> Counter[str]:
    """How often each computation runs: callers before what they call, loops as often as they are known to (else once)."""
    calls = {name: Counter(_called(lines)) for name, lines in computations.items()}
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in calls:
            return
        seen.add(name)
        for other in calls[name]:
            visit(other)
        order.append(name)

    visit(entry)
    times: Counter[str] = Counter({entry: 1})
    for name in reversed(order):
        for other, each in calls[name].items():
            times[other] += times[name] * each
    return times


def _called(lines: list[str]) -> Iterator[str]:
    for line in lines:
        trips = int(found[1]) if " while(" in line and (found := _TRIPS.search(line)) else 1
        for match in _CALLED.finditer(line.split(", metadata={")[0]):
            for name in match[1].strip("{}").split(","):
                yield from [name.strip().lstrip("%")] * trips


def _read(line: str, computation: str, times: int) -> Collective | None:
    operation = _OPERATION.match(line)
    if operation is None:
        return None
    name, result, what = operation.groups()
    kind = what.removesuffix("-start")
    if kind not in KINDS:
        return None
    arrays = [(dtype, _bytes(dtype, shape)) for dtype, shape in _ARRAY.findall(result)]
    if what.endswith("-start") and kind != "all-reduce":  # (what goes in, what comes out, …)
        arrays = arrays[: len(arrays) // 2] if kind == "collective-permute" else arrays[len(arrays) // 2 :]
        arrays = arrays[:1] if kind == "collective-permute" else arrays
    size = _group_size(line)
    if "all-reduce-scatter" in computation:  # how the TPU's compiler fuses one: an all-reduce of which a slice is kept
        kind = "reduce-scatter"
    whole = size if what.startswith("reduce-scatter") else 1
    source = re.search(r'op_name="([^"]*)"', line)
    return Collective(
        kind,
        tuple(dict.fromkeys(dtype for dtype, _ in arrays)),
        whole * sum(count for _, count in arrays),
        size,
        times,
        name,
        source[1] if source else "",
    )


def _bytes(dtype: str, shape: str) -> int:
    bits = _BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])  # type: ignore[index]
    return math.ceil(bits * int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64)) / 8)


def _group_size(line: str) -> int:
    """Devices in one group; the text writes groups out, as a shape over all devices, or as axes of a mesh."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[(?:\d+,)*(\d+)\]<=", line):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return found[1].count("{")
    return 0
