"""The way into the `tokenizers` library: rows of texts in, its encodings out, and a clear sentence where it refuses.

`Encoding` is what callers of a tokenizer get. Strategies, padding and the shape of results are `text`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import tokenizers

from jaxformers.errors import InputError


class Encoding(dict[str, Any]):
    """What a tokenizer returns: a dict of lists or arrays that also knows the tokens, words and texts behind each row.

    To JAX it is a tree like any dict. A copy (through a transformation, or into another process) is the dict alone.
    """

    def __init__(self, data: Mapping[str, Any], encodings: Sequence[tokenizers.Encoding] = ()) -> None:
        super().__init__(data)
        self.encodings = encodings

    def tokens(self, row: int = 0) -> list[str]:
        """Returns the tokens of one row, special and padding tokens included."""
        return self._row(row).tokens

    def word_ids(self, row: int = 0) -> list[int | None]:
        """Returns for each token of one row the index of its word in its text; None for special tokens."""
        return self._row(row).word_ids

    def sequence_ids(self, row: int = 0) -> list[int | None]:
        """Returns for each token of one row 0 if it is of the text, 1 if of its pair; None for special tokens."""
        return self._row(row).sequence_ids

    def _row(self, row: int) -> tokenizers.Encoding:
        if not 0 <= row < len(self.encodings):
            raise InputError(f"there is no row {row}: this encoding knows the tokens of {len(self.encodings)} rows")
        return self.encodings[row]

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoding, (dict(self),)


jax.tree_util.register_pytree_with_keys(
    Encoding,
    lambda encoding: (
        [(jax.tree_util.DictKey(key), encoding[key]) for key in sorted(encoding)],
        tuple(sorted(encoding)),
    ),
    lambda keys, values: Encoding(dict(zip(keys, values, strict=True))),
)


def rows_of(text: Any, text_pair: Any, words: bool) -> tuple[list[Any], bool]:
    """Returns the rows as the library takes them (a text, or a tuple of two), and whether it was one text, no list."""
    for name, value in (("text", text), ("text_pair", text_pair)):
        if (value is None and name == "text_pair") or isinstance(value, str):
            continue
        if not isinstance(value, Iterable) or isinstance(value, bytes | Mapping):
            raise InputError(f"{name} must be a str or a list of them, found {type(value).__name__}: {value!r:.40}")
    if words and isinstance(text, str):
        raise InputError(f"with is_split_into_words a text is a list of words, found the str {text!r:.40}")
    text = text if isinstance(text, str) else list(text)
    if isinstance(text, str) or (words and not (text and isinstance(text[0], list | tuple))):
        return [text if text_pair is None else (text, text_pair)], True
    if text_pair is None:
        return text, False
    pairs = [text_pair] if isinstance(text_pair, str) else list(text_pair)
    if len(pairs) != len(text) or isinstance(text_pair, str):
        raise InputError(f"text_pair must hold one text for each of the {len(text)} texts, found {len(pairs)}")
    return list(zip(text, pairs, strict=True)), False


def is_pair(row: Any, words: bool) -> bool:
    """Whether a row holds two texts."""
    return isinstance(row, list | tuple) and (not words or (bool(row) and isinstance(row[0], list | tuple)))


def share(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Returns a backend of the same parts, without truncation or padding; to set these on it changes no other."""
    copy = tokenizers.Tokenizer(backend.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (value := getattr(backend, part)) is not None:
            setattr(copy, part, value)
    copy.add_tokens(
        [token for _, token in sorted(backend.get_added_tokens_decoder().items(), key=lambda item: item[0])]
    )
    return copy


def encode(
    backend: tokenizers.Tokenizer, rows: list[Any], *, single: bool, add_special_tokens: bool, words: bool
) -> list[tokenizers.Encoding]:
    """Returns the library's encodings of all rows; raises InputError naming the first row that it does not take."""
    try:
        return backend.encode_batch(rows, add_special_tokens=add_special_tokens, is_pretokenized=words)
    except BaseException as error:
        # A panic inside the library (a stride past what is left of a short text) derives from BaseException alone.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if not single:
            for index, row in enumerate(rows):
                try:
                    encode(backend, [row], single=True, add_special_tokens=add_special_tokens, words=words)
                except InputError as named:
                    raise InputError(str(named).replace("the text", f"text {index}", 1)) from error
        fault = next(_faults(rows[0], "the text"), None)
        if fault is None and isinstance(error, TypeError):
            fault = (
                f"the text must be {'a list of words' if words else 'a str'}, or a tuple of two, found {rows[0]!r:.60}"
            )
        raise InputError(fault or f"the text does not fit what was asked: {error}") from error


def _faults(value: Any, where: str) -> Iterator[str]:
    """Says what in a row is not text."""
    if isinstance(value, str):
        for position, character in enumerate(value):
            if "\ud800" <= character <= "\udfff":
                yield f"{where} holds the lone surrogate {character!r} at character {position}, which no text can hold"
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _faults(part, where)
    else:
        yield f"{where} must be a str, found {type(value).__name__}: {value!r:.40}"
