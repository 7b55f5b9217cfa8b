"""Runs planned without a pod: what a batch holds, what is refused, the search; marked `aot`, whole plans by the TPU compiler."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import finetune
from jaxformers.checkpoints import load
from jaxformers.checkpoints.load import outline
from jaxformers.checkpoints.published import MODELS, described
from jaxformers.core import params as core_params
from jaxformers.errors import InputError
from jaxformers.parallel import MeshConfig, make_mesh
from jaxformers.train import TrainingArguments, make_train_step
from jaxformers.train.estimate import matmul_flops
from tpu import aot
from tpu.chips import CHIPS, chip_of

ROOT = Path(__file__).resolve().parents[2]
TINY = {"model_type": "bert", "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 32}  # fmt: skip


def compiler():
    """The tests that need libtpu skip, by name, where it is absent; `.ci/run` has it, and a skip there is a failure."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -e '.[aot]'")


# -- without the compiler ----------------------------------------------------------------------------------------------


def test_the_outline_of_a_state_is_that_of_the_state():
    model = load(TINY, "sequence-classification")
    plan = outline(TINY, "sequence-classification")
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(plan.params))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    args = TrainingArguments(max_steps=3)
    state = make_train_step(model, args, mesh=mesh).init()
    shapes = make_train_step(plan, args, mesh=mesh).outline()
    assert jax.tree.structure(state) == jax.tree.structure(shapes)
    for real, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert (real.shape, real.dtype) == (shape.shape, shape.dtype)
        assert real.sharding.is_equivalent_to(shape.sharding, real.ndim)


def test_where_nobody_says_the_mesh_is_that_of_a_run(monkeypatch):
    model = outline(TINY, "sequence-classification")
    half = dataclasses.replace(CHIPS["TPU v4"], memory=core_params.count(model.declare()) * 16)
    monkeypatch.setattr(aot, "chip_of", lambda kind: half)
    plan = aot.Plan(aot.Subject("tiny", model, finetune.Config(), None, {}, False), jax.devices())
    assert (plan.mesh.shape["data"], plan.mesh.shape["fsdp"]) == (4, 2)


def test_an_outline_compiles_to_the_program_that_runs():
    model = load(TINY, "sequence-classification")
    args = TrainingArguments(max_steps=3)
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    step = make_train_step(model, args, mesh=mesh)
    ids = np.ones((8, 16), np.int32)
    batch = step.put({"input_ids": ids, "attention_mask": ids, "labels": np.zeros(8, np.int32)})
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in batch.items()}
    step.program(step.outline(), shapes)
    step(step.init(), batch)
    assert step.compilations == 1


@pytest.mark.parametrize(
    ("experiment", "flags", "columns"),
    [
        ("mrpc", ["--model", "bert-large-uncased", "--max-length", "96"],
         {"input_ids": (96,), "attention_mask": (96,), "token_type_ids": (96,), "labels": ()}),
        ("glue", ["--task", "stsb"], {"input_ids": (128,), "attention_mask": (128,), "token_type_ids": (128,), "labels": ()}),
        ("swag", [], {"input_ids": (4, 128), "attention_mask": (4, 128), "token_type_ids": (4, 128), "labels": ()}),
        ("clm", ["--model", "llama-2-7b", "--max-length", "2048"],
         {"input_ids": (2048,), "attention_mask": (2048,), "labels": (2048,)}),
        ("clm", ["--packing"],
         {"input_ids": (1024,), "attention_mask": (1024, 1024), "position_ids": (1024,), "labels": (1024,)}),
        ("translation", ["--model", "T5"], {"input_ids": (1024,), "attention_mask": (1024,), "labels": (128,)}),
    ],
)  # fmt: skip
def test_a_batch_is_what_the_experiment_would_make_at_its_longest(experiment, flags, columns, tmp_path):
    (tmp_path / "t5.json").write_text(json.dumps({"model_type": "t5"}))
    flags = [str(tmp_path / "t5.json") if flag == "T5" else flag for flag in flags]
    subject = aot.subject(f"experiments.{experiment}", flags)
    more = {"example_weight": (), "example_index": ()}
    assert {name: shape for name, (shape, _) in subject.columns.items()} == columns | more
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(subject.model.params))
    if "llama-2-7b" in flags:
        assert core_params.count(subject.model.declare()) == 6_738_415_616  # as published


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bert-base-uncased", 109_482_240), ("bert-large-uncased", 335_141_888), ("gpt2", 124_439_808),
     ("gpt2-xl", 1_557_611_200), ("llama-2-13b", 13_015_864_320), ("llama-3-8b", 8_030_261_248)],
)  # fmt: skip
def test_a_model_by_name_has_its_published_size(name, parameters):
    head = None if name.startswith("bert") else "causal-lm"
    assert core_params.count(outline(MODELS[name], head).declare()) == parameters


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["experiments.nothing", "--topology", "v5e:4x4"], "there is no experiment experiments.nothing"),
        (["experiments.finetune.nothing", "--topology", "v5e:4x4"], "there is no experiment"),
        (["experiments.launch", "--topology", "v5e:4x4"], "experiments.launch is no experiment"),
        (["experiments.electra", "--topology", "v5e:4x4"], "experiments.electra builds its model itself"),
        (
            ["experiments.mrpc", "--topology", "v5e:4x4", "--model", "no.json"],
            "there is no file no.json; known by name are",
        ),
    ],
)
def test_what_is_refused(words, sentence, capsys):
    assert aot.main(words) == 2
    assert f"error: {sentence}" in capsys.readouterr().err


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the TPU compiler is not installed: pip install -e '\.\[aot\]'"):
        aot.pod("v5e:4x4")


