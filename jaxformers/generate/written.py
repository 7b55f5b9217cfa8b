"""What a processor of logits is, and what it looks at: the tokens so far, and those that an encoder reads."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp


class Source(NamedTuple):
    """What an encoder reads: its tokens [B, S], and where they are real; or what it made of a sound, [B, S, D], and which samples
    of that were real, where it reads samples."""

    tokens: jax.Array
    real: jax.Array | None


@flax.struct.dataclass
class Written:
    """What was written so far (a pytree).

    Args:
      tokens: [R, S]; a prompt stands at the end of its slots, what was generated follows.
      real: [R, S], where a token stands that is neither padding nor yet to come.
      end: the slot of the next token.
      prompt: the slots of the prompt, padding included.
      given: the length of the prompt as it was handed over, padding included.
      source: of an encoder-decoder, what the encoder reads; rows of one text share it.
    """

    tokens: jax.Array
    real: jax.Array
    end: jax.Array
    prompt: jax.Array
    given: jax.Array
    source: Source | None = None

    @property
    def new(self) -> jax.Array:
        """The number of tokens that were generated."""
        return self.end - self.prompt

    def last(self, count: int) -> tuple[jax.Array, jax.Array]:
        """The last `count` tokens [R, count], and whether they are all there [R]."""
        start = self.end - count
        tokens, real = (jax.lax.dynamic_slice_in_dim(array, start, count, axis=1) for array in (self.tokens, self.real))
        return tokens, real.all(1) & (start >= 0)

    def read(self) -> tuple[jax.Array, jax.Array]:
        """The tokens that are gone on from, what the encoder reads or else the prompt, [R, n], and which are real."""
        if self.source is None:
            return self.tokens, self.real & (jnp.arange(self.tokens.shape[1]) < self.prompt)[None]
        assert self.source.real is not None, "a sound or an image has no tokens"
        each = self.tokens.shape[0] // self.source.tokens.shape[0]
        return jnp.repeat(self.source.tokens, each, axis=0), jnp.repeat(self.source.real, each, axis=0)


Processor = Callable[[jax.Array, Written], jax.Array]
Knobs = Mapping[str, Any]
