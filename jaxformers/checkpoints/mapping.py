"""The two-way mapping between a checkpoint's tensors and ours, driven by the declarations alone.

A layout such as `"(h k) d -> d h k"` reads left to right when loading and right to left when saving, so the two directions
cannot disagree. Only permuting, splitting and merging axes can be said, all of which invert.
"""

import math
from collections.abc import Iterator

import numpy as np

from jaxformers.core.params import Param, Tree, leaves

Groups = tuple[tuple[str, ...], ...]


def _side(text: str) -> Groups:
    """`"(h k) d"` -> `(("h", "k"), ("d",))`."""
    groups: list[tuple[str, ...]] = []
    inside: list[str] | None = None
    for token in text.replace("(", " ( ").replace(")", " ) ").split():
        if token == "(":
            inside = []
        elif token == ")":
            assert inside is not None
            groups.append(tuple(inside))
            inside = None
        elif inside is not None:
            inside.append(token)
        else:
            groups.append((token,))
    return tuple(groups)


def _parse(layout: str, shape: tuple[int, ...]) -> tuple[Groups, Groups, dict[str, int]]:
    """Both sides of a layout and the size of each letter, which our side's `shape` gives."""
    theirs, ours = (_side(side) for side in layout.split("->"))
    sizes = {group[0]: size for group, size in zip(ours, shape, strict=True)}
    return theirs, ours, sizes


def _rearrange(array: np.ndarray, source: Groups, target: Groups, sizes: dict[str, int]) -> np.ndarray:
    letters = [letter for group in source for letter in group]
    order = [letters.index(letter) for group in target for letter in group]
    split = array.reshape([sizes[letter] for letter in letters]).transpose(order)
    return split.reshape([math.prod(sizes[letter] for letter in group) for group in target])


def file_shape(layout: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape a checkpoint must hold for a parameter (of one layer) of ours.

    >>> file_shape("(h k) d -> d h k", (64, 4, 16))
    (64, 64)
    """
    if not layout:
        return shape
    theirs, _, sizes = _parse(layout, shape)
    return tuple(math.prod(sizes[letter] for letter in group) for group in theirs)


def from_file(array: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    """A checkpoint's array in our layout; `shape` is ours, of one layer."""
    if not layout:
        return array
    theirs, ours, sizes = _parse(layout, shape)
    return _rearrange(array, theirs, ours, sizes)


def to_file(array: np.ndarray, layout: str) -> np.ndarray:
    """Our array (of one layer) in the checkpoint's layout."""
    if not layout:
        return array
    theirs, ours, sizes = _parse(layout, array.shape)
    return _rearrange(array, ours, theirs, sizes)


def is_stacked(param: Param) -> bool:
    """Whether the parameter holds all layers, which checkpoints keep apart."""
    return param.axes[:1] == ("layers",)


def layer_shape(param: Param) -> tuple[int, ...]:
    """The shape of one layer of a parameter."""
    return param.shape[1:] if is_stacked(param) else param.shape


def file_names(param: Param) -> list[str]:
    """The checkpoint names a parameter gathers: one a layer where it is stacked."""
    if not is_stacked(param):
        return [param.name]
    return [param.name.replace("{}", str(param.first + n)) for n in range(param.shape[0])]


def letters_of(param: Param) -> tuple[Groups, tuple[str, ...]]:
    """One layer of a parameter: the letters of each axis in the checkpoint, and the letters of our axes.

    >>> letters_of(Param((64, 4, 16), ("embed", "heads", "head_size"), None, "q.weight", "(h k) d -> d h k"))
    ((('h', 'k'), ('d',)), ('d', 'h', 'k'))
    """
    shape = layer_shape(param)
    if not param.layout:
        plain = tuple(map(str, range(len(shape))))
        return tuple((letter,) for letter in plain), plain
    theirs, ours, _ = _parse(param.layout, shape)
    return theirs, tuple(group[0] for group in ours)


def expected(declared: Tree) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """Every tensor a checkpoint of these declarations holds: (name, path of the parameter, shape in the file)."""
    for path, param in leaves(declared):
        for name in file_names(param):
            yield name, path, file_shape(param.layout, layer_shape(param))
