"""How families of tokenizers treat text, written as what a tokenizer.json holds (a plain dict); knows no files.

A layout is a normaliser, a splitter, a model and the special tokens that frame a text. A new class of tokenizer is one
row of `CLASSES`; a new layout is one row of `LAYOUTS` and one function from a vocabulary to the dict. Those over
SentencePiece vocabularies are in `tokenizer_sentencepiece`, XLM's and CTRL's in `tokenizer_merges`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jaxformers.errors import InputError
from jaxformers.preprocess.tokenizer_languages import TOKENS
from jaxformers.preprocess.tokenizer_whisper import OPTIONS as WHISPER_OPTIONS

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
UNKNOWN_CLASS = "PreTrainedTokenizerFast"  # transformers takes this one's tokenizer.json as it is

# The special tokens of a layout where nothing names them; BERT's in the order of the ids that training gives them.
LAYOUTS: dict[str, dict[str, Any]] = {
    "bert": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "gpt2": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "roberta": {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": "<mask>",
    },
    "openai-gpt": {"unk_token": "<unk>"},
    "ctrl": {"unk_token": "<unk>"},
    "clip": {"bos_token": "<|startoftext|>"} | dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    "albert": {
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "<unk>",
        "sep_token": "[SEP]",
        "pad_token": "<pad>",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    "xlnet": {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "<sep>",
        "pad_token": "<pad>",
        "cls_token": "<cls>",
        "mask_token": {"content": "<mask>", "lstrip": True},
    },
    "xlm": {
        "bos_token": "<s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "</s>",
        "mask_token": "<special1>",
    },
    "deberta-v2": {
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    "t5": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "marian": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "pegasus": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask_2>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "whisper": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "speecht5": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "ctc": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "sentencepiece": {},  # only the file says which
    "": {},  # only a tokenizer.json says how
}
LAYOUTS["xlm-roberta"] = LAYOUTS["mbart"] = LAYOUTS["mbart50"] = LAYOUTS["roberta"]
LAYOUTS["m2m_100"] = {
    name: token for name, token in LAYOUTS["roberta"].items() if name not in ("cls_token", "mask_token")
}
PLAIN_INPUTS = ("input_ids", "attention_mask")
TYPED_INPUTS = ("input_ids", "token_type_ids", "attention_mask")


class TokenizerClass(NamedTuple):
    """What a class name of transformers stands for: a layout, and the habits of a tokenizer around it."""

    layout: str
    model_input_names: tuple[str, ...]  # that a call returns by itself
    padding_side: str = "right"
    pad_token_type_id: int = 0
    extra_special_tokens: tuple[str, ...] = ()  # where no file names any


CLASSES = {
    "BertTokenizer": TokenizerClass("bert", TYPED_INPUTS),
    "ConvBertTokenizer": TokenizerClass("bert", TYPED_INPUTS),
    "DistilBertTokenizer": TokenizerClass("bert", PLAIN_INPUTS),
    "ElectraTokenizer": TokenizerClass("bert", TYPED_INPUTS),
    "LayoutLMTokenizer": TokenizerClass("bert", TYPED_INPUTS),
    "LxmertTokenizer": TokenizerClass("bert", TYPED_INPUTS),
    "MobileBertTokenizer": TokenizerClass("bert", TYPED_INPUTS),
    "SqueezeBertTokenizer": TokenizerClass("bert", TYPED_INPUTS),
    # A question, or any other text; the table beside it is `tokenizer_tapas`'s.
    "TapasTokenizer": TokenizerClass("bert", TYPED_INPUTS, extra_special_tokens=("[EMPTY]",)),
    "GPT2Tokenizer": TokenizerClass("gpt2", PLAIN_INPUTS),
    "GPTNeoXTokenizer": TokenizerClass("gpt2", PLAIN_INPUTS),
    "OpenAIGPTTokenizer": TokenizerClass("openai-gpt", PLAIN_INPUTS),
    "CTRLTokenizer": TokenizerClass("ctrl", PLAIN_INPUTS),
    "BartTokenizer": TokenizerClass("roberta", PLAIN_INPUTS),
    "LEDTokenizer": TokenizerClass("roberta", PLAIN_INPUTS),
    "LongformerTokenizer": TokenizerClass("roberta", PLAIN_INPUTS),
    "RobertaTokenizer": TokenizerClass("roberta", PLAIN_INPUTS),
    "CLIPTokenizer": TokenizerClass("clip", PLAIN_INPUTS),
    "AlbertTokenizer": TokenizerClass("albert", PLAIN_INPUTS),
    "XLNetTokenizer": TokenizerClass("xlnet", PLAIN_INPUTS, padding_side="left", pad_token_type_id=3),
    "XLMRobertaTokenizer": TokenizerClass("xlm-roberta", PLAIN_INPUTS),
    "XLMTokenizer": TokenizerClass(
        "xlm", PLAIN_INPUTS, extra_special_tokens=tuple(f"<special{index}>" for index in range(10))
    ),
    "DebertaV2Tokenizer": TokenizerClass("deberta-v2", TYPED_INPUTS),
    "T5Tokenizer": TokenizerClass("t5", PLAIN_INPUTS),
    "MarianTokenizer": TokenizerClass("marian", PLAIN_INPUTS),
    "M2M100Tokenizer": TokenizerClass("m2m_100", PLAIN_INPUTS, extra_special_tokens=TOKENS["M2M100Tokenizer"]),
    "MBartTokenizer": TokenizerClass("mbart", PLAIN_INPUTS, extra_special_tokens=TOKENS["MBartTokenizer"]),
    "MBart50Tokenizer": TokenizerClass("mbart50", PLAIN_INPUTS, extra_special_tokens=TOKENS["MBart50Tokenizer"]),
    "PegasusTokenizer": TokenizerClass("pegasus", PLAIN_INPUTS),
    "LlamaTokenizer": TokenizerClass("llama", PLAIN_INPUTS, padding_side="left"),
    "SpeechT5Tokenizer": TokenizerClass("speecht5", PLAIN_INPUTS),
    "Wav2Vec2CTCTokenizer": TokenizerClass("ctc", PLAIN_INPUTS),
    "WhisperTokenizer": TokenizerClass("whisper", PLAIN_INPUTS),
}
CLASS_OF_MODEL = {
    **dict.fromkeys(("bert", "electra", "layoutlm", "lxmert", "mobilebert", "vilt", "visual_bert"), "BertTokenizer"),
    "distilbert": "DistilBertTokenizer",
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "opt"), "GPT2Tokenizer"),
    **dict.fromkeys(("roberta", "bart", "data2vec-text", "led", "longformer"), "RobertaTokenizer"),
    "albert": "AlbertTokenizer",
    "clip": "CLIPTokenizer",
    "ctrl": "CTRLTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "llama": "LlamaTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "pegasus": "PegasusTokenizer",
    **dict.fromkeys(("t5", "mt5"), "T5Tokenizer"),
    "speecht5": "SpeechT5Tokenizer",
    "tapas": "TapasTokenizer",
    **dict.fromkeys(("wav2vec2", "hubert"), "Wav2Vec2CTCTokenizer"),
    "whisper": "WhisperTokenizer",
    "xlm": "XLMTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlnet": "XLNetTokenizer",
}


class Built(NamedTuple):
    """What a kind of vocabulary file becomes."""

    raw: dict[str, Any]  # a tokenizer.json; without post_processor, its layout's frame is put around each text
    special: Mapping[str, str] = {}  # special tokens that the file itself names
    added: tuple[Mapping[str, Any], ...] = ()  # tokens that the file wants whole, each with a tokenizer.json's flags
    options: Mapping[str, Any] = {}  # of tokenizer_config.json, those that were built in, with their values
    splitter: Any = None  # where the library's own parts cannot split a text: an object with `pre_tokenize`
    files: Mapping[str, str | bytes] = {}  # what `save` writes in place of a tokenizer.json, by name


# Around texts A and B: special tokens by name, each with its token type.
_FRAMES = {
    "albert": ("cls:0 A:0 sep:0", "cls:0 A:0 sep:0 B:1 sep:1"),
    "deberta-v2": ("cls:0 A:0 sep:0", "cls:0 A:0 sep:0 B:1 sep:1"),
    "xlnet": ("A:0 sep:0 cls:2", "A:0 sep:0 B:1 sep:1 cls:2"),  # at the end, where a left-to-right model has read all
    "xlm-roberta": ("bos:0 A:0 eos:0", "bos:0 A:0 eos:0 eos:0 B:0 eos:0"),
    "xlm": ("bos:0 A:0 sep:0", "bos:0 A:0 sep:0 B:1 sep:1"),
    "t5": ("A:0 eos:0", "A:0 eos:0 B:0 eos:0"),
    "pegasus": ("A:0 eos:0", "A:0 B:0 eos:0"),
    "speecht5": ("A:0 eos:0", "A:0 B:0 eos:0"),
    "marian": ("A:0 eos:0", "A:0 B:0 eos:0"),
    "mbart": ("A:0 eos:0 language:0", "A:0 B:0 eos:0 language:0"),
    **dict.fromkeys(("mbart50", "m2m_100"), ("language:0 A:0 eos:0", "language:0 A:0 B:0 eos:0")),
}
# Options that shape what is built from a vocabulary file, beside those of `OPTIONS`; a tokenizer.json is built already.
BUILT_OPTIONS = (
    *("keep_accents", "split_by_punct", "extra_ids", "legacy", "add_bos_token", "add_eos_token"),
    *WHISPER_OPTIONS,
    *("do_lowercase_and_remove_accent", "target_lang", "word_delimiter_token", "replace_word_delimiter_char"),
)

# Option of tokenizer_config.json -> the places of a tokenizer.json it sets: part, type of the node, field.
OPTIONS = {
    "do_lower_case": (("normalizer", "BertNormalizer", "lowercase"),),
    "strip_accents": (("normalizer", "BertNormalizer", "strip_accents"),),
    "tokenize_chinese_chars": (("normalizer", "BertNormalizer", "handle_chinese_chars"),),
    "add_prefix_space": (
        ("pre_tokenizer", "ByteLevel", "add_prefix_space"),
        ("post_processor", "RobertaProcessing", "add_prefix_space"),
    ),
    "trim_offsets": (("post_processor", "RobertaProcessing", "trim_offsets"),),
}

_BERT_NORMALIZER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,  # follows lowercase
    "lowercase": True,
}

_Frame = list[tuple[str, int]]  # special tokens around the texts A and B, each with its token type


def wordpiece_json(vocabulary: Mapping[str, int], special: Mapping[str, str]) -> dict[str, Any]:
    """Returns the tokenizer.json that normalises, splits and frames texts as BERT (uncased) does."""
    cls, sep = special["cls_token"], special["sep_token"]
    single = [(cls, 0), ("A", 0), (sep, 0)]
    return _template(single, [*single, ("B", 1), (sep, 1)], vocabulary) | {
        "normalizer": dict(_BERT_NORMALIZER),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": special["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": dict(vocabulary),
        },
    }


def byte_level_json(
    vocabulary: Mapping[str, int],
    merges: list[list[str]],
    special: Mapping[str, str],
    *,
    layout: str,
    add_bos_token: bool = False,
) -> dict[str, Any]:
    """Returns the tokenizer.json of a byte-level BPE: GPT-2's, with no frame or a first token, or RoBERTa's."""
    if layout == "roberta":
        frame: dict[str, Any] = {
            "post_processor": {
                "type": "RobertaProcessing",
                **{end: [special[f"{end}_token"], vocabulary[special[f"{end}_token"]]] for end in ("sep", "cls")},
                "trim_offsets": True,
                "add_prefix_space": False,
            }
        }
    else:
        start = [special["bos_token"]] if add_bos_token else []
        single = [*((token, 0) for token in start), ("A", 0)]
        frame = _template(single, [*single, *((token, 1) for token in start), ("B", 1)], vocabulary)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return frame | {
        "pre_tokenizer": dict(byte_level),
        "decoder": dict(byte_level),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": dict(vocabulary),
            "merges": merges,
        },
    }


def _ended_words(vocabulary: Mapping[str, int], merges: list[list[str]], special: Mapping[str, str]) -> dict[str, Any]:
    """A BPE that marks the end of each word with </w>."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": special["unk_token"],
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "</w>",
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": dict(vocabulary),
        "merges": merges,
    }


