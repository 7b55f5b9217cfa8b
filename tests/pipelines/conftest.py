"""A tiny classifier and its tokenizer, in memory and as a folder, for all tests of pipelines."""

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.preprocess import train_wordpiece

WORDS = ("the", "a", "small", "large", "cat", "dog", "house", "tree", "sees", "finds", "likes", "paints", "and", "of", "under",
         "near", "green", "old", "very", "quick")  # fmt: skip


def make_sentences(count, longest=40, seed=0):
    """`count` random texts of 1 to `longest` words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest + 1))) for _ in range(count)]


@pytest.fixture(scope="session")
def sentences():
    return make_sentences


@pytest.fixture(scope="session")
def tokenizer():
    tokenizer = train_wordpiece(make_sentences(50), vocab_size=120)
    tokenizer.model_max_length = 64
    return tokenizer


@pytest.fixture(scope="session")
def config(tokenizer):
    """Weights of standard deviation 0.2, so that a wrong mask or position shows."""
    return {"model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.2,
            "id2label": {"0": "bad", "1": "fair", "2": "good"}}  # fmt: skip


@pytest.fixture(scope="session")
def model(config):
    return jf.load(config, head="sequence-classification")


@pytest.fixture(scope="session")
def folder(model, tokenizer, tmp_path_factory):
    """The classifier in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("tiny-classifier")
    jf.save(model, folder, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="session")
def clf(model, tokenizer):
    return jf.pipeline("text-classification", model, tokenizer=tokenizer)


TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.fixture(scope="session")
def tagger_config(config):
    return {**config, "num_hidden_layers": 2, "id2label": {str(i): tag for i, tag in enumerate(TAGS)}}


@pytest.fixture(scope="session")
def tagger(tagger_config):
    return jf.load(tagger_config, head="token-classification")


@pytest.fixture(scope="session")
def tagger_folder(tagger, tokenizer, tmp_path_factory):
    """A token classifier in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("tiny-tagger")
    jf.save(tagger, folder, tokenizer=tokenizer)
    return folder


def plain(value):
    """transformers gives NumPy scalars where json and we want Python's."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else getattr(value, "item", lambda: value)()


def same(ours, theirs, atol=1e-4):
    """Equal nesting, keys and labels, and numbers within `atol`."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        assert list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key], atol)
    elif isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, atol)
    elif isinstance(theirs, float):
        assert type(ours) is float
        assert ours == pytest.approx(theirs, abs=atol)
    else:
        assert ours == theirs
