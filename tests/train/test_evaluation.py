"""Evaluation equals plain numpy over the unpadded set, whatever the set's size leaves in the last batch."""

import jax
import numpy as np
import pytest

from jaxformers.data import Table
from jaxformers.errors import InputError
from jaxformers.generate import generate
from jaxformers.parallel.mesh import make_mesh
from jaxformers.train import TrainingArguments, evaluate, predict
from jaxformers.train.evaluation import make_evaluator
from jaxformers.train.metrics import accuracy, f1
from tests.families.table import T5, strong
from tests.train.conftest import make_examples


def scores(prediction):
    predicted = prediction.predictions.argmax(-1)
    return {"accuracy": accuracy(predicted, prediction.label_ids), "f1": f1(predicted, prediction.label_ids)}


@pytest.fixture(scope="module")
def nine(still):
    """Nine texts of three lengths, and the logits of each alone, without padding."""
    made = make_examples(9, seed=9)
    texts = [np.resize(text, (1, (4, 9, 14)[n % 3])) for n, text in enumerate(made["input_ids"])]
    table = Table({"input_ids": [text[0].tolist() for text in texts], "labels": made["labels"]}, "nine")
    return table, np.concatenate([np.asarray(still.apply(still.params, input_ids=text).logits) for text in texts])


@pytest.mark.parametrize("size", [1, 7, 8, 9])
@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_equals_numpy(still, nine, size, devices):
    table, logits = nine[0].select(range(size)), nine[1][:size]
    args = TrainingArguments(per_device_eval_batch_size=8 // devices)
    mesh = make_mesh(devices=jax.devices()[:devices])
    labels = np.array(table["labels"])
    shifted = logits - logits.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    loss = -log_probabilities[np.arange(size), labels].mean()

    out = predict(still, table, args, compute_metrics=scores, mesh=mesh)
    np.testing.assert_allclose(out.predictions, logits, atol=2e-5)  # and so in the order of the data
    np.testing.assert_array_equal(out.label_ids, labels)
    metrics = evaluate(still, table, args, compute_metrics=scores, mesh=mesh)
    assert metrics["eval_accuracy"] == float((logits.argmax(-1) == labels).mean())
    assert metrics["eval_f1"] == f1(logits.argmax(-1), labels)
    np.testing.assert_allclose(metrics["eval_loss"], loss, rtol=1e-5)


def test_prediction_without_labels_has_no_loss(still):
    out = predict(
        still, make_examples(5).drop(["labels"]), TrainingArguments(), mesh=make_mesh(devices=jax.devices()[:1])
    )
    assert out.label_ids is None
    assert "test_loss" not in out.metrics
    assert out.predictions.shape == (5, 2)


def test_metrics_agree_with_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score

    draw = np.random.default_rng(0)
    for size in (1, 2, 50):
        predicted, labels = draw.integers(0, 2, size), draw.integers(0, 2, size)
        assert accuracy(predicted, labels) == pytest.approx(accuracy_score(labels, predicted))
        assert f1(predicted, labels) == pytest.approx(f1_score(labels, predicted, zero_division=0))


def test_predictions_are_kept_only_where_they_are_asked_for(still, monkeypatch):
    """Those of a language model over a whole set are larger than a machine."""
    from jaxformers.train.evaluation import make_evaluator

    mesh = make_mesh(devices=jax.devices()[:1])
    table, args = make_examples(5), TrainingArguments()
    bare = make_evaluator(still, table, args, mesh=mesh)
    assert bare(still.params).predictions is None
    assert "logits" not in bare.step(still.params, {key: value for key, value in bare.batches[0].items()})
    kept = make_evaluator(still, table, args, mesh=mesh, compute_metrics=scores)
    assert kept(still.params).predictions.shape == (5, 2)
    assert bare(still.params).metrics["eval_loss"] == pytest.approx(kept(still.params).metrics["eval_loss"])


def test_a_language_models_perplexity():
    from jaxformers.checkpoints import load
    from jaxformers.data import Table
    from tests.train.conftest import TINY

    table = Table({"input_ids": [[2, 5, 6, 3]] * 3, "labels": [[-100, 5, -100, -100]] * 3})
    metrics = evaluate(load(TINY, "masked-lm"), table, mesh=make_mesh(devices=jax.devices()[:1]))
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(metrics["eval_loss"]))


# -- generated predictions ---------------------------------------------------------------------------------------------

ASKED = {
    "input_ids": [[5, 9, 7, 3, 8, 4, 6, 2, 9, 1], [8, 4, 3], [6, 6]],
    "labels": [[4, 1], [7, 7, 7, 3, 2, 9, 5, 8, 4, 1], [3, 1]],
}


def test_an_evaluation_may_be_of_what_the_model_writes():
    model, mesh = strong(T5, "seq2seq-lm"), make_mesh(devices=jax.devices()[:1])
    args = TrainingArguments(predict_with_generate=True, generation_max_length=6, per_device_eval_batch_size=2)
    seen = []

    def scores(prediction):
        seen.append(prediction)
        return {"length": float((prediction.predictions >= 0).sum())}

    out = predict(model, Table(ASKED), args, compute_metrics=scores, mesh=mesh)
    assert out.metrics["test_length"] > 0
    loss = predict(model, Table(ASKED), TrainingArguments(per_device_eval_batch_size=2), mesh=mesh).metrics["test_loss"]
    assert out.metrics["test_loss"] == pytest.approx(loss, rel=1e-6)
    assert out.label_ids.tolist() == [row + [-100] * (len(out.label_ids[0]) - len(row)) for row in ASKED["labels"]]
    for ids, said in zip(ASKED["input_ids"], out.predictions, strict=True):
        alone = generate(model, [ids], max_length=6).sequences[0]
        assert said[: len(alone)].tolist() == alone.tolist()
    bare = predict(model, Table({"input_ids": ASKED["input_ids"]}), args, mesh=mesh)
    np.testing.assert_array_equal(bare.predictions, out.predictions)
    assert "test_loss" not in bare.metrics


def test_rows_are_read_as_they_are(still):
    class Rows(list):
        def draw(self, index, generator):
            raise AssertionError("what training draws")

        def collate(self, batch, generators):
            raise AssertionError("what training hides")

    rows = Rows(make_examples(3)[row] for row in range(3))
    batch = make_evaluator(still, rows, TrainingArguments(), mesh=make_mesh()).batches[0]
    first = rows[int(batch["example_index"][0])]["input_ids"]
    assert batch["input_ids"][0][: len(first)].tolist() == first


def test_only_encoder_decoders_write_predictions(still):
    with pytest.raises(InputError, match="the head 'seq2seq-lm' or 'speech-seq2seq', found 'sequence-classification'"):
        predict(still, make_examples(2), TrainingArguments(predict_with_generate=True))


def test_pairs_of_texts_need_no_more_programs_than_texts():
    """However long texts and answers are, an epoch after the first meets no new shape."""
    from jaxformers.train.evaluation import make_batches, one_of_each_shape

    draw = np.random.default_rng(0)
    rows = [{"input_ids": [1] * draw.integers(1, 90), "labels": [1] * draw.integers(0, 60)} for _ in range(200)]
    batches = make_batches(rows, 4, own_lengths=("labels",), batch_size=8, num_epochs=4, shuffle=True, seed=3)

    def shape(batch):
        return batch["input_ids"].shape[1], batch["labels"].shape[1]

    first = {shape(batch) for batch in one_of_each_shape(batches)}
    assert 1 < len(first) <= 4
    assert {shape(batch) for batch in batches} == first
