"""Tokenizers that merge pieces of words in a way of their own (XLM, OpenAI GPT, CTRL) against transformers' on the same files."""

import itertools
import json
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.preprocess.moses import moses_words
from jaxformers.preprocess.text import load_tokenizer
from tests.preprocess.test_text_parity import plain, theirs_from
from tests.preprocess.test_tokenizer_families_parity import CORPUS, STRINGS

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning"),
]


def learned(words, count):
    """The merges of byte-pair encoding over words, each with how often it was seen, and the words' pieces."""
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    for _ in range(count):
        counts: dict = {}
        for pair in itertools.chain.from_iterable(itertools.pairwise(word) for word in pieces):
            counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append((*best, counts[best]))
        joined = "\0".join(best), "".join(best)
        pieces = [
            ("\0".join(["", *word, ""])).replace(f"\0{joined[0]}\0", f"\0{joined[1]}\0").split("\0")[1:-1]
            for word in pieces
        ]
    return merges, pieces


def written(folder, tokens, lines, model_type, config):
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32, **config}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def xlm(tmp_path_factory):
    """A vocabulary of the corpus' own pieces, from which some results of merges are missing, as in the real ones."""
    merges, pieces = learned([word for line in CORPUS for word in line.lower().split()], 150)
    special = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{index}>" for index in range(10))]
    tokens = [*special, *sorted({piece for word in pieces for piece in word})]
    assert {"".join(merge[:2]) for merge in merges} - set(tokens)
    lines = [" ".join(map(str, merge)) for merge in merges]
    return written(tmp_path_factory.mktemp("xlm"), tokens, lines, "xlm", {})


@pytest.fixture(scope="module", params=["openai-gpt", "ctrl"])
def files(request, tmp_path_factory):
    """OpenAI GPT's vocabulary has every result of a merge; CTRL's has pieces that say where a word goes on."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    if kind == "openai-gpt":
        merges, pieces = learned([w for line in CORPUS for w in re.findall(r"\w+|[^\w\s]", line.lower())], 150)
        letters = {piece for word in pieces for one in word for piece in one.removesuffix("</w>")}
        tokens = [*sorted(letters), *sorted(f"{letter}</w>" for letter in letters)]
        tokens = dict.fromkeys(["<unk>", *tokens, *("".join(merge[:2]) for merge in merges)])
        name = "OpenAIGPTTokenizer"
    else:
        merges, pieces = learned([w for line in CORPUS for w in re.findall(r"\S+\n?", line)], 150)
        marked = ([*(piece + "@@" for piece in word[:-1]), word[-1].removesuffix("</w>")] for word in pieces)
        tokens = ["<unk>", *sorted({piece for word in marked for piece in word})]
        name = "CTRLTokenizer"
    lines = ["#version: 0.2", *(" ".join(merge[:2]) for merge in merges)]
    return written(folder, tokens, lines, kind, {"tokenizer_class": name, "pad_token": "<unk>"})


def test_openai_gpt_and_ctrl(files, tmp_path):
    first = load_tokenizer(files), theirs_from(files)
    first[0].save(tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved"), theirs_from(tmp_path / "saved")
    seen = []
    for ours, theirs in [first, (first[0], saved[1]), (saved[0], first[1])]:
        assert ours.special_tokens_map == theirs.special_tokens_map
        assert len(ours) == len(theirs)
        for text, pair in itertools.product([*STRINGS, "a\n b\n\nc @@ d@@"], [None, "and a pair (b) ."]):
            for options in ({}, {"truncation": True}, {"padding": "max_length", "truncation": "only_first"}):
                found = ours(text, pair, return_special_tokens_mask=False, **options)
                try:
                    expected = theirs(text, pair, return_token_type_ids=False, **options)
                except Exception:
                    continue
                if not expected["input_ids"]:  # no tokens, which are not padded there
                    assert not any(plain(found["attention_mask"]))
                    continue
                assert {key: plain(value) for key, value in found.items()} == dict(expected), (text, options)
            ids = ours.encode(text)
            seen += ids
            assert ours.decode(ids) == theirs.decode(ids), text
    assert 0 < seen.count(0) < len(seen) / 5


@pytest.mark.parametrize("config", [{}, {"do_lowercase_and_remove_accent": False}], ids=str)
def test_xlm(xlm, config, tmp_path):
    pytest.importorskip("sacremoses")
    folder = shutil.copytree(xlm, tmp_path / "xlm")
    config = {"tokenizer_class": "XLMTokenizer", "model_max_length": 32} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    ours, theirs = load_tokenizer(folder), theirs_from(folder)
    ours.save(tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved"), theirs_from(tmp_path / "saved")
    for ours, theirs in [(ours, theirs), (ours, saved[1]), (saved[0], theirs)]:  # noqa: B020
        assert ours.special_tokens_map == theirs.special_tokens_map
        assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
        assert ours.model_input_names == theirs.model_input_names
        for text, pair in itertools.product(STRINGS, [None, "and a pair (b) ."]):
            for options in ({}, {"truncation": True}, {"padding": "max_length", "truncation": "only_first"}):
                found = ours(text, pair, return_special_tokens_mask=True, **options)
                try:
                    expected = theirs(text, pair, return_special_tokens_mask=True, **options)
                except Exception:
                    continue
                assert {key: plain(value) for key, value in found.items()} == dict(expected), (text, options)
            ids = ours.encode(text)
            assert ours.decode(ids, True) == theirs.decode(ids, skip_special_tokens=True)


CHARACTERS = ".,'\"`-()[]%:;!?…—–´‘’„“”«»。．，０５¼²٣ªσıʼ☃日한éΩაᲐ\u00a0 \t\n\r\u200d\u0301\u2028\x1c◌"
WORDS = [
    "DOTMULTI",
    "DOT",
    "..",
    "...",
    "n't",
    "'s",
    "No.",
    "pp.",
    "Mr.",
    "e.g.",
    "a.b.",
    "12",
    "3,000",
    "x",
    "Ab",
    "nº",
]
PARTS = st.sampled_from([*CHARACTERS, *WORDS, "ºC", "cm", "''"]) | st.characters(exclude_categories=["Cs"])


@settings(deadline=None, max_examples=400)
@given(text=st.lists(PARTS, max_size=24).map("".join))
def test_moses_words_are_those_of_sacremoses(text):
    sacremoses = pytest.importorskip("sacremoses")
    from transformers.models.xlm import tokenization_xlm

    line = sacremoses.MosesPunctNormalizer(lang="en").normalize(tokenization_xlm.replace_unicode_punct(text))
    line = tokenization_xlm.remove_non_printing_char(line)
    expected = sacremoses.MosesTokenizer(lang="en").tokenize(line, escape=False)
    assert [word for word, _ in moses_words(text)] == expected
