"""The part of a tokenizer that knows tokens and ids: special tokens, look-up both ways, and ids back to text.

Text to ids is `text`, whose `Tokenizer` stands on this.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from jaxformers.errors import InputError
from jaxformers.preprocess.tokenizer_layouts import SPECIAL_NAMES

# The spaces that joining tokens leaves before English punctuation and contractions, in the order they are taken out.
_LOOSE = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def _id_of(name: str) -> property:
    return property(
        lambda self: None if (token := getattr(self, name)) is None else self.backend.token_to_id(token),
        doc=f"The id of `{name}`, None where the tokenizer has none.",
    )


class Vocabulary:
    """Tokens and their ids over a `tokenizers` backend; see `Tokenizer` for the arguments."""

    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    sep_token: str | None
    pad_token: str | None
    cls_token: str | None
    mask_token: str | None
    bos_token_id = _id_of("bos_token")
    eos_token_id = _id_of("eos_token")
    unk_token_id = _id_of("unk_token")
    sep_token_id = _id_of("sep_token")
    pad_token_id = _id_of("pad_token")
    cls_token_id = _id_of("cls_token")
    mask_token_id = _id_of("mask_token")

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str],
        extra_special_tokens: Sequence[str],
        clean_up_tokenization_spaces: bool,
    ) -> None:
        self.backend = backend
        for name in SPECIAL_NAMES:
            setattr(self, name, special_tokens.get(name))
        self.extra_special_tokens = list(extra_special_tokens)
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces

    def decode(
        self, ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Returns the text of a row of ids.

        Args:
            ids: one id, or a list or array [L] of them.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: remove the spaces before English punctuation; None means the tokenizer's own
                habit. Nothing is removed for BPE, whose texts keep their spaces.

        Raises:
            InputError: an id outside the vocabulary; -100 marks labels to ignore and has no text.
        """
        text = self.backend.decode(self._ids(ids), skip_special_tokens=skip_special_tokens)
        return self.cleaned(text, clean_up_tokenization_spaces)

    def cleaned(self, text: str, clean: bool | None = None) -> str:
        """The text without the spaces before English punctuation, if `clean`; None means the tokenizer's habit."""
        clean = self.clean_up_tokenization_spaces if clean is None else clean
        if clean and type(self.backend.model).__name__ != "BPE":
            for loose in _LOOSE:
                text = text.replace(loose, loose.strip())
        return text

    def batch_decode(
        self, rows: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """Returns the text of each row of ids: a list of lists, or an array [B, L]. Options as in `decode`."""
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in rows]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Returns the token of an id, or a list of tokens for a list or array of ids."""
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        tokens = [self.backend.id_to_token(i) for i in self._ids(ids) if i not in skipped]
        return tokens if np.ndim(ids) else tokens[0]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Returns the id of a token, or a list of ids; an unknown token has `unk_token_id`."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        index = self.backend.token_to_id(tokens)
        return self.unk_token_id if index is None else index

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Returns the text that a row of tokens spells."""
        decoder = self.backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, added ones not counted; `len` counts all."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def get_vocab(self) -> dict[str, int]:
        """Returns every token, added ones included, with its id."""
        return self.backend.get_vocab(with_added_tokens=True)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens that have a name, by name."""
        return {name: token for name in SPECIAL_NAMES if (token := getattr(self, name)) is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of all special tokens."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def _ids(self, ids: Any) -> list[int]:
        row = np.asarray(ids)
        if row.ndim > 1 or (row.size and row.dtype.kind not in "iu"):
            raise InputError(
                f"expected one row of ids, found {row.dtype} of shape {row.shape}; batch_decode takes many"
            )
        found: list[int] = row.reshape(-1).tolist()
        known = len(self)
        for position, index in enumerate(found):
            # A vocabulary may skip ids, so the largest can lie past its size.
            if not 0 <= index < known and not (0 <= index < 2**32 and self.backend.id_to_token(index)):
                raise InputError(f"id {index} at position {position} is outside the vocabulary of {known} tokens")
        return found
