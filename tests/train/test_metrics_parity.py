"""Metrics beside scikit-learn, SciPy and seqeval, over random inputs and edges."""

import itertools
import warnings

import numpy as np
import pytest

from jaxformers.train import metrics as m

pytest.importorskip(
    "torch"
)  # like all of the parity suite; a plain environment has scikit-learn, and would run half of it
sk = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")
seqeval = pytest.importorskip("seqeval.metrics")
scheme = pytest.importorskip("seqeval.scheme")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


def draws(classes, sizes=(1, 2, 3, 50, 400), seed=0):
    draw = np.random.default_rng(seed)
    for size in sizes:
        yield draw.integers(0, classes, size), draw.integers(0, classes, size)
    yield np.zeros(5, int), np.zeros(5, int)
    yield np.zeros(5, int), np.ones(5, int)
    yield np.ones(4, int), draw.integers(0, 2, 4)
    labels = draw.integers(0, classes, 9)
    yield labels, labels
    yield labels + 1, labels


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_classes(classes):
    for predicted, labels in draws(classes):
        assert m.accuracy(predicted, labels) == pytest.approx(sk.accuracy_score(labels, predicted))
        assert m.matthews_correlation(predicted, labels) == pytest.approx(sk.matthews_corrcoef(labels, predicted))
        for ours, theirs in ((m.precision, sk.precision_score), (m.recall, sk.recall_score), (m.f1, sk.f1_score)):
            for average in ("macro", "micro", "weighted"):
                expected = theirs(labels, predicted, average=average, zero_division=0)
                assert ours(predicted, labels, average=average) == pytest.approx(expected)
                some = theirs(labels, predicted, average=average, labels=[0, 2], zero_division=0)
                assert ours(predicted, labels, average=average, classes=[0, 2]) == pytest.approx(some)
            for positive in (0, 1, 2):
                expected = theirs(labels == positive, predicted == positive, zero_division=0)
                assert ours(predicted, labels, positive) == pytest.approx(expected)


def test_classes_named_by_strings():
    names = np.array(["yes", "no", "maybe"])
    for predicted, labels in draws(2):
        predicted, labels = names[predicted], names[labels]
        assert m.f1(predicted, labels, average="macro") == pytest.approx(
            sk.f1_score(labels, predicted, average="macro", zero_division=0)
        )
        assert m.matthews_correlation(predicted, labels) == pytest.approx(sk.matthews_corrcoef(labels, predicted))


def numbers():
    draw = np.random.default_rng(1)
    for size in (2, 3, 10, 500):
        yield draw.normal(size=size), draw.normal(size=size)
        yield draw.integers(0, 5, size), draw.integers(0, 26, size) / 5  # many ties, as in STS-B
        x = draw.normal(size=size)
        yield x, 3 * x + 1e-3 * draw.normal(size=size)
        yield x, -x
        yield (x * 1e-9 + 1e3).astype(np.float32), x
    yield [1, 1, 1], [1, 2, 3]
    yield [1.5, np.nan, 2.0], [1, 2, 3]


def test_correlations():
    for x, y in numbers():
        assert m.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9, nan_ok=True)
        assert m.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9, nan_ok=True)


TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-x-y", "I-x-y", "B", "I")
MORE = (*TAGS, "E-PER", "S-PER", "E-LOC", "S-LOC", "E", "S", "E-x-y")


def texts(tags, count, longest, seed):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, longest + 1, count)
    return [[[str(tag) for tag in draw.choice(tags, n)] for n in lengths] for _ in range(2)]


def scores_of(predicted, labels, **options):
    found = [f(labels, predicted, **options) for f in (seqeval.precision_score, seqeval.recall_score, seqeval.f1_score)]
    return dict(zip(("precision", "recall", "f1"), map(float, found), strict=True))


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
def test_entities(average, strict):
    options = {"mode": "strict", "scheme": scheme.IOB2} if strict else {}
    for seed, (count, longest) in enumerate(itertools.product((1, 3, 40), (2, 5, 20))):
        predicted, labels = texts(TAGS if strict else MORE, count, longest, seed)
        predicted = [tags[:] for tags in predicted]
        for row, true in zip(predicted[::2], labels[::2], strict=True):
            row[:] = true  # or nothing would ever be right
        expected = scores_of(predicted, labels, average=average, **options)
        found = m.entity_scores(predicted, labels, average=average, strict=strict)
        if any(map(m.entities_of, (tag for tags in labels + predicted for tag in [tags]))):
            expected = {name: 0.0 if np.isnan(value) else value for name, value in expected.items()}
            assert {name: found[name] for name in expected} == pytest.approx(expected)
        if any(labels):
            assert found["accuracy"] == pytest.approx(seqeval.accuracy_score(labels, predicted))


def test_every_short_tagging_is_read_alike():
    """All taggings of three words, so that every pair of neighbours and both ends occur."""
    from seqeval.metrics.sequence_labeling import get_entities

    for tags in itertools.product(("O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "I", "E-B"), repeat=3):
        assert m.entities_of(tags) == get_entities(list(tags))
    for tags in itertools.product(("O", "B-A", "I-A", "B-B", "I-B", "I", "B"), repeat=4):
        expected = [(e.tag, e.start, e.end - 1) for e in scheme.Entities([list(tags)], scheme.IOB2).entities[0]]
        assert m.entities_of(tags, strict=True) == expected


def test_scores_by_type_equal_the_report():
    predicted, labels = texts(TAGS, 30, 12, 7)
    with warnings.catch_warnings():
        report = seqeval.classification_report(labels, predicted, output_dict=True)
    found = m.entity_scores(predicted, labels, by_type=True)
    for kind in ("PER", "LOC", "x-y", "_"):
        row = [report[kind][name] for name in ("precision", "recall", "f1-score", "support")]
        assert [found[f"{kind}_{name}"] for name in ("precision", "recall", "f1", "number")] == pytest.approx(row)
