"""Sound in every form a person has it, and what models take of it; the numbers are those that transformers publishes."""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import soundfile

import jaxformers as jf
from jaxformers import auto
from jaxformers.errors import ConfigError, InputError
from jaxformers.preprocess.audio import decode, mono, read_audio, resample
from jaxformers.preprocess.feature_extractors import (
    ASTFeatureExtractor,
    SpeechT5FeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    from_dict,
)
from jaxformers.preprocess.spec_augment import negatives, span_mask
from jaxformers.preprocess.spectrogram import kaldi_log_mel, slaney_filters

TONE = np.sin(2 * np.pi * 440 * np.arange(8000) / 16000).astype(np.float32) / 2
UTTERANCE = "audio/librispeech/1272-128104-0000.wav"


def written(wave, rate, kind="WAV", **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, **options)
    return buffer.getvalue()


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "within"), [("WAV", 1e-4), ("FLAC", 1e-4), ("OGG", 0.05), ("MP3", 0.05)])
def test_files_of_every_kind(kind, within, tmp_path):
    content = written(TONE, 16000, kind)
    wave = read_audio(content, 16000)
    assert wave.dtype == np.float32
    np.testing.assert_allclose(wave[1000:7000], TONE[1000:7000], atol=within)
    path = tmp_path / f"tone.{kind.lower()}"
    path.write_bytes(content)
    for form in (path, str(path), {"path": str(path)}, {"bytes": content, "path": None}, bytearray(content)):
        np.testing.assert_array_equal(read_audio(form, 16000), wave)


def test_an_address(tmp_path):
    content = written(TONE, 16000)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            there = self.path == "/tone.wav"
            self.send_response(200 if there else 404)
            self.end_headers()
            self.wfile.write(content * there)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            np.testing.assert_allclose(read_audio(f"{address}/tone.wav", 16000), TONE, atol=1e-4)
            with pytest.raises(InputError, match=r"the audio: cannot fetch .*nothing\.wav: .*404"):
                read_audio(f"{address}/nothing.wav", 16000)
        finally:
            server.shutdown()
            thread.join()


def test_arrays_and_dicts():
    pair = np.stack([TONE, 3 * TONE])
    for form in (TONE, TONE.astype(np.float64), list(TONE[:50]), {"array": TONE, "sampling_rate": 16000},
                 {"raw": TONE, "sampling_rate": 16000, "path": "not there"}):  # fmt: skip
        found = read_audio(form, 16000)
        np.testing.assert_array_equal(found, TONE[: len(found)])
    for form in (pair, pair.T):
        np.testing.assert_allclose(read_audio(form, 16000), 2 * TONE, atol=1e-6)
    np.testing.assert_allclose(mono((TONE * 2**15).astype(np.int16)), TONE, atol=1e-4)
    np.testing.assert_allclose(mono((TONE * 2**31).astype(np.int32)), TONE, atol=1e-4)
    np.testing.assert_allclose(mono((TONE * 128 + 128).astype(np.uint8)), TONE, atol=1e-2)
    stereo = written(pair.T / 4, 16000)
    np.testing.assert_allclose(read_audio(stereo, 16000), TONE / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_a_tone(rate):
    given = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    found = read_audio({"array": given, "sampling_rate": rate}, 16000)
    assert found.shape == (16000,)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=2e-3)
    assert resample(found, 16000, 16000) is found


def test_two_files_of_one_speech_agree(shared_data):
    """44.1 kHz stereo flac and 16 kHz mono wav of the same words."""
    flac = read_audio(shared_data / "audio/jfk/jfk.flac", 16000)
    wav = read_audio(shared_data / "audio/jfk/jfk.wav", 16000)
    length = min(len(flac), len(wav))
    assert abs(len(flac) - len(wav)) < 160
    assert np.corrcoef(flac[:length], wav[:length])[0, 1] > 0.99


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("not_there.wav", "there is no file 'not_there.wav'"),
        (b"no sound", "these bytes are no audio file"),
        (None, "must be a path, an address, bytes, an array of samples or a dict, found a NoneType"),
        (np.zeros((2, 2, 2)), r"samples of one or two axes, found shape \(2, 2, 2\)"),
        ([], r"found shape \(0,\)"),
        ([0.0, float("nan")], "not finite"),
        ({"array": [0.0]}, "needs its sampling_rate"),
        ({"array": [0.0], "sampling_rate": 0}, "sampling_rate must be a positive int, found 0"),
        ({"wave": [0.0]}, "found the keys 'wave'"),
    ],
)  # fmt: skip
def test_what_is_no_sound_is_refused(source, words):
    with pytest.raises(InputError, match=words):
        read_audio(source, 16000)


