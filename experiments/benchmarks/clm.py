"""Causal language modelling from nothing beside the same run in PyTorch transformers: do the loss curves agree?

    python -m experiments.benchmarks.clm --data shakespeare.txt --steps 300

Both start from one folder of random parameters, which we write and transformers opens, and read the same blocks in one order,
with the optimizer and the schedule of `experiments.clm` and without dropout. Prints the mean losses of every ten steps side by
side, the loss on the held-out text and the time of the steps (ours without compiling), and writes `clm.json`. Needs the [parity]
extra.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import clm, finetune
from experiments.benchmarks.finetune import bare
from jaxformers.checkpoints import load, save
from jaxformers.data import Batches, Table
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.train import fit

EVERY = 10


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare."""

    data: str
    """A text file, or anything that `experiments.clm` takes."""
    steps: int = 300
    """Steps of training, which the schedule spans."""
    layers: int = 6
    """Layers of the model."""
    width: int = 256
    """Its width."""
    batch_size: int = 16
    """Blocks a step."""
    max_length: int = 256
    """Tokens of a block."""
    seed: int = 42
    """For the parameters and the order of the blocks."""
    output: Path = Path("out/benchmarks/clm.json")
    """Where the figures go."""


def main(options: Options) -> None:
    """Runs both and tells."""
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(options, Path(scratch))
    for step, ours, theirs in zip(found["steps"], found["ours"]["losses"], found["theirs"]["losses"], strict=True):
        print(f"step {step:5}  ours {ours:.5f}  transformers {theirs:.5f}  difference {ours - theirs:+.1e}")
    for who in ("ours", "theirs"):
        print(f"{who:7} held-out loss {found[who]['eval_loss']:.5f}, {found[who]['seconds']:.1f} s of training")
    print(f"largest difference of the mean losses: {found['largest_difference']:.1e}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")


def compare(options: Options, place: Path) -> dict[str, Any]:
    """The losses of both, in `place`."""
    config = clm.Config(data=options.data, seed=options.seed, max_length=options.max_length, max_steps=options.steps,
                        per_device_train_batch_size=options.batch_size, output_dir=str(place / "ours"), group_by_length=False,
                        logging_steps=EVERY, save_strategy="no", eval_strategy="no", report_to="none", disable_tqdm=True,
                        warmup_steps=options.steps // 10)  # fmt: skip
    config, source, start = finetune.choose(config, clm.RECIPE)
    assert start is not None
    splits = finetune.read(config, source, clm.RECIPE)
    tokenizer = start.learn(clm.RECIPE.texts(splits["train"]))
    examples = {name: clm.blocks(table, tokenizer, options.max_length) for name, table in splits.items()}
    heads = options.width // 32
    sizes = clm.sizes(config, layers=options.layers, width=options.width, heads=heads, dropout=0.0)
    mesh = make_mesh(MeshConfig(data=1))
    model = load({**sizes, "vocab_size": len(tokenizer)}, "causal-lm", mesh=mesh, seed=options.seed)
    save(model, place / "start", tokenizer)
    for name, table in examples.items():
        np.save(place / f"{name}.npy", np.array(table["input_ids"], np.int32))
    (place / "settings.json").write_text(json.dumps(dataclasses.asdict(config) | {"order": order(examples, config)}))
    model, result = fit(
        model, config, train=examples["train"], eval=examples["validation"], tokenizer=tokenizer, mesh=mesh
    )
    logged = [json.loads(line) for line in (place / "ours" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in logged if "loss" in row]
    ours = {
        "losses": [row["loss"] for row in logged if "loss" in row],
        "eval_loss": result.metrics["eval_loss"],
        "seconds": result.metrics["train_runtime"],
    }
    peer = [sys.executable, str(Path(__file__).with_name("clm_peer.py")), str(place), json.dumps(steps)]
    done = subprocess.run(peer, env=bare(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"clm_peer.py failed:\n{done.stderr[-4000:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    difference = max(abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True))
    return {"steps": steps, "ours": ours, "theirs": theirs, "largest_difference": difference,
            "options": {**dataclasses.asdict(options), "output": str(options.output)}}  # fmt: skip


def order(examples: dict[str, Table], config: clm.Config) -> list[list[int]]:
    """The blocks of each step, as `fit` draws them."""
    size = config.per_device_train_batch_size
    batches = Batches(examples["train"], batch_size=size, seed=config.seed, shuffle=True)
    epochs = -(-config.max_steps // batches.steps_per_epoch)
    return [rows.tolist() for epoch in range(epochs) for rows in batches.plan(epoch)][: config.max_steps]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
