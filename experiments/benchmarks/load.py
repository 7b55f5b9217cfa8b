"""From process start to an import, to a large checkpoint in memory, and to a first answer, beside transformers'.

    python -m experiments.benchmarks.load --model FOLDER

Each figure is of a process of its own, ours and theirs in turn, the median of several. The large checkpoint is a GPT-2 of random
parameters in one model.safetensors (`--gigabytes`), written once and read through once, so both sides find it in the system's
page cache. Memory is the process's peak over what it held after the imports, pages of the mapped file among it. The first answer
is that of a text-classification pipeline over MODEL: cold with an empty compilation cache, warm with the one the cold run left.
Needs the [parity] extra. Run it on a quiet machine.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

SIDES = ("jaxformers", "transformers")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str
    """A local folder in Hugging Face layout, with its tokenizer, for the first answer."""
    gigabytes: float = 1.0
    """Size of the large checkpoint, 10^9 bytes."""
    rounds: int = 5
    """Processes of each kind."""
    output: Path = Path("out/benchmarks/load.json")
    """Where the figures go."""


def peak() -> int:
    """The most this process has held so far, bytes (getrusage would tell what its parent held when it was started)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def ours(what: str, folder: str) -> dict[str, Any]:
    """One of our processes."""
    import jaxformers as jf

    if what == "import":
        return {}
    if what == "answer":
        pipe = jf.pipeline("text-classification", folder)
        return {"answer": pipe("It works, and it is fast.")}
    import jax

    jax.devices()
    jf.load(
        {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 8, "n_positions": 8}, "causal-lm"
    )
    before, start = peak(), time.perf_counter()
    jax.block_until_ready(jf.load(folder, "causal-lm").params)
    return {"load_seconds": time.perf_counter() - start, "load_bytes": peak() - before}


def theirs(what: str, folder: str) -> dict[str, Any]:
    """One of transformers' processes."""
    import transformers

    if what == "import":
        return {}
    make: Any = transformers.pipeline
    if what == "answer":
        return {"answer": make("text-classification", model=folder, device=-1)("It works, and it is fast.")}
    gpt2: Any = transformers.GPT2LMHeadModel
    gpt2(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=8, n_positions=8))
    before, start = peak(), time.perf_counter()
    model = gpt2.from_pretrained(folder)
    total = sum(float(parameter.sum()) for parameter in model.parameters())  # it maps the file: now it has read it
    return {"load_seconds": time.perf_counter() - start, "load_bytes": peak() - before, "sum": total}


def side(who: str, what: str, folder: str) -> None:
    """One process; the last line printed is JSON."""
    print(json.dumps((ours if who == SIDES[0] else theirs)(what, folder)))


def measure(who: str, what: str, folder: Path | str, cache: Path) -> dict[str, Any]:
    """Starts one process and waits for it."""
    command = [sys.executable, "-m", "experiments.benchmarks.load", "side", who, what, str(folder)]
    environment = {**os.environ, "JAXFORMERS_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return {"seconds": time.perf_counter() - start, **json.loads(done.stdout.splitlines()[-1])}


def large(folder: Path, gigabytes: float) -> int:
    """Writes the large checkpoint; returns its bytes."""
    import jaxformers as jf

    width, vocabulary = 1024, 50257
    layers = round((gigabytes * 1e9 / 4 - width * (vocabulary + 1024)) / (12 * width * width))
    sizes = {"model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": 16, "vocab_size": vocabulary}
    jf.save(jf.load(sizes, "causal-lm"), folder)
    file = folder / "model.safetensors"
    return len(file.read_bytes())


def main(options: Options) -> None:
    """Runs all and tells."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        size = large(place / "large", options.gigabytes)
        answering = place / "answering"
        import jaxformers as jf

        jf.save(jf.load(options.model, "sequence-classification"), answering, jf.load_tokenizer(options.model))
        for turn in range(options.rounds):
            for who in SIDES:
                cache = place / f"cache-{turn}"
                for name, what, folder in (
                    ("import", "import", place),
                    ("large checkpoint", "load", place / "large"),
                    ("first answer, cold", "answer", answering),
                    ("first answer, warm", "answer", answering),
                ):
                    rows.append({"who": who, "what": name, **measure(who, what, folder, cache)})
    print(f"large checkpoint: {size / 1e9:.3f} GB; medians of {options.rounds}")
    for name in dict.fromkeys(row["what"] for row in rows):
        for who in SIDES:
            found = [row for row in rows if (row["what"], row["who"]) == (name, who)]
            middle = {key: statistics.median(row[key] for row in found) for key in ("seconds", "load_seconds", "load_bytes")
                      if key in found[0]}  # fmt: skip
            told = f"{name:20} {who:12} {middle['seconds']:6.2f} s from start to end"
            if "load_bytes" in middle:
                told += (
                    f"; loading {middle['load_seconds']:.2f} s, peak {middle['load_bytes'] / size:.3f} times the file"
                )
            print(told)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"bytes": size, "runs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        side(*sys.argv[2:])
    else:
        main(tyro.cli(Options, description=__doc__))
