"""Numbers that depend on nothing but a name: weights and inputs, without a file for either. Imports nothing of jaxformers."""

import math
import zlib

import numpy as np


def draw(name: str, shape: tuple[int, ...], std: float = 0.2) -> np.ndarray:
    """Uniform float32 numbers of standard deviation `std` that depend on nothing but `name`; a norm's scale
    and variance are about 1.

    At the usual 0.02 a wrong activation would hide below the tolerance. Taken from the generator's raw bits, whose
    stream NumPy guarantees, not from its distributions, whose stream it does not.
    """
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    values = (2 * (raw >> np.uint64(11)) * 2.0**-53 - 1) * std * math.sqrt(3)
    is_scale = len(shape) == 1 and (name.endswith(("weight", "running_var")) or name == "scale")
    return (values + is_scale).reshape(shape).astype(np.float32)


def integers(name: str, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Whole numbers from `low` to `high` (not included) that depend on nothing but `name`."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return (low + raw % np.uint64(high - low)).astype(np.int32).reshape(shape)
