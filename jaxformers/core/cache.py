"""What a decoder remembers of the tokens it has seen: their keys and values, in memory of a size fixed ahead.

Every row has the same slots; a token goes into the next one, and what is padding is hidden by `mask`. So texts of different
lengths, padded on either side, share one cache, and a token's position is the number of real tokens before it.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Cache:
    """Keys and values of every layer (a pytree).

    Args:
      keys: [N, B, G, S, K]; a head's slots lie side by side, as the product with a query reads them.
      values: [N, B, G, S, K].
      mask: [B, S], whether a slot holds a real token.
      length: the number of slots in use, the same for every row.
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array
    length: jax.Array


def empty_cache(layers: int, batch: int, heads: int, slots: int, size: int, dtype: jnp.dtype) -> Cache:
    """A cache that holds nothing yet.

    Args:
      layers: N.
      batch: B.
      heads: G, of keys and values.
      slots: S, the most tokens it can take.
      size: K, of a head.
      dtype: that of the model.
    """
    shape = (layers, batch, heads, slots, size)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((batch, slots), bool), jnp.int32(0))


def extend(cache: Cache, attention_mask: jax.Array | None, length: int) -> tuple[Cache, jax.Array]:
    """Makes room for the next `length` tokens.

    Args:
      cache: before them.
      attention_mask: [B, L] of these tokens; None means that all are real.
      length: L.

    Returns:
      The cache whose `mask` knows them (`length` is the caller's to move on, once the keys are written), and their
      positions [B, L]: how many real tokens stand before each; 0 for padding.
    """
    batch = cache.mask.shape[0]
    real_BL = jnp.ones((batch, length), bool) if attention_mask is None else attention_mask != 0
    before_B1 = cache.mask.sum(1, dtype=jnp.int32)[:, None]
    positions_BL = before_B1 + jnp.cumsum(real_BL, axis=1, dtype=jnp.int32) - 1
    mask_BS = jax.lax.dynamic_update_slice(cache.mask, real_BL, (0, cache.length))
    return dataclasses.replace(cache, mask=mask_BS), jnp.where(real_BL, positions_BL, 0)


def remember(cache: Cache, layer: jax.Array | int, k_BLGK: jax.Array, v_BLGK: jax.Array) -> Cache:
    """Writes the keys and values of the next L tokens into one layer's slots."""

    def write(whole: jax.Array, new_BLGK: jax.Array) -> jax.Array:
        new = new_BLGK.swapaxes(1, 2)[None].astype(whole.dtype)
        return jax.lax.dynamic_update_slice(whole, new, (layer, 0, 0, cache.length, 0))

    return dataclasses.replace(cache, keys=write(cache.keys, k_BLGK), values=write(cache.values, v_BLGK))


def recall(cache: Cache, layer: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """One layer's keys and values, every slot: twice [B, S, G, K]."""
    keys, values = (
        jax.lax.dynamic_index_in_dim(whole, layer, keepdims=False).swapaxes(1, 2)
        for whole in (cache.keys, cache.values)
    )
    return keys, values
