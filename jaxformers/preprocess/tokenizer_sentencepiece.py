"""Tokenizers over SentencePiece vocabularies: what each family does to a text, as what a tokenizer.json holds.

A `.model` file says how its pieces were trained; what happens before and around them is the family's, and is written
here as transformers has it. A model that names no family gets `sentencepiece`, which does what the file itself says.
A new family is one row of `_FAMILIES`. The file is read by `sentencepiece_file`.
"""

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxformers.errors import InputError
from jaxformers.preprocess.sentencepiece_file import Algorithm, Kind, SentencePiece
from jaxformers.preprocess.tokenizer_languages import TOKENS
from jaxformers.preprocess.tokenizer_layouts import Built

_SPACE = "▁"
_Part = dict[str, Any]


class _Family(NamedTuple):
    algorithm: Algorithm | None  # the one that the family's models are built with; None takes the file's
    options: Mapping[str, Any]  # those that shape the pipeline, with the value that an absent key has


_ENDS = {"add_bos_token": False, "add_eos_token": False}
# The options of tokenizer_config.json that are read here; they cannot be changed once the pipeline is built.
_FAMILIES = {
    "albert": _Family(Algorithm.UNIGRAM, {"do_lower_case": True, "keep_accents": False, "add_prefix_space": True}),
    "xlnet": _Family(Algorithm.UNIGRAM, {"do_lower_case": False}),
    "xlm-roberta": _Family(Algorithm.UNIGRAM, {"add_prefix_space": True}),
    "deberta-v2": _Family(
        Algorithm.UNIGRAM, {"do_lower_case": False, "split_by_punct": False, "add_prefix_space": True}
    ),
    "t5": _Family(Algorithm.UNIGRAM, {"extra_ids": 100}),
    "mbart": _Family(Algorithm.UNIGRAM, {}),
    "mbart50": _Family(Algorithm.UNIGRAM, {}),
    "pegasus": _Family(Algorithm.UNIGRAM, {"offset": 103}),
    "llama": _Family(Algorithm.BPE, {"add_prefix_space": True, "legacy": False} | _ENDS),
    "speecht5": _Family(Algorithm.CHAR, {}),
    "sentencepiece": _Family(None, _ENDS),
}
LAYOUTS_READ = tuple(_FAMILIES)
# What SentencePiece itself calls the pieces that no text has.
_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def sentencepiece_json(
    model: SentencePiece, layout: str, special: Mapping[str, str], given: Mapping[str, Any]
) -> Built:
    """Returns the tokenizer.json of a family's texts over the pieces of `model`, without the frame around a text.

    Args:
        model: what the `.model` file says.
        layout: one of `LAYOUTS_READ`.
        special: the special tokens by name.
        given: tokenizer_config.json; the family's own options are looked up there.

    Raises:
        InputError: the pieces were trained in a way that the family, or the tokenizers library, cannot follow.
    """
    family = _FAMILIES[layout]
    option = {name: default if given.get(name) is None else given[name] for name, default in family.options.items()}
    if model.algorithm is Algorithm.WORD or model.whitespace_as_suffix:
        kind = "whole words" if model.algorithm is Algorithm.WORD else "pieces that end with their space"
        raise InputError(f"a SentencePiece model of {kind} has no counterpart in the tokenizers library")
    if family.algorithm not in (None, model.algorithm):
        raise InputError(
            f"{layout} needs a SentencePiece model of kind {family.algorithm.name}, found {model.algorithm.name}"
        )

    pieces = [(piece.text, piece.score) for piece in model.pieces]
    added: list[_Part] = [
        {"content": piece.text, "special": piece.kind is Kind.CONTROL, "normalized": False}
        for piece in model.pieces
        if piece.kind in (Kind.CONTROL, Kind.USER_DEFINED)
    ]
    unk_id, byte_fallback = model.unk_id, False
    if layout in ("xlm-roberta", "mbart", "mbart50"):
        # fairseq put its own four tokens in front, in place of the file's first three, and languages and the mask behind.
        first = [special[f"{name}_token"] for name in ("bos", "pad", "eos", "unk")]
        last = [*TOKENS.get({"mbart": "MBartTokenizer", "mbart50": "MBart50Tokenizer"}.get(layout, ""), ()),
                special["mask_token"]]  # fmt: skip
        pieces = [*((token, 0.0) for token in first), *pieces[3:], *((token, 0.0) for token in last)]
        unk_id = 3
    elif layout == "pegasus":
        # What was masked has tokens of its own, and so have words left free, in front of all but the file's first two.
        free = [f"<unk_{index}>" for index in range(2, _count(option["offset"]))]
        first = [special["pad_token"], special["eos_token"], "<mask_1>", special["mask_token"], *free]
        pieces = [*((token, 0.0) for token in first), *pieces[2:]]
        unk_id = len(first)
        added = [{"content": token, "special": True, "normalized": False} for token in ("<mask_1>", *free)]
    elif layout == "t5":
        sentinels = [f"<extra_id_{index}>" for index in reversed(range(_count(option["extra_ids"])))]
        pieces += [(token, 0.0) for token in sentinels]
        if not any("<extra_id_" in token["content"] for token in added):
            added += [{"content": token, "special": True, "normalized": False} for token in sentinels[::-1]]
    elif layout in ("llama", "sentencepiece"):
        byte_fallback = layout == "llama" or model.byte_fallback
    if layout in ("speecht5", "sentencepiece"):
        unk_id = next((index for index, piece in enumerate(model.pieces) if piece.kind is Kind.UNKNOWN), unk_id)
        if model.algorithm is Algorithm.UNIGRAM:
            # To the search, a user-defined piece is as good as the best piece for each of its bytes, less a little.
            best = max(piece.score for piece in model.pieces if piece.kind is Kind.NORMAL)
            whole = {piece.text for piece in model.pieces if piece.kind is Kind.USER_DEFINED}
            pieces = [(text, best * len(text.encode()) - 0.1 if text in whole else score) for text, score in pieces]
            added = [token for token in added if token["content"] not in whole]
    build = {Algorithm.UNIGRAM: _unigram}.get(model.algorithm, _bpe)
    raw = _PIPELINES[layout](model, option) | {"model": build(model, pieces, unk_id, byte_fallback, layout)}
    if layout in ("xlnet", "deberta-v2"):
        option["unk_id"] = unk_id  # transformers looks for it there, not in tokenizer.json
    named = _NAMED.items() if layout == "sentencepiece" else ()
    kinds = {piece.text: piece.kind for piece in model.pieces}
    found = {name: text for name, text in named if kinds.get(text) in (Kind.CONTROL, Kind.UNKNOWN)}
    return Built(raw, found, tuple(added), option)


