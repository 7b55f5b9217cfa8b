"""Tokenizers: text to ids and back, with transformers' names and meaning, over the `tokenizers` library alone.

Here is the calling side: `Tokenizer` and `load_tokenizer`; `tokenizer_training` makes one from texts. What a call
returns is in `tokenizer_encoding`, files are in `tokenizer_files`, what a family does to text in `tokenizer_layouts`.

A call never changes the tokenizer: truncation and padding are set on a copy that shares the vocabulary and costs some
ten microseconds. So one tokenizer may serve many threads, and no call sees what another asked for.
"""

import hashlib
import logging
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from jaxformers.errors import InputError
from jaxformers.preprocess.tokenizer_encoding import Encoding, encode, is_pair, rows_of, share
from jaxformers.preprocess.tokenizer_files import UNLIMITED, read_folder, write_folder
from jaxformers.preprocess.tokenizer_layouts import (
    PLAIN_INPUTS,
    UNKNOWN_CLASS,
)
from jaxformers.preprocess.tokenizer_padding import columns_of, pad_columns, stack
from jaxformers.preprocess.tokenizer_vocabulary import Vocabulary

_logger = logging.getLogger("jaxformers")

_NO_PADDING, _NO_TRUNCATION = "do_not_pad", "do_not_truncate"
_PADDING: dict[bool | str, str] = {False: _NO_PADDING, True: "longest", "max_length": "max_length"}
_TRUNCATION: dict[bool | str, str] = {
    False: _NO_TRUNCATION,
    True: "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
}


