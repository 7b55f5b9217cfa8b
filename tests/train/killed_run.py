"""A small run to be killed, for test_kill.py: trains, and prints the digest of all a resumed run must share with a whole one."""

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jaxformers.checkpoints import load
from jaxformers.parallel.mesh import make_mesh
from jaxformers.train import TrainingArguments, fit
from jaxformers.train.checkpoint import Checkpoints
from jaxformers.train.loop import make_train_step
from tests.train.conftest import TINY, make_examples


def main(out: Path) -> None:
    model = load(TINY, "sequence-classification")
    args = TrainingArguments(
        output_dir=str(out), disable_tqdm=True, report_to="none", num_train_epochs=6, save_steps=7, logging_steps=3,
        eval_strategy="epoch", save_total_limit=2, learning_rate=1e-3,
    )  # fmt: skip
    mesh = make_mesh()
    fit(model, args, train=make_examples(60), eval=make_examples(9, seed=1), mesh=mesh)

    step = make_train_step(model, args, num_training_steps=48, mesh=mesh)
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