def openai_gpt_json(
    vocabulary: Mapping[str, int], merges: list[list[str]], special: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the tokenizer.json of OpenAI GPT's BPE: words as BERT (uncased) cuts them, the end of each marked."""
    return {
        "normalizer": dict(_BERT_NORMALIZER),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "BPEDecoder", "suffix": "</w>"},
        "model": _ended_words(vocabulary, merges, special),
    }


def clip_json(vocabulary: Mapping[str, int], merges: list[list[str]], special: Mapping[str, str]) -> dict[str, Any]:
    """Returns the tokenizer.json of CLIP's BPE: lower-case words of bytes, the end of a word marked."""
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    pattern = "|".join((r"<\|startoftext\|>", r"<\|endoftext\|>", words))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True},
                byte_level,
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [special["eos_token"], vocabulary[special["eos_token"]]],
            "cls": [special["bos_token"], vocabulary[special["bos_token"]]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                dict(byte_level),
                {"type": "Replace", "pattern": {"Regex": "</w>$"}, "content": ""},
                {"type": "Replace", "pattern": {"String": "</w>"}, "content": " "},
            ],
        },
        "model": _ended_words(vocabulary, merges, special),
    }


def class_of(raw: Mapping[str, Any]) -> str:
    """Returns the class of a tokenizer that nothing names, where its pipeline leaves no doubt."""
    kinds = {part: (raw.get(part) or {}).get("type") for part in ("model", "pre_tokenizer", "post_processor")}
    if kinds["post_processor"] == "RobertaProcessing":
        return "RobertaTokenizer"
    if kinds["model"] == "WordPiece" and kinds["pre_tokenizer"] == "BertPreTokenizer":
        return "BertTokenizer"
    if kinds["pre_tokenizer"] == "ByteLevel" and LAYOUTS["gpt2"]["eos_token"] in raw["model"].get("vocab", ()):
        return "GPT2Tokenizer"
    return UNKNOWN_CLASS


