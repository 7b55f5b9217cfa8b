"""Fine-tuning on MRPC beside transformers' Trainer: whole wall time from process start to exit, cache empty, compile included.

    python -m experiments.benchmarks.finetune --model FOLDER --data FOLDER --seeds 1 2

Each seed is one round: ours, then the Trainer's, each in a process of its own with the same files, settings and threads,
started as people start them: our experiments ask the C library for huge pages, the Trainer does not (`--peer-huge-pages`
gives it them). In between ours is started once more into a fresh folder, to see what the compilation cache saves. Needs the
[parity] extra and `accelerate`. Prints a table and the ratio of summed times, and writes `finetune.json`. Run it on a quiet
machine.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

from experiments import HUGE_PAGES


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str
    """A local folder in Hugging Face layout."""
    data: str
    """A folder with MRPC's train.tsv and dev.tsv."""
    seeds: tuple[int, ...] = (1, 2)
    """One round for each."""
    epochs: float = 3.0
    """Passes over the data."""
    peer_huge_pages: bool = False
    """Start the Trainer with huge pages, too."""
    output: Path = Path("out/benchmarks/finetune.json")
    """Where the figures go."""


def bare() -> dict[str, str]:
    """The environment without what `experiments` set for this process: each run chooses anew."""
    return {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Seconds from process start to exit, and what was printed."""
    start = time.perf_counter()
    done = subprocess.run(command, env={**bare(), **environment}, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, done.stdout


def command_of(options: Options, seed: int, folder: Path) -> list[str]:
    """How `experiments.mrpc` is started."""
    return [sys.executable, "-m", "experiments.mrpc", "--model", options.model, "--data", options.data, "--seed", str(seed),
            "--num-train-epochs", str(options.epochs), "--output-dir", str(folder), "--disable-tqdm"]  # fmt: skip


def ours(options: Options, seed: int, folder: Path, cache: Path) -> tuple[float, dict[str, Any]]:
    """One run of `experiments.mrpc`."""
    seconds, _ = timed(command_of(options, seed, folder), {"JAXFORMERS_CACHE": str(cache)})
    return seconds, json.loads((folder / "all_results.json").read_text())


def compile_seconds_cached(options: Options, seed: int, folder: Path, cache: Path) -> float:
    """What compiling takes when the same command is started again into a fresh folder; it is ended once it has told."""
    environment = {**bare(), "JAXFORMERS_CACHE": str(cache)}
    with subprocess.Popen(command_of(options, seed, folder), env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        told = next(line for line in run.stdout if "programs in" in line)
        run.kill()
    return float(told.split()[-2])


def main(options: Options) -> None:
    """Runs all rounds and tells."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            place = Path(scratch) / str(seed)
            seconds, results = ours(options, seed, place / "ours", place / "cache")
            kept = ("eval_accuracy", "eval_f1", "train_runtime", "compile_seconds", "compilations")
            rows.append({"who": "jaxformers", "seed": seed, "seconds": seconds} | {key: results[key] for key in kept})
            rows[-1]["compile_seconds_cached"] = compile_seconds_cached(options, seed, place / "again", place / "cache")
            print(rows[-1], flush=True)
            peer = [sys.executable, str(Path(__file__).with_name("trainer_peer.py")), options.model, options.data,
                    str(place / "theirs"), str(seed), str(options.epochs)]  # fmt: skip
            seconds, printed = timed(peer, {"GLIBC_TUNABLES": f"{HUGE_PAGES}=1"} if options.peer_huge_pages else {})
            rows.append({"who": "Trainer", "seed": seed, "seconds": seconds, **json.loads(printed.splitlines()[-1])})
            print(rows[-1], flush=True)
    spent = {who: sum(row["seconds"] for row in rows if row["who"] == who) for who in ("jaxformers", "Trainer")}
    ratio = spent["jaxformers"] / spent["Trainer"]
    for row in rows:
        scores = f"accuracy {row['eval_accuracy']:.4f}  F1 {row['eval_f1']:.4f}"
        print(f"{row['who']:12} seed {row['seed']}  {row['seconds']:7.1f} s  {scores}")
    print(f"ratio of whole wall times: {ratio:.3f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"ratio": ratio, "runs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
