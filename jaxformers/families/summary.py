"""A model as a table: each parameter with its shape, its axes and how many numbers it is."""

import math

import jax

from jaxformers.core.params import leaves
from jaxformers.families.model import Model


def summary(model: Model) -> str:
    """The table of a model's parameters, with sums.

    Args:
      model: with parameters, or without numbers (`checkpoints.load.outline`).

    >>> import jaxformers as jf
    >>> tiny = {"model_type": "gpt2", "vocab_size": 10, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16}
    >>> print(summary(jf.load(tiny)))  # doctest: +ELLIPSIS +NORMALIZE_WHITESPACE
    GPT2Model (gpt2, no head)
    parameter              shape     axes                 count
    embeddings.position    16 × 8    positions × table    128
    ...
    1,968 parameters, 7,872 bytes (float32)
    """
    arrays = dict(leaves(model.params))
    rows = [("parameter", "shape", "axes", "count")]
    for path, param in leaves(model.declare()):
        sizes = " × ".join(map(str, param.shape))
        rows.append((".".join(path), sizes, " × ".join(param.axes), f"{math.prod(param.shape):,}"))
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{name:<{wide[0]}}  {sizes:<{wide[1]}}  {axes:<{wide[2]}}  {count:>{wide[3]}}"
        for name, sizes, axes, count in rows
    ]
    count = sum(math.prod(array.shape) for array in arrays.values())
    held = sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(model.params))
    dtypes = ", ".join(dict.fromkeys(str(array.dtype) for array in arrays.values()))
    head = "no head" if model.head is None else model.head
    title = f"{model.family.architectures[model.head]} ({model.family.name}, {head})"
    return "\n".join([title, *lines, f"{count:,} parameters, {held:,} bytes ({dtypes})"])
