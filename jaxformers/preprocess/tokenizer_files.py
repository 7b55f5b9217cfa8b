"""Tokenizer files, both ways: a folder in Hugging Face (or original) layout to a `tokenizers` backend, and back.

Every kind of vocabulary file is first turned into what a tokenizer.json would hold; options, special and added tokens
are then applied to that one form. A new kind of file is one row of `_READERS`. What the parts of a tokenizer.json mean
is `tokenizer_layouts` (with `tokenizer_sentencepiece` and `tokenizer_merges`); calling a tokenizer is `text`; finding or
fetching a folder is `jaxformers.checkpoints.files`.
"""

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from jaxformers.errors import InputError
from jaxformers.preprocess import tokenizer_whisper
from jaxformers.preprocess.sentencepiece_file import read_sentencepiece
from jaxformers.preprocess.tokenizer_languages import HABITS
from jaxformers.preprocess.tokenizer_layouts import (
    BUILT_OPTIONS,
    CLASS_OF_MODEL,
    CLASSES,
    LAYOUTS,
    OPTIONS,
    PLAIN_INPUTS,
    SPECIAL_NAMES,
    UNKNOWN_CLASS,
    Built,
    TokenizerClass,
    apply_options,
    byte_level_json,
    class_of,
    clip_json,
    frame_json,
    openai_gpt_json,
    options_of,
    wordpiece_json,
)
from jaxformers.preprocess.tokenizer_merges import ctrl_json, xlm_json
from jaxformers.preprocess.tokenizer_pieces import pieces_json
from jaxformers.preprocess.tokenizer_sentencepiece import LAYOUTS_READ, sentencepiece_json

UNLIMITED = int(1e30)  # what transformers writes for "no maximum"; a file may hold it rounded through a float

