"""Whisper's tokenizer from its old files and from tokenizer.json: what it puts around a text; on the real vocabulary's start."""

import base64
import itertools

import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.preprocess.tokenizer_whisper import language_of, token_of
from tests.preprocess import whisper_files
from tests.preprocess.whisper_files import SPELLED


def test_what_is_around_a_text(tmp_path):
    ids = whisper_files.write(tmp_path)
    tokenizer = jf.load_tokenizer(tmp_path)
    text = tokenizer(" the cat", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]) for token in text] == [" the", " cat"]
    around = lambda *names: [ids[f"<|{name}|>"] for name in names]  # noqa: E731
    start, end = around("startoftranscript", "notimestamps"), around("endoftext")
    assert tokenizer(" the cat")["input_ids"] == [*start, *text, *end]
    german = jf.load_tokenizer(tmp_path, language="German", task="translate", predict_timestamps=True)
    assert german(" the cat")["input_ids"] == [*around("startoftranscript", "de", "translate"), *text, *end]
    assert german.decode(german(" the cat")["input_ids"], skip_special_tokens=True) == " the cat"
    german.save(tmp_path / "again")  # now as tokenizer.json
    assert jf.load_tokenizer(tmp_path / "again")(" the cat") == german(" the cat")
    assert jf.load_tokenizer(tmp_path / "again", language="zh")(" the cat")["input_ids"][1] == ids["<|zh|>"]
    for options, words in (
        ({"language": "klingon"}, r"has no <\|klingon\|>"),
        ({"task": "sing"}, "one of transcribe, translate, found 'sing'"),
    ):
        with pytest.raises(InputError, match=words):
            jf.load_tokenizer(tmp_path, **options)


def test_languages():
    assert [token_of(name) for name in ("English", "haitian creole", "<|de|>", "jw")] == [
        "<|en|>", "<|ht|>", "<|de|>", "<|jw|>"]  # fmt: skip
    assert (language_of("<|my|>"), language_of("<|translate|>")) == ("myanmar", None)


def real(shared_data, name, count=3000):
    """The vocabulary's first tokens, and the merges they are made by: the pair of whose parts both come first."""
    lines = (shared_data / "tokenizers/whisper" / f"{name}.tiktoken").read_text().splitlines()[:count]
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, lines)}
    spell = lambda piece: "".join(SPELLED[byte] for byte in piece)  # noqa: E731
    merges = []
    for piece, rank in ranks.items():
        parts = [bytes([byte]) for byte in piece]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, count) for a, b in itertools.pairwise(parts)]
            best = min((each, place) for place, each in enumerate(pairs) if each < rank)[1]
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append(" ".join(map(spell, parts)))
    return {spell(piece): rank for piece, rank in ranks.items()}, merges


TEXTS = [" Mr. Quilter is the apostle", "Grüße, 你好 ☃  and\n\t 12345!", "", " the<|endoftext|> end"]


def test_the_real_vocabulary(shared_data, tmp_path):
    vocabulary, merges = real(shared_data, "multilingual")
    whisper_files.write(tmp_path, merges, vocabulary=vocabulary)
    tokenizer = jf.load_tokenizer(tmp_path)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    # the multilingual vocabulary's own numbers: "the" with its space is 264, "is" 307
    assert {264, 307} <= {*tokenizer(TEXTS[0])["input_ids"]}


@pytest.mark.parity
@pytest.mark.parametrize("name", ["multilingual", "gpt2"])
def test_as_transformers_has_it(name, shared_data, tmp_path):
    transformers = pytest.importorskip("transformers")
    vocabulary, merges = real(shared_data, name)
    whisper_files.write(tmp_path, merges, vocabulary=vocabulary)
    for options in ({}, {"language": "german", "task": "transcribe"}, {"predict_timestamps": True}):
        ours, theirs = (
            jf.load_tokenizer(tmp_path, **options),
            transformers.WhisperTokenizer.from_pretrained(tmp_path, **options),
        )
        for text in TEXTS:
            assert ours(text)["input_ids"] == theirs(text)["input_ids"]
            ids = theirs(text)["input_ids"]
            assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
