"""Classes of sounds and what is said in them: shapes and order of results, pieces with strides, bad input."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.preprocess import train_byte_level
from jaxformers.preprocess.feature_extractors import (
    ASTFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from tests.goldens import sounds

RNG = np.random.default_rng(0)
WAVES = [RNG.normal(size=length).astype(np.float32) for length in (3000, 1700, 2500)]
EXTRACTOR = Wav2Vec2FeatureExtractor()
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYP")


@pytest.fixture(scope="module")
def classify():
    model = jf.load({**sounds.WAV2VEC2, "id2label": sounds.LABELS, "initializer_range": 0.3}, "audio-classification")
    return jf.pipeline("audio-classification", model, feature_extractor=EXTRACTOR)


def test_classes(classify):
    found = classify(WAVES[0])
    assert [sorted(each) for each in found] == [["label", "score"]] * 3
    assert sum(each["score"] for each in found) == pytest.approx(1)
    every = classify(WAVES, top_k=1)
    assert [len(each) for each in every] == [1, 1, 1]
    for wave, each in zip(WAVES, every, strict=True):  # padding and neighbours change nothing
        alone = classify({"array": wave, "sampling_rate": 16000}, top_k=1)
        assert each[0]["label"] == alone[0]["label"]
        assert each[0]["score"] == pytest.approx(alone[0]["score"], abs=1e-5)
    assert classify(WAVES[0]) == classify.postprocess(classify.forward(classify.preprocess(WAVES[0])))
    with pytest.raises(InputError, match="top_k must be a positive int"):
        classify(WAVES[0], top_k=0)
    with pytest.raises(InputError, match="input 1 must be a path"):
        classify([WAVES[0], None])


def test_an_image_model_sees_the_spectrum(tmp_path):
    config = {"model_type": "resnet", "num_channels": 1, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
              "layer_type": "basic", "id2label": sounds.LABELS}  # fmt: skip
    model = jf.load(config, "image-classification")
    extractor = ASTFeatureExtractor(num_mel_bins=16, max_length=32)
    jf.save(model, tmp_path)
    extractor.save(tmp_path)
    classify = jf.pipeline(model=str(tmp_path))  # its folder says that it hears
    logits = model.apply(model.params, pixel_values=extractor(WAVES)["input_values"][..., None]).logits
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for row, found in zip(np.asarray(chances), classify(WAVES), strict=True):
        said = {each["label"]: each["score"] for each in found}
        np.testing.assert_allclose([said[label] for label in model.config.labels], row, rtol=1e-4)
    with pytest.raises(InputError, match="an image model reads spectra, and Wav2Vec2FeatureExtractor gives waves"):
        jf.pipeline("audio-classification", model, feature_extractor=EXTRACTOR)


@pytest.fixture(scope="module")
def hear():
    model = jf.load({**sounds.WAV2VEC2, "initializer_range": 0.3}, "ctc")
    return model, jf.pipeline(
        "automatic-speech-recognition", model, tokenizer=made_tokenizer(), feature_extractor=EXTRACTOR
    )


def made_tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
        Path(folder, "tokenizer_config.json").write_text('{"tokenizer_class": "Wav2Vec2CTCTokenizer"}')
        return jf.load_tokenizer(folder)


def test_letters_of_sounds_are_those_of_each_alone(hear):
    model, pipe = hear
    tokenizer = made_tokenizer()
    found = pipe(WAVES)
    for wave, each in zip(WAVES, found, strict=True):
        logits = model.apply(model.params, **EXTRACTOR(wave)).logits
        assert each == {"text": tokenizer.decode(np.asarray(logits).argmax(-1)[0])}
    assert len({each["text"] for each in found}) == 3
    timed = pipe(WAVES[0], return_timestamps="char")
    assert timed["text"] == found[0]["text"]
    starts = [chunk["timestamp"] for chunk in timed["chunks"]]
    assert all(start < end <= len(WAVES[0]) / 16000 for start, end in starts)
    assert starts == sorted(starts)
    with pytest.raises(InputError, match="'char' or 'word', found True"):
        pipe(WAVES[0], return_timestamps=True)


def test_long_sounds_in_pieces(hear):
    _, pipe = hear
    whole = pipe(WAVES[0], chunk_length_s=1)
    assert whole == pipe(WAVES[0])
    cut = pipe([WAVES[0], WAVES[1]], chunk_length_s=0.1, stride_length_s=(0.02, 0.01))
    assert cut[0]["text"]
    with pytest.raises(InputError, match="must be longer than both strides"):
        pipe(WAVES[0], chunk_length_s=0.1, stride_length_s=0.05)
    with pytest.raises(InputError, match="sound 0 has 3 samples, too few"):
        pipe(WAVES[0][:3])


def test_whisper_writes():
    tokenizer = train_byte_level(["the cat and the dog", "a dog and a cat"], vocab_size=280)
    config = {**sounds.WHISPER, "vocab_size": len(tokenizer), "max_source_positions": 50, "init_std": 0.3}
    model = jf.load(config, "speech-seq2seq")
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    pipe = jf.pipeline("automatic-speech-recognition", model, tokenizer=tokenizer, feature_extractor=extractor)
    found = pipe([WAVES[0], WAVES[1]], generate_kwargs={"max_new_tokens": 6, "num_beams": 1})
    features = extractor(WAVES[0])["input_features"]
    alone = jf.generate(model, input_features=features, max_new_tokens=6).sequences[0, 1:]
    special = {*tokenizer.all_special_ids}
    assert found[0] == {"text": tokenizer.decode([token for token in alone if token not in special])}
    assert sorted(found[1]) == ["text"]
    with pytest.raises(InputError, match="return_timestamps needs no_timestamps_token_id"):
        pipe(WAVES[0], return_timestamps=True)
