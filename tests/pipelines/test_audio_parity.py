"""The pipelines of sound give what transformers' give."""

import json

import numpy as np
import pytest

import jaxformers as jf
from tests.families.hearing import LARGE
from tests.goldens import sounds
from tests.goldens.make_goldens import torch_model
from tests.pipelines.test_audio import LETTERS, WAVES

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def saved(folder, architecture, config, extractor, letters=False):
    torch_model(architecture, config).save_pretrained(folder)
    extractor.save_pretrained(folder)
    if letters:
        (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
        transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json").save_pretrained(folder)
    return str(folder)


def pair(task, folder):
    theirs = transformers.pipeline(task, model=folder, device="cpu")
    return theirs, jf.pipeline(task, folder)


def same(found, expected):
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    np.testing.assert_allclose([e["score"] for e in found], [e["score"] for e in expected], atol=1e-5)


@pytest.mark.parametrize("kind", ["base", "large", "whisper"])
def test_classes(kind, tmp_path):
    if kind == "whisper":
        extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
        config = {**sounds.WHISPER, "max_source_positions": 50, "id2label": sounds.LABELS}
        folder = saved(tmp_path, "WhisperForAudioClassification", config, extractor)
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=kind == "large")
        config = {**sounds.WAV2VEC2, **(LARGE if kind == "large" else {}), "id2label": sounds.LABELS}
        folder = saved(tmp_path, "Wav2Vec2ForSequenceClassification", config, extractor)
    theirs, ours = pair("audio-classification", folder)
    for found, expected in zip(ours(WAVES), theirs(WAVES), strict=True):
        same(found, expected)
    same(ours(WAVES[0], top_k=2, function_to_apply="sigmoid"), theirs(WAVES[0], top_k=2, function_to_apply="sigmoid"))


def test_letters(tmp_path):
    extractor = transformers.Wav2Vec2FeatureExtractor()
    theirs, ours = pair(
        "automatic-speech-recognition", saved(tmp_path, "Wav2Vec2ForCTC", sounds.WAV2VEC2, extractor, True)
    )
    for options in (
        {},
        {"return_timestamps": "char"},
        {"return_timestamps": "word"},
        {"chunk_length_s": 0.08},
        {"chunk_length_s": 0.08, "stride_length_s": (0.02, 0.01), "return_timestamps": "char"},
    ):
        assert ours([wave.copy() for wave in WAVES], **options) == theirs([wave.copy() for wave in WAVES], **options)
