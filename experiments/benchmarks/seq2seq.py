"""Translation and summarization from nothing beside transformers' Seq2SeqTrainer: same parameters, rows, settings and budget.

    python -m experiments.benchmarks.seq2seq --task translation --data multi30k --epochs 3
    python -m experiments.benchmarks.seq2seq --task summarization --data dialogsum.jsonl --epochs 10

Ours is the experiment as anyone starts it, with `--data` and no `--model`; the Trainer opens the random parameters it starts
from, as we write them, and its tokenizer. Both score what the model writes greedily for the held-out rows, by sacrebleu and
rouge-score. Prints the scores and writes `seq2seq-TASK.json`. Needs the [parity] and [metrics] extras and `accelerate`.
"""

import dataclasses
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import tyro

from experiments import finetune
from experiments.benchmarks.finetune import timed
from experiments.launch import parse
from jaxformers.checkpoints import load, save

COLUMNS = {"translation": ("en", "de"), "summarization": ("dialogue", "summary")}
SCORES = ("loss", "bleu", "rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    task: Literal["translation", "summarization"]
    """Which experiment."""
    data: str
    """What the experiment's --data takes."""
    epochs: float
    """Passes over the data."""
    seed: int = 42
    """For the parameters, the order of the rows and dropout."""
    max_train_samples: int | None = None
    """Only the first so many training rows, on both sides."""
    max_eval_samples: int | None = None
    """Only the first so many held-out rows, on both sides."""
    output: Path = Path("out/benchmarks")
    """The folder where the figures go."""


def main(options: Options) -> None:
    """Runs both sides and tells."""
    module = importlib.import_module(f"experiments.{options.task}")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        flags = ["--data", scratch, "--seed", str(options.seed), "--num-train-epochs", str(options.epochs),
                 "--output-dir", str(place / "ours"), "--disable-tqdm", "--save-strategy", "no",
                 "--eval-strategy", "no"]  # fmt: skip
        config = parse(module.Config, flags, "", options.task)
        limits = {"max_train_samples": options.max_train_samples, "max_eval_samples": options.max_eval_samples}
        splits = finetune.read(config.replace(**limits), options.data, module.RECIPE)
        for split, table in splits.items():
            rows = [dict(zip(COLUMNS[options.task], (row["source"], row["target"]), strict=True)) for row in table]
            (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config, _, start = finetune.choose(config, module.RECIPE)
        assert start is not None
        tokenizer = start.learn(module.RECIPE.texts(splits["train"]))
        model = load({**start.sizes(config), "vocab_size": len(tokenizer)}, "seq2seq-lm", seed=options.seed)
        save(model, place / "start", tokenizer)
        settings = {**dataclasses.asdict(config), "columns": COLUMNS[options.task]}
        (place / "settings.json").write_text(json.dumps(settings, default=str))
        told: list[dict[str, Any]] = []

        def tell(who: str, seconds: float, results: dict[str, Any]) -> None:
            scores = {name: results[f"eval_{name}"] for name in SCORES if f"eval_{name}" in results}
            told.append({"who": who, "seconds": seconds, "train_loss": results["train_loss"], **scores})
            print(told[-1], flush=True)

        seconds, _ = timed([sys.executable, "-m", f"experiments.{options.task}", *flags], {})
        tell("jaxformers", seconds, json.loads((place / "ours" / "all_results.json").read_text()))
        peer = [sys.executable, str(Path(__file__).with_name("seq2seq_peer.py")), options.task, scratch]
        seconds, printed = timed(peer, {})
        tell("Seq2SeqTrainer", seconds, json.loads(printed.splitlines()[-1]))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"seq2seq-{options.task}.json").write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
