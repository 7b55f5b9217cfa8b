"""A parameter is declared once: what is derived from the declaration agrees with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core import params
from jaxformers.core.params import Param, normal, ones, stacked, zeros
from jaxformers.errors import InputError
from jaxformers.parallel import MeshConfig, make_mesh

DENSE = Param((8, 16), ("embed", "mlp"), normal(0.5), "dense.{}.weight", "o i -> i o")
BIAS = Param((16,), ("mlp",), zeros, "dense.{}.bias", decay=False)
TREE = {
    "z": Param((4,), ("vocab",), ones, "last"),
    "layers": stacked(3, {"kernel": DENSE, "bias": BIAS}),
    "a": {"b": {"c": DENSE}},
}


def test_shape_and_axes_must_agree():
    with pytest.raises(ValueError, match="dense: shape \\(8, 16\\) and axes \\('embed',\\) differ in length"):
        Param((8, 16), ("embed",), zeros, "dense")


def test_stacked_adds_a_leading_axis_and_draws_each_layer_by_itself():
    layer = TREE["layers"]["kernel"]
    assert (layer.shape, layer.axes) == ((3, 8, 16), ("layers", "embed", "mlp"))
    assert dataclasses.replace(layer, shape=DENSE.shape, axes=DENSE.axes, init=DENSE.init) == DENSE
    drawn = layer.init(jax.random.key(0), layer.shape, jnp.float32)
    assert len({each.tobytes() for each in np.asarray(drawn)}) == 3
    assert 0.4 < drawn.std() < 0.6


def test_leaves_come_in_the_order_of_jax_and_nested_is_the_inverse():
    numbered = params.tree_map(lambda param: param.name, TREE)
    assert [leaf for _, leaf in params.leaves(numbered)] == jax.tree.leaves(numbered)
    assert [path for path, _ in params.leaves(TREE)] == [
        ("a", "b", "c"),
        ("layers", "bias"),
        ("layers", "kernel"),
        ("z",),
    ]
    assert params.nested(dict(params.leaves(numbered))) == numbered


def test_what_is_derived():
    drawn = params.initialise(TREE, jax.random.key(0), jnp.bfloat16)
    shapes = params.abstract(TREE, jnp.bfloat16)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), drawn) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )
    assert params.count(TREE) == sum(leaf.size for leaf in jax.tree.leaves(drawn)) == 128 + 3 * (128 + 16) + 4
    assert params.decay_mask(TREE) == {"z": True, "layers": {"kernel": True, "bias": False}, "a": {"b": {"c": True}}}


def test_a_draw_depends_on_the_key_and_the_path_alone():
    drawn = params.initialise(TREE, jax.random.key(0))
    fewer = params.initialise({"layers": TREE["layers"]}, jax.random.key(0))
    assert np.array_equal(fewer["layers"]["kernel"], drawn["layers"]["kernel"])
    twins = params.initialise({"one": DENSE, "two": DENSE}, jax.random.key(0))
    assert not np.array_equal(twins["one"], twins["two"])
    other = params.initialise({"layers": TREE["layers"]}, jax.random.key(1))
    assert not np.array_equal(other["layers"]["kernel"], drawn["layers"]["kernel"])


def test_born_on_a_mesh_it_is_the_same_and_in_its_place():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    drawn = params.initialise(TREE, jax.random.key(0), mesh=mesh)
    alone = params.initialise(TREE, jax.random.key(0))
    for (path, leaf), (_, place) in zip(params.leaves(drawn), params.leaves(params.shardings(TREE, mesh)), strict=True):
        assert leaf.sharding == place, path
    assert drawn["layers"]["kernel"].addressable_shards[0].data.shape == (3, 2, 8)
    assert jax.tree.all(jax.tree.map(lambda one, two: np.array_equal(one, two), jax.device_get(drawn), alone))


def test_a_parameter_that_cannot_be_cut_is_named():
    odd = {"layers": {"odd": Param((9, 16), ("embed", "mlp"), zeros, "odd")}}
    with pytest.raises(InputError, match="layers/odd: axis 'embed' of size 9 does not divide into 8 pieces"):
        params.shardings(odd, make_mesh(MeshConfig(fsdp=8)))


def test_a_model_that_is_too_large_is_refused(monkeypatch):
    huge = {"huge": Param((10**7, 10**7), ("embed", "mlp"), zeros, "huge")}
    with pytest.raises(InputError, match=r"the parameters need 400,000.0 GB as float32, this machine has [\d.]+ GB"):
        params.initialise(huge, jax.random.key(0))
    with pytest.raises(InputError, match=r"the parameters need 200,000.0 GB as bfloat16"):
        params.check_fits(huge, jnp.bfloat16)
    params.check_fits(TREE, jnp.float32)
