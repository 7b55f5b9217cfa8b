"""Calling a tokenizer: hand-checked ids, shapes and types of results, warnings, bad input, threads, saving."""

import copy
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

import jaxformers
from jaxformers.errors import InputError
from jaxformers.preprocess import Encoding, Tokenizer, load_tokenizer, train_wordpiece
from jaxformers.preprocess.tokenizer_files import UNLIMITED

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "hello",
    "world",
    "!",
    "un",
    "##afford",
    "##able",
    ".",
    "don",
    "'",
    "t",
]
LONG = "hello world " * 8  # 16 tokens and 2 special ones


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def tok(folder):
    return load_tokenizer(folder, model_max_length=12)


def test_one_text_by_hand(tok):
    found = tok("Hello, UNaffordable world!", return_offsets_mapping=True, return_special_tokens_mask=True)
    assert found == {
        "input_ids": [2, 5, 1, 8, 9, 10, 6, 7, 3],
        "token_type_ids": [0] * 9,
        "attention_mask": [1] * 9,
        "special_tokens_mask": [1, 0, 0, 0, 0, 0, 0, 0, 1],
        "offset_mapping": [(0, 0), (0, 5), (5, 6), (7, 9), (9, 15), (15, 19), (20, 25), (25, 26), (0, 0)],
    }
    assert found.tokens() == ["[CLS]", "hello", "[UNK]", "un", "##afford", "##able", "world", "!", "[SEP]"]
    assert found.word_ids() == [None, 0, 1, 2, 2, 2, 3, 4, None]


def test_pairs_by_hand(tok):
    found = tok([("hello", "world"), ("hello world", "!")], padding=True)
    assert found["input_ids"].tolist() == [[2, 5, 3, 6, 3, 0], [2, 5, 6, 3, 7, 3]]
    assert found["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]
    assert found.sequence_ids(0) == [None, 0, None, 1, None, None]
    separate = tok(["hello", "hello world"], ["world", "!"], padding=True)
    assert all((separate[key] == found[key]).all() for key in found)
    assert tok("hello", "")["input_ids"] == tok(["hello"], [""])["input_ids"][0] == [2, 5, 3, 3]


def test_overflow_by_hand(tok):
    options = {"truncation": True, "max_length": 5, "stride": 1, "padding": True, "return_overflowing_tokens": True}
    found = tok(["hello world ! . hello", "world"], **options)
    assert found["input_ids"].tolist() == [[2, 5, 6, 7, 3], [2, 7, 11, 5, 3], [2, 6, 3, 0, 0]]
    assert found["overflow_to_sample_mapping"].tolist() == [0, 0, 1]


def test_decode_by_hand(tok):
    ids = tok("un hello world ! don ' t .")["input_ids"]
    assert tok.decode(ids) == "[CLS] un hello world! don ' t. [SEP]"
    assert tok.decode(np.array(ids), skip_special_tokens=True) == "un hello world! don ' t."
    assert tok.decode(ids, clean_up_tokenization_spaces=True) == "[CLS] un hello world! don't. [SEP]"
    assert tok.batch_decode(np.array([[5, 6], [8, 9]])) == ["hello world", "unafford"]
    assert tok.decode(jax.numpy.array([5])) == tok.decode(5) == "hello"
    assert tok.decode([]) == ""


def test_types_and_shapes(tok):
    assert type(tok("hello")["input_ids"]) is list
    assert type(tok(["hello", "hello world"])["input_ids"][0]) is list
    assert tok("hello", return_tensors="np")["input_ids"].shape == (1, 3)
    assert tok("hello", padding="max_length", max_length=6)["input_ids"].shape == (6,)
    found = tok(["hello", "hello world"], padding=True, return_offsets_mapping=True, return_length=True)
    assert {key: value.shape for key, value in found.items()} == {
        "input_ids": (2, 4),
        "token_type_ids": (2, 4),
        "attention_mask": (2, 4),
        "offset_mapping": (2, 4, 2),
        "length": (2,),
    }
    assert {value.dtype for value in found.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize("text", ["", "   ", "\n\t\u00a0"])
def test_nothing_to_read_is_valid(tok, text):
    assert tok(text)["input_ids"] == [2, 3]
    assert tok([text, "hello"], padding=True)["input_ids"].tolist() == [[2, 3, 0], [2, 5, 3]]


def test_no_texts(tok):
    assert tok([]) == {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    found = tok([], padding=True, return_offsets_mapping=True, return_length=True)
    assert found["input_ids"].dtype == np.int32
    assert {k: v.shape for k, v in found.items() if k in ("input_ids", "length")} == {
        "input_ids": (0, 0),
        "length": (0,),
    }
    assert found["offset_mapping"].shape == (0, 0, 2)
    assert tok.batch_decode([]) == []
    assert tok.pad([])["input_ids"].shape == (0, 0)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "text must be a str or a list of them, found NoneType"),
        (3.5, "found float"),
        (b"hello", "found bytes"),
        ({"text": "hello"}, "found dict"),
        (["hello", None], "text 1 must be a str, found NoneType"),
        (["hello", "hello", b"x"], "text 2 must be a str, found bytes"),
        (["hello", float("nan")], "text 1 must be a str, found float: nan"),
        ([("hello", "world"), ("hello", None)], "text 1 must be a str, found NoneType"),
        (["hello", "a\ud800b"], r"text 1 holds the lone surrogate '\\ud800' at character 1"),
        ("a\udfff", r"the text holds the lone surrogate '\\udfff' at character 1"),
        ([("a", "b", "c")], "text 0 must be a str, or a tuple of two"),
    ],
)
def test_what_is_not_text_is_named(tok, text, named):
    with pytest.raises(InputError, match=named):
        tok(text)


