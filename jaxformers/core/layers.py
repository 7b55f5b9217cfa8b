"""The small pure layers: linear, convolution, norm, embedding, activation, dropout; and how each declares its parameters.

A layer is a pair: `declare_…` gives a tree of `Param`, and a function of the same shape of tree of arrays computes.

Names carry shapes (`x_BLD`, `q_BLHK`); the letters are those of the einsums. The legend, for the whole project:
B batch, L query length, S key length, D model width, H heads, G key-value heads, K head size, F feed-forward width,
V vocabulary, C classes, N layers, P patches, T audio frames, T token types where there is no sound. Of an image, and of a map
of its features: Y rows, X columns, C channels, which always come last.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.core.depthwise import depthwise
from jaxformers.core.params import Initialiser, Param, Tree, ones, zeros
from jaxformers.parallel.mesh import ACTIVATION_RULES, active_mesh, platform, specification

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5)),  # as PyTorch has it; cheaper than JAX's by erfc
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_fast": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def declare_linear(
    inputs: int,
    outputs: int,
    name: str,
    init: Initialiser,
    axes: tuple[str, str] = ("embed", "labels"),
    bias: bool = True,
) -> Tree:
    """A dense layer kept as `[inputs, outputs]`; PyTorch keeps it transposed, which the layout says."""
    tree: Tree = {"kernel": Param((inputs, outputs), axes, init, f"{name}.weight", "o i -> i o")}
    if bias:
        tree["bias"] = Param((outputs,), axes[1:], zeros, f"{name}.bias", decay=False)
    return tree


def linear(params: Tree, x: jax.Array) -> jax.Array:
    """Dense layer over the last axis: [..., inputs] -> [..., outputs]."""
    y = product("...D,DF->...F", x, params["kernel"])
    if "bias" in params:
        y = y + jnp.broadcast_to(params["bias"], y.shape)
    return y


def declare_conv(
    inputs: int,
    outputs: int,
    window: tuple[int, ...],
    name: str,
    init: Initialiser,
    *,
    groups: int = 1,
    bias: bool = True,
    axes: tuple[str, str] = ("channels", "embed"),
) -> Tree:
    """A convolution over places of one or more dimensions, [*window, inputs / groups, outputs]; PyTorch has outputs first."""
    places = " ".join("tyx"[-len(window) :] if len(window) > 1 else "t")
    every = (*["window"] * len(window), *axes)
    kernel = Param((*window, inputs // groups, outputs), every, init, f"{name}.weight", f"o i {places} -> {places} i o")
    tree: Tree = {"kernel": kernel}
    if bias:
        tree["bias"] = Param((outputs,), axes[1:], zeros, f"{name}.bias", decay=False)
    return tree


def conv(
    params: Tree, x: jax.Array, stride: int = 1, padding: int | Sequence[tuple[int, int]] = 0, groups: int = 1
) -> jax.Array:
    """Convolution over all axes between the first and the last: [B, *places, inputs] -> [B, *fewer, outputs].

    Args:
      params: the tree of `declare_conv`.
      x: the places, channels last.
      stride: steps between windows, the same along each axis.
      padding: zeros at both ends of each axis, or (before, after) for each axis.
      groups: that inputs and outputs are divided into, of which each looks at itself alone.
    """
    kernel = params["kernel"]
    window = kernel.shape[:-2]
    if padding == 0 and groups == 1 and set(window) == {stride}:
        y = patches(x, stride) @ kernel.reshape(-1, kernel.shape[-1])  # windows that do not overlap are one product
    else:
        ends = [(padding, padding)] * len(window) if isinstance(padding, int) else padding
        y = convolved(x, kernel, window_strides=(stride,) * len(window), padding=ends, feature_group_count=groups)
    return y + jnp.broadcast_to(params["bias"], y.shape) if "bias" in params else y


def convolved(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated`, channels last, in which each device of a mesh has its own rows and all of the kernel.

    Said outright, because XLA (of jaxlib 0.10) doubles the kernel's gradient where it divides a convolution itself: one with
    groups, or over places that a mesh cuts.

    Args:
      x: [B, *places, inputs], of one or two dimensions of places.
      kernel: [*window, inputs / groups, outputs].
      **options: those of `jax.lax.conv_general_dilated`.

    Returns:
      [B, *fewer, outputs].
    """
    places = "YX"[-(x.ndim - 2) :]
    numbers = (f"N{places}C", f"{places}IO", f"N{places}C")
    run: Callable[..., jax.Array] = partial(jax.lax.conv_general_dilated, dimension_numbers=numbers, **options)
    numbered = options.keys() == {"window_strides", "padding", "feature_group_count"} and options["padding"] != "SAME"
    alone = numbered and 1 < options["feature_group_count"] == x.shape[-1] == kernel.shape[-1]
    if alone and len({*options["window_strides"]}) == 1 and platform() == "cpu":
        run = partial(depthwise, stride=options["window_strides"][0], ends=options["padding"])
    mesh = active_mesh()
    if mesh is None or mesh.size == 1:
        return run(x, kernel)
    rows = specification(("batch",), x.shape[:1], mesh, ACTIVATION_RULES, "convolution")
    return jax.shard_map(run, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows, check_vma=False)(x, kernel)


