"""Image classification from nothing beside PyTorch transformers' own model in a plain loop: same parameters, rows and settings.

    python -m experiments.benchmarks.images --data mnist --architecture convnext --epochs 10

Ours is the experiment as anyone starts it, with `--data` and no `--model`; the other side opens the random parameters it starts
from, as we write them, and the images as the model takes them, moves them about as ours does (`--augment shifts`), and scores the
same held-out rows. Prints the scores and writes `images-ARCHITECTURE.json`. Needs the [parity] and [vision] extras.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import finetune, image_classification
from experiments.benchmarks.finetune import timed
from experiments.launch import parse
from jaxformers.checkpoints import load, save


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    data: str
    """What the experiment's --data takes."""
    epochs: float
    """Passes over the data."""
    architecture: str = "convnext"
    """vit or convnext."""
    seed: int = 42
    """For the parameters, the order of the rows and their moves."""
    max_train_samples: int | None = None
    """Only the first so many training rows, on both sides."""
    ours: bool = True
    """Whether ours runs, too."""
    output: Path = Path("out/benchmarks")
    """The folder where the figures go."""


def main(options: Options) -> None:
    """Runs both sides and tells."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        flags = ["--data", options.data, "--architecture", options.architecture, "--seed", str(options.seed),
                 "--num-train-epochs", str(options.epochs), "--output-dir", str(place / "ours"), "--disable-tqdm",
                 "--save-strategy", "no", "--eval-strategy", "no"]  # fmt: skip
        if options.max_train_samples:
            flags += ["--max-train-samples", str(options.max_train_samples)]
        config = parse(image_classification.Config, flags, "", "image_classification")
        recipe = image_classification.recipe(image_classification.STARTS[options.architecture])
        splits = finetune.read(config, options.data, recipe)
        config, _, start = finetune.choose(config, recipe)
        assert start is not None
        processor = start.learn(recipe.texts(splits["train"]))
        names = recipe.prepare(splits, processor, config).overrides
        origin = {**start.sizes(config), **start.found(processor)}
        save(load(origin, recipe.head, seed=config.seed, **names), place / "start", processor)
        rows: dict[str, Any] = {}
        for split, table in splits.items():
            rows[split] = np.stack([processor.pixels(image) for image in table["image"]])
            rows[f"{split}_labels"] = np.asarray(table["labels"])
        np.savez(place / "rows.npz", **rows, black=processor.pixels(np.zeros((4, 4), np.uint8)).min())
        settings = {
            **dataclasses.asdict(config),
            "shift": getattr(image_classification.AUGMENTS[config.augment], "shift", 0),
        }
        (place / "settings.json").write_text(json.dumps(settings, default=str))
        told: list[dict[str, Any]] = []

        def tell(who: str, seconds: float, results: dict[str, Any]) -> None:
            scores = {name: results[name] for name in ("eval_accuracy", "eval_loss", "train_loss", "train_runtime")}
            told.append({"who": who, "seconds": seconds, **scores})
            print(told[-1], flush=True)

        if options.ours:
            seconds, _ = timed([sys.executable, "-m", "experiments.image_classification", *flags], {})
            tell("jaxformers", seconds, json.loads((place / "ours" / "all_results.json").read_text()))
        seconds, printed = timed([sys.executable, str(Path(__file__).with_name("images_peer.py")), scratch], {})
        tell("transformers", seconds, json.loads(printed.splitlines()[-1]))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"images-{options.architecture}.json").write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
