"""Speakers, pretraining and summed losses as in PyTorch: gradients of 5 and more through convolutions, to 1e-4."""

import pytest

import jaxformers as jf
from jaxformers.families import family_for
from tests.families.hearing import SPEECHT5, WAV2VEC2
from tests.families.table import assert_same, results, sample
from tests.goldens.make_goldens import torch_model, torch_results

pytestmark = pytest.mark.parity
CASES = [
    ("audio-xvector", {}),
    ("audio-xvector", {"use_weighted_layer_sum": True}),
    ("pretraining", {}),
    ("pretraining", {"num_codevector_groups": 1, "contrastive_logits_temperature": 0.5}),
    ("ctc", {"ctc_loss_reduction": "sum"}),
]


@pytest.mark.parametrize(("head", "changes"), CASES)
def test_large_gradients(head, changes, tmp_path):
    pytest.importorskip("torch").set_num_threads(1)
    config = WAV2VEC2.config_for(head) | changes
    theirs = torch_model(family_for("wav2vec2").architectures[head], config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = jf.load(tmp_path / "theirs", head)
    expected = torch_results(theirs, *sample(config, head))
    found = results(ours, *sample(config, head))
    if head == "pretraining":
        found.pop("logits")  # which PyTorch keeps to itself
    assert_same(found, expected, 1e-4)
    jf.save(ours, tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert_same(torch_results(again, *sample(config, head)), expected, 1e-6)


def test_speech_to_speech(tmp_path):
    """PyTorch has no loss for it, and so teaches nothing to what says when it ends."""
    theirs = torch_model("SpeechT5ForSpeechToSpeech", SPEECHT5.config)
    theirs.save_pretrained(tmp_path)
    found = results(jf.load(tmp_path, "speech-to-speech"), *sample(SPEECHT5.config, "speech-to-speech"))
    stop = [name for name in found if ".prob_out." in name]
    assert len(stop) == 2
    assert not any(found.pop(name).any() for name in stop)
    assert_same(found, torch_results(theirs, *sample(SPEECHT5.config, "speech-to-speech")))
