"""When each token was said: where Whisper's decoder looked as it wrote it (Radford et al. 2022), by dynamic time warping.

Some heads (`alignment_heads` of generation_config.json) look where they hear; what these share is a path through the sound.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.params import Tree
from jaxformers.families import Model
from jaxformers.generate.run import prepared, slots_for
from jaxformers.parallel.distributed import fetch
from jaxformers.parallel.mesh import activate

STEP = 0.02  # seconds from one of the encoder's states to the next


def token_times(
    model: Model, states: jax.Array, prompt: np.ndarray, tokens: np.ndarray, heads: Sequence[Sequence[int]], heard: int
) -> np.ndarray:
    """When each token ends, in seconds of the piece: [T] of float64.

    Args:
      model: Whisper.
      states: [1, S, D], of its encoder.
      prompt: [P], what it was told before.
      tokens: [T], what it wrote, with the token that ends a text; the last one's time is that of the one before.
      heads: the layer and the head of each that is looked at.
      heard: how many of the encoder's states are of sound.
    """
    count = len(tokens) - 1
    if count < 1:
        return np.zeros(len(tokens))
    params, (family, head, config, mesh) = prepared(model)
    length = len(prompt) + count
    ids = np.full((1, min(slots_for(length), config.max_position_embeddings)), config.pad_token_id, np.int32)
    ids[0, :length] = np.concatenate((prompt, tokens[:-1]))
    chosen = tuple((int(layer), int(number)) for layer, number in heads)
    weights = _looks(params, states, ids, key=(family, head, config, mesh), heads=chosen)
    looks_HLS = np.array(fetch(weights))[:, len(prompt) : length, : max(1, heard)].astype(np.float32)
    spread = looks_HLS.std(axis=1, keepdims=True)
    looks_HLS = (looks_HLS - looks_HLS.mean(axis=1, keepdims=True)) / np.where(spread == 0, 1, spread)
    places = path(-smoothed(looks_HLS, config.median_filter_width).mean(axis=0))
    return np.append(places, places[-1]) * STEP


@partial(jax.jit, static_argnames=("key", "heads"))
def _looks(
    params: Tree, states: jax.Array, ids_1L: jax.Array, *, key: Any, heads: tuple[tuple[int, int], ...]
) -> jax.Array:
    """Where some heads look in the sound: [heads, L, S]."""
    family, head, config, mesh = key
    with activate(mesh):
        output = family.forward(head)(
            params, encoder_outputs=states, decoder_input_ids=ids_1L, config=config, output_attentions=True
        )
    return jnp.stack([output.cross_attentions[layer][0, number] for layer, number in heads])


def smoothed(looks: np.ndarray, width: int) -> np.ndarray:
    """The median of each number and its neighbours along the last axis, mirrored at the ends."""
    half = width // 2
    if looks.shape[-1] <= half:
        return looks
    wide = np.pad(looks, [*[(0, 0)] * (looks.ndim - 1), (half, half)], mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(wide, width, axis=-1), axis=-1)


def path(costs_LS: np.ndarray) -> np.ndarray:
    """The cheapest way through all rows and all columns: the column in which each row begins, [L].

    From a cell it goes on down, to the right, or both at once (Sakoe & Chiba 1978). Cells of one diagonal do not depend on each
    other, and are computed together.
    """
    L, S = costs_LS.shape
    total = np.full((L + 1, S + 1), np.inf, np.float32)
    total[0, 0] = 0
    came = np.full((L + 1, S + 1), 2, np.int8)  # from: 0 both, 1 above, 2 the left
    came[:, 0], came[0, :] = 1, 2
    for n in range(2, L + S + 1):
        rows = np.arange(max(1, n - S), min(L, n - 1) + 1)
        columns = n - rows
        both, above, left = total[rows - 1, columns - 1], total[rows - 1, columns], total[rows, columns - 1]
        step = np.where((both < above) & (both < left), 0, np.where((above < both) & (above < left), 1, 2))
        best = np.choose(step, (both, above, left))
        total[rows, columns] = costs_LS[rows - 1, columns - 1].astype(np.float64) + best
        came[rows, columns] = step
    begins = np.zeros(L, np.int64)
    row, column = L, S
    while row > 0:
        begins[row - 1] = max(column - 1, 0)  # the last that is written is the first on the way
        step = came[row, column]
        row, column = row - (step != 2), column - (step != 1)
    return begins
