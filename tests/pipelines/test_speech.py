"""A text said aloud, and what is said written by a model that hears waves; both beside transformers where that is there."""

import wave

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.preprocess.audio import write_wav
from jaxformers.preprocess.feature_extractors import SpeechT5FeatureExtractor
from tests.families.hearing import HIFIGAN, SPEECHT5
from tests.families.table import strong
from tests.goldens import sounds
from tests.preprocess import sentencepiece_writer as writer

WHO = np.linspace(-1, 1, 16, dtype=np.float32)
OTHERS = [*range(25, 64)]  # tokens of the model that are no letters
SLOW = {"threshold": 1.3, "maxlenratio": 3.0}


def letters(folder):
    """A tokenizer of letters, as SpeechT5's is."""
    control = [("<s>", 0.0, writer.CONTROL), ("<pad>", 0.0, writer.CONTROL), ("</s>", 0.0, writer.CONTROL),
               ("<unk>", 0.0, writer.UNKNOWN)]  # fmt: skip
    pieces = [(letter, -float(n), writer.NORMAL) for n, letter in enumerate("▁etaonihsrdlumwcfgyp'", 1)]
    folder.mkdir(exist_ok=True)
    (folder / "spm_char.model").write_bytes(writer.model([*control, *pieces], algorithm=4, unk_id=3))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "SpeechT5Tokenizer"}')
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return jf.load_tokenizer(letters(tmp_path_factory.mktemp("letters")))


def test_letters(tokenizer, tmp_path):
    ids = tokenizer("the cat's  hat")["input_ids"]
    assert ids == [4, 6, 11, 5, 4, 19, 7, 6, 24, 12, 4, 11, 7, 6, 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat's hat"
    tokenizer.save(tmp_path)
    assert (tmp_path / "spm_char.model").is_file()
    assert jf.load_tokenizer(tmp_path)("the cat's  hat")["input_ids"] == ids


def test_a_text_said_aloud(tokenizer, tmp_path):
    model, vocoder = strong(SPEECHT5, "text-to-speech"), strong(HIFIGAN, None)
    say = jf.pipeline("text-to-audio", model, tokenizer=tokenizer, vocoder=vocoder)
    found = say(["the cat", "a"], speaker_embeddings=WHO, **SLOW)
    assert [sorted(each) for each in found] == [["audio", "sampling_rate"]] * 2
    alone = say("a", forward_params={"speaker_embeddings": WHO, **SLOW})
    np.testing.assert_allclose(found[1]["audio"], alone["audio"], atol=1e-5)
    assert alone["audio"].dtype == np.float32
    assert alone["audio"].ndim == 1
    with pytest.raises(InputError, match="say who is to speak: give speaker_embeddings"):
        say("a")
    write_wav(tmp_path / "said.wav", alone["audio"], alone["sampling_rate"])
    with wave.open(str(tmp_path / "said.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16000, 1, len(alone["audio"]))
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    np.testing.assert_allclose(samples, alone["audio"], atol=1e-4)


WAVES = [np.random.default_rng(n).normal(size=n).astype(np.float32) for n in (300, 240)]


def test_what_is_said_by_a_model_that_hears_waves(tokenizer):
    model = strong(SPEECHT5, "speech-seq2seq")
    extractor = SpeechT5FeatureExtractor()
    pipe = jf.pipeline("automatic-speech-recognition", model, tokenizer=tokenizer, feature_extractor=extractor)
    options = {"max_new_tokens": 6, "suppress_tokens": OTHERS}
    found = pipe(WAVES, generate_kwargs={**options, "num_beams": 1})
    for sound, each in zip(WAVES, found, strict=True):  # as each alone is heard, without padding
        ids = jf.generate(model, input_values=sound[None], **options).sequences[0]
        assert each == {"text": tokenizer.decode(ids.tolist(), skip_special_tokens=True)}


@pytest.mark.parity
def test_as_transformers_has_both(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("sentencepiece")
    torch = pytest.importorskip("torch")
    for head in ("text-to-speech", "speech-seq2seq"):
        folder = letters(tmp_path / head)
        jf.save(strong(SPEECHT5, head), folder)
        SpeechT5FeatureExtractor().save(folder)
    jf.save(strong(HIFIGAN, None), tmp_path / "vocoder")
    vocoder = transformers.SpeechT5HifiGan.from_pretrained(tmp_path / "vocoder").eval()
    speak = tmp_path / "text-to-speech"
    theirs = transformers.pipeline("text-to-speech", str(speak), vocoder=vocoder, device="cpu")
    sounds.without_drops(theirs.model)
    ours = jf.pipeline("text-to-speech", speak, vocoder=tmp_path / "vocoder")
    for text in ("the cat's hat", "a doge!"):
        expected = theirs(text, forward_params={"speaker_embeddings": torch.tensor(WHO)[None], **SLOW})
        found = ours(text, forward_params={"speaker_embeddings": WHO, **SLOW})
        assert found["sampling_rate"] == expected["sampling_rate"]
        np.testing.assert_allclose(found["audio"], expected["audio"], atol=1e-4)
    hear = str(tmp_path / "speech-seq2seq")
    theirs = transformers.pipeline("automatic-speech-recognition", hear, device="cpu")
    ours = jf.pipeline("automatic-speech-recognition", hear)
    options = {"generate_kwargs": {"max_new_tokens": 12, "suppress_tokens": OTHERS}}
    for sound in WAVES:
        assert ours(sound, **options) == theirs(sound.copy(), **options)
