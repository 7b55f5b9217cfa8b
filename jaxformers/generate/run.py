"""One call of `generate`, on the host: which options count, which of few shapes a program is compiled for, what comes back."""

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxformers.core.params import Tree
from jaxformers.core.transformer import apart
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.generate import assist, beams, loop
from jaxformers.generate.config import GenerationConfig, config_for
from jaxformers.generate.processors import knobs_of, rules_of
from jaxformers.generate.written import Processor, Source
from jaxformers.parallel.distributed import fetch
from jaxformers.parallel.mesh import activate

# The slots of prompts and caches; a finer grid would waste fewer slots and compile more programs.
SLOTS = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, *(n << k for k in range(9, 21) for n in (2, 3)))


@dataclasses.dataclass(frozen=True)
class GenerateOutput:
    """What was generated.

    Args:
      sequences: [R, T] int32: the prompt as it was handed over (of an encoder-decoder its decoder's, so at least the token
        that all begin with), then what was generated, then padding. R is the batch times `num_return_sequences`.
      scores: with `output_scores`, for each new token the processed logits [R, V] (of beams: log-probabilities, a row for
        each beam).
      logits: with `output_logits`, for each new token the model's logits, float32.
      sequences_scores: [R], of beams: the sum of log-probabilities over the length to the power of `length_penalty`.
      beam_indices: [R, new], of beams: the row of `scores` that each token was chosen from; -1 where there was none.
    """

    sequences: np.ndarray
    scores: tuple[np.ndarray, ...] | None = None
    logits: tuple[np.ndarray, ...] | None = None
    sequences_scores: np.ndarray | None = None
    beam_indices: np.ndarray | None = None

    def log_probs(self) -> np.ndarray:
        """The log-probability [R, new] of each new token, among what the processors left; 0 after a beam's end.

        Raises:
          InputError: `output_scores` was not asked for.
        """
        if self.scores is None:
            raise InputError("log-probabilities are made of scores: generate with output_scores=True")
        new = self.sequences[:, self.sequences.shape[1] - self.steps :]
        found = np.zeros(new.shape, np.float32)
        for step, scores_RV in enumerate(self.scores[: self.steps]):
            rows = np.arange(len(new)) if self.beam_indices is None else self.beam_indices[:, step]
            peak = scores_RV.max(-1, keepdims=True)
            log_RV = scores_RV - peak - np.log(np.exp(scores_RV - peak).sum(-1, keepdims=True))
            found[:, step] = np.where(rows < 0, 0.0, log_RV[rows, new[:, step]])
        return found

    @property
    def steps(self) -> int:
        """The number of new tokens, as far as scores are known."""
        return len(self.scores or ()) if self.beam_indices is None else self.beam_indices.shape[1]


