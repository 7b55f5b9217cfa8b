"""Text generation: texts and chats, gone on with."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxformers.errors import InputError
from jaxformers.generate import GenerationConfig, generate
from jaxformers.generate.config import config_for
from jaxformers.pipelines.base import HOST, Batch, Pipeline, Preprocess, Row, fetch
from jaxformers.pipelines.inputs import Parts, read_one_text, rows_of, text_preprocess
from jaxformers.preprocess.chat import render_chat

DEFAULTS = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}  # where neither caller nor model says
TOTALS = ("max_length", "min_length")  # they count a row's own prompt
NUMBER = "number"


def text_generation(parts: Parts) -> Pipeline:
    """Goes on with a text, or answers a chat.

    A str gives `[{"generated_text"}]`, one for each of `num_return_sequences`; a list of texts a list of these. A chat, a list
    of messages `{"role", "content"}`, gives the messages and a new one of the assistant's; one that ends with the assistant
    is gone on with.

    Options of a call: every one of `jaxformers.generate`, `rng` (a seed; the same gives the same); `return_full_text` (on: the
    prompt comes before what was generated), `return_tensors` (ids under "generated_token_ids" in place of the text),
    `return_text`, `skip_special_tokens` (on), `clean_up_tokenization_spaces`, `prefix`, `add_special_tokens`, `stop_sequence`,
    `handle_long_generation="hole"` (cuts a prompt's beginning so that what is to come has room), `continue_final_message`,
    `tools`, `documents`.
    """
    model, tokenizer = parts.model, parts.tokenizer
    texts = text_preprocess(parts)

    def read(value: Any, where: str) -> Any:
        match value:
            case {"messages": [*messages]}:
                for message in messages:
                    if not isinstance(message, Mapping) or not {"role", "content"} <= {*message}:
                        raise InputError(
                            f"{where} must be a list of messages with 'role' and 'content', found {message!r:.60}"
                        )
                return [dict(message) for message in messages]
        return read_one_text(value, where)

    def arrange(inputs: Any, **options: Any) -> Any:
        def chat(value: Any) -> Any:
            given = (
                isinstance(value, list | tuple)
                and value
                and all(isinstance(part, Mapping) and "role" in part for part in value)
            )
            return {"messages": list(value)} if given else value

        given = chat(inputs)
        return [chat(each) for each in given] if isinstance(given, list | tuple) else given, options

    def encode(
        items: list[Any],
        *,
        prefix: str = "",
        add_special_tokens: bool = True,
        handle_long_generation: str | None = None,
        max_new_tokens: int | None = None,
        continue_final_message: bool | None = None,
        tools: Any = None,
        documents: Any = None,
    ) -> tuple[list[Row], dict[str, Any]]:
        if handle_long_generation not in (None, "hole"):
            raise InputError(f"handle_long_generation must be None or 'hole', found {handle_long_generation!r}")
        rows: list[Row] = []
        for item in items:
            text, special = item, add_special_tokens
            if not isinstance(item, str):
                goes_on = _goes_on(item, continue_final_message)
                text, special = _as_text(parts, item, goes_on, tools, documents), False
            encoding = tokenizer(
                [prefix * isinstance(item, str) + text], add_special_tokens=special, return_attention_mask=True
            )
            (row,) = rows_of(parts, encoding)
            if not row["input_ids"]:  # nothing to go on from but the beginning
                if tokenizer.bos_token_id is None:
                    raise InputError(
                        "an empty text needs a tokenizer with bos_token to begin with, and this one has none"
                    )
                row = {key: [tokenizer.bos_token_id if key == "input_ids" else 1] for key in row}
            if handle_long_generation == "hole":
                room = parts.max_length - (max_new_tokens or with_defaults(model, {}, DEFAULTS)["max_new_tokens"])
                if room < 1:
                    raise InputError(
                        f"max_new_tokens leaves no room for a prompt: the model takes {parts.max_length} tokens"
                    )
                row = {key: values[-room:] for key, values in row.items()}
            rows.append({**row, NUMBER: [len(rows)]})
        return rows, {"items": items, "lengths": [len(row["input_ids"]) for row in rows]}

    def collate(rows: list[Row]) -> Batch:
        return {**texts.collate(rows), NUMBER: np.array([row[NUMBER][0] for row in rows], np.int32)}

    def forward(batch: Batch, **options: Any) -> Batch:
        ids, mask = np.asarray(batch["input_ids"]), np.asarray(batch["attention_mask"])
        if (stops := options.pop("stop_sequence", None)) is not None:
            options["stop_strings"] = stops
        named = {key: options.pop(key) for key in OWN if key in options}
        seed = named.pop("rng", None)
        key = jax.random.key(seed or 0) if seed is None or isinstance(seed, int) else seed
        options = with_defaults(model, options, DEFAULTS, named.get("generation_config"))
        config = config_for(model, named.get("generation_config"), options)
        ends = config.eos_token_id or ()
        new: list[np.ndarray] = []  # of each row [results, steps], up to its own last token
        # One row at a time where an option counts a row's own prompt, else all.
        every = list(range(len(ids)))
        for rows in [[row] for row in every] if any(options.get(name) for name in TOTALS) else [every]:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.asarray(batch[NUMBER])[rows])
            longest = max(1, int(mask[rows].sum(1).max()))
            prompts, real = ids[rows, :longest], mask[rows, :longest]
            found = generate(model, prompts, real, rng=keys, tokenizer=tokenizer, **named, **options)
            new += [*found.sequences[:, longest:].reshape(len(rows), config.num_return_sequences, -1)]
        width = max(row.shape[1] for row in new)
        outputs: Batch = {
            "prompt": ids,
            "new": np.stack([np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in new]),
            "kept": np.array([[kept_length(result, ends) for result in row] for row in new]),
        }
        return {**outputs, HOST: batch[HOST]} if HOST in batch else outputs

    forward.__signature__ = generation_signature()  # type: ignore[attr-defined]

    def postprocess(
        outputs: Batch,
        *,
        return_full_text: bool | None = None,
        return_text: bool | None = None,
        return_tensors: bool | None = None,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
        continue_final_message: bool | None = None,
    ) -> Any:
        if return_full_text is not None and (return_text is not None or return_tensors is not None):
            raise InputError("return_full_text, return_text and return_tensors exclude each other: give one")
        columns, host = fetch(outputs)
        results = []
        for index, (item, length) in enumerate(zip(host["items"], host["lengths"], strict=True)):
            records = []
            for new, kept in zip(columns["new"][index], columns["kept"][index], strict=True):
                ids = np.asarray(new)[: int(kept)].tolist()
                if return_tensors:
                    records.append(
                        {"generated_token_ids": np.asarray(columns["prompt"][index])[:length].tolist() + ids}
                    )
                    continue
                text = tokenizer.decode(ids, skip_special_tokens, clean_up_tokenization_spaces)
                full = return_full_text is None or return_full_text
                records.append({"generated_text": _joined(item, text, continue_final_message) if full else text})
            results.append(records)
        return results if host["given"] == "many" else results[0]

    return Pipeline(Preprocess(read, encode, collate, parts.devices, arrange, window=8), forward, postprocess)


OWN = ("rng", "generation_config", "logits_processor", "prefix_allowed_tokens_fn", "stop_sequence")


def generation_signature(*more: str) -> inspect.Signature:
    """A batch, and every option of `generate` (and `more`) by its name, so that a pipeline knows them."""
    names = (*more, *OWN, *(field.name for field in dataclasses.fields(GenerationConfig)))
    kind = inspect.Parameter
    options = [kind(name, kind.KEYWORD_ONLY, default=None) for name in names]
    return inspect.Signature([kind("batch", kind.POSITIONAL_OR_KEYWORD), *options])


def with_defaults(
    model: Any, options: Mapping[str, Any], defaults: Mapping[str, Any], given: GenerationConfig | None = None
) -> dict[str, Any]:
    """Options of a call, with a pipeline's `defaults` for what neither it nor the model says."""
    said = {**model.generation, **options}
    if given is not None:
        said |= {field.name: getattr(given, field.name) for field in dataclasses.fields(given)
                 if getattr(given, field.name) != field.default}  # fmt: skip
    added = {key: value for key, value in defaults.items() if said.get(key) is None}
    if said.get("max_length") is not None:
        added.pop("max_new_tokens", None)
    if not {**added, **said}.get("do_sample"):
        added.pop("temperature", None)
    return {**added, **options}


def kept_length(tokens: np.ndarray, ends: tuple[int, ...]) -> int:
    """How many tokens there are up to the first that ends a text, with it."""
    ended = np.flatnonzero(np.isin(tokens, ends))
    return int(ended[0]) + 1 if len(ended) else len(tokens)


def _goes_on(messages: list[dict[str, Any]], asked: bool | None) -> bool:
    """Whether the last message is gone on with: one of the assistant's is, unless the caller says."""
    return bool(messages) and messages[-1]["role"] == "assistant" if asked is None else asked


def _as_text(parts: Parts, messages: list[dict[str, Any]], goes_on: bool, tools: Any, documents: Any) -> str:
    template = parts.tokenizer.chat_template
    if template is None:
        raise InputError("a chat needs a tokenizer with a chat_template, and this one has none: give a text")
    return render_chat(
        template, messages, special_tokens=parts.tokenizer.special_tokens_map, add_generation_prompt=not goes_on,
        continue_final_message=goes_on, tools=tools, documents=documents,
    )  # fmt: skip


def _joined(item: Any, text: str, asked: bool | None) -> Any:
    """A prompt with what was generated: a text, or the messages of a chat."""
    if isinstance(item, str):
        return item + text
    if _goes_on(item, asked):
        return [*item[:-1], {**item[-1], "content": item[-1]["content"] + text}]
    return [*item, {"role": "assistant", "content": text}]
