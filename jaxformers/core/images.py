"""What images need beside the layers: their layout, resizing as PyTorch does, pooling, batch normalisation, channels as pixels.

Images and maps of features are [B, Y, X, C]: rows, columns, channels last, everywhere. Convolutions are in `core.layers`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.layers import declare_norm
from jaxformers.core.params import Param, Tree, ones, zeros
from jaxformers.errors import InputError


def check_images(pixel_values: jax.Array | None, channels: int, dtype: Any) -> jax.Array:
    """The images [B, Y, X, C] as `dtype`, if that is what they are. Raises `InputError` otherwise, as for channels first."""
    if pixel_values is None:
        raise InputError("give pixel_values, images as [batch, height, width, channels]")
    shape = tuple(pixel_values.shape)
    if len(shape) == 4 and shape[-1] == channels:
        return jnp.asarray(pixel_values, dtype)
    hint = ""
    if len(shape) == 4 and shape[1] == channels:
        hint = "; they have their channels first: give np.moveaxis(pixel_values, 1, -1)"
    raise InputError(
        f"pixel_values must be [batch, height, width, channels] with {channels} channels, found shape {shape}{hint}"
    )


def check_size(pixel_values: jax.Array, size: int, hint: str = "") -> None:
    """Raises `InputError` where images are not `size` × `size`."""
    found = tuple(pixel_values.shape[1:3])
    if found != (size, size):
        raise InputError(f"the images are {found[0]} × {found[1]} pixels, this model takes {size} × {size}{hint}")


def pixel_shuffle(x_BYXC: jax.Array, factor: int) -> jax.Array:
    """Channels as pixels (Shi et al. 2016): [B, Y, X, C · factor²] -> [B, Y · factor, X · factor, C]; of PyTorch's order."""
    B, Y, X, C = x_BYXC.shape
    x = x_BYXC.reshape(B, Y, X, C // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(B, Y * factor, X * factor, C // factor**2)


def max_pool(x_BYXC: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """The largest number of each channel in each window; what is padded is never it."""
    ends = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    lowest = np.asarray(-np.inf, x_BYXC.dtype)  # known while it is traced: by it JAX knows the gradient
    return jax.lax.reduce_window(x_BYXC, lowest, jax.lax.max, (1, window, window, 1), (1, stride, stride, 1), ends)


def declare_batch_norm(width: int, name: str) -> tuple[Tree, Tree]:
    """Scale and bias of a batch normalisation; and its running mean and variance, which belong into `params["stats"]`."""
    stats = {
        "mean": Param((width,), ("embed",), zeros, f"{name}.running_mean", decay=False, learns=False),
        "variance": Param((width,), ("embed",), ones, f"{name}.running_var", decay=False, learns=False),
    }
    return declare_norm(width, name), stats


def batch_norm(
    params: Tree, stats: Tree, x: jax.Array, training: bool, *, momentum: float = 0.1, epsilon: float = 1e-5
) -> tuple[jax.Array, Tree]:
    """Batch normalisation (Ioffe & Szegedy 2015) of the last axis, computed in float32 whatever `x` is.

    Args:
      params: `scale` and `bias`.
      stats: running `mean` and `variance`, which no gradient reaches.
      x: [..., D]; on a mesh the batch is that of all devices.
      training: whether the batch's own mean and variance are taken.
      momentum: PyTorch's, the share of the batch's in the new running ones.
      epsilon: added to the variance.

    Returns:
      What is normalised, and the new running statistics: those given, where it is not training.
    """
    x32, around = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    new = stats = jax.lax.stop_gradient(stats)
    mean, variance = stats["mean"].astype(jnp.float32), stats["variance"].astype(jnp.float32)
    if training:
        mean, count = x32.mean(around), x.size // x.shape[-1]
        variance = jnp.square(x32 - jnp.broadcast_to(mean, x.shape)).mean(around)
        seen = {"mean": mean, "variance": variance * (count / max(count - 1, 1))}  # of all there is, not of a sample
        new = {
            name: ((1 - momentum) * stats[name] + momentum * jax.lax.stop_gradient(value)).astype(stats[name].dtype)
            for name, value in seen.items()
        }
    factor = jax.lax.rsqrt(variance + epsilon) * params["scale"].astype(jnp.float32)
    y = (x32 - jnp.broadcast_to(mean, x.shape)) * jnp.broadcast_to(factor, x.shape)
    return (y + jnp.broadcast_to(params["bias"].astype(jnp.float32), x.shape)).astype(x.dtype), new


def resize(x_BYXC: jax.Array, size: tuple[int, int], how: str = "linear") -> jax.Array:
    """Images of another size, as PyTorch's `interpolate(…, align_corners=False)` has them: without smoothing first.

    `jax.image.resize` is another function: it smooths what becomes smaller, and its cubic has another curve.

    Args:
      x_BYXC: the images.
      size: (rows, columns) wanted.
      how: `"linear"` or `"cubic"` (Keys 1981 with a = -0.75).
    """
    rows, columns = (
        jnp.asarray(weights(old, new, how), x_BYXC.dtype) for old, new in zip(x_BYXC.shape[1:3], size, strict=True)
    )
    return jnp.einsum("ZY,BYXC,WX->BZWC", rows, x_BYXC, columns)


def weights(old: int, new: int, how: str) -> np.ndarray:
    """How much each of `old` places counts in each of `new`: [new, old], rows summing to 1."""
    # The centre of a new place among the old ones; PyTorch counts in float32.
    centre = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5)
    if how == "linear":
        centre = np.maximum(centre, 0)
    first = np.floor(centre)
    matrix = np.zeros((new, old), np.float32)
    near = (0, 1) if how == "linear" else (-1, 0, 1, 2)
    curve = _linear if how == "linear" else _cubic
    for step in near:
        place = np.clip(first + step, 0, old - 1).astype(int)
        np.add.at(matrix, (np.arange(new), place), curve(np.abs(centre - first - np.float32(step))))
    return matrix


def _linear(distance: np.ndarray) -> np.ndarray:
    return 1 - distance


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, far)