class Run:
    """What is decided before a program runs, and the state between programs."""

    def __init__(
        self,
        model: Model,
        input_ids: Any,
        attention_mask: Any,
        options: Mapping[str, Any],
        *,
        given: GenerationConfig | None,
        rng: jax.Array | int | None,
        own: Sequence[Processor],
        allow: Callable[[int, np.ndarray], Sequence[int]] | None,
        tokenizer: Any,
        assistant: Model | None = None,
        decoder: tuple[Any, Any] = (None, None),
        perceived: Mapping[str, Any] | None = None,
    ) -> None:
        for each in (model, *([] if assistant is None else [assistant])):
            if each.family.cache is None or each.head not in loop.READS:
                raise InputError(
                    "generate needs a decoder with the head 'causal-lm', or an encoder-decoder with 'seq2seq-lm', "
                    "'speech-seq2seq' or 'vision2seq', "
                    f"found {each.family.name} with {each.head!r}"
                )
        self.model, self.allow, self.tokenizer = model, allow, tokenizer
        self.config = config_for(model, given, options)
        self.ahead = _ahead(model, assistant, self.config, allow)
        if self.config.stop_strings and tokenizer is None:
            raise InputError("stop_strings are texts: give tokenizer= too")
        source = None
        if model.head in loop.SOURCES:
            if model.head == "seq2seq-lm":
                source = _source(model, input_ids, attention_mask, self.config)
            else:
                source = _perceived(model, perceived or {}, self.config)
            self.ids, mask = _decoder_prompts(model, *decoder, self.config, len(source.tokens))
        else:
            self.ids, mask = _prompts(model, input_ids, attention_mask, self.config)
        pieces = [_tokens(row, real, number) for number, (row, real) in enumerate(zip(self.ids, mask, strict=True))]
        longest = max(len(tokens) for tokens, _ in pieces)
        self.most = _most(model, self.config, self.ids.shape[1], longest)
        self.prompt = 1 if longest == 1 and source else slots_for(longest)
        self.vocab = getattr(model.config, "decoder_vocab_size", model.config.vocab_size)
        self.rules = rules_of(self.config, self.vocab, tuple(own))
        self.knobs = knobs_of(self.config, self.most)
        self.each = self.rules.beams if self.rules.beams > 1 else self.config.num_return_sequences  # rows a prompt
        params, compiled = prepared(model)
        small = (None, None) if assistant is None else prepared(assistant)
        if small[1] is not None and small[1][-1] != compiled[-1]:
            raise InputError("assistant_model must lie on the model's devices: load both with the same mesh")
        self.params: Any = params if self.ahead is None else (params, small[0])
        self.key: Any = compiled if self.ahead is None else (compiled, small[1])
        self.state: Any = None
        self.ends: dict[int, int] = {}  # row -> how many tokens it had when a stop string came to its end
        ids, real = np.zeros((2, len(pieces), self.prompt), np.int32)
        for row, (tokens, there) in enumerate(pieces):
            ids[row, self.prompt - len(tokens) :], real[row, self.prompt - len(tokens) :] = tokens, there
        key = jax.random.key(rng or 0) if rng is None or isinstance(rng, int) else rng
        keys = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(pieces)))
        self.inputs = (ids, real, np.int32(self.ids.shape[1]), keys, source)

    def parts(self, size: int) -> Iterator[None]:
        """Generates one token, then `size` more at a time, until the end."""
        program: Any = beams if self.rules.beams > 1 else loop if self.ahead is None else assist
        fixed: dict[str, Any] = {"model": self.key, "rules": self.rules}
        guesses = 0  # what is read at a time beside the token that is kept in any case
        if self.ahead is not None:
            fixed, guesses = fixed | {"ahead": self.ahead}, self.ahead.guesses
        shape = {"slots": slots_for(self.prompt + self.most + guesses), "most": slots_for(self.most + guesses)}
        if self.rules.beams == 1:
            shape["times"] = self.each
        self.state = program.start(self.params, *self.inputs, self._knobs(), **fixed, **shape)
        while True:
            self._stop()
            yield
            if self.steps >= self.most or self._over():
                return
            until = np.int32(min(self.steps + size, self.most))
            self.state = program.go_on(self.params, self.state, until, self._knobs(), **fixed)

    @property
    def steps(self) -> int:
        """How many tokens were generated."""
        return 0 if self.state is None else int(self.state.steps)

    def new(self) -> np.ndarray:
        """The tokens generated so far, of every row or beam [R, steps]; those after a stop string made padding."""
        tokens = self.state.tokens if self.rules.beams == 1 else self.state.running.tokens
        new = np.array(fetch(tokens[..., self.prompt : self.prompt + self.steps])).reshape(-1, self.steps)
        for row, end in self.ends.items():
            new[row, end:] = self.knobs["pad"]
        return new

    def output(self) -> GenerateOutput:
        """What was generated."""
        state, steps, count = self.state, self.steps, self.config.num_return_sequences
        ids = np.repeat(self.ids, count, axis=0)
        if self.rules.beams == 1:
            new = self.new()
            steps = max(self.ends.get(row, steps) for row in range(len(new)))
            named: dict[str, Any] = {}
            new = new[:, :steps]
        else:
            best = jax.tree.map(lambda array: fetch(array[:, :count]).reshape(-1, *array.shape[2:]), state.ended)
            length = int((best.origin >= 0).sum(1).max())
            new, origin = best.tokens[:, self.prompt : self.prompt + length], best.origin[:, :length]
            first_R1 = np.repeat(np.arange(len(self.ids)), count)[:, None] * self.rules.beams
            named = {"sequences_scores": best.scores, "beam_indices": np.where(origin >= 0, origin + first_R1, -1)}
        kept = {"scores": state.scores, "logits": state.logits}
        named |= {name: None if array is None else tuple(fetch(array[:steps])) for name, array in kept.items()}
        return GenerateOutput(np.concatenate((ids, new), axis=1), **named)

    def _over(self) -> bool:
        if self.rules.beams > 1:
            return not bool(beams.unfinished(self.state, self.rules))
        return bool(fetch(self.state.done).all())

    def _knobs(self) -> dict[str, Any]:
        """The knobs, with the mask of what is allowed next where the caller decides."""
        if self.allow is None:
            return self.knobs
        ids = np.repeat(self.ids, self.each, axis=0)
        if self.state is not None:
            ids = np.concatenate((ids, self.new()), axis=1)
        allowed_RV = np.zeros((len(ids), self.vocab), bool)
        for row, tokens in enumerate(ids):
            some = list(self.allow(row // self.each, tokens))
            if not some:
                raise InputError(
                    f"prefix_allowed_tokens_fn allows nothing after {tokens.tolist()}, at least one token must be"
                )
            allowed_RV[row, some] = True
        return self.knobs | {"allowed": allowed_RV}

    def _stop(self) -> None:
        """Ends the rows in which a stop string came to its end. Rows do not depend on each other: too far does no harm."""
        stops = self.config.stop_strings
        if not stops:
            return
        done = np.array(fetch(self.state.done))
        for row, tokens in enumerate(self.new().tolist()):
            if row in self.ends or not _holds(self.tokenizer.decode(tokens), stops):
                continue
            self.ends[row] = next(
                n for n in range(1, len(tokens) + 1) if _holds(self.tokenizer.decode(tokens[:n]), stops)
            )
            done[row] = True
        self.state = self.state.replace(done=done)


def _ahead(
    model: Model, assistant: Model | None, config: GenerationConfig, allow: Callable[..., Any] | None
) -> assist.Ahead | None:
    """How tokens are guessed ahead, if they are."""
    looked_up = config.prompt_lookup_num_tokens
    if assistant is None and looked_up is None:
        return None
    if config.num_beams > 1 or allow is not None:
        other = "num_beams above 1" if config.num_beams > 1 else "prefix_allowed_tokens_fn"
        raise InputError(f"tokens are not guessed ahead with {other}: leave one of the two out")
    if model.family.asks_ahead:
        raise InputError(f"{model.family.name} tells of one next token at a time, so none can be guessed ahead")
    if assistant is None:
        assert looked_up is not None
        return assist.Ahead(looked_up, config.max_matching_ngram_size)
    if looked_up is not None:
        raise InputError("give assistant_model or prompt_lookup_num_tokens, not both")
    if assistant.head != model.head:
        raise InputError(f"assistant_model must have the model's head {model.head!r}, found {assistant.head!r}")
    if assistant.config.vocab_size != model.config.vocab_size:
        raise InputError(
            f"assistant_model must have the model's {model.config.vocab_size} words, found {assistant.config.vocab_size}"
        )
    return assist.Ahead(config.num_assistant_tokens, 0)


def _holds(text: str, stops: Sequence[str]) -> bool:
    return any(stop in text for stop in stops)


def slots_for(count: int) -> int:
    """The first of `SLOTS` that is enough."""
    return next((slots for slots in SLOTS if slots >= count), count)


def _prompts(
    model: Model, input_ids: Any, attention_mask: Any, config: GenerationConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask [B, L], checked."""
    if input_ids is None:
        if config.bos_token_id is None:
            raise InputError(
                "without input_ids a text begins with bos_token_id, and this model has none: give one of the two"
            )
        input_ids = [[config.bos_token_id]]
    return _checked(input_ids, attention_mask, config, model.config.vocab_size)


def _checked(
    input_ids: Any, attention_mask: Any, config: GenerationConfig, vocab: int, side: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask [B, L] of one side; whose is in their names."""
    name = f"{side}input_ids"
    try:
        ids = np.asarray(input_ids)
    except ValueError:
        raise InputError(f"{name} must be [batch, length], found rows of different lengths: pad them") from None
    if ids.ndim != 2 or 0 in ids.shape or ids.dtype.kind not in "iu":
        raise InputError(f"{name} must be whole numbers [batch, length], found {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() >= vocab:
        raise InputError(f"{name} must be below the vocabulary's size {vocab}, found {ids.min()} to {ids.max()}")
    if attention_mask is None:
        pads = config.pad_token_id is not None and config.pad_token_id not in (config.eos_token_id or ())
        mask = ids != config.pad_token_id if pads else np.ones(ids.shape, bool)
    else:
        mask = np.asarray(attention_mask) != 0
        if mask.shape != ids.shape:
            raise InputError(f"{side}attention_mask must be of the shape of {name} {ids.shape}, found {mask.shape}")
    return ids.astype(np.int32), mask


def _source(model: Model, input_ids: Any, attention_mask: Any, config: GenerationConfig) -> Source:
    """What the encoder reads, padded on the right to one of `SLOTS`, or to what the model has positions for."""
    if input_ids is None:
        raise InputError("an encoder-decoder answers a text: give input_ids")
    ids, mask = _checked(input_ids, attention_mask, config, model.config.vocab_size)
    slots, limit = slots_for(ids.shape[1]), model.config.max_position_embeddings
    if "position" in model.params["encoder"]:
        slots = max(ids.shape[1], min(slots, limit))
    more = ((0, 0), (0, slots - ids.shape[1]))
    ids, mask = np.pad(ids, more, constant_values=model.config.pad_token_id), np.pad(mask, more)
    return Source(ids, mask)  # type: ignore[arg-type]  # which go to the device with the first program


# head -> what its encoder may take that is no text, and what that is
PERCEIVES = {
    "speech-seq2seq": (("input_features", "input_values"), "a sound"),
    "vision2seq": (("pixel_values",), "an image"),
}


def perceives(model: Model) -> tuple[str, str]:
    """What a model's encoder takes that is no text: its name, such as "input_values", and what that is."""
    names, what = PERCEIVES[str(model.head)]
    return next((name for name in names if name in model.family.inputs), names[0]), what


def _perceived(model: Model, given: Mapping[str, Any], config: GenerationConfig) -> Source:
    """What the encoder makes of a sound or an image; `given` has that, or `encoder_outputs`."""
    name, what = perceives(model)
    raw, known, mask = (given.get(key) for key in (name, "encoder_outputs", "attention_mask"))
    if (raw is None) == (known is None):
        raise InputError(f"this model answers {what}: give {name}, or the encoder_outputs that were made of them")
    if mask is not None and "attention_mask" not in model.family.inputs:
        raise InputError(f"{model.family.name} perceives what is of one size: leave attention_mask out")
    if config.encoder_repetition_penalty != 1 or config.encoder_no_repeat_ngram_size:
        raise InputError(
            "encoder_repetition_penalty and encoder_no_repeat_ngram_size look at tokens that are read, "
            f"and {what} has none"
        )
    return Source(perceive(model, raw, mask) if known is None else known, mask)


def perceive(model: Model, given: Any, attention_mask: Any = None, **options: Any) -> jax.Array:
    """The states [B, S, D] that a model's encoder makes of sounds or images; `options` are its encoder's."""
    _, (family, _, config, mesh) = prepared(model)
    arrays = {perceives(model)[0]: given} | ({} if attention_mask is None else {"attention_mask": attention_mask})
    return _perceive(model.params, arrays, key=(family, config, mesh), options=tuple(options.items()))


@partial(jax.jit, static_argnames=("key", "options"))
def _perceive(
    params: Tree, given: dict[str, jax.Array], *, key: Any, options: tuple[tuple[str, Any], ...]
) -> jax.Array:
    family, config, mesh = key
    with activate(mesh):
        states: jax.Array = family.encode(params, **given, config=config, **dict(options)).last_hidden_state
    return states


def _decoder_prompts(
    model: Model, decoder_input_ids: Any, decoder_attention_mask: Any, config: GenerationConfig, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the decoder goes on from, and its mask: [B, P]."""
    first = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    if first is None:
        raise InputError("the decoder begins with decoder_start_token_id, and this model has none: give it")
    start = np.full((rows, 1), first, np.int32)
    if decoder_input_ids is None:
        return start, np.ones_like(start, bool)
    vocab = getattr(model.config, "decoder_vocab_size", model.config.vocab_size)
    ids, mask = _checked(decoder_input_ids, decoder_attention_mask, config, vocab, "decoder_")
    mask = np.ones_like(mask) if decoder_attention_mask is None else mask  # the first token's id may be that of padding
    if len(ids) != rows:
        raise InputError(f"decoder_input_ids must have a row for each of the {rows} of input_ids, found {len(ids)}")
    spoken = model.head == "speech-seq2seq" and (ids == first).any()  # after what was said before
    if (ids[:, 0] == first).any() or spoken:  # as transformers has it: one row that begins so speaks for all
        return ids, mask
    return np.concatenate((start, ids), 1), np.concatenate((np.ones_like(start, bool), mask), 1)


def _tokens(ids: np.ndarray, mask: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """A row from its first real token to its last."""
    there = np.flatnonzero(mask)
    if not len(there):
        raise InputError(f"row {row} of attention_mask holds no token to go on from")
    part = slice(there[0], there[-1] + 1)
    return ids[part], mask[part]


def _most(model: Model, config: GenerationConfig, given: int, longest: int) -> int:
    """How many tokens may be generated."""
    limit = model.config.max_position_embeddings
    if config.max_new_tokens is not None:
        most = config.max_new_tokens
    elif config.max_length is not None:
        most = config.max_length - given
        if most < 1:
            raise InputError(
                f"max_length is {config.max_length} and the prompt has {given} tokens: give max_new_tokens"
            )
    else:
        most = 20 if limit is None else max(1, min(20, limit - given))
    has_table = "position" in model.params["embeddings"] or "position" in model.params.get("decoder", ())
    if has_table and longest + most - 1 + model.family.asks_ahead > limit:  # the last token is not read
        raise InputError(f"{longest} tokens and {most} new ones are too many: this model has positions for {limit}")
    return most


_ready: weakref.WeakKeyDictionary[Model, tuple[list[int], Tree]] = weakref.WeakKeyDictionary()


def prepared(model: Model) -> tuple[Tree, loop.Key]:
    """The parameters as the programs take them, and what a program is compiled for.

    On one device shallow models get their layers apart: a slice of a stacked array would be a copy of the weights with every
    token. They are kept for as long as the model is.
    """
    leaves = jax.tree.leaves(model.params)
    sharding = leaves[0].sharding if isinstance(leaves[0], jax.Array) else None
    if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
        return model.params, (model.family, model.head, model.config, sharding.mesh)
    same = [id(leaf) for leaf in leaves]
    if model not in _ready or _ready[model][0] != same:
        _ready[model] = same, apart(model.params)
    return _ready[model][1], (model.family, model.head, model.config, None)
