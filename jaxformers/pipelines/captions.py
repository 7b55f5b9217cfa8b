"""Texts that tell of images: captions, or what stands in them, whatever the model has learned."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxformers.errors import InputError
from jaxformers.generate import generate
from jaxformers.generate.config import config_for
from jaxformers.pipelines.base import HOST, Batch, Pipeline, Row, fetch
from jaxformers.pipelines.generation import OWN, generation_signature, with_defaults
from jaxformers.pipelines.images import image_preprocess
from jaxformers.pipelines.inputs import Parts

NEW_TOKENS = 256  # at most, where neither caller nor model says and the model has positions for them
NUMBER = "number"


def image_to_text(parts: Parts) -> Pipeline:
    """Tells of an image: `[{"generated_text"}]`, one for each of `num_return_sequences`; a list of these for many.

    Options of a call: every one of `jaxformers.generate` (`max_new_tokens`, `num_beams`, …), by its name or in
    `generate_kwargs`; `rng` (a seed); `timeout` (seconds that a URL may take).
    """
    model, tokenizer, plain = parts.model, parts.tokenizer, image_preprocess(parts)
    defaults = {"max_new_tokens": min(NEW_TOKENS, model.config.max_position_embeddings)}

    def encode(items: list[Any], *, timeout: float | None = None) -> tuple[list[Row], dict[str, Any]]:
        rows, host = plain.encode(items, timeout=timeout)
        return [{**row, NUMBER: np.int32(number)} for number, row in enumerate(rows)], host

    def forward(batch: Batch, *, generate_kwargs: Mapping[str, Any] | None = None, **options: Any) -> Batch:
        if twice := {*options} & {*(generate_kwargs or {})}:
            raise InputError(f"{', '.join(sorted(twice))}: given by name and in generate_kwargs, where once is enough")
        options |= generate_kwargs or {}
        named = {key: options.pop(key) for key in OWN if key in options}
        seed = named.pop("rng", None)
        key = jax.random.key(seed or 0) if seed is None or isinstance(seed, int) else seed
        options = with_defaults(model, options, defaults, named.get("generation_config"))
        count = config_for(model, named.get("generation_config"), options).num_return_sequences
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.asarray(batch[NUMBER]))
        found = generate(model, pixel_values=batch["pixel_values"], rng=keys, tokenizer=tokenizer, **named, **options)
        outputs: Batch = {"tokens": found.sequences.reshape(len(keys), count, -1)}
        return {**outputs, HOST: batch[HOST]} if HOST in batch else outputs

    forward.__signature__ = generation_signature("generate_kwargs")  # type: ignore[attr-defined]

    def postprocess(outputs: Batch) -> Any:
        columns, host = fetch(outputs)
        results = [
            [{"generated_text": tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True)} for ids in rows]
            for rows in columns["tokens"]
        ]
        return results if host["given"] == "many" else results[0]

    return Pipeline(dataclasses.replace(plain, encode=encode), forward, postprocess)