def test_words(tok):
    found = tok(["hello", "unaffordable"], is_split_into_words=True)
    assert found["input_ids"] == [2, 5, 8, 9, 10, 3]
    assert found.word_ids() == [None, 0, 1, 1, 1, None]
    batch = tok([["hello"], ["world", "!"]], is_split_into_words=True, padding=True)
    assert batch["input_ids"].tolist() == [[2, 5, 3, 0], [2, 6, 7, 3]]
    with pytest.raises(InputError, match="a text is a list of words"):
        tok("hello", is_split_into_words=True)
    with pytest.raises(InputError, match="text 1 must be a str, found int"):
        tok([["hello"], ["world", 3]], is_split_into_words=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"padding": "longes"},
            "padding must be True, False or one of do_not_pad, longest, max_length; found 'longes'",
        ),
        ({"truncation": "first"}, "truncation must be True"),
        ({"padding": True, "padding_side": "top"}, "padding_side must be 'right' or 'left', found 'top'"),
        ({"return_tensors": "pt"}, "return_tensors must be 'np' or None"),
        ({"max_length": -1}, "max_length must be a whole number and not negative"),
        ({"max_length": 1}, "leaves room for -1 tokens"),
        ({"max_length": 6, "stride": 4}, "leaves room for 4 tokens beside the special ones, expected at least 5"),
        ({"truncation": True, "max_length": 10, "padding": True, "pad_to_multiple_of": 8}, "no multiple of it"),
        ({"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of must be positive"),
        ({"truncation": "only_second", "max_length": 4}, "text 0 .* does not fit|text 1 does not fit"),
        ({"return_tensors": "np"}, "rows of one length, found 3 to 18 tokens"),
    ],
)
def test_options_that_cannot_be_met(tok, options, named):
    with pytest.raises(InputError, match=named):
        tok(["hello", LONG], **options)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_panic_inside_the_library_is_one_sentence(tok, capfd):
    with pytest.raises(InputError, match="text 1 does not fit what was asked"):
        tok(["hello", LONG], ["hello", "hello world"], truncation="only_first", max_length=8, stride=4)
    assert tok("hello")["input_ids"] == [2, 5, 3]


