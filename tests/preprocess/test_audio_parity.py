"""Feature extractors and the CTC tokenizer do what transformers' do, on real sounds."""

import json

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.preprocess import feature_extractors as ours
from jaxformers.preprocess.audio import read_audio

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def sounds(shared_data):
    """Two of different length."""
    files = ("librispeech/1272-128104-0000.wav", "speechbrain/ASR/spk1_snt1.wav")
    return [read_audio(shared_data / "audio" / file, 16000) for file in files]


CASES = [
    ("Wav2Vec2FeatureExtractor", {}, {}),
    ("Wav2Vec2FeatureExtractor", {}, {"padding": True}),
    ("Wav2Vec2FeatureExtractor", {"return_attention_mask": True}, {"padding": True, "pad_to_multiple_of": 320}),
    ("Wav2Vec2FeatureExtractor", {"return_attention_mask": True},
     {"padding": "max_length", "max_length": 50000, "truncation": True}),
    ("Wav2Vec2FeatureExtractor", {"do_normalize": False, "padding_side": "left", "padding_value": 0.5}, {"padding": True}),
    ("WhisperFeatureExtractor", {}, {"return_attention_mask": True}),
    ("WhisperFeatureExtractor", {"feature_size": 128, "chunk_length": 2}, {}),
    ("WhisperFeatureExtractor", {}, {"truncation": False, "padding": "longest", "return_attention_mask": True}),
    ("WhisperFeatureExtractor", {"chunk_length": 8}, {"do_normalize": True, "return_attention_mask": True}),
    ("ASTFeatureExtractor", {}, {}),
    ("ASTFeatureExtractor", {"num_mel_bins": 64, "max_length": 300, "do_normalize": False}, {}),
    ("SpeechT5FeatureExtractor", {"do_normalize": True}, {"padding": True}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")  # the lowest of AST's
@pytest.mark.parametrize(("name", "config", "options"), CASES)
def test_the_same_features(name, config, options, sounds, tmp_path):
    theirs = getattr(transformers, name)(**config)
    expected = theirs(sounds, sampling_rate=16000, **options)
    theirs.save_pretrained(tmp_path)
    extractor = jf.load_feature_extractor(tmp_path)
    assert extractor == getattr(ours, name)(**config)
    found = extractor(sounds, **options)
    assert sorted(found) == sorted(expected)
    for key in found:
        assert len(found[key]) == len(expected[key])
        for mine, other in zip(found[key], expected[key], strict=True):
            assert mine.dtype == np.asarray(other).dtype
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-4)


def test_the_same_targets(sounds):
    expected = transformers.SpeechT5FeatureExtractor()(audio_target=sounds, sampling_rate=16000, padding=True)
    found = ours.SpeechT5FeatureExtractor().targets(sounds, padding=True)
    np.testing.assert_allclose(found["labels"], np.stack(expected["input_values"]), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found["decoder_attention_mask"], np.stack(expected["attention_mask"]))


def test_transformers_reads_what_we_save(tmp_path):
    ours.WhisperFeatureExtractor(feature_size=128).save(tmp_path)
    assert transformers.AutoFeatureExtractor.from_pretrained(tmp_path).feature_size == 128


# -- CTC ---------------------------------------------------------------------------------------------------------------

LETTERS = {token: index for index, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAOHL'", "ST"))}
TEXTS = ["HELLO THAT TEA", "HE'S LATE  ", " LOST\nHALO", "", "hello ZEAL"]


@pytest.mark.parametrize(
    "options",
    [{}, {"do_lower_case": True}, {"word_delimiter_token": "-", "replace_word_delimiter_char": "_"}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_the_same_letters(options, tmp_path):
    letters = {
        ("-" if token == "|" and "word_delimiter_token" in options else token): i for token, i in LETTERS.items()
    }
    (tmp_path / "vocab.json").write_text(json.dumps(letters))
    theirs = transformers.Wav2Vec2CTCTokenizer(tmp_path / "vocab.json", **options)
    theirs.save_pretrained(tmp_path)
    tokenizer = jf.load_tokenizer(tmp_path)
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    for name in ("pad_token_id", "unk_token_id", "bos_token_id", "eos_token_id"):
        assert getattr(tokenizer, name) == getattr(theirs, name)
    rng = np.random.default_rng(0)
    for ids in [*rng.integers(0, len(letters), (8, 40)).tolist(), [4, 4, 0], [0, 0], []]:
        for how in ({}, {"skip_special_tokens": True}, {"group_tokens": False}):
            assert tokenizer.decode(ids, **how) == theirs.decode(ids, **how)
        if ids:
            mine, other = (
                each.decode(ids, output_char_offsets=True, output_word_offsets=True) for each in (tokenizer, theirs)
            )
            assert mine.text == other.text
            assert mine.char_offsets == other.char_offsets
            assert mine.word_offsets == [word for word in other.word_offsets if word["word"]]
    tokenizer.save(tmp_path / "again")
    again, before = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "again", tmp_path))
    assert type(again) is type(theirs)
    assert [again(text)["input_ids"] for text in TEXTS] == [before(text)["input_ids"] for text in TEXTS]
    assert jf.load_tokenizer(tmp_path / "again").decode([9, 5, 10, 0, 10]) == theirs.decode([9, 5, 10, 0, 10])
