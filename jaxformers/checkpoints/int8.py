"""Kernels in 8 bits, for inference: a quarter of the memory, and of the traffic, of the weights that tokens are multiplied with.

Each output of a linear layer has a scale of its own, its largest weight / 127; the product is with whole numbers made floats,
and is scaled after (the weights alone are rounded, as in Dettmers et al. 2022's baseline, arXiv:2208.07339; not the activations).
Tables that are looked up, norms, biases and heads stay as they are. A model in 8 bits computes and generates as any other; of
it the head alone learns, or an adapter on it (`lora`), as QLoRA's does (Dettmers et al. 2023, arXiv:2305.14314).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.checkpoints.lora import linear_letters
from jaxformers.checkpoints.mapping import is_stacked
from jaxformers.core.kernels import Adapted, Quantised
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, leaves, nested, zeros
from jaxformers.errors import InputError
from jaxformers.families import Family, Model

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class QuantisedFamily(Family):
    """A family whose kernels are in 8 bits; see `Family`.

    Args:
      plain: the family itself.
    """

    plain: Family


def quantise(model: Model) -> Model:
    """The model with its kernels in 8 bits: each [inputs…, outputs…] as int8, beside it its `kernel_scale` [outputs…].

    `load(…, dtype="int8")` does this while it reads, so that the whole model is never in memory in full.

    Raises:
      InputError: the model is adapted, or in 8 bits already.
    """
    if type(model.family) is not Family:
        raise InputError("a model is put into 8 bits as it was loaded, before anything else is done to it")
    declared = dict(leaves(model.declare()))
    flat: dict[Path, jax.Array] = {}
    for path, leaf in leaves(model.params):
        flat |= in_8_bits(model.family, path, declared[path], leaf)
    return dataclasses.replace(model, family=quantised_family(model.family), params=nested(flat))


def in_8_bits(family: Family, path: Path, param: Param, leaf: jax.Array) -> dict[Path, jax.Array]:
    """A parameter as it is kept: a kernel as int8 and scale, another as it is."""
    letters = linear_letters(path, param)
    if letters is None or path[0] not in family.trunk:
        return {path: leaf}
    lead = int(is_stacked(param))
    kernel, scale = _rounded(leaf, tuple(range(lead, lead + len(letters[0]))))
    return {path: kernel, (*path[:-1], "kernel_scale"): scale}


@functools.partial(jax.jit, static_argnums=1)
def _rounded(kernel: jax.Array, inputs: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    scale = jnp.abs(kernel).max(inputs, keepdims=True) / 127
    scale = jnp.where(scale == 0, 1, scale)  # of an output that no input reaches
    rounded = jnp.round(kernel / jnp.broadcast_to(scale, kernel.shape)).astype(jnp.int8)
    return rounded, scale.squeeze(inputs)


@functools.lru_cache(maxsize=64)
def quantised_family(plain: Family) -> QuantisedFamily:
    """The family of models whose kernels are in 8 bits."""
    parts = {field.name: getattr(plain, field.name) for field in dataclasses.fields(Family)}
    parts["declare"] = functools.partial(_declare, plain)
    parts["heads"] = {head: _forward(forward) for head, forward in plain.heads.items()}
    return QuantisedFamily(**parts, plain=plain)


def _declare(plain: Family, config: Any, head: str | None = None) -> Tree:
    """The family's declarations, of which the head's learn, and those of the scales."""
    base = {path for path, _ in leaves(plain.declare(config, None))}
    flat: dict[Path, Param] = {}
    for path, param in leaves(plain.declare(config, head)):
        letters = linear_letters(path, param)
        flat[path] = dataclasses.replace(param, learns=path not in base)
        if letters is not None and path[0] in plain.trunk:
            lead = int(is_stacked(param))
            kept = [n for n in range(len(param.shape)) if not lead <= n < lead + len(letters[0])]
            flat[*path[:-1], "kernel_scale"] = Param(
                tuple(param.shape[n] for n in kept),
                tuple(param.axes[n] for n in kept),
                zeros,
                param.name.removesuffix("weight") + "scale",
                decay=False,
                learns=False,
            )
    return nested(flat)


def _forward(forward: Callable[..., Output]) -> Callable[..., Output]:
    def run(params: Tree, *inputs: Any, **named: Any) -> Output:
        return forward(_in_place(params), *inputs, **named)

    return run


def _in_place(tree: Any) -> Any:
    """The tree with every kernel and its scale as one `Quantised`; layers may stand apart, in a tuple."""
    if isinstance(tree, tuple | list):
        return type(tree)(map(_in_place, tree))
    if not isinstance(tree, dict):
        return tree
    tree = {name: _in_place(each) for name, each in tree.items()}
    if "kernel" in tree and "kernel_scale" in tree:
        kernel, scale = tree["kernel"], tree.pop("kernel_scale")
        adapted = isinstance(kernel, Adapted)
        tree["kernel"] = kernel.replace(kernel=Quantised(kernel.kernel, scale)) if adapted else Quantised(kernel, scale)
    return tree