# ---------------------------------------------------------------------------------------------------------- the models


def _unigram(
    model: SentencePiece, pieces: list[tuple[str, float]], unk_id: int, byte_fallback: bool, layout: str
) -> _Part:
    vocabulary = [[text, score] for text, score in pieces]
    return {"type": "Unigram", "unk_id": unk_id, "byte_fallback": byte_fallback, "vocab": vocabulary}


def _bpe(model: SentencePiece, pieces: list[tuple[str, float]], unk_id: int, byte_fallback: bool, layout: str) -> _Part:
    ids = {text: index for index, (text, _) in enumerate(pieces)}
    return {
        "type": "BPE",
        "dropout": None,
        # Llama spells out in bytes what no piece does, so nothing is unknown to it.
        "unk_token": None if layout == "llama" else pieces[unk_id][0],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": byte_fallback,
        "ignore_merges": False,
        "vocab": ids,
        "merges": _merges(pieces, ids) if model.algorithm is Algorithm.BPE else [],
    }


def _merges(pieces: list[tuple[str, float]], ids: Mapping[str, int]) -> list[list[str]]:
    """The merges that a SentencePiece BPE leaves unsaid: each way to make a piece out of two, best scores first.

    Llama's runs of spaces have the worst scores of all, though their ids are among the first.
    """
    found = [
        (-score, -cut, cut - len(text), text[:cut], text[cut:])
        for text, score in pieces
        for cut in range(1, len(text))
        if text[:cut] in ids and text[cut:] in ids
    ]
    # Among equal scores those with the longer left part, then right part, go first, as in the tokenizer.json files of
    # published models; sorting is stable, so the order of ids decides the rest.
    found.sort(key=lambda merge: merge[:3])
    return [[left, right] for *_, left, right in found]


# ------------------------------------------------------------------------------- what comes before and after the model


def _albert(model: SentencePiece, option: Mapping[str, Any]) -> _Part:
    steps = [_replace("``", '"'), _replace("''", '"')]
    if not option.get("keep_accents"):
        steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
    if option["do_lower_case"]:
        steps.append({"type": "Lowercase"})
    return {"normalizer": _sequence("normalizers", steps + _charsmap(model))} | _words(
        option.get("add_prefix_space", True)
    )


