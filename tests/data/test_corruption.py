"""Corrupted texts: every token is read or written exactly once, in shares and shapes that are known beforehand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.data.corruption import Denoising, SpanCorruption, corrupt_spans, infill, noise_of, shuffle_sentences
from jaxformers.errors import InputError

SENTINELS = np.arange(1099, 999, -1)
MASK = 999


@given(st.integers(2, 300), st.floats(0.05, 0.9), st.floats(1.0, 6.0), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_every_token_is_read_or_written_once(length, density, mean_span, seed):
    ids = np.random.default_rng(seed).integers(0, 900, length)
    hidden, spans = noise_of(length, density, mean_span)
    if spans > len(SENTINELS):
        return
    read, written = corrupt_spans(ids, SENTINELS, np.random.default_rng(seed), density, mean_span)
    assert (len(read), len(written)) == (length - hidden + spans, hidden + spans)
    assert read[read >= 1000].tolist() == written[written >= 1000].tolist() == SENTINELS[:spans].tolist()
    answers = np.split(written, np.flatnonzero(written >= 1000))[1:]
    whole = [token for mark in read for token in (answers[1099 - mark][1:] if mark >= 1000 else [mark])]
    assert whole == ids.tolist()
    assert all(len(answer) > 1 for answer in answers)
    assert read[0] < 1000
    assert read[-1] >= 1000


def test_the_shares_of_the_paper_in_all_ways():
    assert noise_of(512, 0.15, 3.0) == (77, 26)
    assert noise_of(7, 0.5, 2.0) == (4, 2)
    reads = [corrupt_spans(np.arange(7), SENTINELS, np.random.default_rng(seed), 0.5, 2.0)[0] for seed in range(600)]
    ways, counts = np.unique(reads, axis=0, return_counts=True)
    assert len(ways) == 6  # 3 kept tokens in two parts, 4 hidden ones in two: 2 times 3
    assert counts.min() > 70


def test_spans_are_refused_by_name():
    with pytest.raises(InputError, match="at least 2 tokens for some to be hidden, found 1"):
        corrupt_spans(np.array([1]), SENTINELS, np.random.default_rng(0))
    with pytest.raises(InputError, match="100 tokens have 5 hidden spans, and there are only 2 sentinels"):
        corrupt_spans(np.arange(100), SENTINELS[:2], np.random.default_rng(0))
    with pytest.raises(InputError, match=r"found 1\.5 and 3\.0"):
        SpanCorruption(SENTINELS, 1, 0, density=1.5)


def rows():
    ids = np.random.default_rng(3).integers(5, 900, (3, 40)).astype(np.int32)
    mask = np.ones_like(ids)
    ids[1, 25:], mask[1, 25:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def generators(seed):
    return [np.random.default_rng((seed, row)) for row in range(3)]


def test_corrupted_batches_have_one_shape():
    collator = SpanCorruption(SENTINELS, eos_token_id=1, pad_token_id=0)
    assert collator.lengths(40) == (40 - 6 + 2 + 1, 6 + 2 + 1)
    assert collator.lengths(collator.room(37))[0] <= 37 < collator.lengths(collator.room(37) + 1)[0]
    one, again, other = (collator(rows(), generators(seed)) for seed in (0, 0, 1))
    assert one["input_ids"].shape == other["input_ids"].shape == (3, 37)
    assert one["labels"].shape == (3, 9)
    assert all(np.array_equal(one[key], again[key]) for key in one)
    assert not np.array_equal(one["input_ids"], other["input_ids"])
    sizes = one["attention_mask"].sum(1)
    assert sizes.tolist() == [37, collator.lengths(25)[0], 37]
    for row, size in enumerate(sizes):
        assert one["input_ids"][row, size - 1] == 1
        assert (one["input_ids"][row, size:] == 0).all()
    assert (one["labels"][1] == -100).sum() == 9 - collator.lengths(25)[1]


@given(st.integers(0, 200), st.floats(0.01, 0.95), st.floats(0.1, 6.0), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_infilling_hides_its_share_behind_lone_masks(length, ratio, mean_span, seed):
    ids = np.arange(length)
    found = infill(ids, MASK, np.random.default_rng(seed), ratio, mean_span)
    kept = found[found != MASK]
    assert len(kept) == length - round(length * ratio)
    assert (np.diff(kept) > 0).all()
    assert len(found) <= length
    assert not ((found[1:] == MASK) & (found[:-1] == MASK)).any()
    gaps = np.diff(np.concatenate(([-1], kept, [length]))) - 1
    marked = np.array([MASK in part for part in np.split(found, np.flatnonzero(found != MASK))])
    assert (marked[: len(gaps)] | (gaps == 0)).all()


def test_spans_lengths_are_poisson_s():
    ids = np.arange(30_000)
    found = infill(ids, MASK, np.random.default_rng(0))
    gaps = np.diff(found[found != MASK]) - 1
    share = (found == MASK).sum() / 30_000
    assert abs(share - 0.1) < 0.01  # 30 % in spans of 3, those of no tokens among them
    assert abs((gaps == 3).sum() / (found == MASK).sum() - 0.224) < 0.03


def test_sentences_change_places_and_stay_whole():
    ids, ends = np.array([1, 2, 9, 3, 9, 4, 5]), np.arange(10) == 9
    seen = {tuple(shuffle_sentences(ids, ends, np.random.default_rng(seed)).tolist()) for seed in range(40)}
    parts = ((1, 2, 9), (3, 9), (4, 5))
    assert seen == {(*a, *b, *c) for a in parts for b in parts for c in parts if len({a, b, c}) == 3}


def test_a_denoising_batch_asks_for_what_was_there():
    given, ends = rows(), np.arange(1000) < 100
    found = Denoising(MASK, 0, ends)(given, generators(0))
    assert np.array_equal(found["labels"], np.where(given["attention_mask"] == 1, given["input_ids"], -100))
    sizes = found["attention_mask"].sum(1)
    for row, real in enumerate((40, 25, 40)):
        text, noisy = given["input_ids"][row, :real], found["input_ids"][row, : sizes[row]]
        assert (noisy[0], noisy[-1]) == (text[0], text[-1])
        inner = noisy[1:-1]
        assert (inner != MASK).sum() == real - 2 - round((real - 2) * 0.3)
        assert set(inner.tolist()) <= {*text.tolist(), MASK}
    with pytest.raises(InputError, match=r"found 0 and 3\.0"):
        Denoising(MASK, 0, ends, ratio=0)
