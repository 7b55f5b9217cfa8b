"""Pipelines over many texts of mixed length, beside transformers': texts a second, and memory.

    python -m experiments.benchmarks.pipelines --model FOLDER --texts FILE [FILE ...]

Both sides get the same model (its trunk with a new head, saved once, so that both read one folder), the same texts in the same
order (drawn from the lines of the files), the same threads and huge pages, each task and side in a process of its own, in turn.
transformers is given its best of several batch sizes. A rate is that of the best of several passes over all texts after a first
one, which compiles and is told apart. Needs the [parity] extra. Run it on a quiet machine.
"""

import dataclasses
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

TASKS = {
    "text-classification": "sequence-classification",
    "feature-extraction": None,
    "token-classification": "token-classification",
}
BATCH_SIZES = (1, 8, 32)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str
    """A local folder in Hugging Face layout, with its tokenizer."""
    texts: tuple[Path, ...]
    """Text files; each line is a text."""
    count: int = 2000
    """Texts drawn from them."""
    passes: int = 2
    """Passes over all texts that are timed."""
    output: Path = Path("out/benchmarks/pipelines.json")
    """Where the figures go."""


def ours(task: str, folder: str, texts: list[str], passes: int) -> dict[str, Any]:
    """Rates of our pipeline."""
    import jaxformers as jf

    pipe = jf.pipeline(task, folder)
    first, *times = timed(lambda: pipe(texts), passes + 1)
    compiled = pipe.forward.compiled
    return {
        "rate": len(texts) / min(times),
        "first_pass_seconds": first,
        "compilations": compiled.compilations,
        "compile_seconds": compiled.seconds,
    }


def theirs(task: str, folder: str, texts: list[str], passes: int) -> dict[str, Any]:
    """Rates of transformers' pipeline, at its best batch size."""
    import transformers

    make: Any = transformers.pipeline
    pipe = make(task, model=folder, device=-1)
    pipe(texts[:32], batch_size=8)
    rates = {
        size: len(texts) / min(timed(lambda size=size: pipe(texts, batch_size=size), passes)) for size in BATCH_SIZES
    }
    return {"rate": max(rates.values()), "rates": rates}


def timed(work: Any, times: int) -> list[float]:
    """Seconds of each of several runs."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def draw(files: tuple[Path, ...], count: int) -> list[str]:
    """`count` lines of the files, equally many of each, mixed."""
    chosen = random.Random(0)
    lines: list[str] = []
    for file in files:
        found = [line.strip() for line in file.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        lines += chosen.sample(found, min(len(found), -(-count // len(files))))
    chosen.shuffle(lines)
    return lines[:count]


def side(who: str, task: str, folder: str, texts: str, passes: str) -> None:
    """One side of one task, in this process; the last line printed is JSON."""
    run = ours if who == "jaxformers" else theirs
    result = run(task, folder, json.loads(Path(texts).read_text()), int(passes))
    result["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result))


def main(options: Options) -> None:
    """Runs both sides of all tasks and tells."""
    import jaxformers as jf

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        texts = Path(scratch) / "texts.json"
        texts.write_text(json.dumps(draw(options.texts, options.count)))
        for task, head in TASKS.items():
            folder = Path(scratch) / task
            jf.save(jf.load(options.model, head), folder, jf.load_tokenizer(options.model))
            for who in ("jaxformers", "transformers"):
                command = [sys.executable, "-m", "experiments.benchmarks.pipelines", "side", who, task, str(folder), str(texts),
                           str(options.passes)]  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
                if done.returncode:
                    sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
                rows.append({"who": who, "task": task, **json.loads(done.stdout.splitlines()[-1])})
                print(rows[-1], flush=True)
    ratios = {
        task: next(r["rate"] for r in rows if (r["who"], r["task"]) == ("jaxformers", task))
        / next(r["rate"] for r in rows if (r["who"], r["task"]) == ("transformers", task))
        for task in TASKS
    }
    for row in rows:
        print(f"{row['task']:22} {row['who']:13} {row['rate']:7.1f} texts/s  {row['memory_mib']:6} MiB")
    for task, ratio in ratios.items():
        print(f"{task:22} {ratio:.2f} times as many texts a second")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"ratios": ratios, "runs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        side(*sys.argv[2:])
    else:
        main(tyro.cli(Options, description=__doc__))
