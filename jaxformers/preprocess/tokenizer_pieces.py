"""Marian's and M2M-100's tokenizers: pieces as a SentencePiece model cuts them, their ids as a vocab.json says.

The two do not agree: the model cuts into pieces that the vocabulary lacks (they are unknown), and the vocabulary holds what
the model never says. So the cutting is a step of its own in front of the look-up, which to the library is one of words. Such a
tokenizer has no tokenizer.json: it is saved as the files it came from.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from jaxformers.errors import InputError
from jaxformers.preprocess.sentencepiece_file import read_sentencepiece
from jaxformers.preprocess.tokenizer_layouts import Built
from jaxformers.preprocess.tokenizer_merges import renamed
from jaxformers.preprocess.tokenizer_sentencepiece import sentencepiece_json

_CODE = re.compile(r">>.*?<<")  # what a text for a Marian model of several languages begins with


class Cut:
    """Cuts texts into pieces; what the library calls a custom pre-tokenizer.

    Args:
        raw: the tokenizer.json of the SentencePiece model.
        coded: whether a text may begin with a language's code, which stays whole.
    """

    def __init__(self, raw: str, *, coded: bool) -> None:
        self._raw, self._coded = raw, coded
        self._backend = tokenizers.Tokenizer.from_str(raw)

    def __reduce__(self) -> tuple[Any, ...]:
        return _cut, (self._raw, self._coded)

    def pre_tokenize(self, text: tokenizers.PreTokenizedString) -> None:
        """Splits every part of a text that is no added token; called by the library."""
        text.split(lambda _, part: self._split(part))

    def _split(self, part: tokenizers.NormalizedString) -> list[tokenizers.NormalizedString]:
        text, found, start = part.normalized, [], 0
        if self._coded and (code := _CODE.match(text)):
            start = code.end()
            found.append(_place(part, 0, start))
        pieces = self._backend.encode(text[start:], add_special_tokens=False)
        for piece, (first, last) in zip(pieces.tokens, pieces.offsets, strict=True):
            # A mark of a space that no character stands for takes the place of the next one.
            first = min(first, len(text) - start - 1)
            found.append(renamed(_place(part, start + first, start + max(last, first + 1)), piece))
        return found


def _cut(raw: str, coded: bool) -> Cut:
    return Cut(raw, coded=coded)


def _place(part: tokenizers.NormalizedString, first: int, last: int) -> tokenizers.NormalizedString:
    place = part[first:last]
    assert place is not None, "a piece's place lies in its text"
    return place


def pieces_json(
    vocabulary: Mapping[str, Any], model: Path, special: Mapping[str, str], file: Path, *, coded: bool
) -> Built:
    """Returns the tokenizer of a vocabulary over the pieces of a SentencePiece model.

    Args:
        vocabulary: each piece's id.
        model: the SentencePiece file.
        special: the special tokens by name.
        file: what to name in an error.
        coded: see `Cut`.

    Raises:
        InputError: the vocabulary holds no unknown token, or an id that is none.
    """
    if special["unk_token"] not in vocabulary:
        raise InputError(f"{file} does not hold {special['unk_token']} (the unk_token)")
    wrong = next((token for token, index in vocabulary.items() if not isinstance(index, int) or index < 0), None)
    if wrong is not None:
        raise InputError(f"{file} must give each token a whole number, found {vocabulary[wrong]!r} for {wrong!r}")
    cut = sentencepiece_json(read_sentencepiece(model), "sentencepiece", {}, {}).raw
    raw = {
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "WordLevel", "vocab": dict(vocabulary), "unk_token": special["unk_token"]},
    }
    spelled = json.dumps({"version": "1.0", "added_tokens": [], **cut})
    models = [model, *([model.with_name("target.spm")] if coded else [])]
    return Built(
        raw,
        splitter=Cut(spelled, coded=coded),
        files={
            "vocab.json": json.dumps(vocabulary, ensure_ascii=False, indent=2) + "\n",
            **{path.name: path.read_bytes() for path in models},
        },
    )
