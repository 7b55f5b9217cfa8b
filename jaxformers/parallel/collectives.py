"""What a compiled program says over the wire: its collectives by kind and bytes.

>>> compiled = jax.jit(step).lower(state, batch).compile()        # doctest: +SKIP
>>> volume(collectives(compiled.as_text()))                       # doctest: +SKIP
{'all-reduce': 91242860}

The text is the program of one device, so that a figure here is what each device takes part in. The communication volume of a
mesh can thus be asserted without having its devices.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable

from jaxformers.parallel.hlo import Operation, Program, arrays

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


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


def collectives(program: str | Program) -> list[Collective]:
    """The collectives of a compiled program.

    Args:
      program: `jax.stages.Compiled.as_text()`, of any backend, or what was read of it; asynchronous pairs count once.

    Returns:
      One record for each operation that runs, in the order of the text.

    Raises:
      InputError: the text is no HLO module.
    """
    program = Program(program) if isinstance(program, str) else program
    times = program.times()
    # How the TPU's compiler fuses a reduce-scatter: an all-reduce of which a slice is kept.
    scatters = {
        op.called("calls")
        for each in program.computations.values()
        for op in each.operations.values()
        if op.code == "fusion" and "all-reduce-scatter" in op.name
    }
    return [
        found
        for name, computation in program.computations.items()
        if times[name]
        for op in computation.operations.values()
        if (found := _read(op, name in scatters or "all-reduce-scatter" in name, times[name])) is not None
    ]


def volume(found: Iterable[Collective]) -> dict[str, int]:
    """Bytes of all runs by kind: `sum(times · bytes)`, for the kinds that are there."""
    total: Counter[str] = Counter()
    for each in found:
        total[each.kind] += each.times * each.bytes
    return dict(total)


def _read(op: Operation, scatters: bool, times: int) -> Collective | None:
    kind = op.code.removesuffix("-start")
    if kind not in KINDS:
        return None
    moved = [(dtype, math.ceil(count)) for dtype, count, _, _ in arrays(op.shape)]
    if op.code.endswith("-start") and kind != "all-reduce":  # (what goes in, what comes out, …)
        moved = moved[: len(moved) // 2] if kind == "collective-permute" else moved[len(moved) // 2 :]
        moved = moved[:1] if kind == "collective-permute" else moved
    size = _group_size(op.rest)
    whole = size if kind == "reduce-scatter" else 1
    if scatters and kind == "all-reduce":
        kind = "reduce-scatter"
    source = re.search(r'op_name="([^"]*)"', op.rest)
    return Collective(
        kind,
        tuple(dict.fromkeys(dtype for dtype, _ in moved)),
        whole * sum(count for _, count in moved),
        size,
        times,
        op.name,
        source[1] if source else "",
    )


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