def test_a_file_that_is_no_sound_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(InputError, match=r"a\.wav is no audio file"):
        decode(tmp_path / "a.wav")


AST = [-0.9894, -1.2776, -0.9066, -1.2776, -0.9349, -1.2609, -1.0386, -1.2776, -1.1561, -1.2776, -1.2052, -1.2723, -1.2190,
       -1.2132, -1.2776, -1.1133, -1.1953, -1.1343, -1.1584, -1.2203, -1.1770, -1.2474, -1.2381, -1.1936, -0.9270, -0.8317,
       -0.8049, -0.7706, -0.7565, -0.7869]  # fmt: skip
SPEECHT5 = [-2.6870, -3.0104, -3.1356, -3.5352, -3.0044, -3.0353, -3.4719, -3.6777, -3.1520, -2.9435, -2.6553, -2.8795,
            -2.9944, -2.5921, -3.0279, -3.0386, -3.0864, -3.1291, -3.2353, -2.7444, -2.6831, -2.7287, -3.1761, -3.1571,
            -3.2726, -3.0582, -3.1007, -3.4533, -3.4695, -3.0998]  # fmt: skip


# -- what models take --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def utterance(shared_data):
    return read_audio(shared_data / UTTERANCE, 16000)


def test_whisper_hears_what_is_published(utterance, shared_data):
    features = WhisperFeatureExtractor()(utterance)["input_features"]
    assert features.shape == (1, 80, 3000)
    published = [0.1193, -0.0946, -0.1098, -0.0196, 0.0225, -0.0690, -0.1736, 0.0951, 0.0971, -0.0817, -0.0702, 0.0162,
                 0.0260, 0.0017, -0.0192, -0.1678, 0.0709, -0.1867, -0.0655, -0.0274, -0.0234, -0.1884, -0.0516, -0.0554,
                 -0.0274, -0.1425, -0.1423, 0.0837, 0.0377, -0.0854]  # fmt: skip
    np.testing.assert_allclose(features[0, 0, :30], published, atol=1e-4)
    filters = np.load(shared_data / "tokenizers/whisper/mel_filters.npz")
    for bands in (80, 128):
        np.testing.assert_allclose(slaney_filters(bands, 400, 16000, 0.0, 8000.0).T, filters[f"mel_{bands}"], atol=1e-6)


def test_whisper_fills_and_cuts():
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    found = extractor([TONE, np.tile(TONE, 5)], return_attention_mask=True)
    assert found["input_features"].shape == (2, 16, 100)
    assert found["attention_mask"].sum(1).tolist() == [50, 100]
    longer = extractor(np.tile(TONE, 5), truncation=False, padding="longest")["input_features"]
    assert longer.shape == (1, 16, 250)


def test_wav2vec2_normalises_what_is_real():
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    found = extractor([TONE + 1, TONE[:100] * 3], padding=True, pad_to_multiple_of=320)
    values, mask = found["input_values"], found["attention_mask"]
    assert values.shape == mask.shape == (2, 8000)
    assert mask.sum(1).tolist() == [8000, 100]
    np.testing.assert_allclose([values[0].mean(), values[1, :100].mean()], 0, atol=1e-4)
    np.testing.assert_allclose([values[0].std(), values[1, :100].std()], 1, atol=1e-3)
    assert not values[1, 100:].any()
    ragged = extractor([TONE, TONE[:100]])["input_values"]
    assert [row.shape for row in ragged] == [(8000,), (100,)]
    cut = extractor([TONE, TONE[:100]], padding="max_length", max_length=200, truncation=True)
    assert cut["input_values"].shape == (2, 200)


def test_a_sound_of_another_rate_is_brought_to_the_models():
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
    assert extractor(TONE, sampling_rate=8000)["input_values"].shape == (1, 16000)
    assert extractor(written(TONE, 8000))["input_values"].shape == (1, 16000)


