"""Ways of training: the average of the parameters, and a student beside its teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.checkpoints import load
from jaxformers.core.params import leaves
from jaxformers.data import Batches
from jaxformers.errors import InputError
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.train import TrainingArguments, evaluate, fit, make_train_step
from jaxformers.train.average import averaged
from jaxformers.train.distillation import distillation, every_other_layer, student_of, taught
from jaxformers.train.losses import tokens
from tests.train.conftest import TINY, make_examples


@pytest.fixture(scope="module")
def batch():
    return Batches(make_examples(4), batch_size=4, buckets=(16,))[0]


def test_the_average_follows_the_parameters_where_they_lie(still, batch):
    args = TrainingArguments(max_steps=10, learning_rate=1e-2, ema_decay=0.75)
    step = make_train_step(
        still, args, mesh=make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:4]), trainable="layers"
    )
    state = step.init()
    expected = {path: np.asarray(leaf) for path, leaf in leaves(still.params)}
    for _ in range(2):
        state, _ = step(state, step.put(batch))
        expected = {path: 0.75 * expected[path] + 0.25 * np.asarray(leaf) for path, leaf in leaves(state.params)}
    found = averaged(state)
    for path, leaf in leaves(found):
        np.testing.assert_allclose(leaf, expected[path], atol=1e-6)
    assert np.abs(found["layers"]["up"]["kernel"] - state.params["layers"]["up"]["kernel"]).max() > 1e-3
    assert found["layers"]["up"]["kernel"].sharding.spec[1] == "fsdp"
    assert found["classifier"] == state.params["classifier"]  # which do not learn, and have none
    with pytest.raises(InputError, match=r"ema_decay must be above 0 and below 1, found 1\.0"):
        args.replace(ema_decay=1.0)


def test_the_average_is_evaluated_and_saved(tiny, data, quiet, one):
    args = quiet.replace(max_steps=3, learning_rate=0.05, ema_decay=0.999, save_strategy="no", eval_strategy="no")
    slow, result = fit(tiny, args, train=data[0], eval=data[1], mesh=one)
    path = ("layers", "up", "kernel")
    before, after, saved = (
        np.asarray(dict(leaves(model.params))[path]) for model in (tiny, slow, load(args.output_dir, tiny.head))
    )
    assert (
        0 < np.abs(after - before).max() < 0.001
    )  # a thousandth of the way, while the parameters have moved by 0.05 a step
    np.testing.assert_array_equal(saved, after)
    assert result.metrics["eval_loss"] == evaluate(slow, data[1], args, mesh=one)["eval_loss"]


WORDS = {**TINY, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def teacher():
    return load(WORDS, "masked-lm", seed=5)


def test_a_student_begins_with_layers_of_its_teachers(teacher):
    student = every_other_layer(teacher, 1)
    kernels = [model.params["layers"]["up"]["kernel"] for model in (student, teacher)]
    np.testing.assert_array_equal(kernels[0], kernels[1][:1])
    assert student.config.num_hidden_layers == 1
    assert student.params["embeddings"] == teacher.params["embeddings"]
    numbered = {**teacher.params, "layers": jax.tree.map(lambda leaf: jnp.arange(12), teacher.params["layers"])}
    deep = dataclasses.replace(teacher, config=teacher.config.replace(num_hidden_layers=12), params=numbered)
    assert every_other_layer(deep, 6).params["layers"]["up"]["kernel"].tolist() == [0, 2, 4, 7, 9, 11]
    with pytest.raises(InputError, match="a teacher with 2 layers has 1 to 1, found 2"):
        every_other_layer(teacher, 2)


def test_distilberts_loss_by_hand_and_the_student_alone_learns(teacher, one):
    student = every_other_layer(teacher, 1)
    model = taught(student, teacher)
    loss = distillation(tokens, temperature=2.0, soft=5.0, hard=2.0, cosine=1.0)
    ids, mask = np.array([[2, 5, 9, 3], [2, 7, 3, 0]]), np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": np.array([[-100, 11, -100, -100], [-100, 12, 13, -100]]),
    }

    told = [
        each.apply(each.params, input_ids=ids, attention_mask=mask, output_hidden_states=True)
        for each in (student, teacher)
    ]
    p, q = (np.asarray(jax.nn.softmax(each.logits / 2.0), np.float64) for each in told)
    real = mask.astype(bool)
    soft = 4 * (q * (np.log(q) - np.log(p))).sum(-1)[real].mean()
    x, y = (np.asarray(each.hidden_states[-1], np.float64)[real] for each in told)
    cosine = (1 - (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)).mean()
    words = -np.asarray(jax.nn.log_softmax(told[0].logits))[[0, 1, 1], [1, 1, 2], [11, 12, 13]].mean()
    given = {key: value for key, value in batch.items() if key != "labels"}
    total, count = loss(model.apply(model.params, rng=jax.random.key(0), **given), batch)
    assert count == 3
    alone, _ = loss(model.apply(model.params, **given), batch)
    assert float(alone / 3) == pytest.approx(float(words), abs=1e-5)  # in evaluation the student speaks alone
    assert float(total / count) == pytest.approx(5 * soft + 2 * words + cosine, abs=1e-4)
    assert min(soft, cosine) > 0.01

    step = make_train_step(model, TrainingArguments(max_steps=2, learning_rate=1e-2), mesh=one, loss_fn=loss)
    state = step.init()
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert held < 2 * sum(leaf.size for leaf in jax.tree.leaves(student.params)) + 10
    state, metrics = step(state, step.put(batch))
    assert float(metrics["loss_sum"]) == pytest.approx(float(total), abs=1e-4)
    done = dataclasses.replace(model, params=state.params)
    jax.tree.map(np.testing.assert_array_equal, done.params["teacher"], teacher.params)
    learned = student_of(done)
    assert jax.tree.structure(learned.params) == jax.tree.structure(student.params)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), learned.params, student.params)
    assert all(jax.tree.leaves(moved))
    with pytest.raises(InputError, match="need the same head"):
        taught(student, load(TINY, "sequence-classification"))
    narrow = taught(student, load({**WORDS, "hidden_size": 16, "num_attention_heads": 2}, "masked-lm"))
    with pytest.raises(InputError, match="widths 32 and 16: give cosine=0"):
        loss(narrow.apply(narrow.params, rng=jax.random.key(0), **given), batch)
    with pytest.raises(InputError, match="no teacher at its side"):
        student_of(student)
