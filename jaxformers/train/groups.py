"""Groups of parameters: which learn at all, and which learn more slowly than others.

Both are said by a parameter's path in the tree, such as `layers/attention/query/kernel` or `embeddings/word`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.checkpoints.mapping import is_stacked
from jaxformers.core.params import Tree, leaves, nested
from jaxformers.errors import InputError

Trainable = str | Callable[[str], bool]
"""Which parameters learn: a regular expression found in their paths (`"classifier|pooler"`), or a function of the path."""


Paths = frozenset[tuple[str, ...]]


def frozen(trainable: Trainable | None, declared: Tree) -> Paths:
    """The parameters that do not learn: those declared so, and those that `trainable` leaves out.

    Raises:
      InputError: nothing learns.
    """

    def learns(path: str) -> bool:
        if isinstance(trainable, str):
            return re.search(trainable, path) is not None
        return trainable is None or trainable(path)

    paths = {path for path, _ in leaves(declared)}
    still = frozenset(path for path, param in leaves(declared) if not (param.learns and learns("/".join(path))))
    if still == paths and trainable is None:
        raise InputError("nothing of this model learns: in 8 bits a head does, or an adapter (jaxformers.lora)")
    if still == paths:
        some = ", ".join("/".join(path) for path in sorted(paths)[:5])
        raise InputError(f"trainable={trainable!r} is no parameter's: paths are such as {some}")
    return still


def parted(still: Paths, params: Tree) -> tuple[Tree, Tree]:
    """The parameters that learn, which alone a gradient is asked of, and the others."""
    flat = dict(leaves(params))
    moving = nested({path: leaf for path, leaf in flat.items() if path not in still})
    return moving, nested({path: leaf for path, leaf in flat.items() if path in still})


def joined(moving: Tree, rest: Tree) -> Tree:
    """What `parted` has parted."""
    return nested(dict([*leaves(moving), *leaves(rest)]))


def only(still: Paths, declared: Tree, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer for the parameters that learn; the others have no state and do not move."""
    labels = {path: "still" if path in still else "learns" for path, _ in leaves(declared)}
    return optax.partition({"learns": optimizer, "still": optax.set_to_zero()}, nested(labels))


def scaled_rates(
    declared: Tree, rates: Mapping[str, float] | None = None, layer_decay: float = 1.0
) -> optax.GradientTransformation:
    """Makes groups learn at a share of the rate; to be chained behind an optimizer.

    Args:
      declared: the declarations of the parameters, `model.declare()`.
      rates: regular expression -> share, for the parameters in whose paths it is found; the first that fits counts.
      layer_decay: each layer has this share of the rate of the layer above it, and the embeddings of the first layer's
        (Howard & Ruder 2018; ELECTRA's and BEiT's fine-tuning).

    Example: `optax.chain(make_optimizer(args, schedule, declared), scaled_rates(declared, layer_decay=0.9))`.
    """
    depth = max((param.shape[0] for _, param in leaves(declared) if is_stacked(param)), default=0)

    def factor(path: tuple[str, ...], param: Any) -> Any:
        for pattern, share in (rates or {}).items():
            if re.search(pattern, "/".join(path)):
                return share
        if is_stacked(param):  # the last layer, whichever stack it is of, learns at one step below the head
            shares = layer_decay ** jnp.arange(param.shape[0], 0, -1, dtype=jnp.float32)
            return shares.reshape(-1, *[1] * (len(param.shape) - 1))
        return layer_decay ** (depth + 1) if "embeddings" in path[:1] else 1.0

    factors = {path: factor(path, param) for path, param in leaves(declared)}

    def update(updates: Tree, params: Tree | None) -> Tree:
        def scale(path: Any, leaf: jax.Array) -> jax.Array:
            return leaf * jnp.asarray(factors[tuple(key.key for key in path)], leaf.dtype)

        return jax.tree_util.tree_map_with_path(scale, updates)

    return optax.stateless(update)