_SETTINGS = (
    *SPECIAL_NAMES,
    "extra_special_tokens",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "clean_up_tokenization_spaces",
    "tokenizer_class",
)
_SHAPES = {
    "added_tokens_decoder": dict,
    "additional_special_tokens": list | tuple,
    "extra_special_tokens": list | tuple | dict,
    "model_input_names": list | tuple,
    "padding_side": str,
    "truncation_side": str,
}
# Keys of tokenizer_config.json that do not travel on: paths, code to run, and what tokenizer.json itself holds.
_NOT_KEPT = {
    *("name_or_path", "tokenizer_file", "special_tokens_map_file", "vocab_file", "merges_file", "files_loaded"),
    *("auto_map", "backend", "is_local", "local_files_only", "cache_dir", "init_inputs", "device_map", "max_len"),
    *("added_tokens_decoder", "additional_special_tokens", "slow_tokenizer_class", "add_bos_token", "add_eos_token"),
}
# These count positions from padding_idx + 1 = 2, so their table has two rows that no token of a text can reach.
_POSITIONS_FROM_TWO = {"roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "data2vec-text"}


def read_folder(folder: Path, overrides: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Returns the backend that a folder describes, and the keyword arguments of `Tokenizer` that go with it."""
    for name in overrides:
        if name not in (known := (*_SETTINGS, *OPTIONS, *BUILT_OPTIONS)):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"{name!r} is not an option of load_tokenizer; {hint}")
    model = _json(folder / "config.json")
    config = _json(folder / "tokenizer_config.json")
    template = folder / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    # Files of before tokenizer_config.json said everything have the last word where they are all there is.
    special_map = {} if "added_tokens_decoder" in config else _json(folder / "special_tokens_map.json")
    given = {**config, **special_map, **overrides}
    for name, kind in _SHAPES.items():
        if not isinstance(given.get(name), kind | None):
            raise InputError(f"{name} of a tokenizer must be {kind}, found {given[name]!r:.60}")

    class_name = str(given.get("tokenizer_class") or model.get("tokenizer_class") or "")
    class_name = class_name if class_name == UNKNOWN_CLASS else class_name.removesuffix("Fast")
    class_name = class_name or CLASS_OF_MODEL.get(str(model.get("model_type")), "")
    file, layout, built = _read_vocabulary(folder, class_name, model.get("model_type"), given)
    raw = built.raw
    class_name = class_name or class_of(raw)
    habits = CLASSES.get(class_name, TokenizerClass("", PLAIN_INPUTS))
    layout = habits.layout or layout

    apply_options(raw, given, demanded=[name for name in overrides if name not in built.options])
    # What a saved tokenizer padded with is its habit; whether and to what length is for a call to say.
    padding, truncation = raw.get("padding") or {}, raw.get("truncation") or {}
    backend = _backend(raw, file)

    baked = {"pad_token": padding["pad_token"]} if "pad_token" in padding else {}
    named = {**baked, **LAYOUTS[layout], **built.special, **given}
    special = {name: named[name] for name in SPECIAL_NAMES if named.get(name) is not None}
    if layout == "roberta" and special.get("mask_token") == "<mask>":
        # RoBERTa was trained with the space before "<mask>" swallowed.
        special["mask_token"] = {"content": "<mask>", "lstrip": True}
    names = {name: _content(token) for name, token in special.items()}
    extra = given.get("extra_special_tokens") or given.get("additional_special_tokens") or habits.extra_special_tokens
    extra = tuple(extra.values() if isinstance(extra, Mapping) else extra)
    added = {str(index): token for token, index in _json(folder / "added_tokens.json").items()}
    added |= config.get("added_tokens_decoder") or {}
    _add_tokens(backend, added, (*special.values(), *extra), built.added, folder)
    if "post_processor" not in raw:
        if class_name in HABITS:
            habit = HABITS[class_name]
            names = {**names, "language_token": habit.form.format(given.get("src_lang") or habit.default)}
        if layout == "whisper":
            frame = tokenizer_whisper.frame(given, names["eos_token"], backend.token_to_id)
        else:
            frame = frame_json(layout, names, backend.token_to_id, given)
        # Only now do all special tokens have their ids; a part enters a backend through a tokenizer.json alone.
        empty = {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""}
        backend.post_processor = _backend({"model": empty, "post_processor": frame}, file).post_processor

    kept = [_content(token) for token in extra]
    kept += [token["content"] for token in built.added if token["special"] and token["content"] not in names.values()]
    return backend, {
        "tokenizer_class": class_name,
        "special_tokens": names,
        "extra_special_tokens": tuple(dict.fromkeys(kept)),
        "model_max_length": _max_length(given, model),
        "padding_side": given.get("padding_side") or padding.get("direction", habits.padding_side).lower(),
        "truncation_side": given.get("truncation_side") or truncation.get("direction", "right").lower(),
        "pad_token_type_id": habits.pad_token_type_id,
        "model_input_names": tuple(given.get("model_input_names") or habits.model_input_names),
        "clean_up_tokenization_spaces": bool(given.get("clean_up_tokenization_spaces")),
        "config": {k: v for k, v in {**config, **built.options}.items() if k not in _NOT_KEPT} | options_of(raw),
        "splitter": built.splitter,
        "files": built.files,
    }


def write_folder(
    directory: Path,
    backend: tokenizers.Tokenizer,
    config: Mapping[str, Any],
    vocabulary_files: Mapping[str, str | bytes],
) -> None:
    """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and, for WordPiece, vocab.txt.

    Where there are `vocabulary_files`, they take the place of tokenizer.json. A file appears whole or not at all.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if vocabulary_files:
        added = backend.get_added_tokens_decoder().items()
        flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        decoder = {str(index): {flag: getattr(token, flag) for flag in flags} for index, token in added}
        config = {**config, "added_tokens_decoder": decoder}
    files: dict[str, str | bytes] = {
        **(vocabulary_files or {"tokenizer.json": backend.to_str(pretty=True)}),
        "tokenizer_config.json": _dumps(config),
        "special_tokens_map.json": _dumps({name: config[name] for name in SPECIAL_NAMES if name in config}),
    }
    vocabulary = backend.get_vocab(with_added_tokens=False)
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    # A vocabulary with a gap (its vocab.txt named a token twice) is not written as lines; tokenizer.json says it all.
    if type(backend.model).__name__ == "WordPiece" and vocabulary[tokens[-1]] == len(tokens) - 1:
        files["vocab.txt"] = "\n".join(tokens) + "\n"
    for name, content in files.items():
        unfinished = directory / f".{name}.{os.getpid()}"
        try:
            if isinstance(content, bytes):
                unfinished.write_bytes(content)
            else:
                unfinished.write_text(content, encoding="utf-8", newline="\n")
            unfinished.replace(directory / name)
        finally:
            unfinished.unlink(missing_ok=True)


def backend_of(raw: Mapping[str, Any], special: Mapping[str, str]) -> tokenizers.Tokenizer:
    """Returns the backend of a tokenizer.json made here, its special tokens marked as such."""
    backend = _backend(raw, Path("tokenizer.json"))
    backend.add_special_tokens(list(special.values()))
    return backend


# ---------------------------------------------------------------------------------------- one reader a kind of file


def _read_tokenizer_json(file: Path, layout: str, given: Mapping[str, Any]) -> Built:
    raw = _json(file)
    parts = ("normalizer", "pre_tokenizer", "post_processor", "padding", "truncation")
    if not isinstance(raw.get("model"), dict) or not all(isinstance(raw.get(part), dict | None) for part in parts):
        raise InputError(f"{file} is not a file of the tokenizers library: its 'model' and other parts must be objects")
    if layout == "whisper":  # what is around a text is said anew, for who loads may say it
        return _whisper(raw, given)
    return Built({"post_processor": None, **raw})


def _read_wordpiece(file: Path, layout: str, given: Mapping[str, Any]) -> Built:
    lines, special = _lines(file), _special("bert", given)
    for name in ("unk_token", "cls_token", "sep_token"):
        found = lines.count(special[name])
        if found != 1:
            raise InputError(f"{file} must hold {special[name]} (the {name}) on exactly one line, found it on {found}")
    return Built(wordpiece_json({token: index for index, token in enumerate(lines)}, special))


def _read_byte_level(file: Path, layout: str, given: Mapping[str, Any]) -> Built:
    vocabulary, merges = _json(file), _merges(file)
    if not layout and any(right.endswith("</w>") for _, right in merges):
        raise InputError(f"{file} marks the ends of words: only tokenizer_class could say how texts become such words")
    layout = layout or ("roberta" if {"<s>", "</s>", "<mask>"} <= vocabulary.keys() else "gpt2")
    special, add_bos_token = _special(layout, given), bool(given.get("add_bos_token"))
    frame = {
        "roberta": ("cls_token", "sep_token"),
        "clip": ("bos_token", "eos_token"),
        "openai-gpt": ("unk_token",),
    }.get(layout)
    for name in frame or ("bos_token",) * add_bos_token:
        if special[name] not in vocabulary:
            raise InputError(f"{file} does not hold {special[name]} (the {name}), which every text may need")
    if layout in ("clip", "openai-gpt"):
        return Built((clip_json if layout == "clip" else openai_gpt_json)(vocabulary, merges, special))
    raw = byte_level_json(vocabulary, merges, special, layout=layout, add_bos_token=add_bos_token)
    if layout == "whisper":
        return _whisper(raw, given)
    return Built(raw, options={"add_bos_token": add_bos_token} if layout == "gpt2" else {})


def _whisper(raw: dict[str, Any], given: Mapping[str, Any]) -> Built:
    raw = {part: value for part, value in raw.items() if part != "post_processor"}
    return Built(raw, options={name: given[name] for name in tokenizer_whisper.OPTIONS if name in given})


def _read_xlm(file: Path, layout: str, given: Mapping[str, Any]) -> Built:
    return xlm_json(_json(file), _merges(file, counted=True), _special(layout, given), given, file)


def _read_ctrl(file: Path, layout: str, given: Mapping[str, Any]) -> Built:
    return ctrl_json(_json(file), _merges(file), _special(layout, given), file)


def _read_marian(file: Path, layout: str, given: Mapping[str, Any]) -> Built:
    if given.get("separate_vocabs"):
        raise InputError(
            f"{file.parent} keeps a vocabulary for each language (separate_vocabs), which is not supported"
        )
    vocabulary = file.with_name("vocab.json")
    return pieces_json(_json(vocabulary), file, _special(layout, given), vocabulary, coded=True)


def _read_m2m_100(file: Path, layout: str, given: Mapping[str, Any]) -> Built:
    vocabulary = file.with_name("vocab.json")
    return pieces_json(_json(vocabulary), file, _special(layout, given), vocabulary, coded=False)


def _read_ctc(file: Path, layout: str, given: Mapping[str, Any]) -> Built:
    from jaxformers.preprocess.tokenizer_ctc import ctc_json  # which stands on `text`, as that does on this file

    return ctc_json(_json(file), _special(layout, given), given, file)


def _read_sentencepiece(file: Path, layout: str, given: Mapping[str, Any]) -> Built:
    layout = layout or "sentencepiece"
    built = sentencepiece_json(read_sentencepiece(file), layout, _special(layout, given), given)
    if layout != "speecht5":
        return built
    if given.get("normalize"):
        raise InputError(f"{file.parent} asks for numbers spelled out (normalize), which is not supported")
    return built._replace(files={file.name: file.read_bytes()})  # transformers knows no other for this class


class _Reader(NamedTuple):
    files: tuple[str, ...]  # all must be there; the first is handed to `read`
    layouts: tuple[str, ...]  # those whose vocabulary such files can hold
    read: Callable[[Path, str, Mapping[str, Any]], Built]


_READERS = (
    _Reader(
        ("tokenizer.json",),
        tuple(name for name in LAYOUTS if name not in ("xlm", "ctrl", "ctc", "speecht5")),
        _read_tokenizer_json,
    ),
    _Reader(("vocab.txt",), ("bert",), _read_wordpiece),
    _Reader(("vocab.json", "merges.txt"), ("gpt2", "roberta", "clip", "openai-gpt", "whisper"), _read_byte_level),
    _Reader(("vocab.json", "merges.txt"), ("xlm",), _read_xlm),
    _Reader(("vocab.json", "merges.txt"), ("ctrl",), _read_ctrl),
    _Reader(("source.spm", "target.spm", "vocab.json"), ("marian",), _read_marian),
    _Reader(("sentencepiece.bpe.model", "vocab.json"), ("m2m_100",), _read_m2m_100),
    _Reader(("vocab.json",), ("ctc",), _read_ctc),
    _Reader(("encoder.json", "vocab.bpe"), ("gpt2", "roberta"), _read_byte_level),
    *(
        _Reader((name,), LAYOUTS_READ, _read_sentencepiece)
        for name in ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model", "spm_char.model")
    ),
)


def _read_vocabulary(
    folder: Path, class_name: str, model_type: str | None, given: Mapping[str, Any]
) -> tuple[Path, str, Built]:
    """The first kind of vocabulary there that the class can have: its file, the layout, and what it becomes."""
    layout = CLASSES[class_name].layout if class_name in CLASSES else ""
    there = [reader for reader in _READERS if all((folder / name).is_file() for name in reader.files)]
    for reader in there:
        # Without tokenizer.json only the class says how texts are split; a guess would be silently wrong.
        if layout in reader.layouts or not (class_name or model_type):
            file = folder / reader.files[0]
            return file, layout, reader.read(file, layout, given)
    if there:
        fit = [name for name, row in CLASSES.items() for reader in there if row.layout in reader.layouts]
        raise InputError(
            f"{folder} has {' + '.join(there[0].files)}, from which jaxformers makes {', '.join(dict.fromkeys(fit))};"
            f" this one is for {class_name or model_type!r}, which needs a tokenizer.json"
        )
    raise InputError(
        f"{folder} holds no tokenizer: expected"
        f" {', or '.join(dict.fromkeys(' + '.join(reader.files) for reader in _READERS))}"
    )


# ------------------------------------------------------------------------------------------------------------- parts


def _special(layout: str, given: Mapping[str, Any]) -> dict[str, str]:
    named = LAYOUTS[layout] | {name: given[name] for name in SPECIAL_NAMES if given.get(name) is not None}
    return {name: _content(token) for name, token in named.items()}


def _merges(file: Path, *, counted: bool = False) -> list[list[str]]:
    """The merges that go with a vocabulary; fastBPE writes behind each how often it saw the pair."""
    merges_file = file.with_name({"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}[file.name])
    merges = [line.split(" ") for line in _lines(merges_file) if line and not line.startswith("#version")]
    for merge in merges:
        if len(merge) != 2 and not (counted and len(merge) == 3):
            raise InputError(f"{merges_file} must hold two pieces a line, found {' '.join(merge)!r}")
    return [merge[:2] for merge in merges]


def _backend(raw: Mapping[str, Any], file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], **raw}))
    except Exception as error:  # the library raises bare Exception, without the file's name
        raise InputError(f"{file} is not a tokenizer that the tokenizers library can read: {error}") from error


def _add_tokens(
    backend: tokenizers.Tokenizer,
    added: Mapping[str, Any],
    special: tuple[Any, ...],
    wanted: Sequence[Mapping[str, Any]],
    folder: Path,
) -> None:
    names = {_content(token) for token in special}
    there = {token.content for token in backend.get_added_tokens_decoder().values()}
    for index, token in sorted(added.items(), key=lambda item: (len(item[0]), item[0])):  # by number
        content = _content(token)
        if content not in there or isinstance(token, Mapping):  # its flags go before those of tokenizer.json
            backend.add_tokens([_added(token, is_special=content in names)])
            there.add(content)
        if str(backend.token_to_id(content)) != index:
            raise InputError(
                f"{folder} says the added token {content!r} has id {index}, but after this vocabulary it has"
                f" {backend.token_to_id(content)}"
            )
    # A token that is added twice has its last flags: the vocabulary file's own go before a class's.
    rest = [token for token in (*special, *wanted) if _content(token) not in there]
    backend.add_tokens([_added(token, is_special=_content(token) in names) for token in rest])


def _content(token: Any) -> str:
    content = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(content, str):
        raise InputError(f"a special or added token must be a string or hold one as its 'content', found {token!r}")
    return content


def _added(token: str | Mapping[str, Any], *, is_special: bool) -> tokenizers.AddedToken:
    flags = {k: v for k, v in token.items() if k not in ("content", "__type")} if isinstance(token, Mapping) else {}
    flags["special"] = bool(flags.get("special")) or is_special
    return tokenizers.AddedToken(_content(token), **({"normalized": not flags["special"]} | flags))


def _max_length(given: Mapping[str, Any], model: Mapping[str, Any]) -> int:
    stated = given.get("model_max_length", given.get("max_len"))
    if isinstance(stated, int | float) and stated < 1e20:
        return int(stated)
    # T5 states n_positions too, but has no positions: its attention looks at distances.
    absolute = None if "relative_attention_num_buckets" in model else model.get("n_positions")
    positions = model.get("max_position_embeddings", absolute)
    if not isinstance(positions, int) or positions <= 0:
        return UNLIMITED
    return positions - 2 if model.get("model_type") in _POSITIONS_FROM_TWO else positions


def _json(file: Path) -> dict[str, Any]:
    """A file's JSON object, empty where there is no file."""
    from jaxformers.checkpoints.files import read_json  # its room loads models, which a tokenizer alone does not need

    return read_json(file) if file.is_file() else {}


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 (byte {error.object[error.start]:#04x} at {error.start})") from error
    # Not splitlines(): a vocabulary may hold other Unicode line separators as tokens.
    return text.removesuffix("\n").split("\n")


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