def test_kaldi_hears_nothing_in_silence_and_less_than_a_frame():
    silence = ASTFeatureExtractor(num_mel_bins=8, max_length=4)(np.zeros(800, np.float32))["input_values"]
    level = (np.log(1.1920929e-07) + 4.2677393) / (2 * 4.5689974)
    np.testing.assert_allclose(silence[0, :3], level, atol=1e-6)  # three frames of 25 ms in 50 ms
    np.testing.assert_allclose(silence[0, 3], 4.2677393 / (2 * 4.5689974), atol=1e-6)  # and padding
    assert kaldi_log_mel(np.zeros(399, np.float32), np.zeros((257, 8))).shape == (0, 8)


def test_the_extractors_hear_what_is_published(utterance):
    ast = ASTFeatureExtractor()(utterance)["input_values"]
    assert ast.shape == (1, 1024, 128)
    np.testing.assert_allclose(ast[0, 0, :30], AST, atol=1e-4)
    target = SpeechT5FeatureExtractor().targets(utterance)["labels"]
    assert target.shape == (1, 366, 80)
    np.testing.assert_allclose(target[0, 0, :30], SPEECHT5, atol=1e-4)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extractor",
    [
        Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True),
        WhisperFeatureExtractor(feature_size=128),
        ASTFeatureExtractor(max_length=100),
        SpeechT5FeatureExtractor(fmin=20.0),
    ],
    ids=lambda extractor: type(extractor).__name__,
)
def test_saved_and_loaded(extractor, tmp_path):
    extractor.save(tmp_path)
    assert jf.load_feature_extractor(tmp_path) == extractor
    assert auto.AutoFeatureExtractor.from_pretrained(str(tmp_path), padding_value=1.0).padding_value == 1.0


def test_an_old_file_is_read_by_its_models_type(tmp_path):
    old = {
        "do_normalize": True,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "sampling_rate": 16000,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    assert jf.load_feature_extractor(tmp_path) == Wav2Vec2FeatureExtractor()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"feature_extractor_type": "CLIPFeatureExtractor"}, "unknown feature_extractor_type 'CLIPFeatureExtractor'"),
        ({"sampling_rat": 8}, "unknown key 'sampling_rat' = 8; did you mean 'sampling_rate'"),
        ({"sampling_rate": "8"}, "sampling_rate must be of type int, found '8'"),
        ({"sampling_rate": True}, "sampling_rate must be of type int"),
        ({"sampling_rate": 0}, "must be positive"),
        ({"padding_side": "top"}, "padding_side must be 'right' or 'left'"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1}, "dither=0.1"),
        ({"feature_extractor_type": "SpeechT5FeatureExtractor", "win_function": "povey"}, "win_function='povey'"),
    ],
)
def test_what_a_file_says_is_known_or_refused(raw, words):
    with pytest.raises(ConfigError, match=words):
        from_dict({"feature_extractor_type": "Wav2Vec2FeatureExtractor", **raw})


# -- masks -------------------------------------------------------------------------------------------------------------


def test_spans_are_masked():
    def draw(seed):
        return span_mask((4, 50), 0.3, 5, np.random.default_rng(seed), lengths=np.array([50, 20, 4, 50]), least=2)

    mask = draw(0)
    assert np.array_equal(mask, draw(0))
    assert not np.array_equal(mask, draw(1))
    assert not mask[1, 20:].any()
    assert not mask[2].any()  # a span does not fit
    for row in mask:
        edges = np.diff(np.concatenate(([0], row, [0])))
        runs = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
        assert all(run >= 5 for run in runs)
    many = span_mask((400, 100), 0.3, 1, np.random.default_rng(0))
    assert abs(many.mean() - 0.3) < 0.01
    with pytest.raises(InputError, match="1 to 50 steps long, found 51"):
        span_mask((4, 50), 0.3, 51, np.random.default_rng(0))


def test_distractors_are_other_masked_steps_of_the_same_sound():
    mask = np.zeros((3, 10), bool)
    mask[0, 2:6] = mask[1, [1, 9]] = True
    found = negatives(mask, 50, np.random.default_rng(0))
    assert found.shape == (3, 10, 50)
    assert set(found[0, 3]) == {2, 4, 5}
    assert set(found[1, 1]) == {19}
    assert set(found[2, 4]) == {24}
    mask[2, 4] = True
    with pytest.raises(InputError, match="sound 2 has one masked step alone"):
        negatives(mask, 5, np.random.default_rng(0))