class Tokenizer(Vocabulary):
    """Turns texts into ids and ids into texts; call it. Its attributes may be set: `tok.pad_token = tok.eos_token`.

    Args:
        backend: the `tokenizers` pipeline; its own truncation and padding do not count.
        tokenizer_class: transformers' name for this kind, written by `save`.
        special_tokens: `{"pad_token": "[PAD]", ...}`; the tokens are in the backend's vocabulary.
        extra_special_tokens: further special tokens that have no name.
        model_max_length: tokens that the model can take; the default means unlimited.
        padding_side, truncation_side: "right" or "left".
        pad_token_type_id: the token type of padding.
        model_input_names: which of input_ids, token_type_ids, attention_mask a call returns by itself.
        clean_up_tokenization_spaces: whether `decode` removes the spaces before English punctuation (never for BPE).
        config: further keys of tokenizer_config.json, for `save`.
        splitter: splits texts where no part of the library can: an object with `pre_tokenize`.
        files: by name, what `save` writes in place of tokenizer.json, which cannot hold a splitter.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        tokenizer_class: str = UNKNOWN_CLASS,
        special_tokens: Mapping[str, str] | None = None,
        extra_special_tokens: Sequence[str] = (),
        model_max_length: int = UNLIMITED,
        padding_side: str = "right",
        truncation_side: str = "right",
        pad_token_type_id: int = 0,
        model_input_names: Sequence[str] = PLAIN_INPUTS,
        clean_up_tokenization_spaces: bool = False,
        config: Mapping[str, Any] | None = None,
        splitter: Any = None,
        files: Mapping[str, str | bytes] | None = None,
    ) -> None:
        super().__init__(share(backend), special_tokens or {}, extra_special_tokens, clean_up_tokenization_spaces)
        self.tokenizer_class = tokenizer_class
        self.model_max_length = model_max_length
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.pad_token_type_id = pad_token_type_id
        self.model_input_names = list(model_input_names)
        self._config = dict(config or {})
        self._splitter, self._files = splitter, dict(files or {})
        self._attach()
        self._said: set[str] = set()

    def _attach(self) -> None:
        if self._splitter is not None:
            self.backend.pre_tokenizer = tokenizers.pre_tokenizers.PreTokenizer.custom(self._splitter)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of; the library cannot copy a splitter."""
        bare = share(self.backend)
        if self._splitter is not None:
            bare.pre_tokenizer = None
        return {**self.__dict__, "backend": bare}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._attach()

    def fingerprint(self) -> str:
        """A key of what this tokenizer does to texts: that by which `Table.map` knows its results again."""
        bare = self.__getstate__()
        kept = {name: value for name, value in bare.items() if name not in ("backend", "_splitter", "_said")}
        text = bare["backend"].to_str() + repr(sorted(kept.items()))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    # ------------------------------------------------------------------------------------------------ text to ids

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        padding: bool | str | None = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_offsets_mapping: bool = False,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        return_length: bool = False,
        add_special_tokens: bool = True,
        is_split_into_words: bool = False,
    ) -> Encoding:
        """Turns one text, or a list of B texts, into what a model takes; keys and meaning are transformers'.

        Numbers come as int32 arrays where `padding` or `return_tensors="np"` asks for them and the rows have one
        length L, else as lists. One text gives values without the batch axis, unless tensors or overflowing rows are
        asked for.

        Args:
            text: a text, a list of texts, or a list of (text, pair) tuples; with `is_split_into_words` lists of words
                stand for texts.
            text_pair: the second text of a pair, or a list of them, one for each text. "" is a pair like any other.
            padding: True or "longest" (of this call), "max_length", or False.
            truncation: True or "longest_first", "only_first", "only_second", False; None truncates if `max_length` is
                given and nothing is padded.
            max_length: tokens to truncate or pad to, special ones counted; None means `model_max_length`.
            stride: tokens that an overflowing row repeats from the one before.
            pad_to_multiple_of: round the padded length up to a multiple.
            padding_side: "right" or "left", in place of the tokenizer's own.
            return_offsets_mapping: add `offset_mapping`, (start, end) of each token in its text, in characters.
            return_overflowing_tokens: what truncation cuts off becomes further rows, and `overflow_to_sample_mapping`
                says whose.
            return_special_tokens_mask: add `special_tokens_mask`, 1 for special and padding tokens.
            return_token_type_ids, return_attention_mask: None means what the model takes.
            return_tensors: "np" for arrays with the batch axis, else None.
            return_length: add `length`, the tokens of each row.
            add_special_tokens: frame the texts as the model was trained.
            is_split_into_words: texts are given as lists of words.

        Returns:
            input_ids [B, L], token_type_ids [B, L], attention_mask [B, L], special_tokens_mask [B, L],
            offset_mapping [B, L, 2], length [B], overflow_to_sample_mapping [B]: those asked for.

        Raises:
            InputError: naming the text that is not text, or the options that cannot be met together.

        Example:
            >>> from jaxformers.preprocess import train_wordpiece
            >>> tok = train_wordpiece(["a cat and a dog", "a dog and a cat"], vocab_size=40)
            >>> tok(["a cat", "a dog and a cat"], padding=True)["attention_mask"].tolist()
            [[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]
        """
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors must be 'np' or None, found {return_tensors!r}")
        rows, single = rows_of(text, text_pair, is_split_into_words)
        if truncation is None and max_length is not None and not padding:
            truncation = True
        cut = _strategy("truncation", truncation, _TRUNCATION)
        pad = _strategy("padding", padding, _PADDING)
        _whole(max_length=max_length, stride=stride, pad_to_multiple_of=pad_to_multiple_of)
        pad, pad_length = self._length("padding", pad, max_length)
        cut, cut_length = self._length("truncation", cut, max_length)
        backend = self.backend if (cut, pad) == (_NO_TRUNCATION, _NO_PADDING) else share(self.backend)
        if cut != _NO_TRUNCATION and cut_length is not None:
            pairs = any(is_pair(row, is_split_into_words) for row in rows)
            room = cut_length - (self.num_special_tokens_to_add(pairs) if add_special_tokens else 0)
            if room < 0 or 0 < stride >= room:
                raise InputError(
                    f"truncating to max_length={cut_length} leaves room for {room} tokens beside the special ones,"
                    f" expected at least {stride + 1 if stride else 0} (stride={stride})"
                )
            direction = _side("truncation_side", self.truncation_side)
            backend.enable_truncation(cut_length, stride=stride, strategy=cut, direction=direction)
        if pad != _NO_PADDING:
            fill = self._fill(pad_to_multiple_of, cut_length if cut != _NO_TRUNCATION else None, padding_side)
            backend.enable_padding(length=pad_length if pad == "max_length" else None, **fill)

        options = {"single": single, "add_special_tokens": add_special_tokens, "words": is_split_into_words}
        encodings = encode(backend, rows, **options)
        self._warn(rows, encodings, options, cut != _NO_TRUNCATION and not return_overflowing_tokens)
        samples: list[int] = []
        if return_overflowing_tokens:
            parts = [(sample, part) for sample, e in enumerate(encodings) for part in (e, *e.overflowing)]
            samples, encodings = [sample for sample, _ in parts], [part for _, part in parts]

        def wanted(name: str, asked: bool | None) -> bool:
            return name in self.model_input_names if asked is None else asked

        data: dict[str, Any] = {"input_ids": [e.ids for e in encodings]}
        if wanted("token_type_ids", return_token_type_ids):
            data["token_type_ids"] = [e.type_ids for e in encodings]
        if wanted("attention_mask", return_attention_mask):
            data["attention_mask"] = [e.attention_mask for e in encodings]
        if return_special_tokens_mask:
            data["special_tokens_mask"] = [e.special_tokens_mask for e in encodings]
        if return_offsets_mapping:
            data["offset_mapping"] = [e.offsets for e in encodings]
        if return_length:
            data["length"] = [len(e) for e in encodings]
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        lengths = sorted({len(e) for e in encodings}) or [0]
        if len(lengths) > 1 and return_tensors:
            raise InputError(
                f"return_tensors={return_tensors!r} needs rows of one length, found {lengths[0]} to {lengths[-1]}"
                " tokens; ask for padding=True and truncation=True"
            )
        if len(lengths) == 1 and (return_tensors or pad != _NO_PADDING):
            rectangle = (len(encodings), lengths[0])
            shapes = {"offset_mapping": (*rectangle, 2), "length": -1, "overflow_to_sample_mapping": -1}
            data = {key: np.array(v, np.int32).reshape(shapes.get(key, rectangle)) for key, v in data.items()}
        if single and not return_tensors and not return_overflowing_tokens:
            data = {key: value if key == "length" else value[0] for key, value in data.items()}
        return Encoding(data, encodings)

    def encode(
        self, text: str | Sequence[Any], text_pair: str | Sequence[Any] | None = None, **options: Any
    ) -> list[int]:
        """Returns the ids of one text, special tokens included; options as in a call."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: str, pair: str | None = None, *, add_special_tokens: bool = False) -> list[str]:
        """Returns the tokens of one text."""
        return self(text, pair, add_special_tokens=add_special_tokens).tokens()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Returns how many special tokens frame one text, or a pair."""
        return self.backend.num_special_tokens_to_add(pair)

    def pad(
        self,
        encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> Encoding:
        """Pads rows that were encoded before to one length, and stacks what else they hold.

        Args:
            encoded: one or more encodings, as a list of dicts or as a dict of lists (or arrays).
            padding, max_length, pad_to_multiple_of, padding_side, return_attention_mask, return_tensors: as in a call.

        Returns:
            int32 arrays [B, L] under the keys of `encoded`, `attention_mask` added where the model takes it; other keys
            (labels) as arrays if their values stack, else as lists. Rows longer than `max_length` are left as they are,
            and everything then comes as lists.

        Raises:
            InputError: there is no input_ids, or no token to pad with.
        """
        columns, single = columns_of(encoded)
        lengths = [len(row) for row in columns["input_ids"]]
        if return_attention_mask or (return_attention_mask is None and "attention_mask" in self.model_input_names):
            columns.setdefault("attention_mask", [[1] * length for length in lengths])
        _whole(max_length=max_length, pad_to_multiple_of=pad_to_multiple_of)
        strategy, max_length = self._length("padding", _strategy("padding", padding, _PADDING), max_length)
        if strategy != _NO_PADDING:
            fill = self._fill(pad_to_multiple_of, None, padding_side)
            length = max(lengths, default=0) if strategy == "longest" else max_length or 0
            multiple = pad_to_multiple_of or 1
            columns = pad_columns(columns, -(-length // multiple) * multiple, fill)
        lengths = sorted({len(row) for row in columns["input_ids"]})
        if len(lengths) > 1 and return_tensors:
            raise InputError(f"return_tensors={return_tensors!r} needs rows of one length, found {lengths}")
        return Encoding(stack(columns, single, ragged=len(lengths) > 1))

    def save(self, directory: str | Path) -> None:
        """Writes the files from which `load_tokenizer` and transformers load an equal tokenizer.

        Args:
            directory: made if need be. It gets tokenizer.json (for XLM, which has none, vocab.json and merges.txt),
                tokenizer_config.json, special_tokens_map.json and, for WordPiece, vocab.txt; each file appears whole
                or not at all.
        """
        config = self._config | self.special_tokens_map
        config |= {
            "tokenizer_class": self.tokenizer_class,
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "model_input_names": self.model_input_names,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
        }
        if self.extra_special_tokens:
            config["extra_special_tokens"] = self.extra_special_tokens
        write_folder(Path(directory), self.backend, config, self._files)

    @property
    def config(self) -> Mapping[str, Any]:
        """What tokenizer_config.json says beside what has an attribute of its own, such as `src_lang`."""
        return types.MappingProxyType(self._config)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that makes a text of a chat (see `preprocess.chat`), or None. It may be set."""
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = next((each.get("template") for each in template if each.get("name") == "default"), None)
        return template

    @chat_template.setter
    def chat_template(self, template: str | None) -> None:
        self._config["chat_template"] = template

    def __repr__(self) -> str:
        return f"{self.tokenizer_class}({len(self)} tokens, model_max_length={self.model_max_length})"

    # ------------------------------------------------------------------------------------------------------ parts

    def _length(self, purpose: str, strategy: str, max_length: int | None) -> tuple[str, int | None]:
        """The strategy and its length: the model's maximum where none is given; where that is unknown, no strategy."""
        if max_length is not None or strategy in (_NO_PADDING, _NO_TRUNCATION, "longest"):
            return strategy, max_length
        if self.model_max_length < UNLIMITED:
            return strategy, self.model_max_length
        self._say(purpose, f"{purpose} needs max_length, as the model states no maximum: none is done")
        return (_NO_PADDING if purpose == "padding" else _NO_TRUNCATION), None

    def _fill(self, multiple: int | None, cut_length: int | None, side: str | None) -> dict[str, Any]:
        """What the library needs to know to pad."""
        if self.pad_token_id is None:
            raise InputError(
                f"there is no token to pad with (pad_token is {self.pad_token!r}); set one that is known, such as"
                " tok.pad_token = tok.eos_token, or add one with load_tokenizer(..., pad_token='[PAD]')"
            )
        if multiple is not None and multiple <= 0:
            raise InputError(f"pad_to_multiple_of must be positive, found {multiple}")
        if multiple and cut_length is not None and cut_length % multiple:
            raise InputError(f"cannot truncate to {cut_length} and pad to a multiple of {multiple}: no multiple of it")
        return {
            "direction": _side("padding_side", self.padding_side if side is None else side),
            "pad_id": self.pad_token_id,
            "pad_token": self.pad_token,
            "pad_type_id": self.pad_token_type_id,
            "pad_to_multiple_of": multiple,
        }

    def _warn(
        self, rows: list[Any], encodings: list[tokenizers.Encoding], options: dict[str, Any], cutting: bool
    ) -> None:
        if cutting and "truncated" not in self._said:
            index = next((i for i, encoding in enumerate(encodings) if encoding.overflowing), None)
            if index is not None:
                options = options | {"single": True}
                whole, kept = encode(self.backend, [rows[index]], **options)[0], encodings[index]
                self._say("truncated", f"a text of {len(whole)} tokens was truncated to {sum(kept.attention_mask)}")
        longest = max((len(encoding) for encoding in encodings), default=0)
        if longest > self.model_max_length:
            self._say(
                "too long", f"a row of {longest} tokens exceeds the {self.model_max_length} that the model can take"
            )

    def _say(self, kind: str, message: str) -> None:
        """Warns once of each kind."""
        if kind not in self._said:
            self._said.add(kind)
            _logger.warning("%s (said once)", message)


def load_tokenizer(path: str | Path, *, revision: str | None = None, **overrides: Any) -> Tokenizer:
    """Loads the tokenizer of a model from its own files.

    Args:
        path: a folder, or a hub id. It holds tokenizer.json, vocab.txt (WordPiece), vocab.json and merges.txt
            (byte-level BPE, OpenAI's names encoder.json and vocab.bpe too; CLIP's and XLM's BPE), or a SentencePiece
            model (spiece.model, sentencepiece.bpe.model, spm.model, tokenizer.model), and what else says how:
            tokenizer_config.json, special_tokens_map.json, added_tokens.json, config.json.
        revision: branch, tag or commit on the hub.
        overrides: what tokenizer_config.json would say: `model_max_length`, `padding_side`, `pad_token`,
            `do_lower_case`, `add_prefix_space`, ... A special token that the vocabulary lacks is added to it.

    Raises:
        InputError: there is no tokenizer, a file of it cannot be read, or an override is unknown.

    Example:
        >>> import tempfile
        >>> from jaxformers.preprocess import train_wordpiece
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     train_wordpiece(["a cat and a dog", "a dog and a cat"], vocab_size=40).save(folder)
        ...     tok = load_tokenizer(folder, model_max_length=16)
        >>> tok.decode(tok("A CAT")["input_ids"])
        '[CLS] a cat [SEP]'
    """
    from jaxformers.checkpoints.files import locate  # its room loads models, which a tokenizer alone does not need

    backend, settings = read_folder(locate(path, revision=revision, weights=False), overrides)
    if settings["tokenizer_class"] == "TapasTokenizer":
        from jaxformers.preprocess.tokenizer_tapas import TableTokenizer  # which stands on this file

        return TableTokenizer(backend, **settings)
    if settings["tokenizer_class"] == "Wav2Vec2CTCTokenizer":
        from jaxformers.preprocess.tokenizer_ctc import CTCTokenizer  # which stands on this file

        return CTCTokenizer(backend, **settings)
    return Tokenizer(backend, **settings)


def _strategy(name: str, value: bool | str | None, table: Mapping[bool | str, str]) -> str:
    chosen = table.get(value or False, value) if isinstance(value, bool | str | None) else value
    if chosen not in (names := list(dict.fromkeys(table.values()))):
        raise InputError(f"{name} must be True, False or one of {', '.join(names)}; found {value!r}")
    return str(chosen)


def _side(name: str, side: str) -> str:
    if side not in ("right", "left"):
        raise InputError(f"{name} must be 'right' or 'left', found {side!r}")
    return side


def _whole(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, int | np.integer) or value < 0):
            raise InputError(f"{name} must be a whole number and not negative, found {value!r}")
