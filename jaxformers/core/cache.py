"""What a decoder remembers of the tokens it has seen: their keys and values, in memory of a size fixed ahead.

Every row has the same slots; a token goes into the next one, and what is padding is hidden by `mask`. So texts of different
lengths, padded on either side, share one cache, and a token's position is the number of real tokens before it.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Cache:
    """Keys and values of every layer (a pytree).

    Args:
      keys: [N, B, G, S, K]; a head's slots lie side by side, as the product with a query reads them. Or a tuple of N arrays
        [B, G, S, K], of one row [G, S, K], see `by_layer`.
      values: the same.
      mask: [B, S], whether a slot holds a real token.
      length: the number of slots in use, the same for every row.
      cross: the keys and values of what an encoder read, which nothing is added to. It may have fewer rows: of R rows here,
        the first R / B share its first, and so on.
    """

    keys: jax.Array | tuple[jax.Array, ...]
    values: jax.Array | tuple[jax.Array, ...]
    mask: jax.Array
    length: jax.Array
    cross: "Cache | None" = None


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


def roll_back(cache: Cache, length: jax.Array) -> Cache:
    """The cache as it was after `length` slots; what stands in later ones is forgotten."""
    kept_1S = (jnp.arange(cache.mask.shape[1]) < length)[None]
    return dataclasses.replace(cache, mask=cache.mask & kept_1S, length=jnp.int32(length))


def by_layer(cache: Cache) -> Cache:
    """The cache with an array for each layer, where they run one by one: what a layer reads is then no copy of a slice.

    One row has no axis of its own. XLA takes that axis off before the product; were it here, XLA on CPUs would find something
    between the array that is written and the product that reads it, and copy all slots with every token.
    """
    alone = cache.mask.shape[0] == 1
    apart = lambda whole: tuple(each[0] if alone else each for each in whole)  # noqa: E731
    return dataclasses.replace(cache, keys=apart(cache.keys), values=apart(cache.values))


def pick_rows(cache: Cache, rows_R: jax.Array) -> Cache:
    """The cache of some rows, by number: [B, …] -> [R, …]; rows of one text stay together, and go on sharing `cross`."""

    def pick(array: jax.Array) -> jax.Array:
        if array.ndim > 3:
            array = jnp.take(array, rows_R, axis=-4)
            return array[0] if array.ndim == 4 and len(rows_R) == 1 else array
        return array if len(rows_R) == 1 else jnp.broadcast_to(array, (len(rows_R), *array.shape))

    keys, values = jax.tree.map(pick, (cache.keys, cache.values))
    return dataclasses.replace(cache, keys=keys, values=values, mask=cache.mask[rows_R])


def remember(cache: Cache, layer: jax.Array | int, k_BLGK: jax.Array, v_BLGK: jax.Array) -> Cache:
    """Writes the keys and values of the next L tokens into one layer's slots."""

    def write(whole: jax.Array | tuple[jax.Array, ...], new_BLGK: jax.Array) -> jax.Array | tuple[jax.Array, ...]:
        new_BGLK = new_BLGK.swapaxes(1, 2)
        if isinstance(whole, tuple):
            at = int(layer)
            new_BGLK = new_BGLK if whole[at].ndim == 4 else new_BGLK[0]
            place: list[Any] = [*[0] * (whole[at].ndim - 2), cache.length, 0]
            new = jax.lax.dynamic_update_slice(whole[at], new_BGLK.astype(whole[at].dtype), place)
            return (*whole[:at], new, *whole[at + 1 :])
        return jax.lax.dynamic_update_slice(whole, new_BGLK[None].astype(whole.dtype), (layer, 0, 0, cache.length, 0))

    return dataclasses.replace(cache, keys=write(cache.keys, k_BLGK), values=write(cache.values, v_BLGK))


def recall(cache: Cache, layer: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """One layer's keys and values, every slot: twice [B, S, G, K]."""

    def read(whole: jax.Array | tuple[jax.Array, ...]) -> jax.Array:
        if isinstance(whole, tuple):
            one = whole[int(layer)]
            return (one if one.ndim == 4 else one[None]).swapaxes(1, 2)
        return jax.lax.dynamic_index_in_dim(whole, layer, keepdims=False).swapaxes(1, 2)

    return read(cache.keys), read(cache.values)
