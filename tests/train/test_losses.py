"""The losses of heads that learn from several things at once, by hand; that they are transformers' own is in tests/families."""

import jax
import numpy as np
import pytest

from jaxformers.checkpoints import load
from jaxformers.core.outputs import Output
from jaxformers.data import Table
from jaxformers.errors import InputError
from jaxformers.parallel.mesh import make_mesh
from jaxformers.train import TrainingArguments, fit
from jaxformers.train.losses import default_loss

draw = np.random.default_rng(0)
WEIGHT = np.array([1, 1, 0], np.float32)  # the last row fills up the batch


def cross_entropy(logits, label):
    return np.log(np.exp(np.float64(logits)).sum()) - logits[label]


def told(logit, yes):
    """Binary cross-entropy."""
    return np.log1p(np.exp(-np.float64(logit) if yes else np.float64(logit)))


def mean(head, output, batch):
    total, count = default_loss(head, None)(output, batch | {"example_weight": WEIGHT})
    return float(total / count)


def test_bert_and_albert_learn_words_and_texts_each_as_a_mean_of_its_own():
    words, texts = draw.normal(size=(3, 4, 7)).astype(np.float32), draw.normal(size=(3, 2)).astype(np.float32)
    labels = np.array([[-100, 3, -100, 6], [-100, -100, 0, -100], [1, 2, 3, 4]])
    second = np.array([1, 0, 1])
    asked = [(0, 1), (0, 3), (1, 2)]
    expected = np.mean([cross_entropy(words[at], labels[at]) for at in asked])
    expected += np.mean([cross_entropy(texts[n], second[n]) for n in (0, 1)])
    for field, key in (("seq_relationship_logits", "next_sentence_label"), ("sop_logits", "sentence_order_label")):
        output = Output(prediction_logits=words, **{field: texts})
        np.testing.assert_allclose(mean("pretraining", output, {"labels": labels, key: second}), expected, rtol=1e-6)
        with pytest.raises(InputError, match=f"learns from labels and {key}, and the data has no {key}"):
            mean("pretraining", output, {"labels": labels})


def test_electra_learns_from_every_real_token():
    logits = draw.normal(size=(3, 4)).astype(np.float32)
    labels = np.array([[0, 1, 0, 0], [-100, 1, 1, 0], [1, 1, 1, 1]])
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    asked = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]
    expected = np.mean([told(logits[at], labels[at]) for at in asked])
    batch = {"labels": labels, "attention_mask": mask}
    np.testing.assert_allclose(mean("pretraining", Output(logits=logits), batch), expected, rtol=1e-6)


def test_beams_learn_start_end_and_whether_there_is_an_answer():
    start, end = draw.normal(size=(2, 3, 5)).astype(np.float32)
    none = draw.normal(size=3).astype(np.float32)
    output = Output(start_logits=start, end_logits=end, cls_logits=none)
    batch = {"start_positions": np.array([1, 5, 0]), "end_positions": np.array([2, 5, 0])}  # the second was cut off
    answer = (cross_entropy(start[0], 1) + cross_entropy(end[0], 2)) / 2
    np.testing.assert_allclose(mean("question-answering-beam", output, batch), answer, rtol=1e-6)
    batch["is_impossible"] = np.array([0, 1, 1])
    expected = answer + 0.5 * (told(none[0], False) + told(none[1], True)) / 2
    np.testing.assert_allclose(mean("question-answering-beam", output, batch), expected, rtol=1e-6)


BERT = {"model_type": "bert", "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 16}  # fmt: skip
XLNET = {"model_type": "xlnet", "vocab_size": 32, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16,
         "start_n_top": 2, "end_n_top": 2}  # fmt: skip
IDS = [[2, 9, 7, 3], [2, 8, 3]] * 2
RUNS = {
    "pretraining": (BERT, {"labels": [[-100, 4, -100, -100], [-100, 5, -100]] * 2, "next_sentence_label": [0, 1] * 2}),
    "question-answering-beam": (
        XLNET,
        {"start_positions": [1, 9] * 2, "end_positions": [2, 9] * 2, "is_impossible": [0, 1] * 2,
         "p_mask": [[1, 0, 0, 1], [1, 0, 1]] * 2, "cls_index": [3, 2] * 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("head", RUNS)
def test_a_run_learns_from_all_of_it(head, tmp_path):
    config, wanted = RUNS[head]
    args = TrainingArguments(
        output_dir=str(tmp_path), disable_tqdm=True, report_to="none", per_device_train_batch_size=4, max_steps=1
    )
    examples = Table({"input_ids": IDS, **wanted})
    one = make_mesh(devices=jax.devices()[:1])
    before = load(config, head)
    after, result = fit(before, args, train=examples, eval=examples, mesh=one)
    assert np.isfinite(result.training_loss)
    assert np.isfinite(result.metrics["eval_loss"])
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(after.params), strict=True
    ):
        name = jax.tree_util.keystr(path)
        assert "kernel" not in name or not np.array_equal(old, new), name
