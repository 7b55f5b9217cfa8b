"""The step: accumulation, weights, dropout keys, meshes, shard sizes, collectives, donation, one program a shape."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxformers.checkpoints import load
from jaxformers.checkpoints.load import outline
from jaxformers.core import vocabulary
from jaxformers.core.params import shardings
from jaxformers.data import Batches, Table
from jaxformers.errors import InputError
from jaxformers.parallel.collectives import collectives, volume
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.train import TrainingArguments, make_eval_step, make_schedule, make_train_step
from jaxformers.train.losses import default_loss
from jaxformers.train.step import inputs_of, put_batch
from tests.families.table import T5
from tests.train.conftest import TINY, make_examples

MESHES = {
    "one device": (MeshConfig(), 1),
    "data": (MeshConfig(data=8), 8),
    "fsdp": (MeshConfig(fsdp=8), 8),
    "tensor": (MeshConfig(tensor=8), 8),
    "sequence": (MeshConfig(data=2, sequence=4), 8),
    "data × fsdp × tensor": (MeshConfig(data=2, fsdp=2, tensor=2), 8),
}


# A small rate: where a gradient is next to zero (a key's bias has one of zero) Adam makes full steps out of rounding noise.
CALM = 1e-3


def batch_of(size, length=16):
    return Batches(make_examples(size), batch_size=8, buckets=(length,))[0]


def run(model, where, steps=3, **changes):
    config, devices = MESHES[where] if isinstance(where, str) else where
    mesh = make_mesh(config, jax.devices()[:devices])
    step = make_train_step(model, TrainingArguments(**{"max_steps": 10, "learning_rate": 1e-2, **changes}), mesh=mesh)
    state, losses = step.init(), []
    for _ in range(steps):
        state, metrics = step(state, step.put(batch_of(8)))
        losses += [float(metrics["loss_sum"] / metrics["loss_count"]), float(metrics["grad_norm"])]
    return step, state, losses


@pytest.fixture(scope="session")
def runs(tiny):
    return {name: run(tiny, name, learning_rate=CALM) for name in MESHES}


@pytest.mark.parametrize("name", list(MESHES)[1:])
def test_every_mesh_gives_the_losses_of_one_device_with_dropout_on(runs, name):
    """Losses and gradient norms to float32 rounding."""
    np.testing.assert_allclose(runs[name][2], runs["one device"][2], rtol=1e-6)


def bytes_on(device, tree):
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
        if shard.device == device
    )


@pytest.mark.parametrize("name", list(MESHES))
def test_each_device_holds_its_share_of_parameters_and_both_moments(tiny, runs, name):
    """The bytes follow from the declarations: an axis laid onto a mesh axis of n devices is cut into n."""
    from jaxformers.core.params import leaves
    from jaxformers.parallel.mesh import PARAMETER_RULES

    step, state, _ = runs[name]
    expected = 0
    for _, param in leaves(tiny.declare()):
        pieces = 1
        for axis in param.axes:
            rule = PARAMETER_RULES[axis] or ()
            for mesh_axis in (rule,) if isinstance(rule, str) else rule:
                pieces *= step.mesh.shape[mesh_axis]
        expected += 4 * int(np.prod(param.shape)) // pieces
    moments = state.opt_state[1][0]
    for device in step.mesh.devices.flat:
        assert bytes_on(device, state.params) == expected
        assert bytes_on(device, moments.mu) == expected
        assert bytes_on(device, moments.nu) == expected
    if name == "fsdp":  # nearly everything is cut: within a quarter of an eighth
        assert expected < 1.25 * 4 * sum(leaf.size for leaf in jax.tree.leaves(tiny.params)) / 8


def program(step, state):
    return collectives(step.program(state, step.put(batch_of(8))).as_text())


def test_the_compiled_step_holds_the_collectives_its_sharding_needs_and_no_others(runs):
    kinds = {name: set(volume(program(*runs[name][:2]))) for name in MESHES}
    assert kinds["one device"] == set()
    assert kinds["data"] == {"all-reduce"}  # gradients, and nothing gathered
    assert "all-gather" in kinds["fsdp"]  # parameters are gathered where they are used
    assert {"all-reduce", "reduce-scatter"} & kinds["fsdp"]  # XLA's CPU compiler writes all-reduce and slice
    assert "all-reduce" in kinds["tensor"]  # partial sums of heads and feed-forward columns
    assert "all-to-all" in kinds["sequence"]  # attention's exchange of pieces of texts for heads


# Numbers a layer, of the tiny model: its kernels, all it owns along the width beside them, and all of its parameters.
ROWS, LENGTH, DEPTH, D, F = 8, 16, 2, 32, 64
KERNELS, VECTORS = 4 * D * D + 2 * D * F, 6 * D
LAYER = KERNELS + VECTORS + 3 * D + F
STATES = ROWS * LENGTH * D
VOLUMES = {
    # Every gradient is summed once.
    "data": {"all-reduce": LAYER},
    # Kernels are gathered in the forward and in the backward pass, vectors in the first; gradients are summed (this compiler
    # cuts the sum afterwards).
    "fsdp": {"all-gather": 2 * KERNELS + VECTORS, "all-reduce": LAYER},
    # Two sums forward, of attention and of the feed-forward layer; backward one of the latter, and of query, key and value each.
    "tensor": {"all-reduce": 6 * STATES},
    # A device's eighth of the states: queries, keys, values and results, forward and backward. Gradients are summed among those
    # who share texts, and then among the others.
    "sequence": {"all-to-all": 8 * STATES // 8, "all-reduce": 2 * LAYER},
}


@pytest.mark.parametrize("name", VOLUMES)
def test_what_a_layer_says_over_the_wire_is_what_the_formula_says(runs, name):
    """Bytes of the collectives inside the loop over layers, of a step: forward and backward."""
    in_layers = volume(each for each in program(*runs[name][:2]) if each.times == DEPTH and each.size > 1)
    assert in_layers == {kind: 4 * DEPTH * numbers for kind, numbers in VOLUMES[name].items()}


def test_a_data_parallel_step_sums_its_gradients_and_nothing_else(tiny, runs):
    """All parameters' gradients, of positions those that the texts have, and two numbers of the loss."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(tiny.params))
    table, types = tiny.params["embeddings"]["position"].size, tiny.params["embeddings"]["type"].size
    found = volume(program(*runs["data"][:2]))["all-reduce"]
    expected = 4 * (parameters - table + LENGTH * D + 2)
    assert expected <= found <= expected + 4 * (LENGTH * D + types), "token types are summed one by one, or by columns"


