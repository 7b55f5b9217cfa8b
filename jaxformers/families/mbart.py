"""mBART (Liu et al. 2020, arXiv:2001.08210): BART with its norms first, and a text's language as its last token."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxformers.families.bart import BartConfig, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class MBartConfig(BartConfig):
    """mBART's numbers; the defaults are BART's, and there is no token that all texts begin with."""

    decoder_start_token_id: int | None = None

    NORM_FIRST = True


def wrap_right(ids_BL: jax.Array, config: MBartConfig) -> jax.Array:
    """What a decoder reads to predict `ids_BL`: the same one place later, after the last of them, their language."""
    ids_BL = jnp.where(ids_BL == -100, config.pad_token_id, ids_BL)
    last_B1 = (ids_BL != config.pad_token_id).sum(1, keepdims=True) - 1
    return jnp.concatenate((jnp.take_along_axis(ids_BL, last_B1, axis=1), ids_BL[:, :-1]), axis=1)


FAMILY = family("mbart", "MBart", MBartConfig, decoder_inputs=wrap_right)