def apply_options(raw: Mapping[str, Any], given: Mapping[str, Any], demanded: Iterable[str] = ()) -> None:
    """Sets the options among `given` in a tokenizer.json; one that the user demanded must find its place there."""
    for option in (*OPTIONS, *BUILT_OPTIONS):
        places = OPTIONS.get(option, ())
        nodes = [(node, field) for part, kind, field in places for node in _nodes(raw.get(part), kind)]
        if option in demanded and not nodes:
            raise InputError(f"{option}={given[option]!r} has no meaning for this tokenizer: no part of it reads that")
        for node, field in nodes:
            node[field] = given.get(option, node.get(field))


def options_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of tokenizer_config.json with the values that a tokenizer.json has."""
    return {
        option: node.get(field)
        for option, places in OPTIONS.items()
        for part, kind, field in places
        for node in _nodes(raw.get(part), kind)
    }


def frame_json(
    layout: str, special: Mapping[str, str], id_of: Callable[[str], Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the post_processor that frames texts as `layout` does.

    Args:
        layout: a name of `LAYOUTS`.
        special: the special tokens by name.
        id_of: the id of a token.
        options: `add_bos_token` and `add_eos_token` frame what has no frame of its own.

    Raises:
        InputError: a token of the frame has no name.
    """
    if layout in _FRAMES:
        single, pair = _FRAMES[layout]
    else:
        start, end = (f"{name}:{{0}}" if options.get(f"add_{name}_token") else "" for name in ("bos", "eos"))
        single, second = (f"{start} {text}:{{0}} {end}".format(index) for index, text in enumerate("AB"))
        pair = f"{single} {second}"

    def token(name: str) -> str:
        if name in ("A", "B"):
            return name
        if f"{name}_token" not in special:
            raise InputError(f"{name}_token frames every text of this tokenizer, but no token has that name")
        return special[f"{name}_token"]

    def frame(text: str) -> _Frame:
        return [(token(name), int(type_id)) for name, type_id in (part.split(":") for part in text.split())]

    ids = {name: id_of(name) for name, _ in (*frame(single), *frame(pair))}
    processor: dict[str, Any] = _template(frame(single), frame(pair), ids)["post_processor"]
    return processor


def _template(single: _Frame, pair: _Frame, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """The part of a tokenizer.json that frames the texts A and B with special tokens."""

    def pieces(frame: _Frame) -> list[dict[str, Any]]:
        return [
            {"Sequence" if name in ("A", "B") else "SpecialToken": {"id": name, "type_id": type_id}}
            for name, type_id in frame
        ]

    special = {name: vocabulary[name] for name, _ in (*single, *pair) if name not in ("A", "B")}
    return {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": pieces(single),
            "pair": pieces(pair),
            "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in special.items()},
        }
    }


def _nodes(part: Any, kind: str) -> Iterator[dict[str, Any]]:
    """The nodes of one type in a part of tokenizer.json, which is one node or a sequence of them."""
    if isinstance(part, dict):
        if part.get("type") == kind:
            yield part
        for sequence in ("normalizers", "pretokenizers", "processors"):
            for node in part.get(sequence, ()):
                yield from _nodes(node, kind)
