"""Metrics by hand: small cases whose values can be counted, edges, and what is refused. Against other libraries:
`test_metrics_parity`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from jaxformers.errors import InputError
from jaxformers.train import metrics as m

GOLDENS = json.loads((Path(__file__).resolve().parents[1] / "goldens" / "squad_metrics.json").read_text())


def test_classes_by_hand():
    predicted, labels = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 0])
    # hits 1, 1, 1; predicted 2, 1, 3; true 3, 2, 1
    assert m.accuracy(predicted, labels) == 0.5
    assert m.precision(predicted, labels, average="macro") == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)
    assert m.recall(predicted, labels, average="macro") == pytest.approx((1 / 3 + 1 / 2 + 1) / 3)
    assert m.f1(predicted, labels, average="macro") == pytest.approx((2 / 5 + 2 / 3 + 2 / 4) / 3)
    assert m.f1(predicted, labels, average="weighted") == pytest.approx((3 * 2 / 5 + 2 * 2 / 3 + 2 / 4) / 6)
    assert m.f1(predicted, labels, average="micro") == m.accuracy(predicted, labels)
    assert m.f1(predicted, labels, 2) == 0.5
    assert m.f1(predicted, labels, average="micro", classes=[0, 2]) == pytest.approx(4 / 9)
    assert m.f1(predicted, labels, 7) == m.precision(predicted, labels, 7) == m.recall(predicted, labels, 7) == 0.0


def test_matthews_edges():
    assert m.matthews_correlation([1, 0, 1, 0], [1, 0, 1, 0]) == 1.0
    assert m.matthews_correlation([1, 0, 1, 0], [0, 1, 0, 1]) == -1.0
    assert m.matthews_correlation([1, 1, 1], [1, 0, 1]) == m.matthews_correlation([1, 0, 1], [1, 1, 1]) == 0.0
    # hits 2 of 4 + 1 of 1: (3·5 − (2·4 + 3·1)) / √((25 − 13)(25 − 17))
    assert m.matthews_correlation([1, 1, 0, 0, 0], [1, 1, 1, 1, 0]) == pytest.approx(4 / math.sqrt(12 * 8))
    assert m.matthews_correlation(["a", "b", "c"], ["a", "b", "c"]) == pytest.approx(1.0)


def test_correlations_edges():
    assert m.pearson([1e200, 2e200, 3e200], [1, 2, 3]) == pytest.approx(1.0)
    assert m.pearson(np.float32([1, 2, 3]), np.float32([3, 2, 1])) == pytest.approx(-1.0)
    assert m.spearman([1, 1, 2], [1, 1, 2]) == pytest.approx(1.0)
    # ranks 1.5 1.5 3.5 3.5 5 beside 1 … 5: products of deviations 9, squares 9 and 10
    assert m.spearman([4, 4, 7, 7, 9], [1, 2, 3, 4, 5]) == pytest.approx(9 / math.sqrt(9 * 10))
    for correlation in (m.pearson, m.spearman):
        assert math.isnan(correlation([1, 1, 1], [1, 2, 3]))
        assert math.isnan(correlation([1, 2, 3], [0.1, 0.1, 0.1]))
        assert math.isnan(correlation([1, math.nan, 3], [1, 2, 3]))


def test_perplexity():
    assert m.perplexity(0.0) == 1.0
    assert m.perplexity(math.log(7) * 3, 3) == pytest.approx(7)
    assert m.perplexity(1e6) == math.inf
    assert math.isnan(m.perplexity(math.nan))


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("O O", [], []),
        ("B-A I-A I-A O B-B", [("A", 0, 2), ("B", 4, 4)], [("A", 0, 2), ("B", 4, 4)]),
        ("I-A I-A O I-B", [("A", 0, 1), ("B", 3, 3)], []),
        ("B-A I-B I-B", [("A", 0, 0), ("B", 1, 2)], [("A", 0, 0)]),
        ("B-A B-A I-A", [("A", 0, 0), ("A", 1, 2)], [("A", 0, 0), ("A", 1, 2)]),
        ("B-A I-B I-A", [("A", 0, 0), ("B", 1, 1), ("A", 2, 2)], [("A", 0, 0)]),
        ("B I I-A", [("_", 0, 1), ("A", 2, 2)], [("_", 0, 1)]),
        ("B-x-y I-x-y", [("x-y", 0, 1)], [("x-y", 0, 1)]),
    ],
)
def test_entities(tags, lenient, strict):
    assert m.entities_of(tags.split()) == lenient
    assert m.entities_of(tags.split(), strict=True) == strict


def test_entities_of_iobes():
    assert m.entities_of(["S-A", "B-A", "E-A", "I-A", "E-A", "O", "E-B"]) == [
        ("A", 0, 0),
        ("A", 1, 2),
        ("A", 3, 4),
        ("B", 6, 6),
    ]
    with pytest.raises(InputError, match="a tag of IOB2 begins with B, I or O, found 'S-A'"):
        m.entities_of(["S-A"], strict=True)


def test_entities_do_not_reach_into_the_next_text():
    assert m.entity_scores([["B-A"], ["I-A"]], [["B-A"], ["I-A"]], by_type=True)["A_number"] == 2
    assert m.entity_scores([["B-A", "I-A"]], [["B-A", "O"]])["f1"] == 0.0  # whole entities or none


def test_entity_scores_by_type():
    scores = m.entity_scores([["B-A", "B-B", "O"]], [["B-A", "O", "B-C"]], average="macro", by_type=True)
    assert scores == {
        "precision": pytest.approx(1 / 3), "recall": pytest.approx(1 / 3), "f1": pytest.approx(1 / 3),
        "accuracy": pytest.approx(1 / 3), "A_precision": 1.0, "A_recall": 1.0, "A_f1": 1.0, "A_number": 1,
        "B_precision": 0.0, "B_recall": 0.0, "B_f1": 0.0, "B_number": 0,
        "C_precision": 0.0, "C_recall": 0.0, "C_f1": 0.0, "C_number": 1}  # fmt: skip
    nothing = dict.fromkeys(("precision", "recall", "f1", "accuracy"), 0.0)
    for average in ("micro", "macro", "weighted"):
        assert m.entity_scores([], [], average=average) == nothing
        assert m.entity_scores([["O"]], [["O"]], average=average) == nothing | {"accuracy": 1.0}
    json.dumps(scores)


def test_squad_by_hand():
    assert m.normalise_answer(" The  An-swer:\tis a\nTHEory! ") == "answer is theory"
    assert m.word_f1("the", "a") == 0.0
    assert m.word_f1("the", "a", version_2=True) == m.exact_match("the", "a") == 1.0
    assert m.word_f1("b b c", "b c c") == pytest.approx(2 / 3)
    assert m.squad_v2_scores(["x"], [["x"]]) == {"exact": 100.0, "f1": 100.0, "total": 1,
                                                  "HasAns_exact": 100.0, "HasAns_f1": 100.0, "HasAns_total": 1}  # fmt: skip


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case["name"])
def test_squad_equals_its_script(case):
    found = m.squad_v2_scores(**case["given"])
    assert found == pytest.approx(case["expected"], abs=1e-9)
    assert found.keys() == case["expected"].keys()


def test_what_is_refused():
    everything = (m.accuracy, m.f1, m.precision, m.recall, m.matthews_correlation, m.pearson, m.spearman)
    for metric in everything:
        with pytest.raises(InputError, match=rf"{metric.__name__} of no examples is not defined"):
            metric([], [])
        with pytest.raises(InputError, match=r"a prediction for each label, found \(2,\) and \(3,\)"):
            metric([1, 2], [1, 2, 3])
    for correlation in (m.pearson, m.spearman):
        with pytest.raises(InputError, match="at least two numbers, found one"):
            correlation([1], [1])
    with pytest.raises(InputError, match="average must be one of binary, macro, micro, weighted; found 'samples'"):
        m.f1([1], [1], average="samples")
    with pytest.raises(InputError, match="average must be 'micro', 'macro' or 'weighted', found 'binary'"):
        m.entity_scores([], [], average="binary")
    with pytest.raises(InputError, match="found 2 and 1 in text 1"):
        m.entity_scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(InputError, match="found 1 and 2 texts"):
        m.entity_scores([["O"]], [["O"], ["O"]])
    for tag in ("", 3, None):
        with pytest.raises(InputError, match="a tag must be a str such as 'B-PER' or 'O', found"):
            m.entities_of([tag])
    with pytest.raises(InputError, match="at least one token, found count=0"):
        m.perplexity(1.0, 0)
    for squad in (m.squad_scores, m.squad_v2_scores):
        with pytest.raises(InputError, match="of no questions are not defined"):
            squad([], [])
        with pytest.raises(InputError, match="found 1 and 2"):
            squad(["x"], [["x"], ["y"]])
        with pytest.raises(InputError, match="question 0 needs a str and a list of str, found 'x' and 'x'"):
            squad(["x"], ["x"])
    with pytest.raises(InputError, match="question 0 has no answer; for SQuAD 2"):
        m.squad_scores(["x"], [[]])
    with pytest.raises(InputError, match="one for each of 1 predictions, found 2"):
        m.squad_v2_scores(["x"], [["x"]], [0.1, 0.2])


def test_rouge_by_hand():
    """The cat sat. / The cat lay down: 2 of 3 and 2 of 4 words, 1 of 2 and 1 of 3 pairs; F is 2 P R / (P + R), in percent."""
    scores = m.rouge(["The cat sat."], ["The cat lay down."])
    assert scores["rouge1"] == scores["rougeL"] == scores["rougeLsum"] == pytest.approx(100 * 4 / 7)
    assert scores["rouge2"] == pytest.approx(100 * 2 / 5)
    assert m.rouge(["dogs", "x"], ["dog", "y"])["rouge1"] == 50  # words are stemmed, texts averaged
    turned = m.rouge(["It rains. He sleeps."], ["He sleeps. It rains."])
    assert (turned["rougeL"], turned["rougeLsum"]) == (50, 100)
    with pytest.raises(InputError, match="equally many and not none, found 1 and 2"):
        m.rouge(["a"], ["a", "b"])


def test_bleu_by_hand():
    """Seven tokens, the last of which is the stop: all words right but the fifth."""
    assert m.bleu(["the cat sat on the mat."], ["the cat sat on the mat."]) == pytest.approx(100)
    hits = (6 / 7) * (4 / 6) * (2 / 5) * (1 / 4)
    assert m.bleu(["a b c d e f."], ["a b c d x f."]) == pytest.approx(100 * hits**0.25)
    with pytest.raises(InputError, match="found 0 and 0"):
        m.bleu([], [])


def test_mean_iou_by_hand():
    predicted = [np.array([[0, 0, 1], [1, 2, 2]]), np.array([[0, 0]])]
    labels = [np.array([[0, 1, 1], [1, 2, 255]]), np.array([[0, 1]])]
    scores = m.mean_iou(predicted, labels, num_labels=4)
    # class 0: 2 of both, 4 of either; 1: 2 and 4; 2: 1 and 1; 3 is nowhere
    assert scores["per_category_iou"][:3] == [0.5, 0.5, 1.0]
    assert scores["per_category_accuracy"][:3] == [1.0, 0.5, 1.0]
    assert math.isnan(scores["per_category_iou"][3])
    assert scores["mean_iou"] == pytest.approx(2 / 3)
    assert scores["mean_accuracy"] == pytest.approx(2.5 / 3)
    assert scores["overall_accuracy"] == pytest.approx(5 / 7)
    reduced = [np.where(each == 255, 0, each + 1) for each in labels]
    np.testing.assert_equal(m.mean_iou(predicted, reduced, 4, reduce_labels=True), scores)
    with pytest.raises(InputError, match="a label must be from 0 to 1, found 0 to 2"):
        m.mean_iou(predicted, labels, num_labels=2)
    with pytest.raises(InputError, match=r"compares predictions \[1, 2\] with labels \[2, 1\]"):
        m.mean_iou([[[0, 0]]], [[[0], [0]]], num_labels=2)
    with pytest.raises(InputError, match="at least one place"):
        m.mean_iou([[0]], [[255]], num_labels=2)


def test_what_was_heard_wrongly():
    assert m.word_error_rate(["a b c"], ["a b c"]) == m.letter_error_rate(["a  b"], ["a b"]) == 0
    assert m.word_error_rate(["", "x"], ["one two", "x"]) == pytest.approx(2 / 3)  # over all words, not a mean of texts
    assert m.word_error_rate(["the cat the cat sat"], ["the cat sat"]) == pytest.approx(2 / 3)
    assert m.word_error_rate(["w x y z"], ["a"]) == 4  # more is wrong than was said
    assert m.letter_error_rate(["kitten"], ["sitting"]) == pytest.approx(3 / 7)
    assert m.letter_error_rate(["ab"], ["a b"]) == pytest.approx(1 / 3)
    rng = np.random.default_rng(0)

    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    for _ in range(20):
        a, b = ("".join(rng.choice([*"abc"], rng.integers(1, 6))) for _ in range(2))
        assert m.letter_error_rate([a], [b]) == slow(a, b) / len(b)
    with pytest.raises(InputError, match="nothing to hear wrongly"):
        m.word_error_rate(["a"], [" "])
    with pytest.raises(InputError, match="found 1 and 2"):
        m.word_error_rate(["a"], ["a", "b"])
