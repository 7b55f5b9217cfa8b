"""Tokenizers of translation models from files made here: pieces that the vocabulary lacks, languages, saving, refusals."""

import json

import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess.languages import has_languages, in_language, language_id
from jaxformers.preprocess.text import load_tokenizer
from tests.preprocess import sentencepiece_writer as writer

TEXTS = [(text, -1.0 - n, writer.NORMAL) for n, text in enumerate(("▁a", "▁cat", "▁c", "at", "s", "▁", "a", "c", "t"))]
PIECES = [("<unk>", 0.0, writer.UNKNOWN), ("<s>", 0.0, writer.CONTROL), ("</s>", 0.0, writer.CONTROL), *TEXTS]
MODEL = writer.model(PIECES)


def folder_of(path, class_name, vocabulary, *models, **config):
    for name in models:
        (path / name).write_bytes(MODEL)
    if vocabulary:
        (path / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(vocabulary)}))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name, **config}))
    return path


@pytest.fixture
def marian(tmp_path):
    words = ("</s>", "<unk>", "▁cat", "▁a", ">>fra<<", "<pad>")
    return folder_of(tmp_path, "MarianTokenizer", words, "source.spm", "target.spm")


def test_marian_looks_up_what_the_model_cuts(marian, tmp_path):
    tok = load_tokenizer(marian)
    assert tok("a cat")["input_ids"] == [3, 2, 0]
    assert tok("a cats")["input_ids"] == [3, 2, 1, 0]  # "s" is a piece of the model's alone
    assert tok(">>fra<< a cat")["input_ids"] == [4, 3, 2, 0]
    assert tok.decode([5, 3, 2, 0], skip_special_tokens=True) == "a cat"
    assert tok("a cat", return_offsets_mapping=True)["offset_mapping"] == [(0, 1), (1, 5), (0, 0)]
    tok.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert (tmp_path / "again" / "target.spm").read_bytes() == MODEL
    assert not (tmp_path / "again" / "tokenizer.json").exists()
    assert again(["a cats", ">>fra<< a"])["input_ids"] == tok(["a cats", ">>fra<< a"])["input_ids"]


def test_languages_follow_the_vocabulary(tmp_path):
    words = ("<s>", "<pad>", "</s>", "<unk>", "▁a", "▁cat")
    tok = load_tokenizer(folder_of(tmp_path, "M2M100Tokenizer", words, "sentencepiece.bpe.model"))
    assert has_languages(tok)
    assert language_id(tok, "af") == 6
    assert language_id(tok, "zu") == 105
    assert tok("a cat")["input_ids"] == in_language(tok, [4, 5], "en") == [language_id(tok, "en"), 4, 5, 2]
    with pytest.raises(InputError, match="M2M100Tokenizer has no language 'fra'; did you mean 'fr'"):
        language_id(tok, "fra")


@pytest.mark.parametrize(("class_name", "count"), [("MBartTokenizer", 25), ("MBart50Tokenizer", 52)])
def test_mbart_has_its_languages_between_pieces_and_mask(class_name, count, tmp_path):
    tok = load_tokenizer(folder_of(tmp_path, class_name, (), "sentencepiece.bpe.model", src_lang="de_DE"))
    first = 4 + len(PIECES) - 3
    assert language_id(tok, "ar_AR") == first
    assert tok.mask_token_id == first + count
    german = first + 2
    ids = tok("a cat")["input_ids"]
    assert ids == ([4, 5, 2, german] if class_name == "MBartTokenizer" else [german, 4, 5, 2])


def test_pegasus_leaves_room_in_front(tmp_path):
    first = [("<pad>", 0.0, writer.CONTROL), ("</s>", 0.0, writer.CONTROL), ("<unk>", 0.0, writer.UNKNOWN)]
    folder = folder_of(tmp_path, "PegasusTokenizer", ())
    (folder / "spiece.model").write_bytes(writer.model([*first, *TEXTS], unk_id=2))
    tok = load_tokenizer(folder)
    assert (tok.pad_token_id, tok.eos_token_id, tok.mask_token_id) == (0, 1, 3)
    assert tok("a cat")["input_ids"] == [105 + 1, 105 + 2, 1]


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not hold <unk>"):
        load_tokenizer(folder_of(tmp_path, "MarianTokenizer", ("</s>", "<pad>"), "source.spm", "target.spm"))
    with pytest.raises(InputError, match="keeps a vocabulary for each language"):
        load_tokenizer(
            folder_of(tmp_path, "MarianTokenizer", ("<unk>",), "source.spm", "target.spm", separate_vocabs=True)
        )