def _charsmap_and_words(model: SentencePiece, option: Mapping[str, Any]) -> _Part:
    return {"normalizer": next(iter(_charsmap(model)), None)} | _words(option.get("add_prefix_space", True))


def _charsmap_and_spaces(model: SentencePiece, option: Mapping[str, Any]) -> _Part:
    # A space at the end of a text is a piece of its own here.
    steps, spaces = [*_charsmap(model), _replace(" {2,}", " ", regex=True)], _metaspace("always")
    return {"normalizer": _sequence("normalizers", steps), "pre_tokenizer": spaces, "decoder": spaces}


def _deberta(model: SentencePiece, option: Mapping[str, Any]) -> _Part:
    # transformers 5 leaves the file's table of characters out here and composes accents instead.
    steps: list[_Part] = [{"type": "Lowercase"}] if option["do_lower_case"] else []
    steps += [
        {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "},
        {"type": "NFC"},
        {"type": "Strip", "strip_left": False, "strip_right": True},
    ]
    spaces = _metaspace("always" if option["add_prefix_space"] else "first")
    punctuation = [{"type": "Punctuation", "behavior": "Isolated"}] if option["split_by_punct"] else []
    return {
        "normalizer": _sequence("normalizers", steps),
        "pre_tokenizer": _sequence("pretokenizers", [*punctuation, spaces]),
        "decoder": spaces,
    }


def _llama(model: SentencePiece, option: Mapping[str, Any]) -> _Part:
    # "legacy" puts a space in front of what follows each special token, too, not only in front of the text.
    scheme = ("always" if option["legacy"] else "first") if option["add_prefix_space"] else "never"
    return {
        "normalizer": None,
        "pre_tokenizer": _metaspace(scheme, split=False),
        "decoder": _byte_decoder(1 if option["add_prefix_space"] else 0),
    }


def _as_the_file_says(model: SentencePiece, option: Mapping[str, Any]) -> _Part:
    steps, space = _charsmap(model), _SPACE if model.escape_whitespaces else " "
    if model.remove_extra_whitespaces:
        steps += [_replace("^ +| +$", "", regex=True), _replace(" {2,}", " ", regex=True)]
    if model.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": space})
    if model.escape_whitespaces:
        steps.append(_replace(" ", _SPACE))
    # Where no piece reaches across a space, words can be looked up one by one, which the library caches.
    apart = model.escape_whitespaces and all(_SPACE not in piece.text[1:] for piece in model.pieces)
    return {
        "normalizer": _sequence("normalizers", steps),
        "pre_tokenizer": _metaspace("never") if apart else None,
        "decoder": _byte_decoder(1 if model.add_dummy_prefix else 0),
    }


_PIPELINES = {
    "albert": _albert,
    "xlnet": _albert,
    "xlm-roberta": _charsmap_and_words,
    "deberta-v2": _deberta,
    "t5": _charsmap_and_words,
    "mbart": _charsmap_and_words,
    "mbart50": _charsmap_and_spaces,
    "pegasus": _charsmap_and_spaces,
    "llama": _llama,
    "speecht5": _as_the_file_says,
    "sentencepiece": _as_the_file_says,
}


def _charsmap(model: SentencePiece) -> list[_Part]:
    text = base64.b64encode(model.charsmap).decode("ascii")
    return [{"type": "Precompiled", "precompiled_charsmap": text}] if text else []


def _words(prefix: bool) -> _Part:
    """Splits at any space and puts the mark of a space in front of each word."""
    spaces = _metaspace("always" if prefix else "never")
    return {"pre_tokenizer": _sequence("pretokenizers", [{"type": "WhitespaceSplit"}, spaces]), "decoder": spaces}


def _metaspace(scheme: str, *, split: bool = True) -> _Part:
    return {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": split}


def _byte_decoder(prefix: int) -> _Part:
    steps: list[_Part] = [_replace(_SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = [{"type": "Strip", "content": " ", "start": prefix, "stop": 0}] if prefix else []
    return _sequence("decoders", steps + strip)


def _replace(pattern: str, content: str, *, regex: bool = False) -> _Part:
    return {"type": "Replace", "pattern": {"Regex" if regex else "String": pattern}, "content": content}


def _sequence(name: str, steps: list[_Part]) -> _Part:
    return {"type": "Sequence", name: steps}


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= 10_000:
        raise InputError(f"extra_ids must be a whole number from 0 to 10000, found {value!r}")
    return value
