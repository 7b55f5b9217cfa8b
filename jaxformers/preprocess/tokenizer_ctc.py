"""Wav2Vec2's tokenizer for CTC: a letter a token, `|` between words; back from a row of frames to text, with its places in time.

CTC (Graves et al. 2006) writes a token for every frame: a token that goes on is one letter, the padding token (the blank)
stands between two equal ones. So `decode` collapses by default, and keeps repetitions of labels with `group_tokens=False`.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jaxformers.errors import InputError
from jaxformers.preprocess.text import Tokenizer, load_tokenizer
from jaxformers.preprocess.tokenizer_layouts import Built

Offsets = list[dict[str, Any]]


def ctc_json(vocabulary: Mapping[str, Any], special: Mapping[str, str], given: Mapping[str, Any], source: Any) -> Built:
    """The tokenizer.json of a vocab.json with an id for each letter; of one with several languages, `target_lang`'s."""
    language = given.get("target_lang")
    letters = vocabulary.get(language) if language is not None else vocabulary
    if not isinstance(letters, Mapping) or not all(isinstance(index, int) for index in letters.values()):
        nested = ", ".join(list(map(repr, vocabulary))[:8])
        raise InputError(
            f"{source} must hold an id for each letter, or such a table for target_lang={language!r}; has {nested}"
        )
    delimiter = given.get("word_delimiter_token") or "|"
    whole = [token for token in letters if len(token) > 1 and token not in special.values()]
    return Built(
        {
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": delimiter},
            "pre_tokenizer": {
                "type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": dict(letters), "unk_token": special["unk_token"]},
        },
        added=tuple({"content": token, "lstrip": True, "rstrip": True, "normalized": False, "special": False}
                    for token in whole),
        options={"word_delimiter_token": delimiter},
        files={"vocab.json": json.dumps(vocabulary, ensure_ascii=False, indent=2) + "\n"},
    )  # fmt: skip


class CTCText(NamedTuple):
    """A text that knows its places, in frames of the model.

    Args:
      text: as `decode` returns it without places.
      char_offsets: `{"char", "start_offset", "end_offset"}` a letter, in order; None unless asked for.
      word_offsets: `{"word", "start_offset", "end_offset"}` a word; None unless asked for.
    """

    text: str
    char_offsets: Offsets | None
    word_offsets: Offsets | None


class CTCTokenizer(Tokenizer):
    """transformers' Wav2Vec2CTCTokenizer."""

    @property
    def word_delimiter_token(self) -> str:
        """What stands between words."""
        return str(self._config.get("word_delimiter_token") or "|")

    def __call__(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """As of every tokenizer; where its texts are in capitals (`do_lower_case`), small letters become such."""
        if self._config.get("do_lower_case"):
            text = (
                text.upper()
                if isinstance(text, str)
                else [row.upper() if isinstance(row, str) else row for row in text]
            )
        return super().__call__(text, text_pair, **options)

    def decode(
        self, ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None, *,
        group_tokens: bool = True, output_char_offsets: bool = False, output_word_offsets: bool = False,
    ) -> Any:  # fmt: skip
        """The text of a row of frames.

        Args:
          ids: [T], a token for each frame; or labels, with `group_tokens=False`.
          skip_special_tokens: leave special tokens out before anything else, the blank too: equal letters then become one.
          clean_up_tokenization_spaces: remove the spaces before English punctuation; None means the tokenizer's own habit.
          group_tokens: whether equal neighbours are one letter.
          output_char_offsets, output_word_offsets: return a `CTCText` with the frames of each letter, or word.
        """
        skipped = set(self.all_special_tokens) - {self.word_delimiter_token} if skip_special_tokens else set()
        tokens = [token for token in self.convert_ids_to_tokens([*ids]) if token not in skipped]
        letters: Offsets = []
        space, place = str(self._config.get("replace_word_delimiter_char", " ")), 0
        for token, run in groupby(tokens) if group_tokens else ((token, (token,)) for token in tokens):
            start, place = place, place + len(list(run))
            if token != self.pad_token:
                char = space if token == self.word_delimiter_token else token
                letters.append({"char": char, "start_offset": start, "end_offset": place})
        text = "".join(letter["char"] for letter in letters).strip()
        text = text.lower() if self._config.get("do_lower_case") else text
        text = self.cleaned(text, clean_up_tokenization_spaces)
        if not output_char_offsets and not output_word_offsets:
            return text
        return CTCText(
            text, letters if output_char_offsets else None, words_of(letters, space) if output_word_offsets else None
        )


def words_of(letters: Offsets, space: str = " ") -> Offsets:
    """The words that letters with their places spell, with theirs."""
    words = []
    for is_space, run in groupby(letters, lambda letter: letter["char"] == space):
        if not is_space:
            word = list(run)
            words.append({
                "word": "".join(letter["char"] for letter in word),
                "start_offset": word[0]["start_offset"],
                "end_offset": word[-1]["end_offset"],
            })  # fmt: skip
    return words


def train_letters(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer for CTC with every letter of these texts, whose ids are in the order of code points after the special ones.

    >>> train_letters(["A CAB", "BAD"]).decode([5, 5, 0, 5, 4, 6, 8])
    'AA BD'
    """
    letters = sorted({letter for text in texts for letter in text} - {" ", "|"})
    vocabulary = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|", *letters))}
    with tempfile.TemporaryDirectory() as folder:  # such tokenizers are made of their files
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        Path(folder, "tokenizer_config.json").write_text(
            '{"tokenizer_class": "Wav2Vec2CTCTokenizer"}', encoding="utf-8"
        )
        return load_tokenizer(folder)
