"""Will a run fit on a pod, and how fast could it be? Compiles an experiment's own train and eval step for TPUs, without one.

    pip install -e '.[aot]'
    python -m tpu.aot experiments.mrpc --topology v5e:4x4 --bf16 --per-device-train-batch-size 32
    python -m tpu.aot experiments.clm --model llama-2-7b --topology v5p:4x4x4 --mesh.fsdp 64 --bf16 --gradient-checkpointing

The TPU compiler runs on a CPU and is given shapes alone, so a model of any size will do. It proves that the steps compile, that
they fit into memory, and which collectives they make; the time is an estimate, from the operations and the chip's peaks, and was
not measured on a TPU. All flags of the experiment are obeyed; `--model` takes a name in jaxformers/checkpoints/published.py, a
config.json, a folder, or a hub id. Batches are padded to the longest length the flags allow. Status 0: it fits; 1: it does not;
2: a wrong argument.
"""

import argparse
import dataclasses
import importlib
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import finetune
from experiments.launch import parse
from jaxformers.checkpoints.load import outline
from jaxformers.checkpoints.published import described
from jaxformers.core import params as core_params
from jaxformers.core.compilation import program_bytes
from jaxformers.data import Table
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.parallel import costs
from jaxformers.train.estimate import bytes_of, model_flops
from jaxformers.train.evaluation import OWN_LENGTHS, make_batches, own_lengths
from jaxformers.train.losses import LossFn
from jaxformers.train.placement import suited_mesh
from jaxformers.train.record import used_columns
from jaxformers.train.step import batch_sharding, make_eval_step, make_train_step
from tpu.chips import Chip, chip_of

GIB = 2**30
SEARCHES = 8  # programs compiled to find the largest batch, at most


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run that is planned: what `fit` would be given, but for numbers.

    Args:
      name: what its model is called.
      model: with abstract parameters.
      config: the experiment's flags.
      loss: the task's loss where it is not the head's own.
      columns: column of a batch -> its shape beyond the rows, at the longest, and its dtype.
      scored: whether an evaluation keeps predictions for its metrics.
    """

    name: str
    model: Model
    config: Any
    loss: LossFn | None
    columns: Mapping[str, tuple[tuple[int, ...], np.dtype]]
    scored: bool

    def batch(self, rows: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch of `rows` on `mesh`, without memory."""
        return {
            name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=batch_sharding((rows, *shape), mesh, name))
            for name, (shape, dtype) in self.columns.items()
        }


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled step on one device. Memory in bytes, time in seconds, `flops` those of matrix products.

    Args:
      fits: whether the compiler could place it.
      memory: what it takes at its fullest: arguments, results that do not replace them, what is between, and its code.
      costs: what it does; None where it does not fit.
      compile_seconds: how long the compiler took.
    """

    fits: bool
    memory: float
    costs: costs.Costs | None
    compile_seconds: float


def subject(experiment: str, flags: Sequence[str]) -> Subject:
    """Reads the flags as the experiment does, and learns from its bundled data what a batch of it holds."""
    try:
        module = importlib.import_module(experiment)
    except ModuleNotFoundError as error:
        raise InputError(f"there is no experiment {experiment} ({error}); say it as in experiments.mrpc") from None
    if not hasattr(module, "Config"):
        raise InputError(f"{experiment} is no experiment: it has no Config")
    config = parse(module.Config, flags, module.__doc__ or "", f"python -m tpu.aot {experiment}")
    recipe = module.RECIPE if hasattr(module, "RECIPE") else module.recipe(config.task)
    small = config.replace(**recipe.small.settings, max_train_samples=64, max_eval_samples=8)
    splits = finetune.read(small, "bundled", recipe)
    tokenizer = recipe.small.learn(recipe.texts(splits["train"]))
    prepared = recipe.prepare(splits, tokenizer, small)
    if prepared.build is not None:
        raise InputError(f"{experiment} builds its model itself, of several; that cannot be planned here")
    name = config.model or recipe.model
    model = outline(described(name), recipe.head, **prepared.overrides)
    table = used_columns(model, prepared.examples["train"], config)
    columns = longest(model, table, config, prepared.collator)
    return Subject(name, model, config, prepared.loss, columns, prepared.metrics is not None)


def longest(model: Model, table: Table, config: Any, collator: Any) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The columns of a batch, what is as long as a text being as long as the flags allow."""
    own = own_lengths(model)
    batches = make_batches(table, 1, own_lengths=own, batch_size=2, collator=collator)
    first = batches[0]
    lengths: dict[tuple[bool, int], int] = {}  # as here -> as in the run
    for name in batches.columns:
        answer = name in OWN_LENGTHS and bool(own)
        limit = "max_target_length" if answer else "max_source_length"
        asked = getattr(config, limit, config.max_length) if own else config.max_length
        lengths[answer, first[name].shape[-1]] = asked
    columns: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    for name, rows in first.items():
        answer = name in OWN_LENGTHS and bool(own)
        columns[name] = tuple(lengths.get((answer, n), n) for n in map(int, rows.shape[1:])), rows.dtype
    return columns