def test_an_evaluation_goes_through_the_words_on_each_device_alone():
    """A loss that XLA divided by itself would sum the logits of all devices in each turn of its loop."""
    model = outline({**TINY, "vocab_size": 4096}, "masked-lm")
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    step = make_eval_step(model, TrainingArguments(), mesh=mesh, prediction_loss_only=True)
    ids = jax.ShapeDtypeStruct((8, 16), np.int32)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), model.params)
    program = jax.make_jaxpr(step.function)(shapes, {"input_ids": ids, "labels": ids})
    names = [equation.primitive.name for equation in program.eqns]
    assert "while" not in names
    assert "shard_map" in str(program)


def test_a_contrastive_loss_compares_the_rows_of_all_devices():
    tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    clip = load(
        {"model_type": "clip", "projection_dim": 8, "text_config": {**tower, "vocab_size": 12, "eos_token_id": 3},
         "vision_config": {**tower, "image_size": 4, "patch_size": 4}},
        "zero-shot-image-classification",
    )  # fmt: skip
    generator = np.random.default_rng(0)
    batch = {
        "input_ids": np.pad(generator.integers(4, 12, (8, 2)), ((0, 0), (0, 1)), constant_values=3).astype(np.int32),
        "pixel_values": generator.normal(size=(8, 4, 4, 3)).astype(np.float32),
        "labels": np.arange(8, dtype=np.int32),
        "example_weight": np.array([1] * 7 + [0], np.float32),
    }
    output = clip.apply(clip.params, input_ids=batch["input_ids"], pixel_values=batch["pixel_values"])
    logits_BB = np.asarray(output.logits_per_image)[:7, :7]
    by_hand = [np.log(np.exp(x).sum(1)) - np.diag(x) for x in (logits_BB, logits_BB.T)]
    for count in (1, 8):
        mesh = make_mesh(MeshConfig(), jax.devices()[:count])
        told = make_eval_step(clip, TrainingArguments(), mesh=mesh)(
            jax.device_put(clip.params, shardings(clip.declare(), mesh)), put_batch(batch, mesh)
        )
        np.testing.assert_allclose(told["loss_sum"] / told["loss_count"], np.mean(by_hand), rtol=1e-5)
    with pytest.raises(InputError, match="this loss compares the rows of all"):
        make_train_step(clip, TrainingArguments(max_steps=1, gradient_dtype="float32"), mesh=mesh)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_summed_in_the_dtype_that_was_asked_for(still, dtype):
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    args = TrainingArguments(max_steps=10, learning_rate=1e-2, gradient_dtype=dtype, gradient_accumulation_steps=2)
    step = make_train_step(still, args, mesh=mesh)
    state, batch = step.init(), step.put(batch_of(8))
    lowered = step.jitted.lower(state, batch).as_text()
    told = re.findall(r"stablehlo.all_reduce.*?\}\) : \(tensor<[^>]*?(f32|bf16|f16)>\)", lowered, re.S)
    expected = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    assert len(told) == len(jax.tree.leaves(state.params)) + 2
    assert told.count(expected) >= len(told) - 2, "of all but the loss and its count"
    found = step(state, batch)[1]
    plain = make_train_step(still, args.replace(gradient_dtype=None), mesh=mesh)
    expected = plain(plain.init(), batch)[1]
    for name, tolerance in (("loss_sum", 1e-6), ("grad_norm", 1e-6 if dtype == "float32" else 4e-3)):
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance)


