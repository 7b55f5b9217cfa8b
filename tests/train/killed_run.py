"""A run to be killed, for test_kill.py: trains, and prints the digest of all a resumed run must share with a whole one."""

import hashlib
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments import finetune, mrpc
from jaxformers.checkpoints import load
from jaxformers.parallel.mesh import make_mesh
from jaxformers.preprocess import load_tokenizer
from jaxformers.train import TrainingArguments, fit
from jaxformers.train.checkpoint import Checkpoints
from jaxformers.train.loop import make_train_step
from tests.train.conftest import TINY, make_examples


def task():
    """A model, what it learns from, what it is evaluated on, and the arguments that are its own."""
    folder = os.environ.get("JAXFORMERS_KILL_MODEL")
    if not folder:
        settings = {"num_train_epochs": 6, "save_steps": 7, "logging_steps": 3, "learning_rate": 1e-3}
        return load(TINY, "sequence-classification"), make_examples(60), make_examples(9, seed=1), settings
    config = mrpc.Config(data=os.environ["JAXFORMERS_KILL_DATA"], max_train_samples=96, max_eval_samples=32)
    prepared = mrpc.RECIPE.prepare(finetune.read(config, config.data, mrpc.RECIPE), load_tokenizer(folder), config)
    model = load(folder, "sequence-classification", **prepared.overrides)
    settings = {"max_steps": 12, "save_steps": 2, "logging_steps": 1}
    return model, prepared.examples["train"], prepared.examples["validation"], settings


def main(out: Path) -> None:
    model, train, held_out, settings = task()
    args = TrainingArguments(
        output_dir=str(out), disable_tqdm=True, report_to="none", eval_strategy="epoch", save_total_limit=2, **settings
    )
    mesh = make_mesh()
    _, result = fit(model, args, train=train, eval=held_out, mesh=mesh)

    step = make_train_step(model, args, num_training_steps=result.global_step, mesh=mesh)
    with Checkpoints(out / "checkpoints") as checkpoints:
        state, meta = checkpoints.restore(step.init())
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((state.params, state.opt_state, state.step)):
        digest.update(np.asarray(leaf).tobytes())
    digest.update(json.dumps([meta["data"], meta["loss_total"]]).encode())
    digest.update((out / "metrics.jsonl").read_bytes())
    digest.update((out / "model.safetensors").read_bytes())
    print("digest", digest.hexdigest(), "step", meta["step"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
