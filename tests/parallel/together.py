"""One process of several, for test_processes.py: an experiment as any, on a tiny model and random data."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.launch import launch
from jaxformers.checkpoints import load
from jaxformers.data import Table
from jaxformers.errors import InputError
from jaxformers.parallel.distributed import DistributedConfig
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.train import Callback, TrainingArguments, fit, predict
from tests.train.conftest import TINY, make_examples

T5 = {"model_type": "t5", "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainingArguments):
    """Flags of a run of several processes."""

    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    """The others."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """Devices."""
    rows_seed: int = 0
    """For the examples."""
    wait: float = 0.0
    """Seconds between steps."""
    devices: int | None = None
    """Only so many."""
    fails: bool = False
    """Raises before training."""
    task: str = "classes"
    """Or texts."""
    learning_rate: float = 1e-3
    """More than the default."""
    report_to: str = "none"
    """Nothing."""
    disable_tqdm: bool = True
    """No bar."""


class Paced(Callback):
    """Leaves time to be killed in, and says when."""

    def on_step_end(self, progress):
        if progress.args.wait:
            print("step", progress.step, flush=True)
            time.sleep(progress.args.wait)


def short(count, seed):
    """Texts of at most 8 tokens: one length, one program."""
    examples = make_examples(count, seed)
    return Table(
        {"input_ids": [text[:8] for text in examples["input_ids"]], "labels": examples["labels"]}, examples.name
    )


def task(config, mesh):
    """A model, its examples, and the metric of its predictions."""
    if config.task == "classes":
        model = load({**TINY, "num_hidden_layers": 1}, "sequence-classification", mesh=mesh)
        return model, short(37, config.rows_seed), short(13, 5), accuracy
    model = load(T5, "seq2seq-lm", mesh=mesh)
    rows = short(22, config.rows_seed)
    pairs = Table({"input_ids": rows["input_ids"], "labels": [text[:3] for text in rows["input_ids"]]}, "pairs")
    return model, pairs, pairs[:11], lambda said: {"sum": float(np.abs(said.predictions).sum())}


def accuracy(said):
    """How many are right; and a sum that depends on the order."""
    places = np.arange(len(said.label_ids))
    right = said.predictions.argmax(-1) == said.label_ids
    return {"accuracy": float(right.mean()), "order": float((places * said.label_ids).sum())}


def run(config):
    """Trains, predicts, and writes what it found; each process does."""
    if config.fails:
        raise InputError("this process has no data")
    mesh = make_mesh(config.mesh, jax.devices()[: config.devices])
    model, train, held_out, metrics = task(config, mesh)
    args = config.replace(eval_strategy="epoch")
    model, result = fit(
        model, args, train=train, eval=held_out, compute_metrics=metrics, callbacks=[Paced()], mesh=mesh
    )
    said = predict(model, held_out, args, mesh=mesh).predictions
    found = {"metrics": result.metrics, "said": np.asarray(said, np.float64).tolist(), "processes": jax.process_count()}
    Path(config.output_dir, f"found-{jax.process_index()}.json").write_text(json.dumps(found))
    print("done", flush=True)


if __name__ == "__main__":
    launch(Config, run, __doc__, "together")
