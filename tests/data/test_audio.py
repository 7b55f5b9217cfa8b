"""Folders of sounds as splits, and sounds as examples."""

import numpy as np
import pytest
import soundfile

from jaxformers.data import Batches, Table, iterate, load_dataset
from jaxformers.data.audio_masks import HideAndAsk, HideFrames
from jaxformers.data.audio_rows import AudioRows
from jaxformers.errors import DataError, InputError
from jaxformers.families import wav2vec2
from jaxformers.preprocess.audio_augment import AudioAugment
from jaxformers.preprocess.feature_extractors import (
    ASTFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

EXTRACTOR = Wav2Vec2FeatureExtractor(sampling_rate=8000)
RNG = np.random.default_rng(0)


def lengths_of(rows):
    return [len(rows.outline(row)["input_values"]) for row in range(len(rows))]


def write(path, seconds=0.1, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, RNG.normal(scale=0.1, size=round(seconds * rate)), rate)


def test_a_folder_of_classes_in_splits(tmp_path):
    for split, word, name in (("train", "yes", "a.wav"), ("train", "no", "b.flac"), ("dev", "no", "deep/c.ogg")):
        write(tmp_path / split / word / name)
    (tmp_path / "dev" / "yes").mkdir()
    splits = load_dataset(tmp_path, split="train")
    assert splits.column_names == ("audio", "label")
    assert splits["label"] == ["no", "yes"]
    with pytest.raises(DataError, match=r"yes stands for a class of .*/validation and holds no audio \(\.wav"):
        load_dataset(tmp_path)


def test_tables_that_name_files(tmp_path):
    for name in ("a.wav", "b.wav"):
        write(tmp_path / "sounds" / name)
    (tmp_path / "metadata.csv").write_text("file_name,text\nsounds/a.wav,one\nsounds/b.wav,two\n")
    paths = [str(tmp_path / "sounds" / name) for name in ("a.wav", "b.wav")]
    assert list(load_dataset(tmp_path, split="train")) == [
        {"text": text, "audio": path} for text, path in zip(("one", "two"), paths, strict=True)
    ]
    (tmp_path / "dev.jsonl").write_text('{"file_name": "sounds/b.wav", "label": 3}\n')
    assert load_dataset(tmp_path)["validation"][0] == {"label": 3, "audio": paths[1]}
    (tmp_path / "dev.jsonl").write_text('{"file_name": "c.wav"}\n')
    with pytest.raises(DataError, match=r"row 0 of .*/validation names the file 'c\.wav', and there is no .*c\.wav"):
        load_dataset(tmp_path)
    (tmp_path / "dev.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("file,text\nx.wav,one\n")
    with pytest.raises(DataError, match="has no column 'file_name' of images or sounds, only file, text"):
        load_dataset(tmp_path)


def test_librispeech_and_ljspeech_as_they_are(tmp_path, shared_data):
    write(tmp_path / "dev" / "84" / "121" / "84-121-0001.flac")
    transcript = tmp_path / "dev" / "84" / "121" / "84-121.trans.txt"
    transcript.write_text("84-121-0000 NOT HERE\n84-121-0001 HE WAS\n")
    assert load_dataset(tmp_path)["validation"]["text"] == ["HE WAS"]
    transcript.write_text("84-121-0000 NOT HERE\n")
    with pytest.raises(DataError, match=r"121\.trans\.txt names no sound that is there"):
        load_dataset(tmp_path)
    real = load_dataset(shared_data / "audio" / "librispeech", split="train")
    assert real["text"] == ["MISTER QUILTER IS THE APOSTLE OF THE MIDDLE CLASSES AND WE ARE GLAD TO WELCOME HIS GOSPEL"]
    real = load_dataset(shared_data / "audio" / "ljspeech", split="train")
    assert len(real) == 4
    assert real["text"][1] == "in being comparatively modern."
    (tmp_path / "lj" / "wavs").mkdir(parents=True)
    (tmp_path / "lj" / "metadata.csv").write_text("a|b\n")
    with pytest.raises(DataError, match=r"line 1 of .*metadata\.csv is not of the form NAME\|text\|text"):
        load_dataset(tmp_path / "lj")


@pytest.fixture
def sounds(tmp_path):
    for number, (seconds, rate) in enumerate(((0.1, 8000), (0.2, 16000), (0.15, 44100))):
        write(tmp_path / f"{number}.wav", seconds, rate)
    paths = [str(tmp_path / f"{number}.wav") for number in range(3)]
    return Table({"audio": paths, "labels": [[1], [2, 3], [4, 5, 6]]}, "sounds")


def test_waves_are_padded_and_decoded_when_they_are_read(sounds, monkeypatch):
    rows = AudioRows(sounds, EXTRACTOR)
    whole = [rows[row]["input_values"] for row in range(3)]
    assert [len(wave) for wave in whole] == [800, 1600, 1200]
    np.testing.assert_array_equal(whole[1], EXTRACTOR(sounds["audio"][1])["input_values"][0])
    with monkeypatch.context() as patched:  # their files' headers say how long they are
        patched.setattr("jaxformers.preprocess.feature_extractors.read_audio", None)
        assert lengths_of(AudioRows(sounds, EXTRACTOR)) == [800, 1600, 1200]
    batches = Batches(rows, batch_size=2, buckets={"input_values": (800, 2000), "labels": (4,)})
    with iterate(batches, num_threads=2) as stream:
        first, last = stream
    assert first["input_values"].shape == (2, 2000)
    np.testing.assert_array_equal(first["input_values"][0, :800], whole[0])
    assert first["attention_mask"].sum(-1).tolist() == [800, 1600]
    assert first["labels"].tolist() == [[1, -100, -100, -100], [2, 3, -100, -100]]
    assert last["example_index"].tolist() == [2, -1]
    assert AudioRows(sounds, EXTRACTOR, most=0.12)[1]["input_values"].shape == (960,)
    broken = Table({"audio": ["nowhere.wav"]}, "sounds")
    for ask in (lambda rows: rows[0], lengths_of):
        with pytest.raises(DataError, match=r"row 0 of sounds: the audio: there is no file 'nowhere\.wav'"):
            ask(AudioRows(broken, EXTRACTOR))
    with pytest.raises(DataError, match="sounds has no column 'sound', only audio, labels"):
        AudioRows(sounds, EXTRACTOR, audio="sound")


def test_spectra_have_one_size(sounds):
    table = sounds.drop(["labels"]).with_column("labels", [0, 1, 1])
    for extractor, key, shape in (
        (ASTFeatureExtractor(num_mel_bins=16, max_length=20), "input_values", (20, 16)),
        (WhisperFeatureExtractor(feature_size=8, chunk_length=1), "input_features", (8, 100)),
    ):
        batch = Batches(AudioRows(table, extractor), batch_size=3)[0]
        assert batch[key].shape == (3, *shape)
        np.testing.assert_array_equal(batch[key][2], extractor(table["audio"][2])[key][0])
        assert "attention_mask" not in batch
        hide = AudioAugment(time_masks=1, time_width=9, band_masks=1, band_width=3)
        drawn = AudioRows(table, extractor, hide).draw(2, np.random.default_rng(1))[key]
        time = 0 if key == "input_values" else 1
        hidden = np.isclose(drawn, batch[key][2].mean()) & (drawn != batch[key][2])
        assert 0 < hidden.all(1 - time).sum() <= 9
        assert 0 < hidden.all(time).sum() <= 3
        kept = ~hidden.all(1 - time, keepdims=True) & ~hidden.all(time, keepdims=True)
        np.testing.assert_array_equal(drawn[kept], batch[key][2][kept])
        seen = Batches(AudioRows(table, extractor, as_image=True), batch_size=3)[0]
        np.testing.assert_array_equal(seen["pixel_values"], batch[key][..., None])
    with pytest.raises(InputError, match="an image model reads spectra, and Wav2Vec2FeatureExtractor gives waves"):
        AudioRows(sounds, EXTRACTOR, as_image=True)


@pytest.mark.parametrize("time_axis", [0, 1])
def test_another_throat_moves_the_bands(time_axis):
    """A hill over the bands stays a hill, somewhere else; what a frame is does not change with its neighbours."""
    hill = np.exp(-((np.arange(40) - 20) ** 2) / 32).astype(np.float32)
    spectrum = np.stack([hill, 2 * hill], time_axis)
    tops = set()
    for seed in range(30):
        moved = AudioAugment(throat=0.2).spectrum(spectrum, np.random.default_rng(seed), time_axis)
        assert moved.dtype == np.float32
        first, second = np.moveaxis(moved, time_axis, 0)
        np.testing.assert_allclose(second, 2 * first, rtol=1e-6)
        assert first.max() > 0.98  # what is read stands at most 0.6 of a band from the top
        tops.add(int(first.argmax()))
    assert min(tops) >= 16
    assert max(tops) <= 25
    assert len(tops) > 4
    np.testing.assert_array_equal(AudioAugment().spectrum(spectrum, np.random.default_rng(0), time_axis), spectrum)


def test_what_is_changed_in_training(sounds):
    slow = AudioAugment(speed=(0.5, 0.8), shift=0.02)
    rows = AudioRows(sounds, EXTRACTOR, slow)
    assert lengths_of(rows) == [2000, 3600, 2800]  # twice as long and 0.02 s, in whole twentieths
    assert len(rows[0]["input_values"]) == 800
    drawn = [len(rows.draw(0, np.random.default_rng(seed))["input_values"]) for seed in range(20)]
    assert min(drawn) >= 1000
    assert max(drawn) <= 1760
    assert len({*drawn}) > 10
    batch = Batches(rows, batch_size=3, buckets={"input_values": (4000,), "labels": (4,)})[0]
    again = Batches(rows, batch_size=3, buckets={"input_values": (4000,), "labels": (4,)})[0]
    np.testing.assert_array_equal(batch["input_values"], again["input_values"])
    tone = np.sin(2 * np.pi * 500 * np.arange(4000) / 8000).astype(np.float32)
    fast = AudioAugment(speed=(1.2, 1.2)).wave(tone, 8000, np.random.default_rng(0))
    assert len(fast) == 3334
    assert np.abs(np.fft.rfft(fast)).argmax() * 8000 / 3334 == pytest.approx(600, abs=3)
    loud = AudioAugment(gain=6).wave(tone, 8000, np.random.default_rng(3))
    assert 0.5 < loud.max() < 2
    assert loud.max() != 1
    white = RNG.normal(size=4000).astype(np.float32)
    coloured = AudioAugment(colour=12).wave(white, 8000, np.random.default_rng(0))
    decibels = 20 * np.log10(np.abs(np.fft.rfft(coloured)) / np.abs(np.fft.rfft(white)))
    assert np.abs(decibels).max() < 12.01
    assert np.ptp(decibels) > 6
    assert np.abs(np.diff(decibels)).max() < 3  # smooth: a band is 2 Hz, the lowest octave 62
    for seed in range(3):
        noise = AudioAugment(noise=20).wave(tone, 8000, np.random.default_rng(seed)) - tone
        assert 20 <= -20 * np.log10(noise.std() / tone.std()) + 0.3 <= 60.6
    with pytest.raises(InputError, match=r"speed must be two numbers above 0, the smaller first, found \(2, 1\)"):
        AudioAugment(speed=(2, 1))
    with pytest.raises(InputError, match="shift must not be below 0, found -1"):
        AudioAugment(shift=-1)
    with pytest.raises(InputError, match=r"throat must be below 1, found 1\.5"):
        AudioAugment(throat=1.5)


FRAMES = wav2vec2.config_from_hf(
    {"conv_dim": [4, 4], "conv_kernel": [10, 4], "conv_stride": [8, 4], "hidden_size": 16, "num_attention_heads": 2,
     "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.5, "mask_time_length": 5, "mask_feature_prob": 0.2,
     "mask_feature_length": 3, "mask_feature_min_masks": 1, "num_negatives": 7}, "config")  # fmt: skip


def test_frames_are_hidden_in_training_alone(sounds):
    shapes = {"buckets": {"input_values": (2000,), "labels": (4,)}, "batch_size": 3}
    rows = AudioRows(sounds, EXTRACTOR, AudioAugment(gain=6), collate=HideFrames(FRAMES))
    hidden, plain = (Batches(rows, draw=draw, **shapes)[0] for draw in (True, False))
    np.testing.assert_array_equal(plain["input_values"][0, :800], rows[0]["input_values"])
    assert {*hidden} - {*plain} == {"mask_time_indices", "mask_feature_indices"}
    lengths = FRAMES.frames(hidden["attention_mask"].sum(-1))
    assert lengths.tolist() == [24, 49, 37]
    time, bands = hidden["mask_time_indices"], hidden["mask_feature_indices"]
    assert time.shape == (3, FRAMES.frames(2000))
    assert bands.shape == (3, 16)
    for row, length in zip(time, lengths, strict=True):
        assert not row[length:].any()
        assert 5 < row.sum() <= 0.5 * length + 5  # two spans at least, which may overlap
    assert (bands.sum(-1) >= 3).all()
    half = Batches(rows, places=[1], **shapes)[0]
    np.testing.assert_array_equal(half["mask_time_indices"], time[1:2])


def test_what_pretraining_hides_and_asks(sounds):
    batches = Batches(AudioRows(sounds.drop(["labels"]), EXTRACTOR), batch_size=3, num_epochs=3, buckets=(2000,),
                      collator=HideAndAsk(FRAMES, decay=0.5, coolest=0.7))  # fmt: skip
    assert [batch["gumbel_temperature"].tolist() for batch in batches] == [
        [each] * 3 for each in (2, 1, np.float32(0.7))
    ]
    first, second = batches[0], batches[1]
    assert (first["mask_time_indices"] != second["mask_time_indices"]).any()
    for mask, others in zip(first["mask_time_indices"], first["sampled_negative_indices"], strict=True):
        for place in np.flatnonzero(mask):
            assert mask[others[place]].all()
            assert place not in others[place]
    assert others.shape == (FRAMES.frames(2000), 7)
    short = Table({"audio": [np.zeros(60, np.float32)]}, "clicks")
    with pytest.raises(DataError, match="the sound of row 0 has 1 frames, too few for a hidden span of 5"):
        Batches(AudioRows(short, EXTRACTOR), batch_size=1, collator=HideAndAsk(FRAMES))[0]
    with pytest.raises(InputError, match=r"the temperature falls from 1 to 2\.0 by 0\.5 a step"):
        HideAndAsk(FRAMES, warmest=1, coolest=2.0, decay=0.5)
