"""Letters for CTC, and the text, letters and words of a row of frames."""

import json

import pytest

import jaxformers as jf
from jaxformers.errors import InputError

LETTERS = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|", *"HELO"))}
# H H _ E _ L L _ L | | O: equal letters meet where the blank parts them
FRAMES = [5, 5, 0, 6, 0, 7, 7, 0, 7, 4, 4, 8]


def made(folder, vocabulary=LETTERS, **config):
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Wav2Vec2CTCTokenizer", **config}))
    return jf.load_tokenizer(folder)


def test_text_to_letters_and_back(tmp_path):
    tokenizer = made(tmp_path)
    ids = tokenizer("HELL O?")["input_ids"]
    assert ids == [5, 6, 7, 7, 4, 8, 3]
    assert tokenizer.decode(ids[:-1], group_tokens=False) == "HELL O"
    assert tokenizer.decode(FRAMES) == "HELL O"
    assert tokenizer.decode(FRAMES, skip_special_tokens=True) == "HEL O"
    assert tokenizer.batch_decode([FRAMES, [0]]) == ["HELL O", ""]
    assert made(tmp_path, do_lower_case=True).decode(FRAMES) == "hell o"
    assert made(tmp_path, do_lower_case=True)(["hello"])["input_ids"] == [[5, 6, 7, 7, 8]]


def test_places_in_time(tmp_path):
    found = made(tmp_path).decode(FRAMES, output_char_offsets=True, output_word_offsets=True)
    assert found.text == "HELL O"
    assert [(each["char"], each["start_offset"], each["end_offset"]) for each in found.char_offsets] == [
        ("H", 0, 2), ("E", 3, 4), ("L", 5, 7), ("L", 8, 9), (" ", 9, 11), ("O", 11, 12),
    ]  # fmt: skip
    assert [tuple(each.values()) for each in found.word_offsets] == [("HELL", 0, 9), ("O", 11, 12)]


def test_saved_and_loaded(tmp_path):
    tokenizer = made(tmp_path, word_delimiter_token="E", replace_word_delimiter_char="-")
    tokenizer.save(tmp_path / "again")
    again = jf.load_tokenizer(tmp_path / "again")
    assert again("H O")["input_ids"] == tokenizer("H O")["input_ids"] == [5, 6, 8]
    assert again.decode([5, 6, 8]) == "H-O"


def test_a_vocabulary_for_each_language(tmp_path):
    languages = {"eng": LETTERS, "deu": {**LETTERS, "Ü": 9}}
    assert made(tmp_path, languages, target_lang="deu")("HÜ")["input_ids"] == [5, 9]
    with pytest.raises(InputError, match="such a table for target_lang='fra'; has 'eng', 'deu'"):
        made(tmp_path, languages, target_lang="fra")
