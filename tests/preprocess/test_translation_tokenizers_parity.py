"""The tokenizers of translation models (and PEGASUS's) against transformers' on the same files, trained here on the spot."""

import json

import pytest

from jaxformers.preprocess.languages import in_language, language_id
from jaxformers.preprocess.sentencepiece_file import read_sentencepiece
from jaxformers.preprocess.text import load_tokenizer
from tests.preprocess.test_text_parity import theirs_from
from tests.preprocess.test_tokenizer_families_parity import CORPUS, train

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning"),
]
TEXTS = [
    "a small cat",
    " two  spaces and a tab\tand 9,000 words. ",
    "Mr. Smith's No. 5 (in Jan. 2020)... isn't “it”, e.g. the U.S.?",
    "ﬃ ① ½ Ⅷ ｈｅｌｌｏ",
    "snow ☃☃ man 雪",
    ">>fra<< how old are you?",
    "a </s> in the middle",
    "x",
]


def folder_of(path, class_name, files, **config):
    for name, content in files.items():
        (path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name, **config}), encoding="utf-8")
    return path


def vocabulary(model, first, path):
    """`first`, and all but every seventh of a model's pieces: the rest are unknown."""
    (path / "pieces").write_bytes(model)
    pieces = [piece.text for piece in read_sentencepiece(path / "pieces").pieces]
    every = [*first, *(piece for n, piece in enumerate(pieces) if n % 7 and piece not in first)]
    return {token: index for index, token in enumerate(every)}


def marian(path):
    source, target = train(vocab_size=300), train(vocab_size=250)
    vocab = vocabulary(source, ("</s>", "<unk>", ">>fra<<", ">>deu<<"), path)
    vocab["<pad>"] = len(vocab)
    return folder_of(path, "MarianTokenizer", {"source.spm": source, "target.spm": target, "vocab.json": vocab})


def m2m_100(path):
    model = train(vocab_size=400, model_type="bpe")
    vocab = vocabulary(model, ("<s>", "<pad>", "</s>", "<unk>"), path)
    return folder_of(path, "M2M100Tokenizer", {"sentencepiece.bpe.model": model, "vocab.json": vocab})


def mbart50(path):
    return folder_of(path, "MBart50Tokenizer", {"sentencepiece.bpe.model": train()}, src_lang="de_DE")


def pegasus(path):
    model = train(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return folder_of(path, "PegasusTokenizer", {"spiece.model": model})


@pytest.fixture(scope="module", params=[marian, m2m_100, mbart50, pegasus], ids=lambda make: make.__name__)
def both(request, tmp_path_factory):
    folder = request.param(tmp_path_factory.mktemp(request.param.__name__))
    return folder, load_tokenizer(folder), theirs_from(folder)


def test_ids_and_texts_are_theirs(both):
    _, ours, theirs = both
    assert len(CORPUS) > 100
    for text in TEXTS:
        expected = theirs(text)["input_ids"]
        assert ours(text)["input_ids"] == expected, text
        bare = ours(text, add_special_tokens=False)["input_ids"]  # they leave M2M-100's languages in a text
        # They take the spaces off the ends, too: unknown pieces leave some.
        assert ours.decode(bare, True).strip() == theirs.decode(bare, skip_special_tokens=True).strip(), text
    assert (ours.pad_token_id, ours.eos_token_id) == (theirs.pad_token_id, theirs.eos_token_id)


def test_saved_it_is_read_by_both(both, tmp_path):
    _, ours, theirs = both
    ours.save(tmp_path)
    again, read = load_tokenizer(tmp_path), theirs_from(tmp_path)
    for text in TEXTS:
        assert again(text)["input_ids"] == ours(text)["input_ids"]
        assert read(text)["input_ids"] == theirs(text)["input_ids"], text


def test_languages_are_theirs(both):
    _, ours, theirs = both
    codes = {"M2M100Tokenizer": ("en", "fr"), "MBart50Tokenizer": ("en_XX", "fr_XX")}.get(ours.tokenizer_class)
    if codes is None:
        return
    for code in codes:
        theirs.src_lang = code
        ids = ours("a small cat", add_special_tokens=False)["input_ids"]
        assert in_language(ours, ids, code) == theirs("a small cat")["input_ids"]
        assert language_id(ours, code) == in_language(ours, ids, code)[0]


@pytest.mark.parametrize("legacy", [False, True], ids=["prefix", "suffix"])
def test_nllb_from_its_tokenizer_json(legacy, tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "ab"]
    vocab = {word: index for index, word in enumerate(words)}
    codes = ["eng_Latn", "fra_Latn", "deu_Latn"]
    theirs = transformers.NllbTokenizer(
        vocab=vocab, merges=[("▁", "a"), ("a", "b")], extra_special_tokens=codes, legacy_behaviour=legacy
    )
    theirs.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    for code in codes:
        theirs.src_lang = code
        ids = ours("a ab b", add_special_tokens=False)["input_ids"]
        assert in_language(ours, ids, code) == theirs("a ab b")["input_ids"]


def test_mbart_from_its_tokenizer_json(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.MBartTokenizer()
    theirs.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    for code in ("en_XX", "ro_RO"):
        theirs.src_lang = code
        assert in_language(ours, ours("", add_special_tokens=False)["input_ids"], code) == theirs("")["input_ids"]
