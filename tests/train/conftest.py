"""A tiny BERT, tiny data and what the training tests share."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxformers.checkpoints import load
from jaxformers.data import Table
from jaxformers.parallel.mesh import make_mesh
from jaxformers.train import TrainingArguments

TINY = {
    "model_type": "bert",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def make_examples(count: int, seed: int = 0) -> Table:
    """Random texts of 9 to 15 tokens, which all come to one length; the label says whether the token 7 is among them."""
    draw = np.random.default_rng(seed)
    texts = [draw.integers(5, 30, draw.integers(9, 16)).tolist() for _ in range(count)]
    return Table({"input_ids": texts, "labels": [int(7 in text) for text in texts]}, f"examples {seed}")


@pytest.fixture(scope="session")
def data():
    """Twenty examples to train on and nine to evaluate on."""
    return make_examples(20), make_examples(9, seed=1)


@pytest.fixture(scope="session")
def one():
    """A mesh of one device."""
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def tiny():
    return load(TINY, "sequence-classification")


@pytest.fixture(scope="session")
def still(tiny):
    """The tiny model without dropout."""
    config = tiny.config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return dataclasses.replace(tiny, config=config)


@pytest.fixture
def quiet(tmp_path):
    """Arguments of a short, silent run into a fresh folder."""
    return TrainingArguments(
        output_dir=str(tmp_path / "out"),
        disable_tqdm=True,
        report_to="none",
        per_device_train_batch_size=1,
        max_steps=6,
    )