def test_a_folder_is_left_to_be_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert described("gpt2") == "gpt2", "a folder of that name wins"
    assert described("some/model") == "some/model"


def test_an_unknown_chip_is_named():
    with pytest.raises(InputError, match="nothing is known of the chip 'cpu'"):
        chip_of("cpu")


@pytest.mark.parametrize("most", [0, 1, 5, 23, 100, 1000])
@pytest.mark.parametrize("start", [1, 8, 64])
@pytest.mark.parametrize("bend", [0.0, 3.0])
def test_the_largest_batch_is_found_in_few_tries(most, start, bend):
    """Where memory grows along a line, and where the first rows cost more than the later ones."""
    tried = []

    def memory(batch):
        return 10.0 + 4 * batch + bend * batch**0.5

    def measure(batch):
        tried.append(batch)
        return batch <= most, memory(batch)

    found = aot.largest(measure, memory(most) if most else 9.0, 10.0, start)
    assert found <= most <= found + max(1, found // 16)
    assert len(tried) <= aot.SEARCHES
    assert len(tried) == len({*tried})


@pytest.mark.parametrize(
    ("message", "bytes_"),
    [
        ("RESOURCE_EXHAUSTED: … Used 21.50G of 15.75G hbm. Exceeded", 21.5 * 2**30),
        ("the total memory required for HLO temporaries (134.00G) exceeds", 134 * 2**30),
    ],
)
def test_what_the_compiler_says_is_needed(message, bytes_):
    assert aot.needed(message) == bytes_
    assert np.isnan(aot.needed("RESOURCE_EXHAUSTED: no more"))


def test_products_are_counted_through_loops():
    def layers(x, w):
        return jax.lax.scan(lambda x, w: (jax.jit(jnp.dot)(x, w), None), x, w)[0]

    jaxpr = jax.make_jaxpr(layers)(jnp.ones((16, 32)), jnp.ones((7, 32, 32))).jaxpr
    assert matmul_flops(jaxpr) == 7 * 2 * 16 * 32 * 32


# -- with it -----------------------------------------------------------------------------------------------------------


def plan(tmp_path_factory, *words):
    """A plan by the command itself, without the settings of the tests; the report and the exit status."""
    compiler()
    report = tmp_path_factory.mktemp("aot") / "report.json"
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "tpu.aot", *words, "--json", str(report)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800)
    assert report.exists(), done.stdout + done.stderr
    return json.loads(report.read_text()), done


def by_kind(facts):
    kinds = {}
    for each in facts["collectives"]:
        kinds[each["kind"]] = kinds.get(each["kind"], 0) + each["sent"]
    return kinds


