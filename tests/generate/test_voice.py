"""Speaking: rows that do not depend on each other, what was said read again, waves; and as transformers speaks."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.generate import voice
from jaxformers.generate.run import prepared
from jaxformers.generate.voice import generate_speech
from tests.families.hearing import HIFIGAN, SPEECHT5
from tests.families.table import sample, strong

TEXTS = sample(SPEECHT5.config, "text-to-speech")[0]
WHO = TEXTS["speaker_embeddings"]
OPTIONS = {"threshold": 1.3, "maxlenratio": 4.0}


def dropping(model, share):
    return dataclasses.replace(model, config=model.config.replace(speech_decoder_prenet_dropout=share))


@pytest.fixture(scope="module")
def said():
    model, vocoder = strong(SPEECHT5, "text-to-speech"), strong(HIFIGAN, None)
    ids, mask = TEXTS["input_ids"], TEXTS["attention_mask"]
    return model, vocoder, generate_speech(model, ids, mask, speaker_embeddings=WHO, vocoder=vocoder, **OPTIONS)


def test_a_row_does_not_depend_on_the_others(said):
    model, vocoder, found = said
    assert len({*found.spectrogram_lengths.tolist()}) > 1
    row, count = 1, TEXTS["attention_mask"][1].sum()
    alone = generate_speech(
        model,
        TEXTS["input_ids"][row : row + 1, :count],
        speaker_embeddings=WHO[row : row + 1],
        vocoder=vocoder,
        **OPTIONS,
    )
    frames, samples = found.spectrogram_lengths[row], found.waveform_lengths[row]
    assert alone.spectrogram.shape == (1, frames, 8)
    np.testing.assert_allclose(found.spectrogram[row, :frames], alone.spectrogram[0], atol=1e-5)
    np.testing.assert_allclose(found.waveform[row, :samples], alone.waveform[0], atol=1e-5)
    assert samples == 6 * frames
    assert not found.waveform[row, samples:].any()


def test_what_was_said_read_again_says_the_same(said):
    """The loop over a cache is the forward pass over all frames."""
    model, _, found = said
    ids, mask = TEXTS["input_ids"], TEXTS["attention_mask"]
    params, key = prepared(model)
    limits = (np.float32(OPTIONS["threshold"]), np.zeros(3, np.int32), mask.sum(1) * 2)
    coarse, lengths = voice._write(
        params, np.pad(ids, ((0, 0), (0, 1))), np.pad(mask, ((0, 0), (0, 1))), WHO, jax.random.key(0), limits,
        key=key, name="input_ids", slots=16,
    )  # fmt: skip
    np.testing.assert_array_equal(lengths, found.spectrogram_lengths)
    steps = int(min(lengths)) // 2
    frames = np.concatenate((np.zeros((3, 1, 8), np.float32), coarse[:, 1 : 2 * steps - 2 : 2]), axis=1)
    given = {name: TEXTS[name] for name in ("input_ids", "attention_mask", "speaker_embeddings")}
    output = jax.jit(lambda params: model.apply(params, **given, decoder_input_values=frames))(model.params)
    np.testing.assert_allclose(coarse[:, : 2 * steps], output.coarse_spectrogram, atol=1e-5)


def test_what_is_dropped_is_drawn_by_rng():
    model = dropping(strong(SPEECHT5, "text-to-speech"), 0.5)
    given = {"input_ids": TEXTS["input_ids"], "speaker_embeddings": WHO[:1], "maxlenratio": 1.0, "threshold": 2.0}
    once, again, other = (generate_speech(model, **given, rng=seed).spectrogram for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 1e-2
    with pytest.raises(InputError, match=r"give prenet_rng \(a key\)"):
        model.apply(model.params, **TEXTS)
    run = jax.jit(lambda key: model.apply(model.params, **TEXTS, prenet_rng=key).spectrogram)
    np.testing.assert_array_equal(run(jax.random.key(1)), run(jax.random.key(1)))
    assert np.abs(run(jax.random.key(1)) - run(jax.random.key(2))).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speaker_embeddings": None}, r"must be \[3 or 1, 16\], found shape \(0,\)"),
        ({"input_ids": None}, "this model reads input_ids: give it"),
        ({"input_ids": [[70]]}, "below the vocabulary's size 64, found 70"),
        ({"vocoder": "whisper"}, "vocoder must make waves of spectra with 8 bands, found speecht5"),
    ],
)
def test_what_cannot_be_said(changes, words):
    model = strong(SPEECHT5, "text-to-speech")
    given = {"input_ids": TEXTS["input_ids"], "speaker_embeddings": WHO} | changes
    if "vocoder" in changes:
        given["vocoder"] = model
    with pytest.raises(InputError, match=words):
        generate_speech(model, **given, **OPTIONS)
    with pytest.raises(InputError, match="needs SpeechT5 with the head 'text-to-speech'"):
        generate_speech(strong(SPEECHT5, "speech-seq2seq"), **given)


@pytest.mark.parity
def test_as_transformers_speaks(said, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from tests.goldens.sounds import without_drops

    model, vocoder, found = said
    jf.save(model, tmp_path / "model")
    jf.save(vocoder, tmp_path / "vocoder")
    theirs = without_drops(transformers.SpeechT5ForTextToSpeech.from_pretrained(tmp_path / "model").eval())
    sound = transformers.SpeechT5HifiGan.from_pretrained(tmp_path / "vocoder").eval()
    for row, count in enumerate(TEXTS["attention_mask"].sum(1)):
        ids = torch.tensor(TEXTS["input_ids"][row : row + 1, :count]).long()
        who = torch.tensor(WHO[row : row + 1])
        spectrum = theirs.generate_speech(ids, who, **OPTIONS)
        wave = theirs.generate_speech(ids, who, vocoder=sound, **OPTIONS)
        assert found.spectrogram_lengths[row] == len(spectrum)
        np.testing.assert_allclose(found.spectrogram[row, : len(spectrum)], spectrum, atol=1e-4)
        np.testing.assert_allclose(found.waveform[row, : len(wave)], wave, atol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_what_is_heard_is_written_as_in_transformers(options, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model = strong(SPEECHT5, "speech-seq2seq")
    jf.save(model, tmp_path)
    theirs = transformers.SpeechT5ForSpeechToText.from_pretrained(tmp_path).eval()
    heard = {
        name: rows
        for name, rows in sample(SPEECHT5.config, None)[0].items()
        if name in ("input_values", "attention_mask")
    }
    expected = theirs.generate(
        **{name: torch.tensor(rows) for name, rows in heard.items()}, max_new_tokens=8, **options
    )
    found = jf.generate(model, **heard, max_new_tokens=8, **options).sequences
    np.testing.assert_array_equal(found, expected)
