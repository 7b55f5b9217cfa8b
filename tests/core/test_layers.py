"""The small layers against their formulas in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core.layers import (
    ACTIVATIONS,
    conv,
    declare_linear,
    declare_norm,
    dropout,
    layer_norm,
    linear,
    random_words,
    split_rng,
)
from jaxformers.core.params import leaves, normal
from jaxformers.parallel.mesh import MeshConfig, activate, make_mesh, shard

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 5, 8)).astype(np.float32)


def test_linear():
    params = {"kernel": RANDOM.normal(size=(8, 4)).astype(np.float32), "bias": np.arange(4, dtype=np.float32)}
    expected = np.einsum("BLD,DF->BLF", X.astype(np.float64), params["kernel"]) + np.arange(4)
    np.testing.assert_allclose(linear(params, X), expected, atol=1e-5)
    np.testing.assert_allclose(linear({"kernel": params["kernel"]}, X), expected - np.arange(4), atol=1e-5)


def test_declarations():
    declared = dict(leaves(declare_linear(8, 4, "dense", normal(0.1), ("embed", "mlp"))))
    assert {path: (p.shape, p.axes, p.name, p.decay) for path, p in declared.items()} == {
        ("bias",): ((4,), ("mlp",), "dense.bias", False),
        ("kernel",): ((8, 4), ("embed", "mlp"), "dense.weight", True),
    }
    assert [path for path, _ in leaves(declare_linear(8, 4, "dense", normal(0.1), bias=False))] == [("kernel",)]
    norm = dict(leaves(declare_norm(8, "norm")))
    assert {path: (p.shape, p.name, p.decay) for path, p in norm.items()} == {
        ("bias",): ((8,), "norm.bias", False),
        ("scale",): ((8,), "norm.weight", False),
    }


def normalised(x, epsilon):
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 1.0])
def test_layer_norm(epsilon):
    params = {"scale": np.arange(8, dtype=np.float32), "bias": np.ones(8, np.float32)}
    # Epsilon joins the variance, which is here of order 1, small, and small beside the mean.
    for x, tolerance in ((X, 1e-5), (X * 1e-3, 1e-5), (X + 100, 2e-4)):
        expected = normalised(x, epsilon) * np.arange(8) + 1
        np.testing.assert_allclose(layer_norm(params, x, epsilon), expected, atol=tolerance)


def test_layer_norm_is_computed_in_float32_and_given_back_as_it_came():
    params = {"scale": jnp.ones(256, jnp.bfloat16), "bias": jnp.zeros(256, jnp.bfloat16)}
    x = jnp.asarray(100 + RANDOM.normal(size=(2, 256)), jnp.bfloat16)
    found = layer_norm(params, x, 1e-12)
    assert found.dtype == jnp.bfloat16
    expected = normalised(np.asarray(x, np.float32), 1e-12)
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=0.02)


def test_a_constant_row_has_no_nan():
    params = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    value, gradient = jax.value_and_grad(lambda x: layer_norm(params, x, 1e-12).sum())(jnp.full((2, 8), 3.0))
    assert value == 0
    assert np.isfinite(gradient).all()


FORMULAS = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
}
ALIASES = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation(name):
    x = np.linspace(-6, 6, 97, dtype=np.float32)
    expected = [FORMULAS[ALIASES.get(name, name)](float(value)) for value in x]
    np.testing.assert_allclose(ACTIVATIONS[name](x), expected, atol=2e-6)


def test_dropout_drops_its_share_and_keeps_the_mean():
    x = jnp.ones((100, 1000))
    found = dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(found)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert abs(float((found == 0).mean()) - 0.25) < 0.005
    assert abs(float(found.mean()) - 1) < 0.01
    assert np.array_equal(found, dropout(x, 0.25, jax.random.key(0)))
    assert not np.array_equal(found, dropout(x, 0.25, jax.random.key(1)))
    assert dropout(x.astype(jnp.bfloat16), 0.25, jax.random.key(0)).dtype == jnp.bfloat16


def test_dropout_passes_gradients_only_through_what_is_kept():
    x = jnp.arange(1.0, 9.0)
    gradient = jax.grad(lambda x: dropout(x, 0.5, jax.random.key(3)).sum())(x)
    np.testing.assert_array_equal(gradient, dropout(x, 0.5, jax.random.key(3)) / x)


def test_no_key_and_no_rate_are_no_dropout():
    assert dropout(X, 0.5, None) is X
    assert dropout(X, 0.0, jax.random.key(0)) is X


def test_split_rng():
    assert split_rng(None, 3) == (None, None, None)
    keys = split_rng(jax.random.key(0), 3)
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3


def test_random_words_have_no_pattern():
    """Every bit is fair, and unrelated to the next column's, the next row's and the next key's."""
    keys = jax.random.split(jax.random.key(5), 2)
    words = np.stack([random_words(key, (8, 12, 56, 64)) for key in keys])
    bits = np.unpackbits(words.view(np.uint8), axis=-1).reshape(*words.shape, 32).astype(np.int8) * 2 - 1
    several = 5 / math.sqrt(bits[0, ..., 0].size)  # standard deviations of a fair coin's mean
    assert abs(bits.mean((0, 1, 2, 3, 4))).max() < several
    for axis in range(5):  # key, batch, head, query, column
        neighbours = np.diff(np.sort(words, axis=axis), axis=axis)
        product = np.take(bits, range(1, words.shape[axis]), axis) * np.take(bits, range(words.shape[axis] - 1), axis)
        several = 5 / math.sqrt(product[..., 0].size)
        assert abs(product.mean((0, 1, 2, 3, 4))).max() < several, axis
        assert (neighbours == 0).mean() < 1e-3
    by_bit = (bits.reshape(-1, 32).T.astype(np.float32) @ bits.reshape(-1, 32).astype(np.float32)) / words.size
    assert abs(by_bit - np.eye(32)).max() < 5 / math.sqrt(words.size)


def test_random_words_are_the_same_jitted_and_for_old_keys():
    key = jax.random.key(7)
    words = random_words(key, (3, 5))
    assert np.array_equal(words, jax.jit(lambda key: random_words(key, (3, 5)))(key))
    assert np.array_equal(words, random_words(jax.random.key_data(key), (3, 5)))
    assert random_words(key, ()).shape == ()


@pytest.mark.parametrize("config", [MeshConfig(fsdp=2, tensor=2), MeshConfig(fsdp=2, sequence=2, tensor=2)], ids=str)
def test_a_convolution_over_a_mesh_has_the_gradient_it_has_on_one_device(config):
    """XLA doubles the kernel's where it divides groups, or places that a mesh cuts, by itself."""
    x, kernel, out = (
        jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(8, 16, 16), (3, 4, 16), (16, 8)])
    )

    def gradient(kernel, x, mesh):
        def loss(kernel):
            with activate(mesh):
                y = shard(conv({"kernel": kernel}, x, padding=1, groups=4), "batch", "length", "embed")
                return jnp.square(jnp.tanh(shard(y @ out, "batch", "length", "mlp"))).sum()

        return jax.grad(loss)(kernel)

    mesh = make_mesh(config)
    places = jax.NamedSharding(mesh, jax.P(None, None, "fsdp")), jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    found = jax.jit(lambda *given: gradient(*given, mesh))(*map(jax.device_put, (kernel, x), places))
    expected = jax.jit(lambda *given: gradient(*given, None))(kernel, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
