"""Attention against its formula in float64, masks, and which kernel is picked where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core import attention
from jaxformers.core.attention import Mask, attend, causal_mask, looking_back, padding_mask, pick_kernel
from jaxformers.errors import InputError
from jaxformers.parallel import MeshConfig, activate, make_mesh, shard
from jaxformers.parallel.collectives import collectives, volume

B, L, S, H, K = 2, 3, 5, 4, 8
RANDOM = np.random.default_rng(1)
Q, KEY, V = (RANDOM.normal(size=(B, n, H, K)).astype(np.float32) for n in (L, S, S))
MASK = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 0]])


def formula(q, k, v, mask=None, scale=K**-0.5):
    mask = mask.booleans(q.shape[1], k.shape[1]) if isinstance(mask, Mask) else mask
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
    weights = np.exp(cap * np.tanh(logits / cap)) * np.asarray(mask.booleans(L, S))
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
    assert Mask().booleans(3, 5) is None
    for given, shape in (((2, 5), (2, 1, 1, 5)), ((2, 3, 5), (2, 1, 3, 5))):
        seen = padding_mask(jnp.ones(given, jnp.int32)).booleans(3, 5)
        assert (seen.shape, seen.dtype) == (shape, bool)
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
        ("tpu", "bfloat16", 64, False, False, "splash"),
        ("tpu", "float32", 128, False, False, "splash"),
        ("tpu", "bfloat16", 64, True, False, "xla"),
        ("tpu", "bfloat16", 64, False, True, "xla"),
    ],
)
def test_the_kernel_for_the_device(platform, dtype, size, dropout, maps, expected):
    assert pick_kernel(platform, jnp.dtype(dtype), size, dropout=dropout, maps=maps) == expected


@pytest.mark.parametrize(
    ("asked", "on_gpu", "on_tpu"),
    [
        ({"lengths": (256, 128)}, "cudnn", "splash"),
        ({"lengths": (256, 100)}, "cudnn", "xla"),
        ({"bias": True}, "cudnn", "xla"),
        ({"pairs": True}, "cudnn", "xla"),
        ({"cap": True}, "xla", "splash"),
    ],
)
def test_what_each_fused_kernel_leaves_to_xla(asked, on_gpu, on_tpu):
    assert [pick_kernel(platform, jnp.dtype("bfloat16"), 64, **asked) for platform in ("gpu", "tpu")] == [
        on_gpu,
        on_tpu,
    ]


def long(heads, groups, last, size=8):
    """Two texts, the second with `last` real tokens."""
    draw = np.random.default_rng(2)
    q, k, v = (draw.normal(size=(2, 128, each, size)).astype(np.float32) for each in (heads, groups, groups))
    return (q, k, v), jnp.asarray(np.arange(128)[None] < np.array([[128], [last]]), jnp.int32)


@pytest.mark.parametrize(
    ("mask", "groups", "last", "cap"),
    [
        (padding_mask, 2, 0, None),
        (looking_back, 1, 70, None),
        (lambda real: looking_back(None, window=30), 1, 128, 2.0),
    ],
    ids=["padding, and a row of nothing else", "back, shared keys", "near, shared keys, capped"],
)
def test_the_kernel_of_tpus_computes_what_xla_does(mask, groups, last, cap):
    """Values and gradients of what is real, interpreted."""
    qkv, real = long(2, groups, last)

    def run(kernel, *qkv):
        out = attend(*qkv, mask(real), cap=cap, kernel=kernel)[0] * real[:, :, None, None]
        return jnp.square(out).sum(), out

    (_, out), gradients = jax.value_and_grad(lambda *qkv: run("splash", *qkv), (0, 1, 2), has_aux=True)(*qkv)
    (_, expected), wanted = jax.value_and_grad(lambda *qkv: run("xla", *qkv), (0, 1, 2), has_aux=True)(*qkv)
    for found, right in zip((out, *gradients), (expected, *wanted), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-6, atol=5e-6)


def test_a_kernel_that_cannot_do_it_says_so():
    with pytest.raises(InputError, match=r"splash kernel cannot attend \[3 × 5\] tokens with bias"):
        attend(Q, KEY, V, bias=jnp.zeros((1, H, L, S)), kernel="splash")


def test_a_mask_in_words_is_what_it_says():
    real = jnp.asarray(MASK)
    seen = np.tril(np.ones((S, S), bool)) & np.asarray(MASK)[:, None, None, :].astype(bool)
    np.testing.assert_array_equal(looking_back(real).booleans(S, S), seen)
    np.testing.assert_array_equal(looking_back(None, 2).booleans(S, S), causal_mask(S, S, window=2))
    both = Mask(keys=real, pairs=causal_mask(L, S, 1)).booleans(L, S)
    np.testing.assert_array_equal(both, seen[:, :, 1 : 1 + L])


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_texts_that_are_cut_along_their_length(groups):
    """Padding, what is later, bias, keys that heads share: as on one device; and each device has whole texts of a head."""
    draw = np.random.default_rng(3)
    q, k, v = (draw.normal(size=(2, 8, each, K)).astype(np.float32) for each in (4, groups, groups))
    real = jnp.asarray(np.arange(8)[None] < np.array([[8], [5]]))
    bias = jnp.asarray(draw.normal(size=(1, 4, 8, 8)), jnp.float32)
    mesh = make_mesh(MeshConfig(data=2, sequence=4))

    def run(q, k, v):
        with activate(mesh):
            qkv = (shard(x, "batch", "length", None, None) for x in (q, k, v))
            return attend(*qkv, looking_back(real), bias=bias)[0]

    compiled = jax.jit(run).lower(q, k, v).compile()
    np.testing.assert_allclose(compiled(q, k, v), attend(q, k, v, looking_back(real), bias=bias)[0], atol=1e-6)
    assert volume(collectives(compiled.as_text())).keys() <= {"all-to-all", "all-gather"}


def test_heads_that_do_not_divide_among_the_pieces_of_a_text_are_refused():
    with (
        activate(make_mesh(MeshConfig(sequence=8))),
        pytest.raises(InputError, match="4 attention heads do not divide"),
    ):
        attend(Q, KEY, V)


def test_what_long_texts_weigh_is_computed_again_and_not_kept(monkeypatch):
    draw = np.random.default_rng(0)
    q, k, v = (jnp.asarray(draw.normal(size=(2, 6, 4, 8)), jnp.float32) for _ in range(3))
    rng = jax.random.key(1)

    def run(q, k, v):
        return attend(q, k, v, Mask(causal=True), dropout_rate=0.5, rng=rng)[0]

    kept, back = jax.vjp(run, q, k, v)
    weighs = lambda back: [leaf.shape for leaf in jax.tree.leaves(back) if leaf.shape == (2, 4, 6, 6)]  # noqa: E731
    assert weighs(back)
    monkeypatch.setattr(attention, "LONG", 6 * 6)
    again, other = jax.vjp(run, q, k, v)
    assert not weighs(other)
    np.testing.assert_allclose(again, kept, rtol=0, atol=1e-6)
    for left, right in zip(back(kept), other(kept), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-6)
