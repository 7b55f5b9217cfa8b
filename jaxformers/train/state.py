"""`TrainState`: everything a step changes, as one pytree, born in its place on the mesh."""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxformers.core.params import Tree, leaves, shardings
from jaxformers.families import Model


@flax.struct.dataclass
class TrainState:
    """What a training run is at one moment.

    Args:
      step: int32 scalar, optimizer steps done.
      params: the model's parameters.
      opt_state: the optimizer's state, sharded as the parameters are.
      rng: a key that never changes; a step's own key is `fold_in(rng, step)`.
    """

    step: jax.Array
    params: Tree
    opt_state: Any
    rng: jax.Array

    @classmethod
    def create(cls, model: Model, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int = 42) -> "TrainState":
        """The state before the first step. `model.params` are copied, for a step donates its state."""

        places = state_shardings(model, optimizer, mesh)
        begin = partial(cls._begin, optimizer=optimizer, seed=seed)
        return jax.jit(begin, out_shardings=places)(jax.device_put(model.params, places.params))

    @classmethod
    def outline(cls, model: Model, optimizer: optax.GradientTransformation, mesh: Mesh, seed: int = 42) -> "TrainState":
        """Shapes, dtypes and places of that state, without memory: `model.params` may be `jax.ShapeDtypeStruct`s."""
        shapes = jax.eval_shape(partial(cls._begin, optimizer=optimizer, seed=seed), model.params)
        return at_places(shapes, state_shardings(model, optimizer, mesh))

    @classmethod
    def _begin(cls, params: Tree, *, optimizer: optax.GradientTransformation, seed: int) -> "TrainState":
        params = jax.tree.map(jnp.copy, params)
        return cls(jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.random.key(seed))


def at_places(shapes: Any, places: Any) -> Any:
    """A tree of `jax.ShapeDtypeStruct`s, each with its sharding."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )


def state_shardings(model: Model, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Where each leaf of the state lives: moments where their parameters live, counters everywhere."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    declared = model.declare()
    places = shardings(declared, mesh)
    known = {
        path: (param.shape, place) for (path, param), (_, place) in zip(leaves(declared), leaves(places), strict=True)
    }

    def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        """Whatever stands under a parameter's path and has its shape is a moment of it."""
        names = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        for start in range(len(names)):
            shape, there = known.get(names[start:], ((), everywhere))
            if shape == leaf.shape:
                return there
        return everywhere

    opt_state = jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, model.params))
    return TrainState(step=everywhere, params=places, opt_state=opt_state, rng=everywhere)  # type: ignore[arg-type]
