"""What a projection multiplies with: an array, or something that stands in an array's place and multiplies in its own way.

A model's parameters are arrays, always. Where a kernel has a low-rank correction or is stored in 8 bits, its forward pass
puts one of these records in the kernel's place (`checkpoints.lora`, `checkpoints.int8`), and the layers need not know.

A kernel's inputs are its first axes, its outputs the others, as everywhere here: [D, H, K], [H, K, D], [D, F].
"""

import re
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxformers.core.layers import dropout, product, whole


@flax.struct.dataclass
class Adapted:
    """A kernel and its low-rank correction (Hu et al. 2021, arXiv:2106.09685): x·kernel + scale · dropout(x)·a·b.

    Args:
      kernel: [inputs…, outputs…].
      a: [inputs…, R].
      b: [R, outputs…].
      key: uint32 words of a key for dropout, or None.
      scale: what the correction is multiplied with.
      rate: the dropout before `a`.
    """

    kernel: Any
    a: jax.Array
    b: jax.Array
    key: jax.Array | None = None
    scale: float = flax.struct.field(pytree_node=False, default=1.0)
    rate: float = flax.struct.field(pytree_node=False, default=0.0)

    def product(self, equation: str, x: jax.Array) -> jax.Array:
        """See `layers.product`."""
        source, weight, target = re.split(",|->", equation)
        summed = "".join(letter for letter in weight if letter not in target)
        made = weight.removeprefix(summed)
        kept = "".join(letter for letter in source if letter not in summed)
        low = jnp.einsum(f"{source},{summed}r->{kept}r", dropout(x, self.rate, self.key), self.a)
        return product(equation, x, self.kernel) + self.scale * jnp.einsum(f"{kept}r,r{made}->{target}", low, self.b)

    def whole(self) -> jax.Array:
        """The kernel with its correction: [inputs…, outputs…]."""
        kernel = whole(self.kernel)
        return kernel + self.scale * jnp.tensordot(self.a, self.b, 1).astype(kernel.dtype)


@flax.struct.dataclass
class Quantised:
    """A kernel in 8 bits, of which each output has a scale: the product is with the whole numbers, and is scaled after.

    Args:
      kernel: int8 [inputs…, outputs…].
      scale: [outputs…].
    """

    kernel: jax.Array
    scale: jax.Array

    def product(self, equation: str, x: jax.Array) -> jax.Array:
        """See `layers.product`."""
        _, weight, target = re.split(",|->", equation)
        made = [letter for letter in weight if letter in target]
        y = jnp.einsum(equation, x, self.kernel.astype(x.dtype))
        # the scale's axes where the result has them
        order = sorted(range(len(made)), key=lambda n: target.index(made[n]))
        sizes = [self.scale.shape[made.index(letter)] if letter in made else 1 for letter in target.removeprefix("...")]
        return y * jnp.broadcast_to(self.scale.transpose(order).reshape(sizes).astype(x.dtype), y.shape)

    def whole(self) -> jax.Array:
        """The kernel in full: [inputs…, outputs…]."""
        return self.kernel.astype(self.scale.dtype) * jnp.broadcast_to(self.scale, self.kernel.shape)
