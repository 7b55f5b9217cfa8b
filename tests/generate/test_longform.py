"""Whisper beyond 30 seconds: how pieces follow each other, what is written again, when a token was said; as transformers does."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.generate.alignment import path, smoothed
from jaxformers.generate.longform import _repetition, _segments, transcribe_long
from tests.families.hearing import WHISPER
from tests.families.table import strong

# Times from 41 on: a piece has 8 states (0.16 s), so that 49 is its end.
GENERATION = {
    "decoder_start_token_id": 4,
    "lang_to_id": {"<|en|>": 5, "<|de|>": 6},
    "task_to_id": {"transcribe": 7, "translate": 8},
    "is_multilingual": True,
    "no_timestamps_token_id": 40,
    "prev_sot_token_id": 38,
    "eos_token_id": 3,
    "pad_token_id": 3,
    "bos_token_id": 3,
    "max_initial_timestamp_index": 4,
    "alignment_heads": [[0, 1], [1, 0], [1, 3]],
    "suppress_tokens": [*range(50, 64)],
    "return_timestamps": False,
}
FEATURES = np.random.default_rng(3).normal(size=(2, 8, 40)).astype(np.float32)
FEATURES[1, :, 30:] = 0
FRAMES = [40, 30]
NEW = {"max_new_tokens": 10}


@pytest.fixture(scope="module")
def model():
    found = strong(WHISPER, "speech-seq2seq")
    words = 1.5 * found.params["embeddings"]["word"]  # surer of itself, and of other words with other sounds
    params = found.params | {"embeddings": {"word": words}}
    config = found.config.replace(pad_token_id=3, median_filter_width=3)
    return dataclasses.replace(found, params=params, config=config, generation=GENERATION)


def same(one, other):
    assert len(one.segments) == len(other.segments)
    for a, b in zip(one.segments, other.segments, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose([a.start, a.end], [b.start, b.end])


def test_a_row_does_not_depend_on_the_others(model):
    both = transcribe_long(model, FEATURES, FRAMES, **NEW)
    for row, frames in enumerate(FRAMES):
        same(transcribe_long(model, FEATURES[row : row + 1, :, :frames], **NEW)[0], both[row])
        assert both[row].segments[-1].end <= frames * 0.01 + 1e-6
        assert both[row].begin[0] == 4
    times = [segment.start for segment in both[0].segments]
    assert times == sorted(times)
    assert times[-1] >= 0.16  # of the second piece at least


def test_what_is_not_good_enough_is_written_again(model):
    first, *_ = transcribe_long(model, FEATURES[:1], **NEW)
    drawn, *_ = transcribe_long(model, FEATURES[:1], **NEW, temperature=(0.0, 5.0), logprob_threshold=0.0, rng=1)
    again, *_ = transcribe_long(model, FEATURES[:1], **NEW, temperature=(0.0, 5.0), logprob_threshold=0.0, rng=1)
    kept, *_ = transcribe_long(
        model, FEATURES[:1], **NEW, temperature=(0.0, 5.0), compression_ratio_threshold=99.0, rng=1
    )
    same(drawn, again)
    same(first, kept)
    tokens = lambda found: np.concatenate([segment.tokens for segment in found.segments]).tolist()  # noqa: E731
    assert tokens(first) != tokens(drawn)
    silent, *_ = transcribe_long(model, FEATURES[:1], **NEW, logprob_threshold=0.0, no_speech_threshold=-1.0)
    assert silent.segments == []
    assert _repetition(np.full(100, 7), 64) > 5 > 1.5 > _repetition(np.arange(60), 64)


def test_what_cannot_be(model):
    bare = dataclasses.replace(model, generation={**GENERATION, "alignment_heads": None})
    with pytest.raises(InputError, match="times of words need alignment_heads"):
        transcribe_long(bare, FEATURES, return_token_timestamps=True)
    untimed = dataclasses.replace(model, generation={"decoder_start_token_id": 4})
    with pytest.raises(InputError, match="return_timestamps needs no_timestamps_token_id"):
        transcribe_long(untimed, FEATURES)


@pytest.mark.parametrize(
    ("tokens", "expected", "used"),
    [  # times from 100 on; a piece of 10 states at 3 seconds
        ([100, 7, 8, 104, 104, 9, 106, 106], [(3.0, 3.08, 4), (3.08, 3.12, 4)], 12),  # goes on from the last pair
        ([100, 7, 104, 104, 9, 106], [(3.0, 3.08, 3), (3.08, 3.12, 3)], 20),  # nothing is said after a single one
        ([100, 7, 105], [(3.0, 3.1, 3)], 20),
        ([7, 8], [(3.0, 3.2, 2)], 20),
    ],
)
def test_where_segments_are_cut(tokens, expected, used):
    segments, count = _segments(np.array(tokens), np.arange(9.0), 3.0, 20, 100)
    assert [(segment.start, segment.end, len(segment.tokens)) for segment in segments] == [
        (pytest.approx(start), pytest.approx(end), length) for start, end, length in expected
    ]
    assert [len(segment.times) for segment in segments] == [length for *_, length in expected]
    assert count == used


def test_the_cheapest_path():
    costs = np.random.default_rng(0).normal(size=(3, 5))
    ways = [
        [(0, 0), *zip(np.cumsum(rows), np.cumsum(columns), strict=True)]
        for count in range(4, 7)
        for steps in itertools.product(((1, 1), (1, 0), (0, 1)), repeat=count)
        for rows, columns in [zip(*steps, strict=True)]
        if (sum(rows), sum(columns)) == (2, 4)
    ]
    best = min(ways, key=lambda way: sum(costs[row, column] for row, column in way))
    assert path(costs).tolist() == [min(column for row, column in best if row == each) for each in range(3)]
    assert path(np.zeros((1, 4))).tolist() == [0]
    numbers = np.random.default_rng(1).normal(size=(2, 3, 9)).astype(np.float32)
    wide = np.pad(numbers, ((0, 0), (0, 0), (2, 2)), mode="reflect")
    medians = np.stack([np.median(wide[..., n : n + 5], axis=-1) for n in range(9)], axis=-1)
    np.testing.assert_array_equal(smoothed(numbers, 5), medians)
    np.testing.assert_array_equal(smoothed(numbers[..., :2], 5), numbers[..., :2])


CASES = {
    "plain": {},
    "going on": {"condition_on_prev_tokens": True},
    "in German": {"language": "de", "task": "translate"},
    "beams": {"num_beams": 2},
    "good enough": {"temperature": (0.0,), "logprob_threshold": -1.0, "compression_ratio_threshold": 1.35},
    "no speech": {"temperature": (0.0,), "logprob_threshold": -1.6, "no_speech_threshold": 0.002},
    "words": {"return_token_timestamps": True},
    "words by beams": {"return_token_timestamps": True, "num_beams": 2},
}


@pytest.fixture(scope="module")
def theirs(model, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("whisper")
    jf.save(model, folder)
    found = transformers.WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    found.generation_config = transformers.GenerationConfig(**GENERATION)
    return found


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_as_transformers_transcribes(name, model, theirs):
    torch = pytest.importorskip("torch")
    options, words = CASES[name], "words" in name
    for row, frames in enumerate(FRAMES):
        features = FEATURES[row : row + 1, :, :frames]
        given = {**options, **NEW, "return_segments": True, "return_timestamps": True}
        mask = torch.ones(1, frames, dtype=torch.long)
        expected = theirs.generate(torch.tensor(features), attention_mask=mask, **given)["segments"][0]
        found = transcribe_long(model, features, **options, **NEW)[0].segments
        assert [segment.tokens.tolist() for segment in found] == [segment["tokens"].tolist() for segment in expected]
        times = [(float(segment["start"]), float(segment["end"])) for segment in expected]
        np.testing.assert_allclose([(segment.start, segment.end) for segment in found], times, atol=1e-5)
        if words:
            for segment, their in zip(found, expected, strict=True):
                np.testing.assert_allclose(segment.times, their["token_timestamps"], atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"return_timestamps": True}], ids=["greedy", "beams", "times"]
)
def test_short_sounds_as_transformers_writes_them(options, model, theirs):
    torch = pytest.importorskip("torch")
    features = FEATURES[:, :, :16]
    expected = theirs.generate(torch.tensor(features), force_unique_generate_call=True, **NEW, **options)
    found = jf.generate.speech.transcribe(model, jnp.asarray(features), **NEW, **options).sequences
    start = found.shape[1] - expected.shape[1] if expected.shape[1] < found.shape[1] else 0
    np.testing.assert_array_equal(found[:, start:], expected)
