"""Masking: the shares, the labels, whole words, and that a row's masks depend on nothing but seed, step and place."""

import numpy as np
import pytest

from jaxformers.data import Batches
from jaxformers.data.masking import MaskTokens, word_continues
from jaxformers.errors import InputError
from jaxformers.preprocess import train_wordpiece

TOKENIZER = train_wordpiece(["running runner runs walked walking the a of"] * 3, vocab_size=60)
V = len(TOKENIZER)
SPECIAL = sorted(TOKENIZER.all_special_ids)
PLAIN = np.setdiff1d(np.arange(V), SPECIAL)


def batch(rows=64, length=128, seed=0):
    ids = np.random.default_rng(seed).choice(PLAIN, (rows, length)).astype(np.int32)
    ids[:, 0], ids[:, -1] = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id
    mask = np.ones_like(ids)
    ids[::2, 100:], mask[::2, 100:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def generators(rows):
    return [np.random.default_rng((1, row)) for row in range(rows)]


def test_the_shares_of_the_paper():
    given = batch()
    found = MaskTokens.of(TOKENIZER)(given, generators(64))
    chosen = found["labels"] != -100
    assert np.array_equal(found["labels"][chosen], given["input_ids"][chosen])
    assert np.array_equal(found["input_ids"][~chosen], given["input_ids"][~chosen])
    candidates = (given["attention_mask"] == 1) & ~np.isin(given["input_ids"], SPECIAL)
    assert not (chosen & ~candidates).any()
    assert abs(chosen.sum() / candidates.sum() - 0.15) < 0.02
    hidden = found["input_ids"][chosen] == TOKENIZER.mask_token_id
    same = found["input_ids"][chosen] == given["input_ids"][chosen]
    assert abs(hidden.mean() - 0.8) < 0.05
    assert abs(same.mean() - 0.1) < 0.05


def test_all_masked():
    found = MaskTokens.of(TOKENIZER, all_masked=True)(batch(), generators(64))
    assert (found["input_ids"][found["labels"] != -100] == TOKENIZER.mask_token_id).all()


def test_whole_words_are_chosen_whole():
    given = batch(rows=32)
    masker = MaskTokens.of(TOKENIZER, whole_words=True)
    continues = word_continues(TOKENIZER, V)
    assert {token for token, i in TOKENIZER.get_vocab().items() if continues[i]} == {
        token for token in TOKENIZER.get_vocab() if token.startswith("##")
    }
    found = masker(given, generators(32))
    chosen = found["labels"] != -100
    for ids, row, mask in zip(given["input_ids"], chosen, given["attention_mask"], strict=True):
        for place in range(2, int(mask.sum()) - 1):
            if continues[ids[place]] and ids[place] not in SPECIAL:
                assert row[place] == row[place - 1], place
    assert 0.10 < chosen.sum() / (given["attention_mask"] == 1).sum() < 0.17


def test_every_row_has_something_to_predict():
    given = {"input_ids": np.array([[PLAIN[0], 0]], np.int32), "attention_mask": np.array([[1, 0]], np.int32)}
    found = MaskTokens.of(TOKENIZER, probability=0.001)(given, generators(1))
    assert found["labels"].tolist() == [[PLAIN[0], -100]]


def test_masks_depend_on_seed_step_and_place_alone():
    examples = [{"input_ids": PLAIN[np.arange(20) % len(PLAIN)].tolist()} for _ in range(8)]
    masker = MaskTokens.of(TOKENIZER)

    def batches(**options):
        return Batches(examples, batch_size=4, num_epochs=2, collator=masker, **{"seed": 3, **options})

    whole = batches()
    assert np.array_equal(whole[1]["labels"], batches()[1]["labels"])
    assert not np.array_equal(whole[0]["labels"], whole[2]["labels"])  # another epoch
    assert not np.array_equal(whole[1]["labels"], batches(seed=4)[1]["labels"])
    halves = [batches(process_count=2, process_index=i)[1]["labels"] for i in range(2)]
    assert np.array_equal(np.concatenate(halves), whole[1]["labels"])


def test_what_cannot_be_masked_is_refused():
    with pytest.raises(InputError, match="above 0 and below 1, found 1"):
        MaskTokens.of(TOKENIZER, probability=1)
    bare = train_wordpiece(["a b"], vocab_size=20)
    bare.mask_token = None
    with pytest.raises(InputError, match="needs a tokenizer with a mask token"):
        MaskTokens.of(bare)
