"""Cross-entropy over a large vocabulary, some tokens at a time: what it is with all logits at hand, and what it leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core import vocabulary
from jaxformers.core.vocabulary import Words, against, capped, unmultiplied
from jaxformers.parallel import MeshConfig, activate, make_mesh
from jaxformers.train.losses import cross_entropy

B, L, D, V = 4, 80, 8, 50
DRAW = np.random.default_rng(5)
STATES, TABLE = (DRAW.normal(size=shape).astype(np.float32) for shape in ((B, L, D), (V, D)))
BIAS = DRAW.normal(size=V).astype(np.float32)
LABELS = DRAW.integers(0, V, (B, L)).astype(np.int32)
WEIGHTS = (DRAW.random((B, L)) < 0.9).astype(np.float32) * np.array([[1], [1], [2], [1]], np.float32)


def in_pieces(cap, smoothing, states, table, bias):
    return Words(states, table, bias, cap).cross_entropy(LABELS, WEIGHTS, smoothing)


def at_once(cap, smoothing, states, table, bias):
    logits = Words(states, table, bias, cap).logits()
    return (cross_entropy(logits, LABELS, smoothing) * WEIGHTS).sum()


@pytest.mark.parametrize(
    ("bias", "cap", "smoothing"),
    [(None, None, 0.0), (BIAS, None, 0.1), (BIAS[None], 3.0, 0.0)],
    ids=["plain", "bias, smoothed", "bias, capped"],
)
def test_it_is_the_loss_over_all_logits_and_so_are_its_gradients(monkeypatch, bias, cap, smoothing):
    """Three pieces; 1e-6 of the largest number, for sums over hundreds of tokens."""
    monkeypatch.setattr(vocabulary, "AT_ONCE", 1)
    given = (STATES, TABLE, bias)
    argnums = (0, 1) if bias is None else (0, 1, 2)
    found, expected = (
        jax.value_and_grad(lambda *given, loss=loss: 3.0 * loss(cap, smoothing, *given), argnums)(*given)
        for loss in (in_pieces, at_once)
    )
    np.testing.assert_allclose(in_pieces(cap, smoothing, *given), found[0] / 3, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())


def test_tokens_that_nothing_is_asked_of_are_not_read(monkeypatch):
    monkeypatch.setattr(vocabulary, "AT_ONCE", 1)
    asked = np.zeros(B * L, np.float32)
    asked[DRAW.permutation(B * L)[:128]] = 1  # a whole piece
    asked = asked.reshape(B, L)
    states = np.where(asked[..., None] > 0, STATES, np.nan)
    loss = lambda states: Words(states, jnp.asarray(TABLE)).cross_entropy(LABELS, asked)  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(states))
    logits = jnp.einsum("BLD,VD->BLV", STATES, TABLE)
    np.testing.assert_allclose(value, (cross_entropy(logits, LABELS) * asked).sum(), rtol=1e-6)
    assert (np.asarray(gradient != 0).any(-1) == (asked > 0)).all()
    value, gradient = jax.value_and_grad(
        lambda states: Words(states, jnp.asarray(TABLE)).cross_entropy(LABELS, 0 * asked)
    )(jnp.asarray(states))
    assert value == 0
    assert not gradient.any()


def test_each_device_of_a_mesh_has_its_own_tokens(monkeypatch):
    """Cut by rows, along the length, and within a tensor group; gradients of the table come out cut by columns."""
    monkeypatch.setattr(vocabulary, "AT_ONCE", 1)
    mesh = make_mesh(MeshConfig(fsdp=2, sequence=2, tensor=2))

    @jax.jit
    def run(*given):
        with activate(mesh):
            return jax.value_and_grad(lambda *given: in_pieces(None, 0.1, *given), (0, 1, 2))(*given)

    found = run(STATES, TABLE, BIAS)
    expected = jax.value_and_grad(lambda *given: at_once(None, 0.1, *given), (0, 1, 2))(STATES, TABLE, BIAS)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())
    assert found[1][1].sharding.spec == jax.P(None, ("fsdp", "tensor"))


def test_words_are_kept_apart_only_where_that_is_asked_for_and_they_are_many(monkeypatch):
    assert isinstance(against(STATES, TABLE), jax.Array)
    with unmultiplied():
        assert isinstance(against(STATES, TABLE), jax.Array)
        monkeypatch.setattr(vocabulary, "LARGE", V)
        words = against(STATES, TABLE, BIAS)
        with unmultiplied(False):
            whole = against(STATES, TABLE, BIAS)
    assert isinstance(words, Words)
    np.testing.assert_array_equal(capped(words, 2.0).logits(), capped(whole, 2.0))
    assert isinstance(against(STATES, TABLE), jax.Array)
