"""What the bundled paraphrase pairs promise: made by their script, balanced, nothing shared, no short cut by overlap."""

import itertools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "bundled"
FUNCTION_WORDS = {"the", "did", "not", "has", "had", "been", "by", "was", "is", "it", "who", "that", "what"}


def words(text):
    return re.findall(r"[a-z]+", text.lower())


def content(text):
    return [word for word in words(text) if word not in FUNCTION_WORDS]


def frame(text):
    return " ".join(word if word in FUNCTION_WORDS else "_" for word in words(text))


@pytest.fixture(scope="module")
def splits():
    rows = {}
    for split in ("train", "validation"):
        lines = (FOLDER / "paraphrase" / f"{split}.tsv").read_text("utf-8").splitlines()[1:]
        rows[split] = [(one, two, int(label)) for one, two, label in (line.split("\t") for line in lines)]
    return rows


def test_the_files_are_what_the_script_makes():
    done = subprocess.run([sys.executable, str(FOLDER / "make_paraphrase.py"), "--check"], check=False)
    assert done.returncode == 0


def test_sizes_balance_and_no_pair_twice(splits):
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 8000, "validation": 400}
    for rows in splits.values():
        assert Counter(label for *_, label in rows)[1] == len(rows) / 2
    pairs = [frozenset(row[:2]) for rows in splits.values() for row in rows]
    assert len(set(pairs)) == len(pairs)


def test_every_sentence_has_three_content_words(splits):
    for one, two, _ in itertools.chain.from_iterable(splits.values()):
        assert len(content(one)) == len(content(two)) == 3


def test_no_frame_is_shared(splits):
    frames = {split: {frame(text) for row in rows for text in row[:2]} for split, rows in splits.items()}
    assert not frames["train"] & frames["validation"]
    assert len(frames["validation"]) == 12


def test_no_pair_of_content_words_is_shared(splits):
    across, within = {}, {}
    for split, rows in splits.items():
        across[split] = {
            frozenset(pair) for one, two, _ in rows for pair in itertools.product(content(one), content(two))
        }
        within[split] = {
            frozenset(pair) for row in rows for text in row[:2] for pair in itertools.combinations(content(text), 2)
        }
    assert not across["train"] & across["validation"]
    assert not within["train"] & within["validation"]
    lexicon = {word for row in splits["train"] for text in row[:2] for word in content(text)}
    assert {word for row in splits["validation"] for text in row[:2] for word in content(text)} <= lexicon


def jaccard(one, two):
    one, two = set(words(one)), set(words(two))
    return len(one & two) / len(one | two)


def bigrams(one, two):
    one, two = words(one), words(two)
    return len(set(itertools.pairwise(one)) & set(itertools.pairwise(two)))


@pytest.mark.parametrize(
    "measure",
    [
        jaccard,
        bigrams,
        lambda one, two: len(set(words(one)) & set(words(two))),
        lambda one, two: abs(len(one) - len(two)),
    ],
)
def test_no_threshold_on_overlap_tells_the_labels_apart(splits, measure):
    """Even the best threshold chosen on the held-out labels themselves stays below 0.70."""
    scored = [(measure(one, two), label) for one, two, label in splits["validation"]]
    for threshold in {score for score, _ in scored}:
        right = sum((score >= threshold) == bool(label) for score, label in scored) / len(scored)
        assert max(right, 1 - right) < 0.70
