"""Classifiers of images and sounds, from nothing, beside PyTorch transformers' own model: same parameters, rows and settings.

    python -m experiments.benchmarks.classification --data mnist --architecture convnext --epochs 10
    python -m experiments.benchmarks.classification --task audio --data recordings --epochs 30

Ours is the experiment as anyone starts it, with `--data` and no `--model`; the other side opens the random parameters it starts
from, as we write them, and the images or spectra as the model sees them, moves images about as ours does (`--augment shifts`),
changes sounds as little as ours then does (`--augment none`), and scores the same held-out rows. Prints the scores and writes
`classification-TASK.json`. Needs the [parity] and [vision] or [audio] extras.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from experiments import audio_classification, finetune, image_classification
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
    task: Literal["image", "audio"] = "image"
    """What is classified."""
    architecture: str = "convnext"
    """Of images: vit or convnext."""
    file_names: str | None = None
    """Of sounds: what the experiment's --file-names takes."""
    held_out: str | None = None
    """Of sounds: what the experiment's --held-out takes."""
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
        flags = ["--data", options.data, "--seed", str(options.seed), "--num-train-epochs", str(options.epochs),
                 "--output-dir", str(place / "ours"), "--disable-tqdm", "--save-strategy", "no",
                 "--eval-strategy", "no"]  # fmt: skip
        module: Any = image_classification
        if options.task == "image":
            flags += ["--architecture", options.architecture]
            recipe = image_classification.recipe(image_classification.STARTS[options.architecture])
        else:
            module, flags = audio_classification, [*flags, "--augment", "none"]
            recipe = audio_classification.recipe()
        for name in ("max_train_samples", "file_names", "held_out"):
            if getattr(options, name) is not None:
                flags += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        config = parse(module.Config, flags, "", f"{options.task}_classification")
        splits = finetune.read(config, options.data, recipe)
        config, _, start = finetune.choose(config, recipe)
        assert start is not None
        processor = start.learn(recipe.texts(splits["train"]))
        prepared = recipe.prepare(splits, processor, config)
        origin = {**start.sizes(config), **start.found(processor)}
        save(
            load(origin, start.head or recipe.head, seed=config.seed, **prepared.overrides), place / "start", processor
        )
        rows: dict[str, Any] = {}
        for split, table in splits.items():
            found = prepared.examples[split]
            rows[split] = np.stack(
                [found[index]["pixel_values"] for index in range(len(found))]
            )  # as no training changes them
            rows[f"{split}_labels"] = np.asarray(table["labels"])
        settings = dataclasses.asdict(config)
        if options.task == "image":
            settings["shift"] = getattr(image_classification.AUGMENTS[config.augment], "shift", 0)
            rows["black"] = processor.pixels(np.zeros((4, 4), np.uint8)).min()
        np.savez(place / "rows.npz", **rows)
        (place / "settings.json").write_text(json.dumps(settings, default=str))
        told: list[dict[str, Any]] = []

        def tell(who: str, seconds: float, results: dict[str, Any]) -> None:
            scores = {name: results[name] for name in ("eval_accuracy", "eval_loss", "train_loss", "train_runtime")}
            told.append({"who": who, "seconds": seconds, **scores})
            print(told[-1], flush=True)

        if options.ours:
            seconds, _ = timed([sys.executable, "-m", f"experiments.{options.task}_classification", *flags], {})
            tell("jaxformers", seconds, json.loads((place / "ours" / "all_results.json").read_text()))
        seconds, printed = timed([sys.executable, str(Path(__file__).with_name("classification_peer.py")), scratch], {})
        tell("transformers", seconds, json.loads(printed.splitlines()[-1]))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"classification-{options.task}.json").write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
