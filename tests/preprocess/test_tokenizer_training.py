"""Training a WordPiece vocabulary: the same every time, within its size, and clear about bad texts."""

import os
import subprocess
import sys

import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess import train_wordpiece

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
