"""Convolutions of each channel with a window of its own, on CPUs: XLA's are an order of magnitude slower there than sums are.

A tap is one place of the window. The result is the sum of what the taps see, each times its weight, which XLA makes one loop.
"""

import itertools
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

Ends = tuple[tuple[int, int], ...]


def depthwise(x: jax.Array, kernel: jax.Array, stride: int, ends: Sequence[tuple[int, int]]) -> jax.Array:
    """A convolution in which each channel is a group. Reverse-mode derivatives alone, of any order.

    Args:
      x: [B, *places, C], of one or two dimensions of places.
      kernel: [*window, 1, C].
      stride: steps between windows, the same along each axis.
      ends: zeros before and after each axis.

    Returns:
      [B, *fewer, C].
    """
    if x.ndim == 3:
        return depthwise(x[:, None], kernel[None], stride, ((0, 0), *ends))[:, 0]
    return _depthwise(x, kernel, stride, tuple((before, after) for before, after in ends))


def _fewer(x: jax.Array, kernel: jax.Array, stride: int, ends: Ends) -> tuple[int, int]:
    """How many windows there are, along both axes."""
    rows, columns = (
        (length + sum(end) - window) // stride + 1
        for length, window, end in zip(x.shape[1:3], kernel.shape[:2], ends, strict=True)
    )
    return rows, columns


def _seen(x_BYXC: jax.Array, row: int, column: int, counts: tuple[int, int], stride: int) -> jax.Array:
    """What the tap at a place of the window sees, in all windows: [B, *counts, C], in float32."""
    ends = [at + stride * (count - 1) + 1 for at, count in zip((row, column), counts, strict=True)]
    return x_BYXC[:, row : ends[0] : stride, column : ends[1] : stride].astype(jnp.float32)


def _padded(x_BYXC: jax.Array, ends: Ends) -> jax.Array:
    return jnp.pad(x_BYXC, ((0, 0), *ends, (0, 0)))


def _sum(x_BYXC: jax.Array, kernel: jax.Array, stride: int, ends: Ends) -> jax.Array:
    counts, padded = _fewer(x_BYXC, kernel, stride, ends), _padded(x_BYXC, ends)
    total = jnp.zeros((len(x_BYXC), *counts, x_BYXC.shape[-1]), jnp.float32)
    for row, column in itertools.product(*map(range, kernel.shape[:2])):
        weight_C = kernel[row, column, 0].astype(jnp.float32)
        seen = _seen(padded, row, column, counts, stride)
        total = total + seen * jnp.broadcast_to(weight_C, seen.shape)
    return total.astype(x_BYXC.dtype)


_depthwise = partial(jax.custom_vjp, nondiff_argnums=(2, 3))(_sum)


def _forward(x: jax.Array, kernel: jax.Array, stride: int, ends: Ends) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _sum(x, kernel, stride, ends), (x, kernel)


def _backward(
    stride: int, ends: Ends, kept: tuple[jax.Array, jax.Array], g_BYXC: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_BYXC, kernel = kept
    counts = (g_BYXC.shape[1], g_BYXC.shape[2])
    # Of the input: the same sum with the window turned round, over gradients with `stride` - 1 zeros between them.
    around = []
    for length, window, (before, _), count in zip(x_BYXC.shape[1:3], kernel.shape[:2], ends, counts, strict=True):
        left, spread = window - 1 - before, stride * (count - 1) + 1
        around.append((left, length + window - 1 - left - spread, stride - 1))
    spread_BYXC = jax.lax.pad(g_BYXC, jnp.zeros((), g_BYXC.dtype), ((0, 0, 0), *around, (0, 0, 0)))
    of_x = _sum(spread_BYXC, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))
    # Of the window: for each tap the sum of what it saw times the gradient, a row of taps at a time.
    padded, g32 = _padded(x_BYXC, ends), g_BYXC.astype(jnp.float32)
    reach = stride * (counts[0] - 1) + 1

    def taps(row: int, found: jax.Array) -> jax.Array:
        rows = jax.lax.dynamic_slice_in_dim(padded, row, reach, axis=1)
        seen = (_seen(rows, 0, column, counts, stride) for column in range(kernel.shape[1]))
        return found.at[row].set(jnp.stack([(each * g32).sum((0, 1, 2)) for each in seen]))

    of_kernel = jax.lax.fori_loop(0, kernel.shape[0], taps, jnp.zeros((*kernel.shape[:2], kernel.shape[-1])))
    return of_x, of_kernel[:, :, None].astype(kernel.dtype)


_depthwise.defvjp(_forward, _backward)
