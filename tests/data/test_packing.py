"""Packing: nothing is lost, rows are full, and each text is read as if it were alone."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.data import Batches, Table
from jaxformers.data.packing import own_text, pack
from jaxformers.errors import InputError
from tests.families.table import GPT2, LLAMA, strong


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=12), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_every_text_stands_whole_in_one_row(texts, length):
    rows = pack(texts, length)
    found = []
    for ids, positions, labels in zip(*(rows[key] for key in ("input_ids", "position_ids", "labels")), strict=True):
        assert len(ids) == len(positions) == len(labels) <= length
        for token, place, label in zip(ids, positions, labels, strict=True):
            if place == 0:
                found.append([])
            assert len(found[-1]) == place
            assert label == (token if place else -100)
            found[-1].append(token)
    assert sorted(found) == sorted(
        text[start : start + length] for text in texts for start in range(0, len(text), length)
    )


def test_rows_are_filled():
    rows = pack([[1] * size for size in (1, 2, 3, 4, 5, 6, 7, 8)], 9)["input_ids"]
    assert [len(row) for row in rows] == [9, 9, 9, 9]
    with pytest.raises(InputError, match="at least 1 token, found length=0"):
        pack([[1]], 0)


@pytest.mark.parametrize("row", [GPT2, LLAMA], ids=lambda row: row.family)
def test_a_packed_text_is_read_as_if_alone(row):
    model = strong(row, "causal-lm")
    texts = [[5, 9, 7, 3], [8, 4], [6, 6, 2, 9, 1]]
    batch = Batches(Table(pack(texts, 8)), batch_size=2, collator=own_text, buckets=(8,))[0]
    apply = jax.jit(model.apply)
    logits = apply(model.params, **{key: batch[key] for key in ("input_ids", "position_ids", "attention_mask")}).logits
    assert np.isfinite(logits).all()
    alone = Batches(Table({"input_ids": texts}), batch_size=3, buckets=(8,))[0]
    alone_BLV = apply(model.params, input_ids=alone["input_ids"], attention_mask=alone["attention_mask"]).logits
    places = {(0, 0): 2, (0, 5): 1, (1, 0): 0}
    for (line, start), number in places.items():
        text = texts[number]
        assert batch["input_ids"][line, start : start + len(text)].tolist() == text
        here, there = logits[line, start : start + len(text)], alone_BLV[number, : len(text)]
        np.testing.assert_allclose(here, there, atol=1e-5)
