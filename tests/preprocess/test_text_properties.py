"""What holds for any text: padding changes nothing, offsets point into the text, bytes come back, errors are ours."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from jaxformers.errors import InputError
from jaxformers.preprocess import Tokenizer, train_wordpiece

CORPUS = [letter * 2 for letter in "abcdefghijklmnopqrstuvwxyz"] + [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
] * 3
TEXTS = st.text(max_size=40)
PLAIN_WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12), max_size=12)
ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.floats(), st.binary(max_size=3), st.integers(), st.text(st.characters(), max_size=5), TEXTS
    ),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def wordpiece():
    tok = train_wordpiece(CORPUS, vocab_size=150)
    tok.model_max_length = 16
    return tok


@pytest.fixture(scope="module")
def byte_level():
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return Tokenizer(backend, tokenizer_class="GPT2Tokenizer", special_tokens={"pad_token": "<|endoftext|>"})


@settings(deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=6), side=st.sampled_from(["left", "right"]), multiple=st.integers(1, 9)
)
def test_padding_changes_nothing_but_the_length(wordpiece, texts, side, multiple):
    alone = [wordpiece(text)["input_ids"] for text in texts]
    found = wordpiece(texts, padding=True, padding_side=side, pad_to_multiple_of=multiple)
    assert found["input_ids"].shape[1] % multiple == 0
    assert found["input_ids"].shape[1] < max(map(len, alone)) + multiple
    for row, mask, ids in zip(found["input_ids"], found["attention_mask"], alone, strict=True):
        assert row[mask == 1].tolist() == ids
        assert set(row[mask == 0].tolist()) <= {wordpiece.pad_token_id}
        assert (np.diff(mask) <= 0).all() if side == "right" else (np.diff(mask) >= 0).all()
    later = wordpiece.pad([wordpiece(text) for text in texts], padding_side=side, pad_to_multiple_of=multiple)
    assert all((later[key] == found[key]).all() for key in found)


@settings(deadline=None)
@given(words=PLAIN_WORDS)
def test_offsets_slice_the_text(wordpiece, words):
    text = " ".join(words)
    found = wordpiece(text, return_offsets_mapping=True, add_special_tokens=False)
    pieces = [text[start:end] for start, end in found["offset_mapping"]]
    assert pieces == [token.removeprefix("##") for token in found.tokens()]
    assert "".join(pieces) == "".join(words)
    assert [words[word].startswith(piece) for piece, word in zip(pieces, found.word_ids(), strict=True)].count(
        True
    ) >= len(words)


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_bytes_come_back(byte_level, text):
    if "<|endoftext|>" not in text:
        assert byte_level.decode(byte_level(text)["input_ids"]) == text


@settings(deadline=None)
@given(text=TEXTS, pair=TEXTS, length=st.integers(3, 12), stride=st.integers(0, 3))
def test_overflow_loses_nothing(wordpiece, text, pair, length, stride):
    whole = wordpiece(text, add_special_tokens=False, truncation=False)["input_ids"]
    if stride >= length - 2:
        return
    found = wordpiece(text, truncation=True, max_length=length, stride=stride, return_overflowing_tokens=True)
    assert all(len(row) <= length for row in found["input_ids"])
    rows = [row[1:-1] for row in found["input_ids"]]
    assert rows[0] + [index for row in rows[1:] for index in row[stride:]] == whole
    assert all(len(row) <= length for row in wordpiece([(text, pair)], truncation=True, max_length=length)["input_ids"])


@settings(deadline=None)
@given(
    text=ANYTHING,
    pair=st.none() | ANYTHING,
    padding=st.sampled_from([False, True, "max_length", "no such"]),
    truncation=st.sampled_from([None, False, True, "only_first", "only_second"]),
    max_length=st.none() | st.integers(-1, 12),
    stride=st.integers(0, 2),
    words=st.booleans(),
)
def test_nothing_but_input_errors(wordpiece, text, pair, padding, truncation, max_length, stride, words):
    options = {"padding": padding, "truncation": truncation, "max_length": max_length, "stride": stride}
    try:
        found = wordpiece(text, pair, is_split_into_words=words, **options)
    except InputError:
        return
    assert found.keys() == {"input_ids", "token_type_ids", "attention_mask"}


@settings(deadline=None)
@given(ids=st.lists(st.integers(-(2**40), 2**40) | st.integers(0, 200), max_size=8))
def test_decode_takes_what_it_knows(wordpiece, ids):
    known = all(0 <= index < len(wordpiece) for index in ids)
    try:
        assert isinstance(wordpiece.decode(ids), str)
        assert known
    except InputError:
        assert not known
