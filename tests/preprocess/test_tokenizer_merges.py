"""OpenAI GPT's and CTRL's pieces by hand, from the two files their repositories hold; XLM's are in test_moses."""

import json

import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess.text import load_tokenizer

MERGES = ["#version: 0.2", "l o", "lo w", "e r</w>", "low er</w>", "low </w>", "a \n</w>"]
PIECES = {
    "openai-gpt": ["<unk>", "l", "o", "w", "e", "r</w>", "lo", "low", "er</w>", "lower</w>", "</w>", "low</w>", "e</w>",
                   ",</w>", "a", "a\n</w>", "\n</w>"],
    "ctrl": ["<unk>", "lower", "low@@", "e", "low@@,", "a\n", ",", "Links", "w", "lo@@"],
}  # fmt: skip


@pytest.fixture
def files(tmp_path):
    def written(kind, pieces=None):
        pieces = PIECES[kind] if pieces is None else pieces
        (tmp_path / "vocab.json").write_text(json.dumps({piece: n for n, piece in enumerate(pieces)}), encoding="utf-8")
        (tmp_path / "merges.txt").write_text(
            "\n".join(line for line in MERGES if "\n" not in line) + "\n", encoding="utf-8"
        )
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "n_positions": 9}), encoding="utf-8")
        return tmp_path

    return written


def test_openai_gpt(files):
    tok, text = load_tokenizer(files("openai-gpt")), "Löwer, lowe"
    found = tok(text, return_offsets_mapping=True)
    assert found.tokens() == ["lower</w>", ",</w>", "low", "e</w>"]
    assert [text[start:end] for start, end in found["offset_mapping"]] == ["Löwer", ",", "low", "e"]
    assert tok.decode(found["input_ids"]) == "lower , lowe"
    assert (tok.model_max_length, tok.unk_token, tok.tokenize("x")) == (9, "<unk>", ["<unk>"])


def test_ctrl(files, tmp_path):
    tok, text = load_tokenizer(files("ctrl")), "Links lower lowe  a\n x low"
    found = tok(text, return_offsets_mapping=True)
    assert found.tokens() == ["<unk>", "<unk>", "<unk>", "<unk>", "<unk>", "lower", "low@@", "e", "<unk>", "<unk>",
                              "<unk>", "lo@@", "w"]  # fmt: skip
    assert [text[start:end] for start, end in found["offset_mapping"]][5:] == [
        "lower",
        "low",
        "e",
        "a",
        "\n",
        "x",
        "lo",
        "w",
    ]
    assert tok.decode(tok.encode("lower lowe low")) == "lower lowe low"
    tok.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "merges.txt").read_text().startswith("#version: 0.2\nl o\n")
    assert load_tokenizer(tmp_path / "saved").encode(text) == found["input_ids"]


@pytest.mark.parametrize("kind", PIECES)
def test_a_vocabulary_without_the_unknown_token(files, kind):
    with pytest.raises(InputError, match=r"vocab\.json does not hold <unk> \(the unk_token\)"):
        load_tokenizer(files(kind, ["a", "b"]))
