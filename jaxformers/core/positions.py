"""Positions: how a token learns where it stands."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.errors import InputError


def learned(table_PD: jax.Array, length: int, position_ids: jax.Array | None = None) -> jax.Array:
    """Rows of a learned table.

    Args:
      table_PD: [positions, D].
      length: L, the number of tokens.
      position_ids: [B, L] (or [1, L]); None counts from 0.

    Returns:
      [1, L, D], or [B, L, D] with `position_ids`.

    Raises:
      InputError: the sequence is longer than the table (JAX would silently repeat its last row).
    """
    if position_ids is not None:
        return table_PD[position_ids]
    check_length(length, table_PD.shape[0])
    return table_PD[None, :length]


def check_length(length: int, most: int) -> None:
    """Raises `InputError` where `length` tokens are more than the `most` a model has positions for."""
    if length > most:
        raise InputError(f"the input is {length} tokens long, this model has positions for {most}")


def after_padding(input_ids: jax.Array, pad_token_id: int) -> jax.Array:
    """fairseq's positions: tokens count on from `pad_token_id + 1`, every padding token stands at `pad_token_id`.

    Args:
      input_ids: [B, L].
      pad_token_id: the padding token, which also is the row of the position table that nothing is to learn from.

    Returns:
      Positions [B, L].
    """
    real_BL = (input_ids != pad_token_id).astype(jnp.int32)
    return jnp.cumsum(real_BL, axis=1) * real_BL + pad_token_id


def sinusoids(length: int, width: int) -> np.ndarray:
    """The fixed table of Vaswani et al. 2017: sine in even columns, cosine in odd ones, [length, width] of float64."""
    rates = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
    angles = np.arange(length)[:, None] * rates
    return np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles))


def sinusoids_of_places(side: int, width: int) -> np.ndarray:
    """Fixed positions in a square of `side` × `side` (He et al. 2021), row by row: [side², width] of float64.

    A quarter of the width each: sine and cosine of the column, sine and cosine of the row.
    """
    rates = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    angles = np.arange(side)[:, None] * rates
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.concatenate([np.tile(waves, (side, 1)), np.repeat(waves, side, axis=0)], axis=1)


def distances_of_places(rows: int, columns: int) -> np.ndarray:
    """Which number a table has for each two places of a window, by how far apart they are down and across: [places, places]."""
    down, across = (place.reshape(-1) for place in np.indices((rows, columns)))
    steps = (down[:, None] - down[None] + rows - 1, across[:, None] - across[None] + columns - 1)
    return steps[0] * (2 * columns - 1) + steps[1]


def half_sinusoids(length: int, width: int) -> np.ndarray:
    """The same with all sines before all cosines, [length, width] of float32."""
    table = sinusoids(length, width)
    return np.concatenate((table[:, 0::2], table[:, 1::2]), axis=1).astype(np.float32)


def rotary_rates(size: int, base: float | jax.Array) -> Any:
    """How fast each pair of a head turns, in radians a token (Su et al. 2021): [K/2] of float32.

    Args:
      size: K, of a head.
      base: the longest wavelength is 2π times this (almost).
    """
    return 1.0 / base ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))


def llama3_rates(rates_K: np.ndarray, factor: float, low: float, high: float, length: int) -> np.ndarray:
    """Rates for texts that are `factor` times longer than `length`, as Llama 3.1 has them (Grattafiori et al. 2024).

    A pair that turns more than `high` times within `length` tokens keeps its rate, one that turns less than `low` times is
    slowed by `factor`, and between these the two are mixed.
    """
    turns_K = length * rates_K / np.float32(2 * np.pi)
    share_K = np.clip((turns_K - low) / (high - low), 0, 1)
    return ((1 - share_K) * rates_K / factor + share_K * rates_K).astype(np.float32)


def dynamic_base(base: float, size: int, factor: float, length: jax.Array, trained: int) -> jax.Array:
    """The base of rotations that slow down as a text grows beyond `trained` tokens, so that the slowest pair still fits.

    Args:
      base: up to `trained` tokens.
      size: K, of a head.
      factor: how much longer texts may get.
      length: of this text.
      trained: tokens of the longest text the model was trained on.
    """
    longer = jnp.maximum(length, trained).astype(jnp.float32) / trained
    return base * (factor * longer - (factor - 1)) ** (size / (size - 2))


def angles(position_ids: jax.Array, rates_K: Any) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the angles of rotary positions.

    Args:
      position_ids: [B, L] (or [1, L]).
      rates_K: [K/2] of `rotary_rates`.

    Returns:
      Two arrays [B, L, 1, K/2], in float32 whatever the model computes in: bfloat16 would round 257 to 256.
    """
    angles_BLK = position_ids[..., None].astype(jnp.float32) * jnp.asarray(rates_K, jnp.float32)[None, None]
    return jnp.cos(angles_BLK)[:, :, None], jnp.sin(angles_BLK)[:, :, None]


