"""The exponential moving average of the parameters (Polyak & Juditsky 1992): what is evaluated and saved in their place.

It is a part of the optimizer's state, so that it is laid over a mesh as the parameters are, saved, and restored with the rest.
"""

from typing import Any, NamedTuple

import jax
import optax

from jaxformers.core.params import Tree, leaves, nested
from jaxformers.train.state import TrainState


class Averaged(NamedTuple):
    """The average, and the optimizer's own state."""

    average: Tree
    inner: Any


def with_average(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """The optimizer, which also keeps average ← decay · average + (1 - decay) · parameters; it begins where they do."""

    def init(params: Tree) -> Averaged:
        return Averaged(params, optimizer.init(params))

    def update(updates: Tree, state: Averaged, params: Tree | None = None) -> tuple[Tree, Averaged]:
        updates, inner = optimizer.update(updates, state.inner, params)
        moved = optax.apply_updates(params, updates)
        return updates, Averaged(optax.incremental_update(moved, state.average, 1 - decay), inner)

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> Tree:
    """The parameters to evaluate and to save: the average where the optimizer keeps one (those that do not learn have none)."""
    average = optax.tree.get(state.opt_state, "average")
    if average is None:
        return state.params
    kept = {path: leaf for path, leaf in leaves(average) if isinstance(leaf, jax.Array)}
    return nested({path: kept.get(path, leaf) for path, leaf in leaves(state.params)})
