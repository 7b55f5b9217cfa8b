"""How a decoder looks at what an encoder has read, heard or seen: keys and values made of its states once, and attention to them.

What a layer has for it stands under `cross`: `query`, `out`, and `key` and `value`, or both in one as `pair`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.attention import Mask, attend
from jaxformers.core.cache import Cache, recall
from jaxformers.core.layers import product
from jaxformers.core.params import Tree
from jaxformers.core.transformer import heads_in, heads_out


def read_source(cross: Tree, source_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys and values that a layer makes of the encoder's states, twice [B, S, H, K]; GPT-2 keeps both in one projection."""
    if "pair" not in cross:
        return heads_in(cross["key"], source_BSD), heads_in(cross["value"], source_BSD)
    y_BSCHK = product("BSD,DCHK->BSCHK", source_BSD, cross["pair"]["kernel"])
    y_BSCHK = y_BSCHK + jnp.broadcast_to(cross["pair"]["bias"], y_BSCHK.shape)
    return y_BSCHK[:, :, 0], y_BSCHK[:, :, 1]


def keep_source(layers: Any, source_BSD: jax.Array, mask: jax.Array | None) -> Cache:
    """The keys and values that every layer of a decoder makes of what the encoder has read.

    Args:
      layers: the decoder's, stacked or one by one.
      source_BSD: the encoder's states.
      mask: [B, S], 1 for tokens and 0 for padding; None means no padding.
    """

    def one(layer: Tree) -> tuple[jax.Array, jax.Array]:
        k_BSHK, v_BSHK = read_source(layer["cross"], source_BSD)
        return k_BSHK.swapaxes(1, 2), v_BSHK.swapaxes(1, 2)

    keys: Any
    values: Any
    keys, values = jax.vmap(one)(layers) if isinstance(layers, dict) else zip(*map(one, layers), strict=True)
    B, S = source_BSD.shape[:2]
    return Cache(keys, values, jnp.ones((B, S), bool) if mask is None else mask != 0, jnp.int32(S))


def look_across(
    layer: Tree, y_BLD: jax.Array, cache: Cache | None, source_BSD: jax.Array | None, mask: Mask | None, **options: Any
) -> tuple[jax.Array, jax.Array | None]:
    """What a layer's tokens find in what the encoder has read.

    Args:
      layer: the layer's parameters, with `cross`, and its `number`.
      y_BLD: the tokens that look.
      cache: which holds the keys and values already; None where there is none.
      source_BSD: the encoder's states, where there is no cache.
      mask: where in them a token may look.
      **options: those of `attend`.

    Returns:
      What is found [B, L, D], and the weights [B, H, L, S] if asked for.
    """
    q_BLHK = heads_in(layer["cross"]["query"], y_BLD)
    if cache is None:
        k_BSHK, v_BSHK = read_source(layer["cross"], source_BSD)  # type: ignore[arg-type]
    else:
        k_BSHK, v_BSHK = recall(cache.cross, layer["number"])  # type: ignore[arg-type]
    a_BLHK, weights = look_at_source(q_BLHK, k_BSHK, v_BSHK, mask, **options)
    return heads_out(layer["cross"]["out"], a_BLHK), weights


def look_at_source(
    q_RLHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, mask: Mask | None, **options: Any
) -> tuple[jax.Array, jax.Array | None]:
    """Attention of R rows to B texts, each of which R / B rows next to each other look at (beams): nothing is copied for them.

    Returns:
      The attended values [R, L, H, K], and the weights [R, H, L, S] if asked for.
    """
    (R, L, H, K), (B, S) = q_RLHK.shape, k_BSHK.shape[:2]
    each = R // B
    a_BLHK, weights = attend(q_RLHK.reshape(B, each * L, H, K), k_BSHK, v_BSHK, mask, **options)
    if weights is not None and each > 1:
        weights = weights.reshape(B, H, each, L, S).swapaxes(1, 2).reshape(R, H, L, S)
    return a_BLHK.reshape(R, L, H, K), weights
