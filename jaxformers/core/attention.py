"""Attention, and the one place that picks the kernel for the device.

Masks are boolean, True where a query may look, and broadcast to [B, H, L, S]. What a decoder remembers is in `core.cache`.
"""

import jax
import jax.numpy as jnp

from jaxformers.core.layers import dropout
from jaxformers.errors import InputError


def padding_mask(attention_mask: jax.Array | None) -> jax.Array | None:
    """The mask that hides padding.

    Args:
      attention_mask: [B, S] (or [B, L, S] for one mask a query), 1 for real tokens and 0 for padding; None hides nothing.

    Returns:
      Booleans [B, 1, 1, S] (or [B, 1, L, S]), or None.
    """
    if attention_mask is None:
        return None
    if attention_mask.ndim == 2:
        return attention_mask[:, None, None, :].astype(bool)
    if attention_mask.ndim == 3:
        return attention_mask[:, None, :, :].astype(bool)
    raise InputError(
        f"attention_mask must be [batch, length] or [batch, query, key], found shape {attention_mask.shape}"
    )


def causal_mask(length: int, keys: int, start: jax.Array | int = 0, window: int | None = None) -> jax.Array:
    """The mask that hides what comes later, and what is farther back than a window.

    Args:
      length: L, the queries.
      keys: S, the keys; the first stands at 0.
      start: where the first query stands.
      window: how many keys a query sees, its own included; None means all before it.

    Returns:
      Booleans [1, 1, L, S].
    """
    steps_LS = start + jnp.arange(length)[:, None] - jnp.arange(keys)[None]
    seen_LS = steps_LS >= 0
    return (seen_LS if window is None else seen_LS & (steps_LS < window))[None, None]


def pick_kernel(platform: str, dtype: jnp.dtype, head_size: int, *, dropout: bool, maps: bool) -> str:
    """The kernel for this device: `cudnn` where cuDNN's fused attention does all that is asked, else `xla`.

    The fused kernel takes half precision and head sizes that are multiples of 8 up to 128, cannot return the attention
    maps, and draws its dropout its own way, which would make a run depend on the device: so with dropout it is not used.
    """
    fits = jnp.dtype(dtype).itemsize == 2 and head_size % 8 == 0 and head_size <= 128
    return "cudnn" if platform == "gpu" and fits and not dropout and not maps else "xla"


def attend(
    q_BLHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    mask: jax.Array | None = None,
    *,
    bias: jax.Array | None = None,
    scale: float | None = None,
    cap: float | None = None,
    dropout_rate: float = 0.0,
    rng: jax.Array | None = None,
    maps: bool = False,
    kernel: str | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Scaled dot-product attention (Vaswani et al. 2017).

    Args:
      q_BLHK: queries [B, L, H, K].
      k_BSGK: keys [B, S, G, K]; where there are fewer than H heads, H / G queries share one (Ainslie et al. 2023).
      v_BSGK: values [B, S, G, K].
      mask: booleans that broadcast to [B, H, L, S], True where a query may look; None lets it look everywhere.
      bias: added to the scaled logits, of a shape that broadcasts to [B, H, L, S]; None adds nothing.
      scale: multiplies the logits; 1/√K by default.
      cap: what the scaled logits come near and never pass, by a tanh (Bello et al. 2016); None lets them be.
      dropout_rate: share of attention weights dropped when `rng` is given.
      rng: key for dropout; None means none.
      maps: also return the attention weights.
      kernel: `"xla"` or `"cudnn"`; None picks for the device. No fused one caps: with `cap` it is `"xla"`.

    Returns:
      The attended values [B, L, H, K], and the weights after dropout [B, H, L, S] if `maps` asks for them, else None.
    """
    scale = q_BLHK.shape[-1] ** -0.5 if scale is None else scale
    dropping = rng is not None and dropout_rate > 0
    if cap is not None:
        kernel = "xla"
    if kernel is None:
        kernel = pick_kernel(jax.default_backend(), q_BLHK.dtype, q_BLHK.shape[-1], dropout=dropping, maps=maps)
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(
            q_BLHK, k_BSGK, v_BSGK, bias=bias, mask=mask, scale=scale, implementation="cudnn"
        ), None
    (B, L, H, K), (S, G) = q_BLHK.shape, k_BSGK.shape[1:3]
    q_BLHK = q_BLHK * jnp.asarray(scale, q_BLHK.dtype)
    if G == H:
        logits_BHLS = jnp.einsum("BLHK,BSHK->BHLS", q_BLHK, k_BSGK)
    else:
        q_BLGRK = q_BLHK.reshape(B, L, G, H // G, K)
        logits_BHLS = jnp.einsum("BLGRK,BSGK->BGRLS", q_BLGRK, k_BSGK).reshape(B, H, L, S)
    logits_BHLS = logits_BHLS.astype(jnp.float32)
    if cap is not None:
        logits_BHLS = cap * jnp.tanh(logits_BHLS / cap)
    if bias is not None:
        logits_BHLS = logits_BHLS + bias.astype(jnp.float32)
    if mask is not None:
        # A large finite number, not -inf: a row with nothing to look at must stay free of NaN.
        logits_BHLS = jnp.where(mask, logits_BHLS, jnp.finfo(jnp.float32).min)
    weights_BHLS = jax.nn.softmax(logits_BHLS, axis=-1).astype(q_BLHK.dtype)
    weights_BHLS = dropout(weights_BHLS, dropout_rate, rng)
    if G == H:
        out_BLHK = jnp.einsum("BHLS,BSHK->BLHK", weights_BHLS, v_BSGK)
    else:
        weights_BGRLS = weights_BHLS.reshape(B, G, H // G, L, S)
        out_BGRLK = jnp.einsum("BGRLS,BGSK->BGRLK", weights_BGRLS, v_BSGK.swapaxes(1, 2))
        out_BLHK = jnp.moveaxis(out_BGRLK, 3, 1).reshape(B, L, H, K)
    return out_BLHK, weights_BHLS if maps else None