def pod(topology: str) -> list[Any]:
    """The devices of a topology such as `v5e:4x4`, as the TPU compiler knows them.

    Raises:
      InputError: there is no TPU compiler, or it knows no such topology.
    """
    for name, value in {
        # Without these libtpu asks a metadata server, which only a TPU machine has, what it runs on.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several may compile at once: none touches a TPU
    }.items():
        os.environ.setdefault(name, value)
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("the TPU compiler is not installed: pip install -e '.[aot]'")
    from jax.experimental import topologies

    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}  # a v4 chip's cores as one device
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices)
    except Exception as error:  # the compiler's own errors have no common type
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the TPU compiler knows no topology {topology!r} ({first}); say it as in v5e:4x4") from None


def compiled(make: Callable[[], Any], chip: Chip) -> Program:
    """Compiles a program and reads what it costs; one that the compiler cannot place does not fit."""
    start = time.perf_counter()
    try:
        program = make()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Program(False, needed(str(error)), None, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    memory = program_bytes(program)
    read = costs.costs(program.as_text(), chip.flops, chip.memory_bandwidth)
    return Program(memory <= chip.memory, memory, read, seconds)


def needed(message: str) -> float:
    """The bytes that a program needs, out of the compiler's words for one that does not fit; NaN where it does not say."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of|temporaries \(([\d.]+)([KMGT])\)", message)
    if found is None:
        return float("nan")
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return float(number) * 1024 ** ("KMGT".index(unit) + 1)


class Plan:
    """The steps of a subject on a mesh, compiled as they are asked for."""

    def __init__(self, subject: Subject, devices: Sequence[Any]) -> None:
        self.subject, self.chip = subject, chip_of(devices[0].device_kind)
        self.mesh = suited_mesh(subject.model.declare(), subject.config.mesh, devices, int(self.chip.memory))
        self.members = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        self.step = make_train_step(
            subject.model, subject.config, loss_fn=subject.loss, num_training_steps=1000, mesh=self.mesh
        )
        self.state = self.step.outline()

    def rows(self, per_member: int) -> int:
        """Rows of one training step."""
        return per_member * self.members * int(self.subject.config.gradient_accumulation_steps)

    def train(self, per_member: int) -> Program:
        """The train step."""
        batch = self.subject.batch(self.rows(per_member), self.mesh)
        return compiled(lambda: self.step.program(self.state, batch), self.chip)

    def evaluation(self) -> Program:
        """The eval step."""
        batch = self.subject.batch(self.subject.config.per_device_eval_batch_size * self.members, self.mesh)
        return compiled(lambda: self._eval_step().program(self.state.params, batch), self.chip)

    def model_flops(self, per_member: int) -> float:
        """What a step must compute, over all devices."""
        subject = self.subject
        batch = subject.batch(self.rows(per_member), self.mesh)
        return model_flops(subject.model, subject.config, batch, subject.loss)

    def _eval_step(self) -> Any:
        subject = self.subject
        loss_only = not subject.scored or subject.config.predict_with_generate
        return make_eval_step(
            subject.model, subject.config, loss_fn=subject.loss, mesh=self.mesh, prediction_loss_only=loss_only
        )


def largest(measure: Callable[[int], tuple[bool, float]], room: float, empty: float, start: int) -> int:
    """The largest batch that fits, to a sixteenth, by compiling a few; the next is guessed by a straight line.

    Args:
      measure: batch -> whether it fits, and its bytes (NaN where they are not known).
      room: bytes there are.
      empty: bytes that are taken with no batch at all.
      start: the first to try.

    Returns:
      The batch, 0 where none fits.

    >>> largest(lambda batch: (batch <= 23, 10.0 + 4 * batch), 105.0, 10.0, 8)
    23
    """
    fits, fails = 0, None
    known = {0: empty}
    batch = start
    for _ in range(SEARCHES):
        good, taken = measure(batch)
        if taken == taken:
            known[batch] = taken
        fits, fails = (batch, fails) if good else (fits, batch)
        if fails is not None and fails - fits <= max(1, fits // 16):
            break
        (low, below), (high, above) = sorted(known.items())[-2:] if len(known) > 1 else ((0, empty), (1, room))
        slope = (above - below) / (high - low)
        guess = int(low + (room - below) / slope) if slope > 0 else 2 * batch
        if guess <= fits:
            guess = fits + max(1, fits // 16)  # to see it fail
        batch = min(guess, 8 * max(fits, 1)) if fails is None else min(max(guess, fits + 1), fails - 1)
    return fits


def report(plan: Plan, experiment: str, topology: str, biggest: bool) -> dict[str, Any]:
    """Compiles what is to be compiled, and says all that is known of it, as plain JSON."""
    subject, chip, config = plan.subject, plan.chip, plan.subject.config
    per_member = config.per_device_train_batch_size
    train, evaluation = plan.train(per_member), plan.evaluation()
    result: dict[str, Any] = {
        "experiment": experiment,
        "model": subject.name,
        "family": subject.model.family.name,
        "parameters": core_params.count(subject.model.declare()),
        "topology": topology,
        "chip": chip.name,
        "devices": plan.mesh.size,
        "mesh": dict(plan.mesh.shape),
        "rows": plan.rows(per_member),
        "rows_of_a_member": per_member,
        "shapes": {name: list(shape) for name, (shape, _) in subject.columns.items()},
        "bf16": config.bf16,
        "gradient_checkpointing": config.gradient_checkpointing,
        "fits": train.fits and evaluation.fits,
        "hbm_bytes": chip.memory,
        "train": told(train, plan, plan.model_flops(per_member)),
        "eval": told(evaluation, plan, None),
    }
    if biggest:
        tried = {per_member: train}

        def measure(rows: int) -> tuple[bool, float]:
            tried[rows] = tried.get(rows) or plan.train(rows)
            print(f"  {rows} rows a member: {tried[rows].memory / GIB:.2f} GiB", flush=True)
            return tried[rows].fits, tried[rows].memory

        best = largest(measure, chip.memory, bytes_of(plan.state), per_member)
        result["largest_batch"] = {"rows_of_a_member": best, "compiled": len(tried)}
        if best:
            result["largest_batch"] |= told(tried[best], plan, plan.model_flops(best))
    return result


def told(program: Program, plan: Plan, model_flops: float | None) -> dict[str, Any]:
    """A program's figures, for one device, as plain JSON."""
    facts: dict[str, Any] = {
        "fits": program.fits,
        "memory_bytes": None if program.memory != program.memory else program.memory,
        "compile_seconds": round(program.compile_seconds, 1),
    }
    costs, chip = program.costs, plan.chip
    if costs is None:
        return facts
    sending = costs.sent / chip.ring_bandwidth
    hidden, in_turn = max(costs.local_seconds, sending), costs.local_seconds + sending
    facts |= {
        "flops": costs.flops,
        "hbm_traffic_bytes": costs.moved,
        "collectives": [dataclasses.asdict(each) for each in costs.collectives],
        "bounded_loops": costs.bounded_loops,
        "unread_loops": costs.unread_loops,
        "unread_kernels": costs.unread_kernels,
        "seconds": {
            "matrix_products": costs.flops / chip.flops,
            "hbm_traffic": costs.moved / chip.memory_bandwidth,
            "operations": costs.local_seconds,
            "sending": sending,
            "step_if_sending_is_hidden": hidden,
            "step_if_nothing_is_hidden": in_turn,
        },
    }
    if model_flops is not None:
        least = model_flops / (plan.mesh.size * chip.flops)
        facts |= {"model_flops": model_flops, "mfu": {"hidden": least / hidden, "in_turn": least / in_turn}}
    return facts


def lines(result: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in result["mesh"].items() if size > 1) or "one device"
    said = [
        f"{result['experiment']} with {result['model']} ({result['family']}, {result['parameters']:,} parameters)",
        f"on {result['topology']}: {result['devices']} × {result['chip']}, {mesh}; {result['rows']} rows a step, "
        f"{result['rows_of_a_member']} to a member; bf16 {'on' if result['bf16'] else 'off'}, "
        f"recomputation {'on' if result['gradient_checkpointing'] else 'off'}",
        "of each device:",
    ]
    for name in ("train", "eval"):
        facts = result[name]
        memory = "more" if facts["memory_bytes"] is None else f"{facts['memory_bytes'] / GIB:.2f}"
        verdict = "fits" if facts["fits"] else "DOES NOT FIT"
        said.append(
            f"  {name} step {verdict}: {memory} of {result['hbm_bytes'] / GIB:.2f} GiB "
            f"(compiled in {facts['compile_seconds']:.0f} s)"
        )
        if "seconds" not in facts:
            continue
        times = facts["seconds"]
        said.append(
            f"    {facts['flops'] / 1e12:.2f} TFLOP ({times['matrix_products'] * 1e3:.1f} ms at peak), "
            f"{facts['hbm_traffic_bytes'] / 1e9:.1f} GB to and from memory ({times['hbm_traffic'] * 1e3:.1f} ms)"
        )
        for each in facts["collectives"]:
            said.append(
                f"    {each['count']} {each['kind']} among {each['group']} devices: {each['sent'] / 1e6:,.1f} MB sent"
            )
        said.append(
            f"    estimated, not measured: {times['step_if_sending_is_hidden'] * 1e3:.1f} ms where sending is hidden behind "
            f"computing, {times['step_if_nothing_is_hidden'] * 1e3:.1f} ms where it is not"
        )
        if facts["bounded_loops"]:
            said.append(f"    {facts['bounded_loops']} loops that may end early are counted as often as they can run")
        if facts["unread_loops"]:
            said.append(f"    {facts['unread_loops']} loops of unknown length are counted once: it takes longer")
        if facts["unread_kernels"]:
            said.append(f"    {facts['unread_kernels']} runs of kernels of unknown cost are left out: it takes longer")
        if "mfu" in facts:
            said.append(f"    estimated MFU {facts['mfu']['in_turn']:.0%} to {facts['mfu']['hidden']:.0%}")
    if "largest_batch" in result:
        best = result["largest_batch"]
        mfu = f", estimated MFU {best['mfu']['in_turn']:.0%} to {best['mfu']['hidden']:.0%}" if "mfu" in best else ""
        said.append(f"largest batch that fits: {best['rows_of_a_member']} rows a member{mfu}")
    return said


def main(argv: Sequence[str]) -> int:
    """Runs the command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tpu.aot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All other flags are the experiment's.",
        allow_abbrev=False,
    )
    parser.add_argument("experiment", help="such as experiments.mrpc")
    parser.add_argument("--topology", required=True, help="such as v5e:4x4, v5p:4x4x4, v4:2x2x2, v6e:4x4")
    parser.add_argument(
        "--largest-batch", action="store_true", help="search the largest per-device train batch that fits"
    )
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    asked, flags = parser.parse_known_args(argv)
    jax.config.update("jax_platforms", "cpu")
    try:
        plan = Plan(subject(asked.experiment, flags), pod(asked.topology))
        result = report(plan, asked.experiment, asked.topology, asked.largest_batch)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines(result)))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if result["fits"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
