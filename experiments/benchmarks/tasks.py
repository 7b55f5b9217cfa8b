"""The experiments' scores beside those of transformers' Trainer, on the same files, model and settings.

    python -m experiments.benchmarks.tasks --task cola --model FOLDER --data FOLDER --seeds 1 --epochs 1

Both sides get the same rows, written once from what the experiment reads from `--data`, the Trainer's defaults (batch 8, learning
rate 5e-5, linear decay) where no flag says otherwise, and the same seeds. Questions are cut into windows of 256 tokens. Prints
both scores and writes `tasks-TASK.json`. Needs the [parity] extra and `accelerate`.
"""

import dataclasses
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import tyro

from experiments import finetune, glue
from experiments.benchmarks.finetune import timed
from experiments.launch import parse


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    task: str
    """One of GLUE's tasks with two classes or a score, or ner, or squad."""
    model: str
    """A local folder in Hugging Face layout."""
    data: str
    """What the experiment's --data takes."""
    seeds: tuple[int, ...] = (1,)
    """One run of each side for each."""
    epochs: float = 1.0
    """Passes over the data."""
    batch_size: int = 8
    """Examples of a training step."""
    learning_rate: float = 5e-5
    """Its first value; it falls to nothing."""
    max_train_samples: int | None = None
    """Only the first so many training examples, on both sides."""
    output: Path = Path("out/benchmarks")
    """The folder where the figures go."""


def rows(options: Options) -> dict[str, list[dict[str, Any]]]:
    """The splits as the experiment reads them, in columns that both sides know."""
    name = options.task if options.task in ("ner", "squad") else "glue"
    module = importlib.import_module(f"experiments.{name}")
    recipe = glue.recipe(options.task) if name == "glue" else module.RECIPE
    config = parse(module.Config, [], "", name).replace(max_train_samples=options.max_train_samples)
    splits = finetune.read(config, options.data, recipe)
    found = {split: list(splits[split]) for split in ("train", "validation")}
    if options.task == "squad":
        found = {
            split: [
                {
                    "question": row["question"],
                    "context": row["context"],
                    "answers": [
                        {"text": t, "answer_start": s} for t, s in zip(row["texts"], row["starts"], strict=True)
                    ],
                }
                for row in table
            ]
            for split, table in found.items()
        }
    return found


def main(options: Options) -> None:
    """Runs both sides for each seed and tells."""
    told: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for split, table in rows(options).items():
            (Path(scratch) / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
        special = options.task in ("ner", "squad")
        name = [f"experiments.{options.task}"] if special else ["experiments.glue", "--task", options.task]
        extra = ["--max-length", "256", "--doc-stride", "85"] if options.task == "squad" else []
        for seed in options.seeds:
            out = Path(scratch) / f"ours-{seed}"
            command = [sys.executable, "-m", *name, "--model", options.model, "--data", scratch, "--seed", str(seed),
                       "--num-train-epochs", str(options.epochs), "--per-device-train-batch-size", str(options.batch_size),
                       "--learning-rate", str(options.learning_rate), "--output-dir", str(out), "--disable-tqdm",
                       "--save-strategy", "no", "--eval-strategy", "no", *extra]  # fmt: skip
            seconds, _ = timed(command, {})
            results = json.loads((out / "all_results.json").read_text())
            told.append({"who": "jaxformers", "seed": seed, "seconds": seconds} | _scores(results))
            print(told[-1], flush=True)
            peer = [sys.executable, str(Path(__file__).with_name("tasks_peer.py")), options.task, options.model, scratch,
                    str(Path(scratch) / f"theirs-{seed}"), str(seed), str(options.epochs),
                    str(options.batch_size), str(options.learning_rate)]  # fmt: skip
            seconds, printed = timed(peer, {})
            told.append(
                {"who": "Trainer", "seed": seed, "seconds": seconds} | _scores(json.loads(printed.splitlines()[-1]))
            )
            print(told[-1], flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"tasks-{options.task}.json").write_text(json.dumps(told, indent=2) + "\n")


def _scores(results: dict[str, Any]) -> dict[str, float]:
    wanted = ("accuracy", "matthews_correlation", "pearson", "spearman", "precision", "recall", "f1", "exact_match")
    return {name: results[f"eval_{name}"] for name in wanted if f"eval_{name}" in results}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