def rotary_angles(position_ids: jax.Array, size: int, base: float) -> tuple[jax.Array, jax.Array]:
    """`angles` at the rates of `rotary_rates(size, base)`."""
    return angles(position_ids, rotary_rates(size, base))


def rotate(x_BLHK: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Turns each pair (n, n + K/2) of a head by its position's angle: [B, L, H, K] -> the same."""
    a, b = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate((a * cosine - b * sine, b * cosine + a * sine), axis=-1).astype(x_BLHK.dtype)


def log_buckets(length: int, buckets: int, farthest: int) -> np.ndarray:
    """How far each query is from each key, as DeBERTa counts (He et al. 2020): exactly when near, by its logarithm when far.

    Args:
      length: L.
      buckets: twice the distance up to which every step counts, and the result's largest; below 1 every step always does.
      farthest: the distance that comes out as `buckets - 1`.

    Returns:
      [L, L] whole numbers, query minus key; antisymmetric.
    """
    steps = np.arange(length)[:, None] - np.arange(length)[None]
    if buckets < 1 or farthest < 1:
        return steps
    near = buckets // 2
    # In float32, as PyTorch computes it: rounded up, a last digit may be a bucket.
    distance = np.maximum(np.abs(steps), near).astype(np.float32) / np.float32(near)
    whole = np.log(np.float32((farthest - 1) / near), dtype=np.float32)
    far = np.ceil(np.log(distance) / whole * np.float32(near - 1)) + near
    return np.where(np.abs(steps) <= near, steps, np.sign(steps) * far).astype(np.int32)


def relative_buckets(steps: jax.Array, buckets: int, farthest: int, both_ways: bool) -> jax.Array:
    """T5's buckets of distances (Raffel et al. 2020): half of them count every step, the rest grow with the logarithm.

    Args:
      steps: [L, S] whole numbers, key minus query.
      buckets: how many there are; where keys are looked at both ways, half of them are for those that come later.
      farthest: the distance from which on all share the last.
      both_ways: whether keys that come later are told apart; else they are as near as the query itself.

    Returns:
      [L, S] numbers below `buckets`.
    """
    own = buckets // 2 if both_ways else buckets
    near = own // 2
    # In float32, as PyTorch computes it: rounded up, a last digit may be a bucket.
    distance = np.maximum(np.arange(farthest + 1), near).astype(np.float32) / np.float32(near)
    far = near + (np.log(distance) / np.float32(np.log(farthest / near)) * np.float32(own - near)).astype(np.int32)
    table = np.where(np.arange(farthest + 1) < near, np.arange(farthest + 1), np.minimum(far, own - 1))
    back = jnp.asarray(table, jnp.int32)[jnp.clip(jnp.abs(steps) if both_ways else -steps, 0, farthest)]
    return back + own * (steps > 0) if both_ways else back
