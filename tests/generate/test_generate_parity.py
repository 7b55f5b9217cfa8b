"""We generate what PyTorch transformers generates, token for token: greedy and by beams, by every option that bans or forces."""

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.families import family_for
from tests.families.table import DECODERS, ENCODER_DECODERS, GPT2, LLAMA, T5, XLM, XLNET, Row, name_of, strong
from tests.goldens.make_goldens import integers, torch_model

pytestmark = pytest.mark.parity
IDS = integers("prompt", (3, 5), 3, 64)
LEFT = np.array([[1] * 5, [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]])
RIGHT = np.array([[1] * 5, [1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
ENDS = {"eos_token_id": [7, 21], "pad_token_id": 5}


@pytest.fixture(scope="module", autouse=True)
def torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers").utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    return torch


def theirs(row):
    model = torch_model(family_for(row.family).architectures[row.whole], dict(row.config))
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    model.generation_config.use_cache = True
    return model


@pytest.fixture(scope="module")
def models():
    return {row.family: theirs(row) for row in (GPT2, LLAMA, T5)}


def both(model, row, mask=None, ids=IDS, **options):
    """The two libraries' outputs."""
    import torch

    mask = np.ones_like(ids) if mask is None else mask
    options = {"max_new_tokens": 12, **ENDS, **options}
    expected = model.generate(
        torch.from_numpy(ids.astype(np.int64)),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **options,
    )
    options = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return jf.generate(strong(row, row.whole), ids, mask, output_scores=True, output_logits=True, **options), expected


def assert_equal(found, expected, tolerance=2e-5):
    np.testing.assert_array_equal(found.sequences, expected.sequences.numpy())
    if found.sequences_scores is not None:
        np.testing.assert_allclose(found.sequences_scores, expected.sequences_scores.numpy(), rtol=1e-6, atol=1e-5)
        np.testing.assert_array_equal(found.beam_indices, expected.beam_indices.numpy())
    for name in ("scores", "logits"):
        ours, their = getattr(found, name), getattr(expected, name)
        assert len(ours) == len(their)
        alive = np.ones(len(ours[0]), bool)  # what a row that has ended would have said is nobody's business
        for n, (a, b) in enumerate(zip(ours, their, strict=True)):
            if found.beam_indices is None:
                np.testing.assert_allclose(a[alive], b.numpy()[alive], rtol=0, atol=tolerance, err_msg=f"{name} {n}")
                alive &= ~np.isin(found.sequences[:, found.sequences.shape[1] - len(ours) + n], ENDS["eos_token_id"])


@pytest.mark.parametrize("mask", [None, LEFT], ids=["whole", "padded left"])
@pytest.mark.parametrize("row", DECODERS, ids=name_of)
def test_greedy(row, mask, models):
    assert_equal(*both(models.get(row.family) or theirs(row), row, mask))


def asking(row, **changes):
    return Row(row.family, {**row.config, **changes}, "causal-lm", {})


# As published: XLNet remembers all that it has read. What it remembers is what PyTorch does, whose memory the flags turn on.
ASKING = {
    "xlnet": asking(XLNET, use_mems_eval=True, mem_len=None),
    "xlnet, distances up to 3": asking(XLNET, use_mems_eval=True, mem_len=None, clamp_len=3),
    "xlm": asking(XLM),
    "xlm that looks back": asking(XLM, causal=True),
    "xlm in a language": asking(XLM, lang_id=1, mask_token_id=7),
}


@pytest.mark.parametrize("row", ASKING.values(), ids=ASKING)
def test_those_that_ask_at_the_next_place(row):
    model = theirs(row)
    for options in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        assert_equal(*both(model, row, **options))
    assert_equal(*both(model, row, ids=IDS[:, :1]))


OPTIONS = {
    "penalty": {"repetition_penalty": 1.7},
    "no pair twice": {"no_repeat_ngram_size": 2},
    "no triple twice": {"no_repeat_ngram_size": 3, "max_new_tokens": 19},
    "no token twice": {"no_repeat_ngram_size": 1},
    "bad words": {"bad_words_ids": [[11], [34, 12], [3, 4, 5], [7]]},
    "bias": {"sequence_bias": [[[11], 3.0], [[20, 30], -8.0], [[9, 9], 5.0]]},
    "at least 11 tokens": {"min_length": 11},
    "at least 6 new tokens": {"min_new_tokens": 6},
    "the end is forced": {"forced_eos_token_id": 7},
    "the end comes nearer": {"exponential_decay_length_penalty": (3, 1.6)},
    "suppressed": {"suppress_tokens": [7, 21, 40], "begin_suppress_tokens": list(range(8, 60))},
    "normalised": {"renormalize_logits": True, "repetition_penalty": 1.3},
    "one token": {"max_new_tokens": 1},
    "by length": {"max_new_tokens": None, "max_length": 9},
    "nothing of the prompt": {"encoder_no_repeat_ngram_size": 1},
    "more of the prompt": {"encoder_repetition_penalty": 1.5},
    "all at once": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "bad_words_ids": [[12]], "min_new_tokens": 4,
                    "exponential_decay_length_penalty": (5, 1.3), "suppress_tokens": [40], "renormalize_logits": True},
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_greedy_with_options(options, models):
    assert_equal(*both(models["gpt2"], GPT2, **options))


BEAMS = {
    "3": {"num_beams": 3},
    "all of them": {"num_beams": 3, "num_return_sequences": 3},
    "early": {"num_beams": 4, "early_stopping": True, "num_return_sequences": 2},
    "never early": {"num_beams": 3, "early_stopping": "never"},
    "long ones": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
    "short ones": {"num_beams": 3, "length_penalty": -1.0},
    "without ends": {"num_beams": 2, "eos_token_id": None},
    "with options": {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2, "min_new_tokens": 3},
}


@pytest.mark.parametrize("options", BEAMS.values(), ids=BEAMS)
@pytest.mark.parametrize("row", [GPT2, LLAMA], ids=name_of)
def test_beams(row, options, models):
    assert_equal(*both(models[row.family], row, LEFT if row is LLAMA else None, **options))


@pytest.mark.parametrize("row", ENCODER_DECODERS, ids=name_of)
@pytest.mark.parametrize("mask", [None, RIGHT], ids=["whole", "padded"])
def test_encoder_decoders(row, mask, models):
    """Greedily, and three beams of which two are returned; ends that come at once or never."""
    model = models.get(row.family) or theirs(row)
    for options in ({}, {"num_beams": 3, "length_penalty": 0.5, "num_return_sequences": 2}):
        assert_equal(*both(model, row, mask, **options))


READ = {
    "all of them": {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 2.0},
    "early": {"num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 2},
    "never early": {"num_beams": 3, "early_stopping": "never"},
    "no token of the source": {"encoder_no_repeat_ngram_size": 1},
    "no pair of the source, beams": {"encoder_no_repeat_ngram_size": 2, "num_beams": 2},
    "more of the source": {"encoder_repetition_penalty": 2.5},
    "more of the source, beams": {"encoder_repetition_penalty": 2.5, "num_beams": 3},
    "forced at both ends": {"forced_bos_token_id": 33, "forced_eos_token_id": 7, "num_beams": 2},
    "by length": {"max_new_tokens": None, "max_length": 9, "min_length": 5},
    "of default length": {"max_new_tokens": None, "eos_token_id": None},
    "a language first": {"decoder_input_ids": np.array([[41], [42], [43]])},
    "a whole prompt": {"decoder_input_ids": np.array([[0, 41], [0, 42], [0, 43]]), "num_beams": 2},
}


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("options", READ.values(), ids=READ)
def test_encoder_decoders_with_options(options, models):
    import torch

    options = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    assert_equal(*both(models["t5"], T5, **options))


def test_a_start_from_nothing(models):
    import torch

    expected = models["gpt2"].generate(bos_token_id=1, max_new_tokens=6, pad_token_id=5)
    found = jf.generate(strong(GPT2, "causal-lm"), bos_token_id=1, max_new_tokens=6, eos_token_id=None, pad_token_id=5)
    np.testing.assert_array_equal(found.sequences, expected.numpy())
    forced = {
        "forced_bos_token_id": 33,
        "begin_suppress_tokens": list(range(10)),
        "max_new_tokens": 5,
        "pad_token_id": 5,
    }
    expected = models["gpt2"].generate(torch.tensor([[4]]), **forced)
    np.testing.assert_array_equal(
        jf.generate(strong(GPT2, "causal-lm"), [[4]], eos_token_id=None, **forced).sequences, expected
    )


def test_what_is_allowed_is_asked_at_every_step(models):
    allow = lambda row, tokens: [int(tokens[-1]) % 50 + 3, 8 + int(row), 40]  # noqa: E731
    for options in ({}, {"num_beams": 2}):
        assert_equal(*both(models["gpt2"], GPT2, prefix_allowed_tokens_fn=allow, **options))
