"""The experiments of hearing: how they read what people have, and what they make of texts."""

import numpy as np
import pytest
import soundfile

from experiments import audio_classification, ctc, sounds, whisper
from experiments.launch import parse
from jaxformers.checkpoints import load, save
from jaxformers.data import Table
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess import Processor, train_letters
from jaxformers.preprocess.feature_extractors import WhisperFeatureExtractor


def config_of(module, *flags):
    return parse(module.Config, [*flags], "", "experiment")


def test_a_speaker_held_out_by_the_names_of_files(tmp_path, shared_data):
    names = r"(?P<label>\d)_(?P<speaker>[a-z]+)_\d+"
    flags = ["--file-names", names, "--held-out", "speaker=lucas"]
    config = config_of(audio_classification, *flags)
    splits = sounds.open_source(shared_data / "audio" / "fsdd", config)
    assert {name: len(table) for name, table in splits.items()} == {"train": 240, "validation": 80}
    assert {*splits["validation"]["speaker"]} == {"lucas"}
    assert "lucas" not in {*splits["train"]["speaker"]}
    classes: list[str] = []
    read = audio_classification.read(splits, config, classes)
    assert classes == [*"0123456789"]
    assert read["train"].column_names == ("audio", "labels")
    first = read["validation"][0]
    assert f"/{first['labels']}_lucas_" in first["audio"]
    for wrong, message in (
        ({"file_names": "("}, "file_names must be a regular expression, found '\\('"),
        ({"file_names": ".*"}, "named groups such as"),
        ({"file_names": "(?P<label>x)"}, "does not describe '0_george_0'"),
        ({"held_out": "speaker=theo"}, "holds 0 of 320 rows of fsdd/train out"),
        ({"held_out": "age=3"}, "of one of the columns audio, label, speaker; found 'age=3'"),
    ):
        with pytest.raises(InputError, match=message):
            sounds.open_source(shared_data / "audio" / "fsdd", config.replace(**wrong))


def test_a_classifier_that_fits_the_sounds():
    waves = [np.zeros(round(seconds * 16000), np.float32) for seconds in (0.4, 0.9, 1.2, 1.7)]
    extractor = audio_classification.fitting_extractor(waves)
    assert extractor.chunk_length == 2
    sizes = whisper.found_sizes(Processor(train_letters(["AB"]), feature_extractor=extractor))
    assert (sizes["num_mel_bins"], sizes["max_source_positions"]) == (80, 100)
    with pytest.raises(InputError, match="give --model"):
        audio_classification.run(config_of(audio_classification, "--freeze"))
    with pytest.raises(InputError, match="augment must be one of none, light, strong, found 'loud'"):
        audio_classification.prepare({}, extractor, config_of(audio_classification, "--augment", "loud"), [])


def test_a_trained_image_model_goes_on_hearing(tmp_path):
    config = config_of(audio_classification, "--tiny")
    save(load({**audio_classification.small_resnet(config), "id2label": {0: "A"}}, "image-classification"), tmp_path)
    assert audio_classification.head_for(str(tmp_path)) == "image-classification"
    assert audio_classification.head_for(None) == "audio-classification"
    table, extractor = (
        Table({"audio": [np.ones(800, np.float32)], "labels": [0]}),
        WhisperFeatureExtractor(chunk_length=1),
    )
    prepared = audio_classification.prepare({"train": table}, extractor, config.replace(model=str(tmp_path)), ["A"])
    assert prepared.examples["train"][0]["pixel_values"].shape == (80, 100, 1)


def test_drawn_sounds_are_those_of_their_seed():
    one, two, other = (sounds.drawn_words(3, seed) for seed in (0, 0, 1))
    assert one["text"] == two["text"] != other["text"]
    assert {*"".join(one["text"])} <= {*"AEIOU "}
    for a, b in zip(one["audio"], two["audio"], strict=True):
        np.testing.assert_array_equal(a["array"], b["array"])
        assert 0.2 < np.abs(a["array"]).max() < 1
    wave = sounds.vowel("I", 0.2, 200.0, 1.0)
    loudest = np.abs(np.fft.rfft(wave)).argmax() / 0.2
    assert loudest == pytest.approx(200, rel=0.1)  # its first formant is at 270 Hz


def test_texts_are_brought_to_known_letters(capsys):
    waves = [np.zeros(seconds * 16000, np.float32) for seconds in (1, 21, 1, 1)]
    table = Table({"audio": waves, "sentence": ["Yes, I do!", "Too long.", "?", "It's  so."]}, "talk")
    read = ctc.read({"train": table}, config_of(ctc))["train"]
    assert read["text"] == ["Yes I do", "It's so"]
    assert "2 of 4 rows of talk have no text or are too long" in capsys.readouterr().out
    assert whisper.ctc.read({"train": table}, config_of(whisper))["train"]["text"][:3] == table["sentence"][:3]
    with pytest.raises(DataError, match=r"no row of talk has a text and a sound of at most 0\.5 seconds"):
        ctc.read({"train": table}, config_of(ctc, "--most-seconds", "0.5"))
    letters = train_letters(ctc.capitals(read))
    assert len(letters) == 5 + len({*"YESIDOTS'"})
    assert ctc.spelled(["yes"], letters) == ["YES"]
    assert ctc.spelled(["YES"], train_letters(["yes"])) == ["yes"]
    assert ctc.spelled(["Yes"], train_letters(["Yes"])) == ["Yes"]


def test_what_whispers_texts_begin_with():
    said = {"lang_to_id": {"<|en|>": 5, "<|de|>": 6}, "task_to_id": {"transcribe": 7, "translate": 8},
            "no_timestamps_token_id": 9}  # fmt: skip
    tokens, told = whisper.beginning(said, config_of(whisper, "--language", "de", "--task", "translate"))
    assert tokens == [6, 8, 9]
    assert told == {"language": "de", "task": "translate", "forced_decoder_ids": None}
    assert whisper.beginning({"no_timestamps_token_id": 9}, config_of(whisper)) == ([9], {})
    with pytest.raises(InputError, match=r"--language must be one of en, de, .* found None"):
        whisper.beginning(said, config_of(whisper))
    with pytest.raises(InputError, match="knows one language"):
        whisper.beginning({}, config_of(whisper, "--language", "en"))


def test_a_picture_of_what_was_heard(tmp_path):
    from PIL import Image

    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16000)), 16000)
    chunks = [[{"text": "HI", "timestamp": (0.2, 0.4)}]]
    sounds.draw_spectra([tmp_path / "a.wav"], chunks, tmp_path / "out" / "heard.png")
    with Image.open(tmp_path / "out" / "heard.png") as picture:
        assert picture.size == (108, 200)
        pixels = np.asarray(picture)
    assert (pixels[4 + 160 + 2, 24:45] == 0).all()  # the line under what was heard
    assert pixels[4:164, 4:104].min() == 0
