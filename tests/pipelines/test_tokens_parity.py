"""Entities beside transformers' own token-classification pipeline, over the same checkpoint: all equal, scores to 1e-4."""

import json

import numpy as np
import pytest

import jaxformers as jf
from tests.pipelines.conftest import make_sentences, plain, same

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

STRATEGIES = ("none", "simple", "first", "average", "max")
HARD = ["", "   ", "the", "quicksand houses", "The CAT\u00a0sees\nthe   d\u00f6g!!", "\t a-b_c.d's  1234567890 ",
        "caf\u00e9 e\u0301l\u00e8ve \u6f22\u5b57 \U0001f600 dogs", "[MASK] of [SEP] trees \ufb01nds"]  # fmt: skip


@pytest.fixture(scope="module")
def pair(tagger_folder):
    beside = transformers.pipeline("token-classification", str(tagger_folder), device="cpu")
    return jf.pipeline("ner", tagger_folder), beside


def agree(pair, inputs, **options):
    ours, theirs = (pipe(inputs, **options) for pipe in pair)
    same(ours, plain(theirs))
    json.dumps(ours)
    return ours


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy(pair, strategy):
    texts = [*make_sentences(12, longest=20), *HARD]
    for text in texts[:1]:
        agree(pair, text, aggregation_strategy=strategy)
    found = agree(pair, texts, aggregation_strategy=strategy)
    assert len({each.get("entity_group", each.get("entity")) for entities in found for each in entities}) >= 2
    agree(pair, texts, aggregation_strategy=strategy, ignore_labels=[])
    agree(pair, texts, aggregation_strategy=strategy, ignore_labels=["B-PER", "LOC", "O"])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stride", [0, 7, 30])
def test_long_texts_by_stride(pair, strategy, stride):
    long = make_sentences(4, longest=200, seed=3)
    made = [transformers.pipeline("ner", model=pair[1].model, tokenizer=pair[1].tokenizer, stride=stride), pair[0]]
    made[1] = pair[0].with_options(stride=stride)
    options = {} if strategy == "none" else {"aggregation_strategy": strategy}  # it refuses stride beside a said "none"
    made = [pipe(long, **options) for pipe in made]
    same(made[1], plain(made[0]))
    assert max(entity["end"] for entity in made[1][0]) > 700  # 64 tokens end before 400


def test_a_long_text_is_cut_off_without_stride(pair):
    agree(pair, " ".join(make_sentences(5)))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("options", [{}, {"delimiter": ""}, {"delimiter": " - "}], ids=str)
def test_texts_given_as_words(pair, strategy, options):
    options = {**options, "is_split_into_words": True, "aggregation_strategy": strategy}
    words = [text.split() for text in HARD + make_sentences(3)]
    words = [[*row, "doghouses"] for row in words]
    agree(pair, words[-1], **options)
    agree(pair, words, **options)


def test_defaults_and_a_generator(pair):
    texts = make_sentences(3)
    agree(pair, texts[0])
    same(list(pair[0](iter(texts))), plain(list(pair[1](text for text in texts))))


def test_another_label_set(tagger_config, tokenizer, tmp_path):
    """Labels with further hyphens and without B- or I-."""
    labels = {"id2label": {str(i): name for i, name in enumerate(("O", "B-x-y", "I-x-y", "NOUN", "a-b", "B-"))}}
    jf.save(jf.load(tagger_config, head="token-classification", **labels), tmp_path, tokenizer=tokenizer)
    pair = jf.pipeline("ner", tmp_path), transformers.pipeline("ner", str(tmp_path), device="cpu")
    for strategy in STRATEGIES:
        agree(pair, make_sentences(8, seed=5), aggregation_strategy=strategy)


def test_words_are_spelled_with_accents_kept(tagger_config, tmp_path):
    from jaxformers.preprocess import train_wordpiece

    cased = train_wordpiece(["Ünïcode Wörter und Städte wie Köln", "New York's über-café"] * 3, 90, lowercase=False)
    jf.save(jf.load(tagger_config, head="token-classification", vocab_size=len(cased)), tmp_path, tokenizer=cased)
    pair = jf.pipeline("ner", tmp_path), transformers.pipeline("ner", str(tmp_path), device="cpu")
    for strategy in STRATEGIES:
        found = agree(
            pair, "Die Städte Köln und New York, über-cafés!", aggregation_strategy=strategy, ignore_labels=[]
        )
        assert np.all([entity["start"] < entity["end"] for entity in found])
