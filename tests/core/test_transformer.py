"""The stack: how a run of layers is chosen, what it hands to each layer, what it gives back."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core.transformer import LOOP_UP_TO, Execution, stack, unstack
from jaxformers.errors import InputError
from jaxformers.parallel import MeshConfig, activate, make_mesh

X = jnp.arange(6.0).reshape(1, 2, 3)


def block(params, x, *, rng, maps, kernel):
    """A layer that shows what it was given."""
    noise = 0 if rng is None else jax.random.normal(rng, ())
    return 2 * x + params["add"] + noise, jnp.full((1, 1), params["add"]) if maps else None


def layers(depth):
    return {"add": jnp.arange(1.0, depth + 1)}


def scans(depth, execution=Execution(), mesh=None):  # noqa: B008 (frozen)
    def run(params):
        with activate(mesh):
            return stack(params, block, X, execution=execution)[0]

    return "scan" in str(jax.make_jaxpr(run)(layers(depth)))


@pytest.mark.parametrize("layout", ["scan", "loop"])
def test_layers_run_in_order(layout):
    out, states, maps = stack(
        layers(3),
        block,
        X,
        output_hidden_states=True,
        output_attentions=True,
        execution=Execution(layers=layout),
    )
    expected = [X, 2 * X + 1, 4 * X + 4, 8 * X + 11]
    assert len(states) == 4
    for found, wanted in zip(states, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(out, expected[-1])
    assert [float(each[0, 0]) for each in maps] == [1, 2, 3]
    assert stack(layers(3), block, X, execution=Execution(layers=layout))[1:] == (None, None)


@pytest.mark.parametrize("layout", ["scan", "loop"])
def test_each_layer_has_a_key_of_its_own(layout):
    same = {"add": jnp.zeros(3)}
    _, states, _ = stack(
        same, block, X, rng=jax.random.key(0), output_hidden_states=True, execution=Execution(layers=layout)
    )
    noises = [float((after - 2 * before)[0, 0, 0]) for before, after in itertools.pairwise(states)]
    assert len(set(noises)) == 3
    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_allclose(noises, [float(jax.random.normal(key, ())) for key in keys], atol=1e-5)


def test_the_choice_between_scan_and_loop():
    assert not scans(LOOP_UP_TO)
    assert scans(LOOP_UP_TO + 1)
    assert scans(2, Execution(layers="scan"))
    assert not scans(LOOP_UP_TO + 1, Execution(layers="loop"))
    assert scans(2, mesh=make_mesh(MeshConfig(fsdp=8)))
    assert not scans(2, mesh=make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layers": "unrolled"}, "layers must be 'scan', 'loop' or None, found 'unrolled'"),
        ({"remat": "some"}, "remat must be one of full, dots or None, found 'some'"),
    ],
)
def test_an_execution_that_does_not_exist(wrong, words):
    with pytest.raises(InputError, match=words):
        Execution(**wrong)


def test_unstack_is_indexing_and_its_gradient_one_concatenation():
    params = {"a": jnp.arange(12.0).reshape(3, 4), "b": {"c": jnp.arange(3.0)}}
    pieces = unstack(params, 3)
    for n, piece in enumerate(pieces):
        assert jax.tree.all(jax.tree.map(lambda found, whole, n=n: np.array_equal(found, whole[n]), piece, params))

    def total(params):
        return sum((n + 1) * jnp.sum(piece["a"] ** 2) for n, piece in enumerate(unstack(params, 3)))

    np.testing.assert_array_equal(
        jax.grad(total)(params)["a"], 2 * params["a"] * jnp.array([[1.0], [2.0], [3.0]]) @ jnp.eye(4)
    )
    gradient = str(jax.make_jaxpr(jax.grad(total))(params))
    assert "concatenate" in gradient
    assert "pad" not in gradient


def test_a_loop_is_traced_once_where_it_is_asked_for():
    """And gives the same."""
    calls = []

    def counted(params, x, *, rng, maps, kernel):
        calls.append(x)
        return block(params, x, rng=rng, maps=maps, kernel=kernel)

    def run(once):
        calls.clear()
        execution = Execution(layers="loop", trace_once=once)
        out = jax.jit(lambda params: stack(params, counted, X, execution=execution)[0])(layers(4))
        return np.asarray(out), len(calls)

    (each, four), (once, one) = run(False), run(True)
    assert (four, one) == (4, 1)
    assert np.array_equal(each, once)
