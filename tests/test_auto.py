import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers import auto
from jaxformers.errors import InputError
from jaxformers.families import MODULES, family_for
from jaxformers.preprocess import train_wordpiece

TINY = {"model_type": "bert", "vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 32}  # fmt: skip
HEADS = {value.head: name for name, value in vars(auto).items() if isinstance(value, auto.AutoHead)}


def test_every_head_of_every_family_has_its_name():
    heads = {head for name in MODULES for head in family_for(name).heads} - {
        "question-answering-beam",  # which have none
        "image-classification-with-teacher",
        "text-features",
        "image-features",
        "speech-to-speech",
    }
    assert set(HEADS) == heads
    for head in heads - {None, "text-to-speech"}:
        assert HEADS[head].removeprefix("AutoModelFor").lower() == head.replace("-", "")
    others = {"AutoConfig", "AutoFeatureExtractor", "AutoImageProcessor", "AutoProcessor", "AutoTokenizer",
              "VisionEncoderDecoderModel"}  # fmt: skip
    assert set(HEADS.values()) | others == set(auto.__all__)


@pytest.mark.parametrize("head", [None, "sequence-classification", "pretraining"], ids=str)
def test_from_config_is_load(head):
    model = getattr(auto, HEADS[head]).from_config(TINY, seed=3)
    expected = jf.load(TINY, head=head, seed=3)
    assert model.head == head
    jax.tree.map(np.testing.assert_array_equal, model.params, expected.params)


def test_from_pretrained(tmp_path):
    tokenizer = train_wordpiece(["a cat and a dog", "a dog and a cat"], vocab_size=40)
    saved = jf.load(TINY, head="sequence-classification")
    jf.save(saved, tmp_path, tokenizer=tokenizer)
    model = auto.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, model.params, saved.params)
    config = auto.AutoConfig.from_pretrained(tmp_path)
    assert config == model.config == saved.config
    assert auto.AutoConfig.from_pretrained(tmp_path, num_labels=5).num_labels == 5
    assert auto.AutoTokenizer.from_pretrained(tmp_path)("a cat")["input_ids"] == tokenizer("a cat")["input_ids"]
    again = auto.AutoModelForSequenceClassification.from_config(config, num_labels=4)
    assert again.config.num_labels == 4


def test_an_unknown_override_is_refused():
    with pytest.raises(InputError, match="did you mean 'num_labels'"):
        auto.AutoModel.from_config(TINY, num_label=3)
