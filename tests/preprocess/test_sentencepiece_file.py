"""SentencePiece files: what is read from their bytes, and that a damaged one is refused by our own error alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.errors import InputError
from jaxformers.preprocess.sentencepiece_file import Algorithm, Kind, Piece, read_sentencepiece
from jaxformers.preprocess.text import load_tokenizer
from tests.preprocess import sentencepiece_writer as writer

SPECIAL = [("<unk>", writer.UNKNOWN), ("<s>", writer.CONTROL), ("</s>", writer.CONTROL), ("(", writer.USER_DEFINED)]
WHOLE = writer.unigram(SPECIAL)
TEXT = "Ａ hello ﬁ\tworld e\u0301 ( 😀 \u200b"


def read(folder, data):
    file = folder / "spiece.model"
    file.write_bytes(data)
    return read_sentencepiece(file)


def test_a_model_is_read(tmp_path):
    found = read(tmp_path, WHOLE)
    assert found.pieces[:4] == (
        Piece("<unk>", 0.0, Kind.UNKNOWN),
        Piece("<s>", 0.0, Kind.CONTROL),
        Piece("</s>", 0.0, Kind.CONTROL),
        Piece("(", 0.0, Kind.USER_DEFINED),
    )
    assert found.pieces[5] == Piece("▁hello", -4.0, Kind.NORMAL)
    assert (found.algorithm, found.unk_id, found.byte_fallback) == (Algorithm.UNIGRAM, 0, False)
    assert found.charsmap == writer.charsmap(writer.RULES)
    assert found.add_dummy_prefix
    assert found.remove_extra_whitespaces
    assert found.escape_whitespaces


def test_what_is_unsaid_has_its_default_and_what_is_unknown_is_passed_over(tmp_path):
    foreign = writer.field(200, "later") + writer.varint(201 << 3 | 1) + bytes(8) + writer.field(202, 1.5)
    parts = writer.field(2, writer.field(40, 1)) + writer.field(2, writer.field(3, 2))  # one message in two halves
    found = read(tmp_path, foreign + writer.field(1, writer.field(1, "a")) + writer.piece("b", -1.5) + parts)
    assert found.pieces == (Piece("a", 0.0, Kind.NORMAL), Piece("b", -1.5, Kind.NORMAL))
    assert (found.algorithm, found.unk_id, found.charsmap) == (Algorithm.BPE, 1, b"")
    assert found.add_dummy_prefix
    assert not found.whitespace_as_suffix


A = writer.piece("a")


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "it holds no pieces"),
        (b"\x80", "cut short inside a number"),
        (b"\xff" * 11, "more than 64 bits"),
        (A[:-3], "cut short: a field needs"),
        (A + writer.field(0, b""), "a field of number 0"),
        (b"\x0b", "wire type 3 cannot be"),
        (b"<!DOCTYPE html>", "is not a SentencePiece model that can be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a SentencePiece model that can be read"),
        (writer.field(1, 5), "a piece is a number, expected a message"),
        (writer.field(1, writer.field(1, 5)), "piece 0 is a number, expected text"),
        (writer.field(1, writer.field(1, b"\xff")), r"piece 0 is not UTF-8 \(b'\\xff'\)"),
        (writer.field(1, writer.field(1, "a") + writer.field(2, 1)), "score of piece 0 is not a 32-bit float"),
        (writer.piece("a", float("nan")), r"the score of piece 0 \('a'\) is nan"),
        (writer.piece("a", kind=9), "piece 0 is of kind 9, expected 1 to 6"),
        (A + A, "the piece 'a' is there twice, as 0 and 1"),
        (A + writer.piece(""), "piece 1 is '', expected some text"),
        (A + writer.field(2, writer.field(3, 7)), "its model type is 7, expected 1"),
        (A + writer.field(2, writer.field(40, -1)), "its unknown piece has id -1, but there are 1 pieces"),
        (A + writer.field(2, writer.field(40, b"x")), "unk_id is not a whole number"),
        (A + writer.field(2, writer.field(35, 1)), r"256 of their 256 pieces are missing \(<0x00>\)"),
        (A + writer.field(3, writer.field(2, b"abc")), "table of characters says it has"),
        (A + writer.field(3, writer.field(2, b"\4\0\0\0" + b"\0\4\0\0")), "leads outside itself"),
        (A + writer.field(3, writer.field(2, writer.charsmap({"a": "b"})[:-1])), "points to no whole replacement"),
        (A + writer.field(3, writer.field(2, writer.charsmap({"a": "b"})[:-2] + b"\xff\0")), "are not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_is_named(tmp_path, data, named):
    with pytest.raises(InputError, match=named) as caught:
        read(tmp_path, data)
    assert str(tmp_path / "spiece.model") in str(caught.value)


@pytest.mark.parametrize(("option", "named"), [({"algorithm": 3}, "whole words"), ({}, "end with their space")])
def test_kinds_without_a_counterpart_are_refused(tmp_path, option, named):
    suffix = writer.field(2, writer.field(24, 1)) if not option else b""
    (tmp_path / "spiece.model").write_bytes(writer.unigram(SPECIAL, **option) + suffix)
    with pytest.raises(InputError, match=named):
        load_tokenizer(tmp_path)


@settings(deadline=None, max_examples=300)
@given(
    edits=st.lists(
        # The pieces come first and are short; most of the file is its table of characters.
        st.tuples(
            st.integers(0, 800) | st.integers(0, len(WHOLE)),
            st.sampled_from(["flip", "insert", "delete", "cut"]),
            st.integers(1, 255),
        ),
        min_size=1,
        max_size=4,
    ),
    kind=st.sampled_from(["AlbertTokenizer", "XLMRobertaTokenizer", "DebertaV2Tokenizer", None]),
)
def test_a_damaged_file_raises_our_error_or_still_tokenizes(tmp_path_factory, edits, kind):
    data = bytearray(WHOLE)
    for place, edit, value in edits:
        at = min(place, len(data) - 1)
        match edit:
            case "flip":
                data[at] ^= value
            case "insert":
                data.insert(at, value)
            case "delete":
                del data[at : at + value % 8 + 1]
            case "cut":
                del data[at + 1 :]
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "spiece.model").write_bytes(data)
    if kind:
        (folder / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "{kind}"}}', encoding="utf-8")
    try:
        tok = load_tokenizer(folder)
    except InputError:
        return
    ids = tok(TEXT, TEXT, return_offsets_mapping=True)["input_ids"]
    assert isinstance(tok.decode(ids), str)