def test_text_pair_must_fit(tok):
    with pytest.raises(InputError, match="one text for each of the 2 texts, found 1"):
        tok(["a", "b"], ["c"])
    with pytest.raises(InputError, match="one text for each of the 2 texts"):
        tok(["a", "b"], "cd")


def test_padding_needs_a_token(folder):
    tok = load_tokenizer(folder)
    tok.pad_token = None
    with pytest.raises(InputError, match="there is no token to pad with"):
        tok(["hello"], padding=True)
    tok.pad_token = tok.sep_token
    assert tok(["hello", "hello world"], padding=True)["input_ids"].tolist() == [[2, 5, 3, 3], [2, 5, 6, 3]]
    tok.pad_token = "never heard"
    with pytest.raises(InputError, match="pad_token is 'never heard'"):
        tok(["hello"], padding=True)


def test_truncation_warns_once_with_both_lengths(tok, caplog):
    with caplog.at_level(logging.WARNING, logger="jaxformers"):
        tok(["hello", LONG], truncation=True)
        tok(LONG, truncation=True, max_length=6)
    assert [record.getMessage() for record in caplog.records] == ["a text of 18 tokens was truncated to 12 (said once)"]


def test_long_text_warns_once(tok, caplog):
    with caplog.at_level(logging.WARNING, logger="jaxformers"):
        assert len(tok(LONG)["input_ids"]) == 18
        tok([LONG, "hello"], padding=True)
        tok("hello", truncation=True)
        tok(LONG, truncation=True, max_length=6, return_overflowing_tokens=True)
    assert [record.getMessage() for record in caplog.records] == [
        "a row of 18 tokens exceeds the 12 that the model can take (said once)"
    ]


def test_without_any_maximum_nothing_is_cut_and_that_is_said(folder, caplog):
    tok = load_tokenizer(folder)
    assert tok.model_max_length == UNLIMITED
    with caplog.at_level(logging.WARNING, logger="jaxformers"):
        assert len(tok(LONG, truncation=True)["input_ids"]) == 18
        assert type(tok([LONG, "hello"], padding="max_length")["input_ids"]) is list
    assert [record.getMessage().split()[0] for record in caplog.records] == ["truncation", "padding"]


@pytest.mark.parametrize("ids", [[-100], [5, 15], [2**33], [[1, 2]], [0.5], "hello"])
def test_ids_outside_the_vocabulary(tok, ids):
    with pytest.raises(InputError, match=r"outside the vocabulary of 15 tokens|expected one row of ids"):
        tok.decode(ids)
    with pytest.raises(InputError):
        tok.convert_ids_to_tokens(ids)


def test_tokens_and_ids(tok):
    assert tok.convert_tokens_to_ids(["hello", "nowhere"]) == [5, tok.unk_token_id]
    assert tok.convert_ids_to_tokens(5) == "hello"
    assert tok.convert_ids_to_tokens([2, 5, 3], skip_special_tokens=True) == ["hello"]
    assert tok.all_special_ids == [1, 3, 0, 2, 4]
    assert (tok.bos_token, tok.bos_token_id) == (None, None)
    assert len(tok) == tok.vocab_size == 15


def test_pad_leaves_the_rest_in_place(tok):
    rows = [tok("hello") | {"labels": 1.5, "idx": "a"}, tok("hello world") | {"labels": 0.0, "idx": "b"}]
    found = tok.pad(rows, pad_to_multiple_of=4)
    assert found["input_ids"].tolist() == [[2, 5, 3, 0], [2, 5, 6, 3]]
    assert found["labels"].tolist() == [1.5, 0.0]
    assert found["labels"].dtype == np.float32
    assert found["idx"] == ["a", "b"]
    assert tok.pad({"input_ids": np.array([5, 6])}, padding="max_length", max_length=3)["attention_mask"].tolist() == [
        1,
        1,
        0,
    ]
    longer = tok.pad({"input_ids": [[5, 6, 7], [5]]}, padding="max_length", max_length=2)
    assert longer["input_ids"] == [[5, 6, 7], [5, 0]]
    with pytest.raises(InputError, match=r"row 1 holds \['input_ids'\]"):
        tok.pad([tok("hello"), {"input_ids": [5]}])
    with pytest.raises(InputError, match="pad needs input_ids"):
        tok.pad({"labels": [1]})
    with pytest.raises(InputError, match=r"shape \(1, 3\)"):
        tok.pad([tok("hello", return_tensors="np")])


