"""Byte-pair merges in words that the library cannot cut: XLM's, as Moses cuts them, in small letters without accents; and
CTRL's, whose pieces are marked where a word goes on.

The library's own parts cannot cut so, and its BPE refuses merges whose result is not in the vocabulary, which XLM's
files have. So the splitting down to pieces is here, in Python, and the library looks the pieces up, keeps their places
in the text, truncates and pads; to it, each piece is a word of its own. Such a tokenizer has no tokenizer.json: it is
saved as the two files it came from.
"""

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from jaxformers.errors import InputError
from jaxformers.preprocess.moses import Span, covering, moses_words
from jaxformers.preprocess.tokenizer_layouts import Built

_END = "</w>"
Words = Callable[[str], Iterable[tuple[str, Sequence[Span]]]]  # text -> its words, and each letter's place in the text


class Pieces:
    """Splits texts into pieces of words; what the library calls a custom pre-tokenizer.

    Args:
        ranks: how early each pair of pieces is merged; the last piece of a word ends in "</w>" here.
        words: cuts a text.
        marks: what follows a piece in the vocabulary where its word goes on, and where it ends.
    """

    def __init__(self, ranks: Mapping[tuple[str, str], int], *, words: Words, marks: tuple[str, str]) -> None:
        self._ranks, self._words, self._marks = ranks, words, marks
        self._merged = functools.lru_cache(maxsize=65536)(self._merge)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Pieces, words=self._words, marks=self._marks), (self._ranks,)

    def pre_tokenize(self, text: tokenizers.PreTokenizedString) -> None:
        """Splits every part of a text that is no added token; called by the library."""
        text.split(lambda _, part: self._split(part))

    def _split(self, part: tokenizers.NormalizedString) -> list[tokenizers.NormalizedString]:
        found = []
        for word, spans in self._words(part.normalized):
            start = 0
            for letters, mark in self._merged(word):
                end = start + len(letters)
                first, last = covering(spans[start:end])
                place = part[first:last]
                assert place is not None, "a word's place lies in its text"
                found.append(renamed(place, letters + mark))
                start = end
        return found

    def _merge(self, word: str) -> tuple[tuple[str, str], ...]:
        """The pieces of a word, each with its mark: its letters, of which the pair that was learned first is joined as long
        as there is one."""
        if not word:
            return ()
        pieces = [*word[:-1], word[-1] + _END]
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            joined, index = [], 0
            while index < len(pieces):
                size = 2 if index < len(pairs) and pairs[index] == best else 1
                joined.append("".join(pieces[index : index + size]))
                index += size
            pieces = joined
        within, end = self._marks
        return (*((piece, within) for piece in pieces[:-1]), (pieces[-1].removesuffix(_END), end))


def renamed(part: tokenizers.NormalizedString, piece: str) -> tokenizers.NormalizedString:
    """A part of a text under the name of a piece, its place in the text kept.

    The library takes the place from the first and the last character: these are renamed, and what more the piece has
    goes with the last.
    """
    length = len(part.normalized)
    ends, seen, names = {0, length - 1} if len(piece) > 1 else {0}, iter(range(length)), iter(piece)
    part.filter(lambda _: next(seen) in ends)
    part.map(lambda _: next(names))
    if rest := "".join(names):
        part.append(rest)
    return part


def _plain(word: str, spans: Sequence[Span]) -> tuple[str, list[Span]]:
    """A word in small letters, without the marks that can be taken off its letters."""
    small, spans = word.lower(), [span for c, span in zip(word, spans, strict=True) for _ in c.lower()]
    apart = [unicodedata.normalize("NFD", c) for c in small]
    spans = [span for parts, span in zip(apart, spans, strict=True) for _ in parts]
    whole = unicodedata.normalize("NFD", small)  # also puts marks in their order
    kept = [(c, span) for c, span in zip(whole, spans, strict=True) if unicodedata.category(c) != "Mn"]
    pairs = [(small, span) for c, span in kept for small in c.lower()]
    return "".join(c for c, _ in pairs), [span for _, span in pairs]


def _moses(text: str, *, plain: bool) -> Iterable[tuple[str, Sequence[Span]]]:
    """XLM's words."""
    words = moses_words(text)
    return (_plain(word, spans) for word, spans in words) if plain else words


# All but white space, as Unicode has it; a line's end goes with the word before it.
_WORD = re.compile(r"[^\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+\n?")


def _spaced(text: str) -> Iterable[tuple[str, Sequence[Span]]]:
    """CTRL's words."""
    return ((found[0], [(n, n + 1) for n in range(*found.span())]) for found in _WORD.finditer(text))


def xlm_json(
    vocabulary: Mapping[str, Any],
    merges: Sequence[Sequence[str]],
    special: Mapping[str, str],
    given: Mapping[str, Any],
    file: Path,
) -> Built:
    """Returns the tokenizer of an XLM vocabulary.

    Args:
        vocabulary: each piece's id; the last piece of a word ends in "</w>".
        merges: the two pieces of each merge, in the order they were learned.
        special: the special tokens by name.
        given: tokenizer_config.json, of which `do_lowercase_and_remove_accent` is read.
        file: what to name in an error.

    Raises:
        InputError: the vocabulary holds no unknown token, or an id that is none.
    """
    option = "do_lowercase_and_remove_accent"
    plain = True if given.get(option) is None else bool(given[option])
    built = _built(vocabulary, merges, special, file, functools.partial(_moses, plain=plain), ("", _END))
    return built._replace(options={option: plain})


def ctrl_json(
    vocabulary: Mapping[str, Any], merges: Sequence[Sequence[str]], special: Mapping[str, str], file: Path
) -> Built:
    """Returns the tokenizer of a CTRL vocabulary, whose pieces end in "@@" where their word goes on; as `xlm_json`."""
    built = _built(vocabulary, merges, special, file, _spaced, ("@@", ""))

    def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": pattern, "content": content}

    steps = [
        replace({"Regex": r"\z"}, " "),
        {"type": "Fuse"},
        replace({"Regex": r" \z"}, ""),
        replace({"String": "@@ "}, ""),
        replace({"Regex": r"\A\s+|\s+\z"}, ""),
    ]
    lines = built.files["merges.txt"]
    assert isinstance(lines, str)
    files = {**built.files, "merges.txt": "#version: 0.2\n" + lines}
    return built._replace(raw={**built.raw, "decoder": {"type": "Sequence", "decoders": steps}}, files=files)


def _built(
    vocabulary: Mapping[str, Any],
    merges: Sequence[Sequence[str]],
    special: Mapping[str, str],
    file: Path,
    words: Words,
    marks: tuple[str, str],
) -> Built:
    if special["unk_token"] not in vocabulary:
        raise InputError(f"{file} does not hold {special['unk_token']} (the unk_token)")
    wrong = next((token for token, index in vocabulary.items() if not isinstance(index, int) or index < 0), None)
    if wrong is not None:
        raise InputError(f"{file} must give each token a whole number, found {vocabulary[wrong]!r} for {wrong!r}")
    ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
    raw = {
        "normalizer": None,
        "pre_tokenizer": None,
        "decoder": {"type": "BPEDecoder", "suffix": _END},
        "model": {"type": "WordLevel", "vocab": dict(vocabulary), "unk_token": special["unk_token"]},
    }
    return Built(
        raw,
        splitter=Pieces(ranks, words=words, marks=marks),
        files={
            "vocab.json": json.dumps(vocabulary, ensure_ascii=False, indent=2) + "\n",
            "merges.txt": "".join(f"{left} {right}\n" for left, right in merges),
        },
    )