def test_gradients_that_the_compiler_sums_have_no_dtype_of_their_own(still):
    args = TrainingArguments(max_steps=10, gradient_dtype="bfloat16")
    with pytest.raises(InputError, match="needs a mesh of data alone, found data=4 × fsdp=2"):
        make_train_step(still, args, mesh=make_mesh(MeshConfig(fsdp=2)))
    make_train_step(still, args, mesh=make_mesh(devices=jax.devices()[:1]))  # nothing to sum


PRODUCTS = [
    (count, MeshConfig(data=count // (fsdp * sequence * tensor), fsdp=fsdp, sequence=sequence, tensor=tensor))
    for count in (1, 2, 4, 8)
    for fsdp, sequence, tensor in itertools.product((1, 2, 4, 8), repeat=3)
    if count % (fsdp * sequence * tensor) == 0
]


@pytest.mark.parity
@pytest.mark.parametrize(("count", "config"), PRODUCTS, ids=str)
def test_every_product_of_axes_gives_the_losses_of_one_device(runs, tiny, count, config):
    """1, 2, 4 and 8 devices, all the ways of dividing them; too many programs for the plain suite."""
    losses = run(tiny, (config, count), learning_rate=CALM)[2]
    np.testing.assert_allclose(losses, runs["one device"][2], rtol=1e-6)


def test_accumulation_is_the_big_batch(still):
    """Eight rows of which three only fill up: sums over micro-batches divided once, not a mean of means."""
    mesh = make_mesh(devices=jax.devices()[:1])
    results = []
    for micro in (1, 4):
        args = TrainingArguments(max_steps=10, learning_rate=1e-2, gradient_accumulation_steps=micro)
        step = make_train_step(still, args, mesh=mesh, optimizer=optax.sgd(0.1))
        state, metrics = step(step.init(), step.put(batch_of(5)))
        results.append((state.params, metrics))
    (big, big_metrics), (small, small_metrics) = results
    assert float(big_metrics["loss_count"]) == float(small_metrics["loss_count"]) == 5
    for key in ("loss_sum", "grad_norm"):
        np.testing.assert_allclose(big_metrics[key], small_metrics[key], rtol=1e-6)
    for one, other in zip(jax.tree.leaves(big), jax.tree.leaves(small), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_rows_that_fill_up_a_batch_change_nothing(still):
    mesh = make_mesh(devices=jax.devices()[:1])
    step = make_train_step(still, TrainingArguments(max_steps=10), mesh=mesh)
    short = batch_of(5)
    other = {key: value.copy() for key, value in short.items()}
    other["input_ids"][5:] = 9
    other["labels"][5:] = 1
    norms = [step(step.init(), step.put(batch))[1]["grad_norm"] for batch in (short, other)]
    assert float(norms[0]) == float(norms[1])


def test_dropout_is_a_function_of_seed_and_step(tiny):
    losses = [run(tiny, "one device", steps=2, seed=seed)[2] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_one_program_a_shape_and_the_state_is_donated(still):
    step = make_train_step(still, TrainingArguments(max_steps=10), mesh=make_mesh(devices=jax.devices()[:1]))
    state = first = step.init()
    for length in (16, 16, 24, 16, 24):
        state, _ = step(state, step.put(batch_of(8, length)))
    assert step.compilations == 2
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(still.params))


@pytest.mark.parametrize("head", ["masked-lm", "causal-lm"])
def test_a_step_over_a_large_vocabulary_never_holds_all_logits(monkeypatch, head):
    """The compiled program has no array of B × L × V numbers; with a loss that is not our own it has, and the same loss."""
    monkeypatch.setattr(vocabulary, "LARGE", 200)
    monkeypatch.setattr(vocabulary, "AT_ONCE", 1)
    if head == "masked-lm":
        config = {**TINY, "num_hidden_layers": 1, "vocab_size": 211, "hidden_size": 8, "num_attention_heads": 1,
                  "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
    else:
        config = {"model_type": "gpt2", "vocab_size": 211, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 64,
                  "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
    model = load(config, head)
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 211, (8, 40)).astype(np.int32)
    batch = {"input_ids": ids, "labels": np.where(draw.random(ids.shape) < 0.3, ids, -100)}

    def sizes(text):
        found = ([int(n) for n in shape.split(",")] for shape in re.findall(r"\b(?:f32|bf16)\[([\d,]+)\]", text))
        return [np.prod(shape) for shape in found if 211 in shape]

    args, mesh = TrainingArguments(max_steps=10), make_mesh(devices=jax.devices()[:1])
    found = []
    for loss in (None, default_loss(head, model.config)):
        step = make_train_step(model, args, mesh=mesh, loss_fn=loss, optimizer=optax.sgd(1.0))
        state, on_device = step.init(), step.put(batch)
        largest = max(sizes(step.program(state, on_device).as_text()))
        assert largest == (128 * 211 if loss is None else 8 * 40 * 211)
        state, metrics = step(state, on_device)
        found.append((state.params, [float(metrics[name]) for name in ("loss_sum", "loss_count", "grad_norm")]))
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)
    for one, other in zip(*(jax.tree.leaves(params) for params, _ in found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_biases_and_norms_do_not_decay(still):
    """With a gradient of zero (weight 0 everywhere) only decay moves a parameter."""
    args = TrainingArguments(max_steps=10, learning_rate=0.1, weight_decay=0.5)
    step = make_train_step(still, args, mesh=make_mesh(devices=jax.devices()[:1]))
    batch = batch_of(8)
    batch["example_weight"][:] = 0
    state, _ = step(step.init(), step.put(batch))
    before, after = still.params["layers"], state.params["layers"]
    np.testing.assert_array_equal(after["output_norm"]["scale"], before["output_norm"]["scale"])
    np.testing.assert_allclose(after["up"]["kernel"], before["up"]["kernel"] * (1 - 0.1 * 0.5), rtol=1e-6)


def test_bfloat16_keeps_float32_masters(still):
    _, state, losses = run(still, "one device", bf16=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(losses, run(still, "one device")[2], rtol=0.05)


def test_rematerialisation_changes_no_loss(still):
    np.testing.assert_allclose(
        run(still, "one device", gradient_checkpointing=True)[2], run(still, "one device")[2], rtol=1e-6
    )


def test_a_head_without_a_loss_asks_for_one(tiny):
    with pytest.raises(InputError, match="no default loss"):
        default_loss(None, tiny.config)


def test_an_encoder_decoder_learns_from_labels_alone():
    """What its decoder reads is made of them; inputs and labels of unequal lengths; the loss falls."""
    model = load({**T5.config, "num_layers": 1, "dropout_rate": 0.0}, "seq2seq-lm")
    draw = np.random.default_rng(0)
    texts = [draw.integers(2, 9, draw.integers(2, 5)).tolist() for _ in range(8)]
    table = Table({"input_ids": texts, "labels": [[*text[::-1], 9, 1] for text in texts]}, "texts backwards")
    batch = Batches(table, batch_size=8, buckets={"input_ids": (8,), "labels": (6,)})[0]
    expected = np.concatenate([np.zeros((8, 1)), np.maximum(batch["labels"][:, :-1], 0)], axis=1)
    np.testing.assert_array_equal(inputs_of(model, batch)["decoder_input_ids"], expected)
    args = TrainingArguments(max_steps=30, learning_rate=1e-2, label_smoothing_factor=0.1)
    step = make_train_step(model, args, mesh=make_mesh(MeshConfig(), jax.devices()[:1]))
    state, losses = step.init(), []
    for _ in range(12):
        state, metrics = step(state, step.put(batch))
        losses.append(float(metrics["loss_sum"] / metrics["loss_count"]))
    assert losses[-1] < losses[0] / 2


def test_the_cosine_schedule_is_half_a_wave():
    args = TrainingArguments(learning_rate=2.0, lr_scheduler_type="cosine", warmup_steps=2)
    rates = [float(make_schedule(args, 10)(step)) for step in (0, 1, 2, 4, 6, 8, 10, 11)]
    half = 2**-0.5
    np.testing.assert_allclose(rates, [0, 1, 2, 1 + half, 1, 1 - half, 0, 0], atol=1e-6)
    with pytest.raises(InputError, match="needs the number of steps"):
        make_schedule(args)
