"""NEFTune (Jain et al. 2023): uniform noise on the embeddings of the words, in training alone."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.families import Model


def check(model: Model) -> None:
    """Raises `InputError` for a family that cannot read vectors in place of words, or does something to words first."""
    fits = "inputs_embeds" in model.inputs and "word" in model.declare().get("embeddings", {})
    if not fits or model.family.decoder_inputs or getattr(model.config, "SCALED_WORDS", False):
        raise InputError(f"neftune_noise_alpha: {model.family.name} cannot be given embeddings in place of words")


def with_noise(params: Tree, inputs: dict[str, Any], rng: jax.Array, alpha: float) -> dict[str, Any]:
    """The inputs with `inputs_embeds` in place of `input_ids`: each entry moved by at most `alpha / sqrt(L D)`."""
    words_BLD = params["embeddings"]["word"][inputs["input_ids"]]
    most = alpha / (words_BLD.shape[1] * words_BLD.shape[2]) ** 0.5
    noise_BLD = jax.random.uniform(rng, words_BLD.shape, jnp.float32, -most, most)
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    return {**others, "inputs_embeds": words_BLD + noise_BLD.astype(words_BLD.dtype)}
