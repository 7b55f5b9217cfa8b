"""Which tokens a draw is from: pure functions `(logits [R, V], number, least) -> logits` with -inf for what is cut off.

Each keeps at least `least` tokens: those that come first by its own order.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

NEVER = -jnp.inf


def cut(logits_RV: jax.Array, numbers: Mapping[str, Any], count: int, least: int) -> jax.Array:
    """All that are asked for, in transformers' order.

    Args:
      logits_RV: [R, V].
      numbers: name -> that of `CUTS`.
      count: `top_k`; 0 means all.
      least: tokens that are kept at least.
    """
    if count:
        logits_RV = top_k(logits_RV, max(count, least))
    for name, function in CUTS.items():
        if name in numbers:
            logits_RV = function(logits_RV, numbers[name], least)
    return logits_RV


def top_k(logits_RV: jax.Array, count: int) -> jax.Array:
    """The `count` likeliest tokens, and what is as likely as the last of them."""
    least_R1 = jax.lax.top_k(logits_RV, min(count, logits_RV.shape[1]))[0][:, -1:]
    return jnp.where(logits_RV < least_R1, NEVER, logits_RV)


def _keep(logits_RV: jax.Array, kept_RV: jax.Array, least: int) -> jax.Array:
    """The logits of what is kept, and of the `least` likeliest tokens in any case."""
    floor_R1 = jax.lax.top_k(logits_RV, least)[0][:, -1:] if least > 1 else logits_RV.max(-1, keepdims=True)
    return jnp.where(kept_RV | (logits_RV >= floor_R1), logits_RV, NEVER)


def _by_order(logits_RV: jax.Array, key_RV: jax.Array, mass: jax.Array, least: int) -> jax.Array:
    """The logits of the tokens of least key that have together a probability of `mass`: all up to the one that reaches it."""
    sorted_RV, ordered_RV = jax.lax.sort((key_RV, logits_RV), num_keys=1)
    reached_RV = jnp.cumsum(jax.nn.softmax(ordered_RV), axis=-1)
    last_R1 = (reached_RV < mass).sum(-1, keepdims=True)
    last_R1 = jnp.clip(last_R1, least - 1, key_RV.shape[1] - 1)
    return jnp.where(key_RV <= jnp.take_along_axis(sorted_RV, last_R1, axis=-1), logits_RV, NEVER)


def top_p(logits_RV: jax.Array, mass: jax.Array, least: int) -> jax.Array:
    """The likeliest tokens that have together a probability of `mass` (Holtzman et al. 2019)."""
    return _by_order(logits_RV, -logits_RV, mass, least)


def min_p(logits_RV: jax.Array, share: jax.Array, least: int) -> jax.Array:
    """The tokens at least `share` times as likely as the likeliest (Nguyen et al. 2024)."""
    p_RV = jax.nn.softmax(logits_RV)
    return _keep(logits_RV, p_RV >= share * p_RV.max(-1, keepdims=True), least)


def _entropy(logits_RV: jax.Array) -> jax.Array:
    log_RV = jax.nn.log_softmax(logits_RV)
    return -jnp.where(jnp.isfinite(log_RV), jnp.exp(log_RV) * log_RV, 0.0).sum(-1, keepdims=True)


def typical_p(logits_RV: jax.Array, mass: jax.Array, least: int) -> jax.Array:
    """The tokens whose surprise is nearest to the expected, of a probability of `mass` together (Meister et al. 2022)."""
    odd_RV = jnp.abs(-jax.nn.log_softmax(logits_RV) - _entropy(logits_RV))
    return _by_order(logits_RV, odd_RV, mass, least)


def epsilon_cutoff(logits_RV: jax.Array, floor: jax.Array, least: int) -> jax.Array:
    """The tokens of at least this probability (Hewitt et al. 2022)."""
    return _keep(logits_RV, jax.nn.softmax(logits_RV) >= floor, least)


def eta_cutoff(logits_RV: jax.Array, floor: jax.Array, least: int) -> jax.Array:
    """The same with a floor that sinks where the distribution is flat (Hewitt et al. 2022)."""
    eta_R1 = jnp.minimum(floor, jnp.sqrt(floor) * jnp.exp(-_entropy(logits_RV)))
    return _keep(logits_RV, jax.nn.softmax(logits_RV) >= eta_R1, least)


CUTS: dict[str, Callable[[jax.Array, jax.Array, int], jax.Array]] = {
    "top_p": top_p,
    "min_p": min_p,
    "typical_p": typical_p,
    "epsilon_cutoff": epsilon_cutoff,
    "eta_cutoff": eta_cutoff,
}
