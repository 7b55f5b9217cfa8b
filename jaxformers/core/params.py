"""Parameters, declared once.

A family describes each parameter by one `Param`: shape, logical axes, initialiser, and where it lives in a Hugging Face
checkpoint. From the tree of declarations come random initialisation, abstract shapes, shardings, the weight-decay mask,
the count, and (in `jaxformers.checkpoints`) loading and saving. A parameter's shape is written nowhere else.
"""

import dataclasses
import functools
import math
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding

from jaxformers.errors import InputError
from jaxformers.parallel.mesh import sharding_for

Tree = dict[str, Any]  # a nested dict of Param, of arrays, or of whatever is derived from them
STATS = "stats"  # where running statistics of batches stand: a training forward renews them, nothing learns them
Initialiser = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]  # (key, shape, dtype) -> array

zeros: Initialiser = jax.nn.initializers.zeros
ones: Initialiser = jax.nn.initializers.ones


@functools.cache
def normal(std: float) -> Initialiser:
    """Gaussian of mean 0 and standard deviation `std`; the same function for the same `std`."""
    return jax.nn.initializers.normal(std)


@functools.cache
def constant(value: float) -> Initialiser:
    """`value` everywhere."""
    return jax.nn.initializers.constant(value)


@dataclasses.dataclass(frozen=True)
class Param:
    """One parameter.

    Args:
      shape: its shape.
      axes: a logical axis for each dimension (see `parallel.mesh.PARAMETER_RULES`).
      init: its initialiser.
      name: its name in a Hugging Face checkpoint; `{}` stands for the layer's number.
      layout: how the checkpoint's array becomes ours, such as `"(h k) d -> d h k"`; empty means unchanged.
      decay: whether weight decay applies; biases and norms say no.
      learns: whether training moves it; what an adapter stands on says no, and statistics and fixed tables do.
      first: the number of the first layer in the checkpoint, where the earlier ones lack this parameter.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Initialiser
    name: str
    layout: str = ""
    decay: bool = True
    first: int = 0
    learns: bool = True

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"{self.name}: shape {self.shape} and axes {self.axes} differ in length")


def stacked(depth: int, tree: Tree) -> Tree:
    """The declaration of `depth` equal layers: every parameter gains a leading `layers` axis."""

    def stack(param: Param) -> Param:
        return dataclasses.replace(
            param, shape=(depth, *param.shape), axes=("layers", *param.axes), init=_layer_by_layer(param.init)
        )

    return tree_map(stack, tree)


@functools.lru_cache(1024)
def _layer_by_layer(init: Initialiser) -> Initialiser:
    """`init` with a key of its own for each layer."""

    def stacked_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        keys = jax.random.split(key, shape[0])
        return jax.vmap(lambda layer_key: init(layer_key, shape[1:], dtype))(keys)

    return stacked_init


def tree_map(function: Callable[[Param], Any], tree: Tree) -> Tree:
    """Applies `function` to every declaration."""
    return jax.tree.map(function, tree, is_leaf=lambda leaf: isinstance(leaf, Param))


def leaves(tree: Tree, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each leaf of a nested dict with its path, in sorted order (the order of `jax.tree.leaves`)."""
    for key in sorted(tree):
        if isinstance(tree[key], dict):
            yield from leaves(tree[key], (*prefix, key))
        else:
            yield (*prefix, key), tree[key]


def nested(flat: dict[tuple[str, ...], Any]) -> Tree:
    """The nested dict of a flat one: the inverse of `leaves`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = leaf
    return tree


def abstract(tree: Tree, dtype: Any = jnp.float32) -> Tree:
    """Shapes and dtypes without memory: a `jax.ShapeDtypeStruct` for each parameter."""
    return tree_map(lambda param: jax.ShapeDtypeStruct(param.shape, dtype), tree)


def count(tree: Tree) -> int:
    """The number of scalars in all parameters."""
    return sum(math.prod(param.shape) for _, param in leaves(tree))


def decay_mask(tree: Tree) -> Tree:
    """True where weight decay applies."""
    return tree_map(lambda param: param.decay, tree)


def shardings(tree: Tree, mesh: Mesh) -> Tree:
    """Where each parameter lives on `mesh`. Raises `InputError`, naming the parameter, where an axis does not fit."""
    return nested({path: sharding_for(param.axes, param.shape, mesh, "/".join(path)) for path, param in leaves(tree)})


def initialise_leaf(
    path: tuple[str, ...], param: Param, key: jax.Array, dtype: Any, sharding: Sharding | None = None
) -> jax.Array:
    """One parameter's random start; it depends on the key and the parameter's path, not on what else is in the tree."""
    salt = np.uint32(zlib.crc32("/".join(path).encode()))
    return _drawing(param.init, param.shape, jnp.dtype(dtype), sharding)(key, salt)


@functools.lru_cache(1024)
def _drawing(init: Initialiser, shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding | None) -> Any:
    """One program for all parameters of a shape: a model has few, and compiling them is most of a small model's start."""
    return jax.jit(lambda key, salt: init(jax.random.fold_in(key, salt), shape, dtype), out_shardings=sharding)


def initialise(tree: Tree, key: jax.Array, dtype: Any = jnp.float32, mesh: Mesh | None = None) -> Tree:
    """Draws every parameter, born in its place on `mesh`.

    Args:
      tree: declarations.
      key: a `jax.random.key`.
      dtype: how the parameters are stored.
      mesh: where they live; None means the default device.

    Returns:
      A nested dict of arrays with the structure of `tree`.

    Raises:
      InputError: the parameters cannot fit into this machine's memory.
    """
    check_fits(tree, dtype)
    places = {} if mesh is None else dict(leaves(shardings(tree, mesh)))
    return nested({path: initialise_leaf(path, param, key, dtype, places.get(path)) for path, param in leaves(tree)})


def check_fits(tree: Tree, dtype: Any) -> None:
    """Refuses a model that is larger than this machine, before anything is allocated."""
    needed = count(tree) * jnp.dtype(dtype).itemsize
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        there = (device.memory_stats() or {}).get("bytes_limit", 0) * jax.device_count()
    if there and needed > there:
        raise InputError(
            f"the parameters need {needed / 1e9:,.1f} GB as {jnp.dtype(dtype).name}, this machine has {there / 1e9:,.1f} GB"
        )
