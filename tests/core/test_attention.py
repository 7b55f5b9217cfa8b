"""Attention against its formula in float64, masks, and which kernel is picked where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core.attention import attend, padding_mask, pick_kernel
from jaxformers.errors import InputError

B, L, S, H, K = 2, 3, 5, 4, 8
RANDOM = np.random.default_rng(1)
Q, KEY, V = (RANDOM.normal(size=(B, n, H, K)).astype(np.float32) for n in (L, S, S))
MASK = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 0]])


def formula(q, k, v, mask=None, scale=K**-0.5):
    logits = np.einsum("BLHK,BSHK->BHLS", q.astype(np.float64), k.astype(np.float64)) * scale
    if mask is not None:
        logits = np.where(np.broadcast_to(mask, logits.shape), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("BHLS,BSHK->BLHK", weights, v.astype(np.float64)), weights


@pytest.mark.parametrize("scale", [None, 0.05])
@pytest.mark.parametrize("masked", [False, True])
def test_attend(scale, masked):
    mask = padding_mask(jnp.asarray(MASK)) if masked else None
    out, weights = attend(Q, KEY, V, mask, scale=scale, maps=True)
    expected_out, expected_weights = formula(Q, KEY, V, mask, K**-0.5 if scale is None else scale)
    np.testing.assert_allclose(out, expected_out, atol=1e-6)
    np.testing.assert_allclose(weights, expected_weights, atol=1e-6)
    assert attend(Q, KEY, V, mask, scale=scale)[1] is None


def test_a_cap_that_no_logit_passes():
    mask, cap = padding_mask(jnp.asarray(MASK)), 0.5
    logits = np.einsum("BLHK,BSHK->BHLS", Q, KEY).astype(np.float64) * K**-0.5
    weights = np.exp(cap * np.tanh(logits / cap)) * np.asarray(mask)
    _, found = attend(Q, KEY, V, mask, cap=cap, maps=True)
    np.testing.assert_allclose(found, weights / weights.sum(-1, keepdims=True), atol=1e-6)
    capped, plain = (attend(Q, KEY, V, kernel="cudnn", cap=cap)[0], attend(Q, KEY, V, cap=cap)[0])
    np.testing.assert_array_equal(capped, plain)


def test_a_mask_for_every_query():
    mask = RANDOM.integers(0, 2, (B, L, S)) | np.eye(L, S, dtype=int)
    out, _ = attend(Q, KEY, V, padding_mask(jnp.asarray(mask)))
    np.testing.assert_allclose(out, formula(Q, KEY, V, mask[:, None] > 0)[0], atol=1e-6)


def test_what_is_hidden_changes_nothing():
    mask = padding_mask(jnp.asarray(MASK))
    hidden = (MASK == 0)[:, :, None, None]
    other = [np.where(hidden, np.float32(7), array) for array in (KEY, V)]
    np.testing.assert_array_equal(attend(Q, KEY, V, mask)[0], attend(Q, *other, mask)[0])


def test_masks_of_other_shapes():
    assert padding_mask(None) is None
    assert padding_mask(jnp.ones((2, 5), jnp.int32)).shape == (2, 1, 1, 5)
    assert padding_mask(jnp.ones((2, 3, 5))).shape == (2, 1, 3, 5)
    assert padding_mask(jnp.ones((2, 5), jnp.int32)).dtype == bool
    with pytest.raises(InputError, match=r"attention_mask must be \[batch, length\].*found shape \(5,\)"):
        padding_mask(jnp.ones(5))


def test_a_row_with_nothing_to_look_at_is_free_of_nan():
    def total(q):
        out, weights = attend(q, KEY, V, jnp.zeros((B, 1, 1, S), bool), maps=True)
        return out.sum(), weights

    (value, weights), gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(Q))
    np.testing.assert_allclose(weights, 1 / S, atol=1e-6)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_large_logits_do_not_overflow():
    out, _ = attend(Q * 1e4, KEY * 1e4, V)
    assert np.isfinite(out).all()


def equations(jaxpr):
    """Every operation of a traced function, inner ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, "eqns")):
            yield from equations(value) if hasattr(value, "eqns") else ()


def test_softmax_is_float32_whatever_the_inputs_are():
    q, k, v = (jnp.asarray(array, jnp.bfloat16) for array in (Q, KEY, V))
    traced = jax.make_jaxpr(lambda *qkv: attend(*qkv, maps=True))(q, k, v)
    softmax = [e for e in equations(traced.jaxpr) if e.primitive.name in ("exp", "div", "reduce_sum")]
    assert {e.primitive.name for e in softmax} == {"exp", "div", "reduce_sum"}
    assert {value.aval.dtype for e in softmax for value in e.outvars} == {jnp.dtype("float32")}
    out, weights = attend(q, k, v, maps=True)
    assert out.dtype == weights.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), formula(Q, KEY, V)[0], atol=0.05)


def test_dropout_of_weights():
    out, weights = attend(Q, KEY, V, dropout_rate=0.5, rng=jax.random.key(0), maps=True)
    _, whole = attend(Q, KEY, V, maps=True)
    kept = weights != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(weights[kept], 2 * whole[kept], rtol=1e-6)
    np.testing.assert_allclose(out, np.einsum("BHLS,BSHK->BLHK", weights, V), atol=1e-6)
    np.testing.assert_array_equal(attend(Q, KEY, V, dropout_rate=0.5)[0], attend(Q, KEY, V)[0])


@pytest.mark.parametrize(
    ("platform", "dtype", "size", "dropout", "maps", "expected"),
    [
        ("gpu", "bfloat16", 64, False, False, "cudnn"),
        ("gpu", "float16", 128, False, False, "cudnn"),
        ("gpu", "float32", 64, False, False, "xla"),
        ("gpu", "bfloat16", 136, False, False, "xla"),
        ("gpu", "bfloat16", 60, False, False, "xla"),
        ("gpu", "bfloat16", 64, True, False, "xla"),
        ("gpu", "bfloat16", 64, False, True, "xla"),
        ("cpu", "bfloat16", 64, False, False, "xla"),
        ("tpu", "bfloat16", 64, False, False, "xla"),
    ],
)
def test_the_kernel_for_the_device(platform, dtype, size, dropout, maps, expected):
    assert pick_kernel(platform, jnp.dtype(dtype), size, dropout=dropout, maps=maps) == expected