def patches(x: jax.Array, size: int) -> jax.Array:
    """Cuts places into windows of `size` along each axis, each made one row: [B, *places, C] -> [B, *windows, size^n · C].

    What is left over at an axis' end is dropped. A row's order is that of the axes, channels innermost.
    """
    B, *places, C = x.shape
    counts = [length // size for length in places]
    x = x[(slice(None), *(slice(count * size) for count in counts))]
    x = x.reshape(B, *(n for count in counts for n in (count, size)), C)
    n = len(places)
    x = x.transpose(0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)
    return x.reshape(B, *counts, size**n * C)


def product(equation: str, x: jax.Array, kernel: Any) -> jax.Array:
    """`einsum(equation, x, kernel)`, where the kernel is an array or something that multiplies in its place (`core.kernels`).

    >>> product("...D,DF->...F", jnp.ones((2, 3)), jnp.ones((3, 4))).shape
    (2, 4)
    """
    return kernel.product(equation, x) if hasattr(kernel, "product") else jnp.einsum(equation, x, kernel)


def whole(kernel: Any) -> jax.Array:
    """A kernel as one array, where something else than `product` is done with it."""
    return kernel.whole() if hasattr(kernel, "whole") else kernel


def declare_norm(width: int, name: str, bias: bool = True) -> Tree:
    """Scale and bias of a layer normalisation."""
    tree: Tree = {"scale": Param((width,), ("embed",), ones, f"{name}.weight", decay=False)}
    if bias:
        tree["bias"] = Param((width,), ("embed",), zeros, f"{name}.bias", decay=False)
    return tree


def layer_norm(params: Tree, x: jax.Array, epsilon: float) -> jax.Array:
    """Layer normalisation over the last axis (Ba et al. 2016), computed in float32 whatever `x` is."""
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    y = centred * jax.lax.rsqrt(variance + epsilon)
    y = y * jnp.broadcast_to(params["scale"].astype(jnp.float32), y.shape)
    if "bias" in params:
        y = y + jnp.broadcast_to(params["bias"].astype(jnp.float32), y.shape)
    return y.astype(x.dtype)


def rms_norm(params: Tree, x: jax.Array, epsilon: float, offset: float = 0.0) -> jax.Array:
    """Root-mean-square normalisation over the last axis (Zhang & Sennrich 2019), in float32; the scale is `offset` + its own."""
    x32 = x.astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + epsilon)
    return (y * jnp.broadcast_to(params["scale"].astype(jnp.float32) + offset, y.shape)).astype(x.dtype)


def dropout(x: jax.Array, rate: float, rng: jax.Array | None) -> jax.Array:
    """Zeroes a share `rate` of `x` and scales up the rest; `rng=None` (or rate 0) leaves it as it is."""
    if rng is None or rate == 0.0:
        return x
    keep = random_words(rng, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def drop_path(x: jax.Array, rate: float | jax.Array, rng: jax.Array | None) -> jax.Array:
    """Stochastic depth (Huang et al. 2016): zeroes whole rows of the batch, a share `rate`, and scales up the rest."""
    if rng is None or (isinstance(rate, float) and rate == 0.0):
        return x
    keep = jax.random.uniform(rng, (x.shape[0], *[1] * (x.ndim - 1))) >= rate
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


def random_words(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random uint32 of `shape`, a pure function of the key and of each element's place: for masks, not for numbers.

    A key's own bits cost a loop of passes over memory a draw, and on a CPU much of a train step's compile time. A hash of the
    place is a few integer operations that XLA folds into the loop that uses them, and needs no communication on a mesh.
    The hash is lowbias32 (Wellons 2018), applied to the row, the column, and both together.
    """
    words = (jax.random.key_data(rng) if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else rng).reshape(-1)
    *rows, columns = shape or (1,)
    row = jnp.zeros((*rows, 1), jnp.uint32)
    for axis, size in enumerate(rows):
        row = row * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, row.shape, axis)
    column = jax.lax.broadcasted_iota(jnp.uint32, (*[1] * len(rows), columns), len(rows))
    return _hash(_hash(row ^ words[0]) ^ _hash(column ^ words[-1])).reshape(shape)


def _hash(x: jax.Array) -> jax.Array:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)


def split_rng(rng: jax.Array | None, parts: int) -> Any:
    """`parts` keys from one; None gives None for each, so that no dropout stays no dropout."""
    return (None,) * parts if rng is None else tuple(jax.random.split(rng, parts))
