"""Training WordPiece and byte-level BPE: the same every time, within their size, and clear about bad texts."""

import os
import subprocess
import sys

import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess import load_tokenizer, train_byte_level, train_wordpiece

TEXTS = [
    f"the {word} {word}er sat on the {word}est mat, naïvely {n}!" for n, word in enumerate(["quick", "brown", "lazy"])
]
TEXTS += ["unaffordable afford able 日本語 👩‍👩‍👧 tokens tokenizer tokenization tokenizing"] * 3

SCRIPT = """
import json, sys
from jaxformers.preprocess.tokenizer_training import learn_wordpiece
words = ["".join(chr(97 + (i * j + i // 26 * (j % 3 + 1)) % 26) for j in range(1, 9)) for i in range(400)]
texts = [" ".join(words[i : i + 7]) for i in range(390)] * 2
json.dump(learn_wordpiece(texts, 500, ["[PAD]"], lowercase=True), sys.stdout)
"""


def test_every_process_learns_the_same():
    command = [sys.executable, "-c", SCRIPT]
    runs = {
        subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env=os.environ | {"RAYON_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2", "5")
    }
    assert len(runs) == 1
    assert len(runs.pop()) > 4000


def test_size_and_pieces():
    tok = train_wordpiece(iter(TEXTS), vocab_size=120)
    vocabulary = tok.get_vocab()
    assert len(vocabulary) == len(tok) <= 120
    assert sorted(vocabulary.values()) == list(range(len(tok)))
    assert not any(character >= "\U000f0000" for token in vocabulary for character in token)
    assert tok.tokenize("tokenizer") == ["tokenizer"]
    for text in TEXTS:
        assert "[UNK]" not in tok.tokenize(text)


def test_bad_texts_are_named():
    with pytest.raises(InputError, match="text 1 of the training texts"):
        train_wordpiece(["a", None], vocab_size=50)
    with pytest.raises(InputError, match="text 0 of the training texts"):
        train_wordpiece(["\ud800"], vocab_size=50)
    with pytest.raises(InputError, match="found one str"):
        train_wordpiece("abc", vocab_size=50)
    with pytest.raises(InputError, match="vocab_size=8 is too small"):
        train_wordpiece(TEXTS, vocab_size=8)


def test_private_use_characters_do_not_collide():
    tok = train_wordpiece(["ab\U000f0000 ab ab", "\U000f0001ba ba ba"], vocab_size=40)
    assert set(tok.get_vocab()) - {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} == {"a", "b", "##a", "##b", "ab", "ba"}


# -- byte-level BPE ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "around"), [("gpt2", ((), ())), ("roberta", ((0,), (2,))), ("t5", ((), (1,)))])
def test_byte_level_knows_every_text(layout, around, tmp_path):
    tok = train_byte_level(iter(TEXTS), vocab_size=320, layout=layout, extra_ids=4)
    again = train_byte_level(TEXTS, vocab_size=320, layout=layout, extra_ids=4)
    assert tok.get_vocab() == again.get_vocab()
    assert sorted(tok.get_vocab().values()) == list(range(len(tok)))
    assert len(tok) <= 320
    assert tok.convert_tokens_to_ids("<extra_id_0>") == len(tok) - 1
    before, after = around
    for text in (*TEXTS, "Ünseen\n\ttext, ñ 🎈", "a <extra_id_1> b"):
        ids = tok(text)["input_ids"]
        assert tuple(ids[: len(before)]) == before
        assert not after or tuple(ids[-len(after) :]) == after
        assert tok.decode(ids[len(before) : len(ids) - len(after)], clean_up_tokenization_spaces=False) == text
    tok.save(tmp_path)
    assert load_tokenizer(tmp_path)(TEXTS[0])["input_ids"] == tok(TEXTS[0])["input_ids"]


def test_byte_level_refuses_by_name():
    with pytest.raises(InputError, match="layout must be one of gpt2, roberta, t5, found 'bart'"):
        train_byte_level(["a"], vocab_size=300, layout="bart")
    with pytest.raises(InputError, match="vocab_size=260 is too small: the bytes and special tokens are already 261"):
        train_byte_level(["a"], vocab_size=260, layout="roberta")
    with pytest.raises(InputError, match="text 1 of the training texts"):
        train_byte_level(["a", None], vocab_size=300)


@pytest.mark.parity
@pytest.mark.parametrize("layout", ["gpt2", "roberta", "t5"])
def test_transformers_reads_a_trained_byte_level_tokenizer(layout, tmp_path):
    transformers = pytest.importorskip("transformers")
    tok = train_byte_level(TEXTS, vocab_size=320, layout=layout, extra_ids=2)
    tok.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, "Ünseen\n\ttext 🎈", "a<extra_id_1>b"):
        assert theirs(text)["input_ids"] == list(tok(text)["input_ids"])
