"""What a step is said to need, against what it holds: by hand, by the state itself, and by XLA's own count."""

import json

import jax
import numpy as np
import pytest

from jaxformers.checkpoints.load import outline
from jaxformers.cli import main
from jaxformers.errors import InputError
from jaxformers.parallel import MeshConfig, make_mesh
from jaxformers.train import TrainingArguments, make_train_step
from jaxformers.train.estimate import batch_of, estimate

WIDE = {"model_type": "bert", "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "max_position_embeddings": 64, "type_vocab_size": 2}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return outline(WIDE, "masked-lm")


def figures(model, rows=8, mesh=None, compiles=False, **changes):
    return estimate(model, TrainingArguments(**changes), batch_of(model, rows, 32), mesh=mesh, compiles=compiles)


def test_what_is_held_is_counted_exactly(model):
    found = figures(model)
    assert found.weights == found.gradients == 4 * found.parameters
    assert found.optimizer - 2 * found.weights in range(0, 64), "Adam's two moments, and a few counters"
    assert figures(model, optim="sgd").optimizer < 64
    assert found.copies == 0
    half = figures(model, bf16=True)
    assert (half.weights, half.copies) == (found.weights, found.weights // 2)
    # On eight devices: of the parameters and moments an eighth each, but for what does not divide.
    cut = figures(model, rows=64, mesh=make_mesh(MeshConfig(fsdp=8)))
    state = make_train_step(model, TrainingArguments(max_steps=1), mesh=make_mesh(MeshConfig(fsdp=8))).outline()
    here = [np.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state.params)]
    assert cut.weights == 4 * sum(here) < found.weights / 6
    assert cut.activations == found.activations


def test_activations_are_those_of_one_micro_batch(model):
    found = figures(model)
    # At the least: the input of each product of a layer, six of width D and one of F, and attention's probabilities.
    D, F, H, L = 64, 128, 4, 32
    assert found.activations > 8 * 2 * 4 * (6 * L * D + L * F + H * L * L)
    assert figures(model, rows=16).activations == 2 * found.activations
    assert figures(model, rows=16, gradient_accumulation_steps=2).activations == found.activations
    again = figures(model, gradient_checkpointing=True)
    assert again.activations < found.activations / 3
    assert again.flops == found.flops, "what is recomputed is no work of the model's"


def test_operations_are_those_of_the_products(model):
    D, F, V, L, B, N = 64, 128, 64, 32, 8, 2
    layer = 4 * D * D + 2 * D * F + 2 * L * D
    assert figures(model).flops == pytest.approx(6 * B * L * (N * layer + D * D + D * V), rel=0.01)


def test_the_compilers_count_lies_between_what_is_held_and_the_most(model):
    found = figures(model, rows=64, compiles=True)
    held = found.weights + found.optimizer
    assert held < found.compiled <= found.total * 1.1
    assert found.platform == "cpu"


@pytest.mark.parametrize(
    ("config", "head", "columns"),
    [
        (WIDE, "question-answering", {"start_positions": (8,), "end_positions": (8,)}),
        (WIDE, "multiple-choice", {"input_ids": (8, 4, 32), "labels": (8,)}),
        (WIDE, "pretraining", {"labels": (8, 32), "next_sentence_label": (8,)}),
        ({"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}, "seq2seq-lm",
         {"input_ids": (8, 32), "labels": (8, 16)}),
    ],
)  # fmt: skip
def test_the_batches_of_the_heads(config, head, columns):
    model = outline(config, head)
    batch = batch_of(model, 8, 32, 16)
    assert {name: batch[name][0] for name in columns} == columns
    assert estimate(model, TrainingArguments(), batch, compiles=False).flops > 0


def test_a_head_that_is_not_trained_is_named():
    with pytest.raises(InputError, match="nothing is known of the batches of bert with the head None"):
        batch_of(outline(WIDE), 8, 32)


def test_the_command(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(WIDE))
    words = ["estimate", str(tmp_path), "--head", "masked-lm", "--length", "32", "--mesh.fsdp", "8", "--no-compile"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = figures(outline(WIDE, "masked-lm"), rows=64, mesh=make_mesh(MeshConfig(fsdp=8)))
    assert found == {**vars(expected), "total": expected.total}
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"BertForMaskedLM, {expected.parameters:,} parameters; 64 × 32 tokens at a time on fsdp 8\n")
    assert f"  total      {expected.total / 2**30:9.3f}\n" in said.replace("total       ", "total      ")
    assert main(["estimate", str(tmp_path)]) == 2
    assert "name the task or the head" in capsys.readouterr().err
