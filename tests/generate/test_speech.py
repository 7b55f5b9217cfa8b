"""What Whisper's texts begin with, and where times may stand: beside transformers where that is there."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.generate.speech import Times, beginnings, transcribe
from jaxformers.generate.written import Written
from tests.families.hearing import WHISPER
from tests.families.table import sample, strong

GENERATION = {
    "decoder_start_token_id": 4,
    "lang_to_id": {"<|en|>": 5, "<|de|>": 6},
    "task_to_id": {"transcribe": 7, "translate": 8},
    "no_timestamps_token_id": 40,
    "eos_token_id": 3,
    "max_initial_timestamp_index": 2,
}


def model_with(**generation):
    model = strong(WHISPER, "speech-seq2seq")
    return types.SimpleNamespace(**{name: getattr(model, name) for name in ("family", "head", "config", "params")},
                                 generation=generation)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"language": "de"}, [4, 6, 7, 40]),
        ({"language": "<|en|>", "task": "translate"}, [4, 5, 8, 40]),
        ({"language": "de", "times": True}, [4, 6, 7]),
        ({"language": ["en", "de"]}, [[4, 5, 7, 40], [4, 6, 7, 40]]),
    ],
)
def test_what_a_text_begins_with(options, expected):
    given = {"language": None, "task": None, "times": False, **options}
    states = jnp.zeros((2, 8, 32))
    found = beginnings(model_with(**GENERATION), states, GENERATION, **given)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_forced_tokens_of_old_and_languages_that_are_heard():
    model, states = model_with(), jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 32)), jnp.float32)
    english = {"decoder_start_token_id": 4, "forced_decoder_ids": [[1, 40]], "no_timestamps_token_id": 40}
    assert beginnings(model, states, english, None, None, False).tolist() == [[4, 40]] * 2
    found = beginnings(model, states, GENERATION, None, None, False)
    assert found[:, [0, 2]].tolist() == [[4, 40]] * 2
    logits = jf.families.whisper.HEADS["speech-seq2seq"](
        model.params, encoder_outputs=states, decoder_input_ids=np.full((2, 1), 4), config=model.config
    ).logits[:, -1]
    assert found[:, 1].tolist() == [5 + int(row[6] > row[5]) for row in np.asarray(logits)]
    for options, words in (
        ({"language": "fr"}, "no language 'fr'; it has en, de"),
        ({"task": "sing"}, "task must be one of transcribe, translate"),
        ({"language": ["en"]}, "one for each of 2 sounds, found 1"),
    ):
        with pytest.raises(InputError, match=words):
            beginnings(model, states, GENERATION, **{"language": None, "task": None, "times": False, **options})


def written(rows, prompt):
    tokens = np.array(rows, np.int32)
    slots = np.pad(tokens, ((0, 0), (0, 3)))
    real = np.pad(np.ones_like(tokens, bool), ((0, 0), (0, 3)))
    end = np.int32(tokens.shape[1])
    return Written(jnp.asarray(slots), jnp.asarray(real), jnp.asarray(end), jnp.int32(prompt), jnp.int32(prompt))


def test_times_come_in_pairs_and_never_go_back():
    times, logits = Times(40, 3, 2), jnp.zeros((3, 64))

    def allowed(rows, prompt):
        return [set(np.flatnonzero(np.isfinite(row)).tolist()) for row in times(logits, written(rows, prompt))]

    assert allowed([[4, 6]] * 3, 2) == [{41, 42, 43}] * 3  # a text begins with a time, of the first few
    ended, paired, inside = allowed([[4, 41, 9, 45], [4, 41, 45, 45], [4, 41, 9, 9]], 1)
    assert ended == {
        *range(45, 64)
    }  # the next phrase begins there or later (all together likelier than the text's end)
    assert paired == {*range(40)}  # a pair is whole: words come
    assert inside == {*range(42, 64)}  # it ends later than it began


@pytest.mark.parity
def test_as_transformers_has_it():
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(0)
    settings = types.SimpleNamespace(
        no_timestamps_token_id=40, eos_token_id=3, bos_token_id=3, max_initial_timestamp_index=2
    )
    for length in (0, 1, 2, 5):
        rows = np.concatenate([np.full((40, 2), 4), rng.choice([9, 10, 41, 43, 45, 60], (40, length))], 1)
        rows[:, 2:] = np.where(
            rows[:, 2:] > 40, np.maximum.accumulate(np.where(rows[:, 2:] > 40, rows[:, 2:], 0), 1), rows[:, 2:]
        )
        logits = rng.normal(size=(40, 64)).astype(np.float32) * 3
        theirs = process.WhisperTimeStampLogitsProcessor(settings, begin_index=2)(
            torch.tensor(rows), torch.tensor(logits)
        )
        ours = Times(40, 3, 2)(jnp.asarray(logits), written(rows, 2))
        np.testing.assert_allclose(np.where(np.isfinite(ours), ours, -1e9), theirs.clamp(min=-1e9), atol=1e-6)


def test_transcribing():
    model = dataclasses.replace(strong(WHISPER, "speech-seq2seq"), generation=GENERATION)
    features = sample(WHISPER.config, None)[0]["input_features"]
    found = transcribe(model, features, language="en", max_new_tokens=6).sequences
    np.testing.assert_array_equal(found[:, :4], [[4, 5, 7, 40]] * 3)
    prompt = np.array([[4, 5, 7, 40]] * 3)
    plain = jf.generate(model, input_features=features, decoder_input_ids=prompt, max_new_tokens=6).sequences
    np.testing.assert_array_equal(found, plain)
    timed = transcribe(model, features, language="en", return_timestamps=True, max_new_tokens=6).sequences
    assert ((timed[:, 3] >= 41) & (timed[:, 3] <= 43)).all()
    with pytest.raises(InputError, match="give input_features, or the encoder_outputs"):
        jf.generate(model, max_new_tokens=2)