def test_an_encoding_is_a_tree_and_travels_as_a_dict(tok):
    found = tok(["hello", "hello world"], padding=True)
    doubled = jax.jit(lambda batch: jax.tree.map(lambda x: 2 * x, batch))(found)
    assert isinstance(doubled, Encoding)
    assert doubled["input_ids"].tolist() == (2 * found["input_ids"]).tolist()
    sent = pickle.loads(pickle.dumps(found))
    assert sent["input_ids"].tolist() == found["input_ids"].tolist()
    with pytest.raises(InputError, match="there is no row 0"):
        sent.tokens(0)
    with pytest.raises(InputError, match="there is no row 2"):
        found.tokens(2)


def test_a_copy_is_equal(tok):
    for other in (copy.deepcopy(tok), pickle.loads(pickle.dumps(tok))):
        assert other("hello unaffordable") == tok("hello unaffordable")


def test_threads_do_not_see_each_other(tok):
    def work(size):
        found = tok([LONG, "hello"], truncation=True, max_length=size, padding="max_length")["input_ids"]
        return found.shape, found[1, 3:].sum()

    sizes = [4 + index % 9 for index in range(400)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, sizes)) == [((2, size), 0) for size in sizes]
    assert len(tok(LONG)["input_ids"]) == 18


def test_save_and_load_are_equal(tok, tmp_path):
    tok.padding_side = "left"
    tok.save(tmp_path / "new" / "place")
    again = load_tokenizer(tmp_path / "new" / "place")
    assert sorted(path.name for path in (tmp_path / "new" / "place").iterdir()) == [
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert (tmp_path / "new" / "place" / "vocab.txt").read_text(encoding="utf-8").split("\n") == [*WORDS, ""]
    assert again.padding_side == "left"
    assert again.model_max_length == 12
    assert again.get_vocab() == tok.get_vocab()
    assert again("hello unaffordable [MASK]") == tok("hello unaffordable [MASK]")
    assert repr(again) == "BertTokenizer(15 tokens, model_max_length=12)"


def test_a_failed_save_leaves_the_old_files(tok, tmp_path, monkeypatch):
    tok.save(tmp_path / "here")
    before = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}

    def full(self, *args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="disk full"):
        tok.save(tmp_path / "here")
    assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()} == before


def test_public_name(folder):
    assert jaxformers.load_tokenizer(folder)("hello")["input_ids"] == [2, 5, 3]


def test_training_layout():
    tok = train_wordpiece(["Ümläut dogs and cats", "dogs and Cats"], vocab_size=60)
    assert isinstance(tok, Tokenizer)
    assert [tok.pad_token_id, tok.unk_token_id, tok.cls_token_id, tok.sep_token_id, tok.mask_token_id] == [
        0,
        1,
        2,
        3,
        4,
    ]
    found = tok("Cats", "dogs")
    assert found.tokens() == ["[CLS]", "cats", "[SEP]", "dogs", "[SEP]"]
    assert found["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tok.decode(tok.encode("umlaut")) == "[CLS] umlaut [SEP]"
    cased = train_wordpiece(["Ümläut dogs", "Ümläut dogs"], vocab_size=60, lowercase=False)
    assert cased.tokenize("Ümläut umlaut")[0] == "Ümläut"
    assert "[UNK]" in cased.tokenize("Zebra")