@pytest.mark.aot
def test_data_parallel_bert_sums_its_gradients_and_nothing_else(tmp_path_factory):
    flags = ["--model", "bert-base-uncased", "--bf16", "--per-device-train-batch-size", "32"]
    report, done = plan(tmp_path_factory, "experiments.mrpc", "--topology", "v5e:4x4", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["fits"]
    assert report["devices"] == 16
    assert report["rows"] == 512
    train = report["train"]
    assert train["memory_bytes"] < CHIPS["TPU v5 lite"].memory
    # Gradients in bfloat16, by a ring: each device sends them nearly twice (of positions those that the texts have). Beside
    # them a few numbers: loss, count, norms.
    gradients = 2 * 2 * (report["parameters"] - (512 - 128) * 768) * 15 / 16
    kinds = by_kind(train)
    assert kinds.keys() == {"all-reduce"}
    assert gradients <= kinds["all-reduce"] <= 1.01 * gradients
    assert by_kind(report["eval"]).keys() <= {"all-reduce", "all-gather"}
    # Six operations a weight and token (Kaplan et al. 2020), and attention's; embeddings multiply nothing.
    tokens, weights = 512 * 128, 12 * 12 * 768**2
    attention = 12 * 12 * 128 * 768
    assert train["model_flops"] == pytest.approx(tokens * (6 * weights + attention), rel=0.01)
    assert train["unread_loops"] == 0
    assert 16 * train["flops"] == pytest.approx(train["model_flops"], rel=0.01)
    assert train["unread_kernels"] == report["eval"]["unread_kernels"] == 0
    assert "estimated, not measured" in done.stdout


@pytest.mark.aot
def test_seven_billion_parameters_over_fsdp_and_tensor(tmp_path_factory):
    """Llama 2's shape on 64 chips. What is sent is what the two axes ask for, counted from the config, and little beside it."""
    flags = ["--model", "llama-2-7b", "--max-length", "2048", "--bf16", "--gradient-checkpointing", "--mesh.fsdp", "16",
             "--mesh.tensor", "4", "--per-device-train-batch-size", "4"]  # fmt: skip
    report, done = plan(tmp_path_factory, "experiments.clm", "--topology", "v5p:4x4x4", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["fits"]
    assert report["parameters"] == 6_738_415_616
    assert report["mesh"] == {"data": 1, "fsdp": 16, "sequence": 1, "tensor": 4}
    N, D, F, V, two = 32, 4096, 11008, 32000, 2  # bytes of a bfloat16
    train = report["train"]
    assert (train["unread_loops"], train["unread_kernels"]) == (0, 0)
    assert train["bounded_loops"] == 1, "the loss goes through some words at a time, as many times as labels ask for"
    # Beside the model's own: the forward pass once more, the logits once more; of attention seven products backward, not four.
    assert 1.2 <= 64 * train["flops"] / train["model_flops"] <= 1.4
    # tensor: after attention and feed-forward, forward, backward, and attention's once more for the recomputation.
    sums = [each for each in train["collectives"] if each["kind"] == "all-reduce" and each["group"] == 4]
    assert sum(each["count"] for each in sums) == 5 * N + 1, "and the loss's"
    assert sum(each["sent"] for each in sums) == pytest.approx(5 * N * 4 * 2048 * D * two * 2 * 3 / 4, rel=0.01)
    # fsdp: a tensor member's weights are gathered for the forward pass and the recomputation, and their gradients scattered; the
    # compiler makes some of it a ring of permutations under the products, and gathers some feed-forward weights once more.
    weights = N * (4 * D * D + 3 * D * F) / 4 * two * 15 / 16
    kinds = by_kind(train)
    moved = sum(kinds.get(kind, 0) for kind in ("all-gather", "reduce-scatter", "collective-permute"))
    assert 3 * weights <= moved <= 3.6 * weights
    # The rest: arrays of the size of a table, three of them, each summed over the devices; norms, the loss.
    assert kinds.keys() <= {"all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all"}
    rest = kinds["all-reduce"] - sum(each["sent"] for each in sums) + kinds.get("all-to-all", 0)
    assert rest <= 1.05 * 3 * 2 * V * D * two
