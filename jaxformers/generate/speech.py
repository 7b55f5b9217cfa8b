"""What Whisper writes of a sound: what its texts begin with (language, task, times), and where times may stand.

`transcribe` is `generate` with both, for sounds of up to 30 seconds; longer ones are `generate.longform`'s.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.generate import GenerateOutput, generate
from jaxformers.generate.processors import NEVER
from jaxformers.generate.run import perceive, prepared
from jaxformers.generate.written import Written
from jaxformers.parallel.distributed import fetch
from jaxformers.parallel.mesh import activate
from jaxformers.preprocess.tokenizer_whisper import TASKS, token_of


@dataclasses.dataclass(frozen=True)
class Times:
    """Where the tokens of times may stand (a processor of logits): they begin a text, come in pairs (an end and the next
    beginning) but before the text's end, never go back, and stand where they are together likelier than any other token.

    Args:
      without: the token after which no times come; those of times follow it in the vocabulary.
      end: the token that ends a text; it and those before it are no times.
      latest: what the first time is at most, counted from the first token of a time; None means any.
    """

    without: int
    end: int
    latest: int | None = None

    def __call__(self, logits_RV: jax.Array, written: Written) -> jax.Array:
        """Logits [R, V] with what may not come at -inf."""
        first = self.without + 1
        tokens_1V = jnp.arange(logits_RV.shape[1])[None]
        is_time_1V, new = tokens_1V >= first, written.new
        slots_1S = jnp.arange(written.tokens.shape[1])[None]
        times_RS = (written.tokens >= first) & (slots_1S >= written.prompt) & (slots_1S < written.end)
        at = lambda place: jnp.take(times_RS, jnp.maximum(written.end - place, 0), axis=1)[:, None]  # noqa: E731
        last_R1, before_R1 = at(1) & (new >= 1), at(2) | (new < 2)
        newest_R1 = jnp.max(jnp.where(times_RS, written.tokens, first - 1), axis=1, keepdims=True)
        opens_R1 = last_R1 & ~before_R1  # the end of a piece, whose time the next one may begin at
        never_RV = tokens_1V == self.without
        never_RV |= last_R1 & before_R1 & is_time_1V
        never_RV |= opens_R1 & (tokens_1V < self.end)
        never_RV |= is_time_1V & (tokens_1V < newest_R1 + jnp.where(opens_R1, 0, 1))
        never_RV |= (new == 0) & ~is_time_1V
        if self.latest is not None:
            never_RV |= (new == 0) & (tokens_1V > first + self.latest)
        logits_RV = jnp.where(never_RV, NEVER, logits_RV)
        log_RV = jax.nn.log_softmax(logits_RV.astype(jnp.float32))
        time_R1 = jax.nn.logsumexp(jnp.where(is_time_1V, log_RV, NEVER), axis=1, keepdims=True)
        word_R1 = jnp.where(is_time_1V, NEVER, log_RV).max(1, keepdims=True)
        return jnp.where((time_R1 > word_R1) & ~is_time_1V, NEVER, logits_RV)


def transcribe(
    model: Model,
    input_features: Any,
    *,
    language: str | Sequence[str] | None = None,
    task: str | None = None,
    return_timestamps: bool = False,
    logits_processor: Sequence[Any] = (),
    **options: Any,
) -> GenerateOutput:
    """Writes what is said in sounds of up to 30 seconds.

    Args:
      model: with the head `speech-seq2seq`; its generation_config.json says which tokens stand for what.
      input_features: spectra [B, bands, frames].
      language: a code ("en") or a name ("English"), or one for each row; None lets the model say, if it knows several.
      task: "transcribe", or "translate" into English; None leaves it to the model, but transcribes where a language is given.
      return_timestamps: whether to write when each piece begins and ends.
      logits_processor: after what keeps times in order.
      **options: those of `jaxformers.generate`.

    Returns:
      `GenerateOutput`, whose sequences start with what the text was told to begin with.

    Raises:
      InputError: a language or task the model has no token for.
    """
    said = {**model.generation, **{key: options.pop(key) for key in ("forced_decoder_ids",) if key in options}}
    states = perceive(model, jnp.asarray(input_features))
    prompt = beginnings(model, states, said, language, task, return_timestamps)
    own = (*processors(model, said, return_timestamps), *logits_processor)
    return generate(model, encoder_outputs=states, decoder_input_ids=prompt, logits_processor=own, **options)


def processors(model: Model, said: Mapping[str, Any], times: bool) -> tuple[Times, ...]:
    """What keeps times in order, where they are written. Raises `InputError` for a model that has no tokens for them."""
    if not times:
        return ()
    if said.get("no_timestamps_token_id") is None:
        raise InputError("return_timestamps needs no_timestamps_token_id in generation_config.json, which has none")
    end = said.get("eos_token_id", model.config.eos_token_id)
    end = end[0] if isinstance(end, list | tuple) else end
    return (Times(said["no_timestamps_token_id"], end, said.get("max_initial_timestamp_index")),)


def beginnings(
    model: Model, states: jax.Array, said: Mapping[str, Any], language: str | Sequence[str] | None, task: str | None,
    times: bool,
) -> np.ndarray:  # fmt: skip
    """The tokens [B, P] that texts begin with: the start, the language, the task, and that no times come.

    Args:
      model: which detects languages that are not given.
      states: [B, S, D], of its encoder.
      said: generation_config.json.
      language, task, times: as of `transcribe`.
    """
    B = states.shape[0]
    language, task = language or said.get("language"), task or said.get("task")
    first = said.get("decoder_start_token_id", model.config.decoder_start_token_id)
    rows: list[list[Any]] = [[first] for _ in range(B)]
    forced = said.get("forced_decoder_ids") if language is None and task is None else None
    for place, token in forced or ():  # how generation configs said it before there were language and task
        if place != len(rows[0]):
            raise InputError(
                f"forced_decoder_ids must name the places from 1 on, found {place} after {len(rows[0]) - 1}"
            )
        rows = [[*row, token] for row in rows]
    known: Mapping[str, int] = said.get("lang_to_id") or {}
    languages = [language] * B if language is None or isinstance(language, str) else list(language)
    if len(languages) != B:
        raise InputError(f"language must be one, or one for each of {B} sounds, found {len(languages)}")
    codes: Any = None
    if language is not None:
        codes = [_language(each, known) for each in languages]
    elif known and (len(rows[0]) == 1 or rows[0][1] is None):
        start = np.full((B, 1), first, np.int32)
        key = (model.family, model.head, model.config)
        codes = np.asarray(_detect(model.params, states, start, np.array([*known.values()]), key=key)).tolist()
    if codes is not None:
        rows = [[row[0], code, *row[2:]] for row, code in zip(rows, codes, strict=True)]
    tasks: Mapping[str, int] = said.get("task_to_id") or {}
    if task is not None and (task not in TASKS or task not in tasks):
        raise InputError(f"task must be one of {', '.join(tasks) or 'none at all'} (of this model), found {task!r}")
    if task is not None or (language is not None and "transcribe" in tasks and not {*tasks.values()} & {*rows[0]}):
        wanted = tasks[task or "transcribe"]
        rows = [[*[token for token in row if token not in tasks.values()], wanted] for row in rows]
    without = said.get("no_timestamps_token_id")
    rows = [[token for token in row if token not in (None, without)] for row in rows]
    if not times and without is not None:
        rows = [[*row, without] for row in rows]
    return np.array(rows, np.int32)


def _language(code: Any, known: Mapping[str, int]) -> int:
    token = code if code in known else token_of(str(code))
    if token not in known:
        some = ", ".join(name.strip("<|>") for name in list(known)[:12])
        raise InputError(
            f"this model has no language {code!r}; it has {some or 'none'}{' …' if len(known) > 12 else ''}"
        )
    return known[token]


@partial(jax.jit, static_argnames="key")
def _detect(params: Any, states: jax.Array, start_B1: jax.Array, languages: jax.Array, *, key: Any) -> jax.Array:
    """The likeliest of the languages' tokens [B] after the start."""
    family, head, config = key
    logits_BV = family.forward(head)(params, encoder_outputs=states, decoder_input_ids=start_B1, config=config).logits[
        :, -1
    ]
    return languages[jnp.argmax(logits_BV[:, languages], axis=-1)]


def chance_of(
    model: Model, states: jax.Array, prompts: np.ndarray, mask: np.ndarray, place: int, token: int
) -> np.ndarray:
    """How likely a token is after the one at `place` of each prompt [B, P]: [B]."""
    params, key = prepared(model)
    read = slice(0, place + 1)
    return np.array(fetch(_chance(params, states, prompts[:, read], mask[:, read], np.int32(token), key=key)))


@partial(jax.jit, static_argnames="key")
def _chance(
    params: Any, states: jax.Array, ids_BL: jax.Array, mask_BL: jax.Array, token: jax.Array, *, key: Any
) -> jax.Array:
    family, head, config, mesh = key
    with activate(mesh):
        output = family.forward(head)(
            params, encoder_outputs=states, decoder_input_ids=ids_BL, decoder_attention_mask=mask_BL, config=config,
            logits_to_keep=1,
        )  # fmt: skip
    return jax.nn.softmax(output.logits[:, -1].astype(jnp.float32))[:, token]
