"""What a pipeline is made of; and from texts to padded batches, which the text pipelines share."""

import dataclasses
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxformers.core.transformer import Execution
from jaxformers.data.buckets import bucket_for
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.pipelines.base import Batch, Preprocess, Row
from jaxformers.preprocess.tokenizer_encoding import Encoding

# The lengths batches are padded to: steps of 8 as far as most sentences go, then of at most a quarter. Each is a program.
LENGTHS = (
    *range(16, 65, 8),
    80,
    96,
    112,
    128,
    160,
    192,
    224,
    256,
    320,
    384,
    448,
    512,
    *(1 << n for n in range(10, 21)),
)
CPU_TOKENS = 1024  # of a batch on a CPU: beyond it what layers hand to each other leaves the caches, and nothing is won
TEXT_KEYS = ("input_ids", "attention_mask", "token_type_ids")  # the first gives a row its length
WHOLE = Execution(trace_once=True)  # how a task runs its model: its forward is compiled as one program


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a pipeline is made of.

    Of the last three it has those that its task says it takes.

    Args:
      model: with the head of the task.
      folder: where all came from; None for objects handed over.
      mesh: where it runs; the model's parameters are sharded over it already.
      tokenizer: a `Tokenizer`, of that model.
      image_processor: an `ImageProcessor`, likewise.
      feature_extractor: a `FeatureExtractor`, likewise.
    """

    model: Model
    folder: Path | None = None
    mesh: Mesh | None = None
    tokenizer: Any = None
    image_processor: Any = None
    feature_extractor: Any = None

    @property
    def devices(self) -> int:
        """How many devices share a batch."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def max_length(self) -> int:
        """The most tokens that tokenizer and model can take."""
        limits = (self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", None))
        return min(n for n in (*limits, LENGTHS[-1]) if n is not None)


# -- reading -----------------------------------------------------------------------------------------------------------


def read_text(value: Any, where: str) -> str | tuple[str, str]:
    """A text, or a pair of texts: a str, a dict `{"text", "text_pair"}` (a dataset's other columns are left alone), or a
    tuple of two."""
    match value:
        case str():
            return valid_text(value, where)
        case {"text": text, **others}:
            pair = others.get("text_pair")
            if (
                pair is None
                and (typo := difflib.get_close_matches("text_pair", map(str, others), 1))
                and typo != ["text_pair"]
            ):
                raise InputError(f"{where} has a key {typo[0]!r}; did you mean 'text_pair'?")
            return valid_text(text, where) if pair is None else (valid_text(text, where), valid_text(pair, where))
        case (text, pair) if isinstance(value, tuple):
            return valid_text(text, where), valid_text(pair, where)
        case [[text, pair]]:  # how pairs were given to transformers of old, which still takes them
            return valid_text(text, where), valid_text(pair, where)
    form = "a str, or for a pair a dict {'text': ..., 'text_pair': ...}"
    raise InputError(f"{where} must be {form}, found {type(value).__name__}: {value!r:.60}")


def read_one_text(value: Any, where: str) -> str:
    """A text: a str, or a dict with one under "text" (a dataset's other columns are left alone)."""
    match value:
        case str() | {"text": _}:
            return valid_text(value if isinstance(value, str) else value["text"], where)
    raise InputError(f"{where} must be a str, found {type(value).__name__}: {value!r:.60}")


def valid_text(text: Any, where: str) -> str:
    """The text, once it is known to be one."""
    if not isinstance(text, str):
        raise InputError(f"{where} must be a str, found {type(text).__name__}: {text!r:.60}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} holds the lone surrogate {text[error.start]!r}, which no text can hold") from None
    return str(text)


# -- rows and batches --------------------------------------------------------------------------------------------------


def text_preprocess(
    parts: Parts,
    read: Callable[[Any, str], Any] = read_text,
    flatten: Callable[[list[Any]], tuple[list[Any], dict[str, Any]]] = lambda items: (items, {}),
    limit: int | None = None,
) -> Preprocess:
    """Texts to token ids, padded to one of `LENGTHS`.

    Args:
      parts: the tokenizer, and the model whose inputs and maximum length count.
      read: reads one input of the task.
      flatten: items to (texts and pairs, notes for postprocess), where an item holds several.
      limit: the most tokens a row may have, where that is less than what model and tokenizer can take.

    Returns:
      A `Preprocess` with the options `truncation` (on; texts beyond the model's maximum would otherwise be refused),
      `max_length` and `padding` (for transformers' sake: rows are always padded, and what is computed does not depend on it).
    """
    maximum = parts.max_length if limit is None else min(parts.max_length, limit)

    def encode(
        items: list[Any],
        *,
        truncation: bool | str = True,
        max_length: int | None = None,
        padding: bool | str = True,
    ) -> tuple[list[Row], dict[str, Any]]:
        texts, host = flatten(items)
        if not texts:
            return [], host
        cut = (maximum if max_length is None else max_length) if truncation else None
        encoding = parts.tokenizer(texts, return_attention_mask=True, truncation=truncation, max_length=cut)
        return rows_of(parts, encoding), host

    return batched(parts, maximum, read, encode)


def rows_of(parts: Parts, encoding: Encoding) -> list[Row]:
    """The rows of an encoding of several texts, with the keys that the model takes."""
    keys = [key for key in TEXT_KEYS if key in encoding and key in parts.model.family.inputs]
    return [dict(zip(keys, row, strict=True)) for row in zip(*(list(encoding[key]) for key in keys), strict=True)]


def batched(
    parts: Parts,
    maximum: int,
    read: Callable[[Any, str], Any],
    encode: Callable[..., tuple[list[Row], dict[str, Any]]],
    **options: Any,
) -> Preprocess:
    """A `Preprocess` whose rows of at most `maximum` tokens become int32 arrays [B, L].

    L is the first of `LENGTHS`, or `maximum`, that holds the longest row. Rows are padded on the right whatever the tokenizer's
    `padding_side` is: padding on the left would move a text's tokens to other positions, and its result would depend on its
    neighbours. Keys that are no text's (`TEXT_KEYS`) are left out.
    """
    lengths = [*(length for length in LENGTHS if length < maximum), maximum]
    fills = {**dict.fromkeys(TEXT_KEYS, 0), "input_ids": parts.tokenizer.pad_token_id or 0}
    platform = jax.default_backend() if parts.mesh is None else parts.mesh.devices.flat[0].platform

    def collate(rows: list[Row]) -> Batch:
        length = bucket_for(max((len(row["input_ids"]) for row in rows), default=0), lengths)
        keys = rows[0] if rows else [key for key in TEXT_KEYS if key in parts.model.family.inputs]
        more = {key: np.shape(rows[0][key])[1:] if rows else () for key in keys}  # a token may have several types
        batch = {key: np.full((len(rows), length, *more[key]), fills[key], np.int32) for key in keys if key in fills}
        for key, array in batch.items():
            for line, row in zip(array, rows, strict=True):
                line[: len(row[key])] = row[key]
        return batch

    def most_rows(length: int) -> int:
        return max(1, CPU_TOKENS // bucket_for(length, lengths))

    if platform == "cpu":
        options["most_rows"] = most_rows
    return Preprocess(read, encode, collate, parts.devices, **options)


def as_float32(array: jax.Array | None) -> jax.Array:
    """A result as the host computes with it, whatever the model's dtype."""
    assert array is not None
    return array.astype(jnp.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, on the host."""
    e = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    return e / e.sum(-1, keepdims=True)
