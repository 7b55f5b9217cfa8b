"""What Transformer-XL has of its own: a memory of fixed length, padding that is as nothing, words in groups.

transformers 5 has it no more: `tests/goldens/make_transfo_xl.py` asked an older one, for what `test_goldens` compares too.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.transformer import Execution
from jaxformers.families import transfo_xl
from tests.families.table import TRANSFO_XL, assert_same, strong
from tests.families.test_goldens import GOLDENS
from tests.goldens.make_goldens import integers

IDS = integers("transfo-xl", (3, 9), 1, 64)


@pytest.fixture(scope="module")
def model():
    return strong(TRANSFO_XL, "causal-lm")


def run(model, ids, mask=None, **named):
    """Compiled as a whole, which is quicker than operation by operation, for the next time too."""
    forward = lambda params, ids, mask: model.apply(params, input_ids=ids, attention_mask=mask, **named)  # noqa: E731
    return jax.jit(forward)(model.params, ids, mask)


def test_a_token_sees_a_fixed_number_before_it_and_nothing_later(model):
    before = np.asarray(run(model, IDS).logits)
    later = np.asarray(run(model, np.concatenate([IDS[:, :4], (IDS[:, 4:] + 1) % 64], 1)).logits)
    np.testing.assert_allclose(later[:, :4], before[:, :4], rtol=0, atol=1e-5)
    assert np.abs(later[:, 4:] - before[:, 4:]).max() > 0.1
    shallow = dataclasses.replace(model, config=model.config.replace(num_hidden_layers=1, mem_len=3))
    shallow = dataclasses.replace(
        shallow, params=model.params | {"layers": jax.tree.map(lambda leaf: leaf[:1], model.params["layers"])}
    )
    first = IDS.copy()
    first[:, 2] = (first[:, 2] + 1) % 64
    moved = np.abs(np.asarray(run(shallow, first).logits) - np.asarray(run(shallow, IDS).logits)).max((0, 2)) > 1e-4
    assert moved.tolist() == [False] * 2 + [True] * 3 + [False] * 4


def test_decoding_with_a_cache_is_the_whole_forward(model):
    """In parts of 4, 1 and 4 tokens: whole, padded left, padded right, with a hole; the memory is shorter than the text."""
    ids = np.concatenate([IDS, IDS[:1]])
    mask = np.array([[1] * 9, [0] * 3 + [1] * 6, [1] * 7 + [0] * 2, [1, 1, 0, 1, 1, 1, 1, 1, 1]])
    whole = np.asarray(run(model, ids, mask).logits)
    cache = model.family.cache(model.config, 4, 11, jnp.float32)
    step = jax.jit(lambda cache, **given: model.apply(model.params, cache=cache, execution=Execution("scan"), **given))
    found, start = [], 0
    for length in (4, 1, 4):
        part = slice(start, start + length)
        output = step(cache, input_ids=ids[:, part], attention_mask=mask[:, part])
        found.append(np.asarray(output.logits))
        cache, start = output.cache, start + length
    assert int(cache.length) == 9
    assert_same({"": np.concatenate(found, 1)}, {"": whole})


def test_padding_before_a_text_is_as_nothing(model):
    alone, mask = IDS.copy(), np.array([[0] * 4 + [1] * 5] * 3)
    alone[:, :5] = IDS[:, 4:]  # what follows is not seen
    padded = run(model, IDS, mask).logits[:, 4:]
    np.testing.assert_allclose(padded, run(model, alone, mask * 0 + 1).logits[:, :5], rtol=0, atol=1e-5)


def test_logits_are_log_probabilities(model):
    logits = run(model, IDS).logits
    np.testing.assert_allclose(jax.nn.logsumexp(logits, axis=-1), 0, atol=1e-5)
    assert (np.asarray(logits) < 0).all()


def test_it_goes_on_as_pytorch_did(model):
    """PyTorch's text stood alone; here it is padded, beside another."""
    (expected,) = json.loads((GOLDENS / "transfo-xl.generated.json").read_text())
    ids = np.concatenate([[[0, 0, *expected[:8]]], integers("other", (1, 10), 1, 64)])
    mask = np.array([[0] * 2 + [1] * 8, [1] * 10])
    found = jf.generate(model, ids, mask, max_new_tokens=10, eos_token_id=None).sequences
    np.testing.assert_array_equal(found[0, 2:], expected)
    assert len({*found[1, 10:].tolist()}) > 1


right = transfo_xl.shift
FAULTS = {
    "distances up to 2": {"clamp_len": 2},
    "a memory one too long": {"mem_len": 6},
    "epsilon": {"layer_norm_eps": 1e-3},
    "every distance one off": ("shift", lambda x: jnp.roll(right(x), 1, axis=-1)),
    "cosines first": ("distances", lambda config, table=transfo_xl.distances: np.roll(table(config), 16, axis=1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault, model, monkeypatch):
    """The goldens hold the right numbers; these must be others."""
    expected, wrong = run(model, IDS).logits, FAULTS[fault]
    if isinstance(wrong, dict):
        model = dataclasses.replace(model, config=model.config.replace(**wrong))
    else:
        monkeypatch.setattr(transfo_xl, *wrong)
    assert np.abs(np.asarray(run(model, IDS).logits - expected)).max() > 1e-4
