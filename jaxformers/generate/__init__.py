"""Generation: one compiled program reads the prompt, another loops over a static cache until every row has ended.

Here: `generate` and `stream`. What the host decides before and between programs: `run`; the loops: `loop`, `beams` and `assist`;
how a token is chosen: `processors`; the options: `config`.
"""

import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.generate.config import GenerationConfig
from jaxformers.generate.run import GenerateOutput, Run
from jaxformers.generate.written import Processor, Written

__all__ = ["GenerateOutput", "GenerationConfig", "Processor", "Written", "generate", "stream"]

CHUNK = 16  # tokens that are generated between two looks for a stop string


def generate(
    model: Model,
    input_ids: Any = None,
    attention_mask: Any = None,
    *,
    decoder_input_ids: Any = None,
    decoder_attention_mask: Any = None,
    input_features: Any = None,
    input_values: Any = None,
    pixel_values: Any = None,
    encoder_outputs: Any = None,
    generation_config: GenerationConfig | None = None,
    rng: jax.Array | int | None = None,
    logits_processor: Sequence[Processor] = (),
    prefix_allowed_tokens_fn: Callable[[int, np.ndarray], Sequence[int]] | None = None,
    tokenizer: Any = None,
    assistant_model: Model | None = None,
    **options: Any,
) -> GenerateOutput:
    """Goes on from prompts, or answers what an encoder reads.

    Args:
      model: a decoder with the head `causal-lm`, or an encoder-decoder with `seq2seq-lm`, `speech-seq2seq` or
        `vision2seq`.
      input_ids: [B, L] token ids, of an encoder-decoder for its encoder; None starts a decoder from `bos_token_id`.
      attention_mask: [B, L], 1 for tokens and 0 for padding, on either side; None means that padding is what has the padding
        token's id, unless that also ends a text.
      decoder_input_ids: [B, P], what an encoder-decoder's decoder goes on from; `decoder_start_token_id` by default, which is
        put before them where none begins with it.
      decoder_attention_mask: [B, P] of these.
      input_features: [B, bands, frames], what a speech model's encoder hears, in place of `input_ids`; `attention_mask` is of
        `input_values`.
      input_values: waves [B, samples], where it hears these.
      pixel_values: [B, Y, X, C], images that a vision-encoder-decoder tells of.
      encoder_outputs: [B, S, D], what it made of them, where that is known.
      generation_config: in place of the model's own.
      rng: key (or seed) for what is drawn, or a key [B] for each row; None is the seed 0.
      logits_processor: pure functions `(logits [R, V], Written) -> logits`, after the built-in ones that ban or force; a
        program is compiled for the very functions, so keep them.
      prefix_allowed_tokens_fn: (row of the batch, its tokens so far) -> the tokens that may come next; asked by the host at
        every step.
      tokenizer: whose `decode` finds `stop_strings`.
      assistant_model: a smaller model of the same words that guesses what comes next, which changes the time it takes alone:
        greedily the tokens are the same, of draws the distribution.
      **options: those of `GenerationConfig`, such as `max_new_tokens`, `do_sample`, `num_beams`.

    Returns:
      `GenerateOutput`; `.sequences` is what transformers returns.

    Raises:
      InputError: an unknown option, a value that cannot be, or more tokens than the model has positions for.

    >>> import jaxformers as jf
    >>> tiny = {"model_type": "llama", "vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "intermediate_size": 16, "eos_token_id": None}
    >>> jf.generate(jf.load(tiny, head="causal-lm"), [[3, 4, 5]], max_new_tokens=4).sequences.shape
    (1, 7)
    """
    run = Run(model, input_ids, attention_mask, options, given=generation_config, rng=rng, own=logits_processor,
              allow=prefix_allowed_tokens_fn, tokenizer=tokenizer, assistant=assistant_model,
              decoder=(decoder_input_ids, decoder_attention_mask),
              perceived={"input_features": input_features, "input_values": input_values, "pixel_values": pixel_values,
                         "encoder_outputs": encoder_outputs, "attention_mask": attention_mask})  # fmt: skip
    for _ in run.parts(1 if prefix_allowed_tokens_fn else CHUNK if run.config.stop_strings else run.most):
        pass
    return run.output()


def stream(
    model: Model,
    input_ids: Any = None,
    attention_mask: Any = None,
    *,
    decoder_input_ids: Any = None,
    decoder_attention_mask: Any = None,
    input_features: Any = None,
    input_values: Any = None,
    pixel_values: Any = None,
    encoder_outputs: Any = None,
    generation_config: GenerationConfig | None = None,
    rng: jax.Array | int | None = None,
    logits_processor: Sequence[Processor] = (),
    prefix_allowed_tokens_fn: Callable[[int, np.ndarray], Sequence[int]] | None = None,
    tokenizer: Any = None,
    assistant_model: Model | None = None,
    **options: Any,
) -> Iterator[np.ndarray]:
    """As `generate`, but gives the tokens as they come: one array [R] a step. Not for beams, which may change their mind.

    >>> import jaxformers as jf
    >>> tiny = {"model_type": "llama", "vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "intermediate_size": 16, "eos_token_id": None}
    >>> [len(tokens) for tokens in stream(jf.load(tiny, head="causal-lm"), [[3, 4, 5]], max_new_tokens=4)]
    [1, 1, 1, 1]
    """
    run = Run(model, input_ids, attention_mask, options, given=generation_config, rng=rng, own=logits_processor,
              allow=prefix_allowed_tokens_fn, tokenizer=tokenizer, assistant=assistant_model,
              decoder=(decoder_input_ids, decoder_attention_mask),
              perceived={"input_features": input_features, "input_values": input_values, "pixel_values": pixel_values,
                         "encoder_outputs": encoder_outputs, "attention_mask": attention_mask})  # fmt: skip
    if run.rules.beams > 1:
        raise InputError("beams cannot be streamed, for they may change their mind: leave num_beams at 1")
    return (run.new()[:, -1] for _ in run.parts(1))


class _Room(types.ModuleType):
    """This module, which can be called: `jaxformers.generate` is the function, and the room it stands in has its name."""

    __call__ = staticmethod(generate)


sys.modules[__name__].__class__ = _Room
