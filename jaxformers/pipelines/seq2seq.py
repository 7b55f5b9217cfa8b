"""Texts from texts by an encoder-decoder: whatever the model has learned, summaries, translations."""

import json
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxformers.errors import InputError
from jaxformers.generate import generate
from jaxformers.generate.config import config_for
from jaxformers.pipelines.base import HOST, Batch, Pipeline, Preprocess, Row, fetch
from jaxformers.pipelines.generation import OWN, generation_signature, kept_length, with_defaults
from jaxformers.pipelines.inputs import LENGTHS, Parts, batched, read_one_text, rows_of
from jaxformers.preprocess.languages import has_languages, in_language, language_id

DEFAULTS = {"max_new_tokens": 256, "num_beams": 4}  # where neither caller nor model says
NUMBER = "number"


def text2text(parts: Parts, direction: str | None = None, *, name: str, task: str) -> Pipeline:
    """Writes a text for each text.

    A str gives `[{"generated_text"}]` (of a summary "summary_text", of a translation "translation_text"), one for each of
    `num_return_sequences`; a list of texts gives a list of such records, or of lists where there are several for each.

    What config.json says under `task_specific_params` for the task counts, its `prefix` comes before each text (T5).

    Args:
      parts: the model and its tokenizer.
      direction: "translation_xx_to_yy", which languages where nothing else says it, and whose specific parameters count.
      name: what a record's key starts with.
      task: whose specific parameters count.

    Options of a call: every one of `jaxformers.generate`, `rng` (a seed), `return_tensors` (ids under "…_token_ids" in place
    of the text), `clean_up_tokenization_spaces`, `prefix`, `truncation` (at the tokenizer's maximum; by default at what the
    model has positions for), and for translations by a model of many languages `src_lang` and `tgt_lang`.
    """
    model, tokenizer = parts.model, parts.tokenizer
    raw = json.loads(model.config.raw)
    specific = raw.get("task_specific_params") or {}
    if task == "translation" and direction is None:  # as transformers has it: the first that there is
        direction = next((key for key in specific if key.startswith("translation_")), None)
    said = {**specific.get(direction or task, {})}
    first = said.pop("prefix", raw.get("prefix") or "")
    languages = direction.split("_")[1::2] if direction and direction.count("_") == 3 else [None, None]
    positions = model.config.max_position_embeddings or LENGTHS[-1]

    def language(given: str | None, number: int) -> str:
        """The code of the language to read (0) or to write (1)."""
        key = ("src_lang", "tgt_lang")[number]
        code = given or languages[number] or tokenizer.config.get(key)
        if code is None:
            raise InputError(f"translation with {tokenizer.tokenizer_class} needs src_lang and tgt_lang: give {key}")
        return str(code)

    def encode(
        items: list[str], *, prefix: str = first, truncation: bool | None = None, src_lang: str | None = None
    ) -> tuple[list[Row], dict[str, Any]]:
        texts = [prefix + item for item in items]
        most = None if truncation is False else min(positions, parts.max_length) if truncation else positions
        framed = task == "translation" and has_languages(tokenizer)
        room = None if most is None else most - 2 if framed else most
        encoding = tokenizer(
            texts,
            add_special_tokens=not framed,
            return_attention_mask=True,
            truncation=most is not None,
            max_length=room,
        )
        rows = rows_of(parts, encoding) if texts else []
        if framed:
            code = language(src_lang, 0)
            every = [in_language(tokenizer, row["input_ids"], code) for row in rows]
            rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in every]
        return [{**row, NUMBER: [number]} for number, row in enumerate(rows)], {}

    texts = batched(parts, LENGTHS[-1], read_one_text, encode)

    def collate(rows: list[Row]) -> Batch:
        return {**texts.collate(rows), NUMBER: np.array([row[NUMBER][0] for row in rows], np.int32)}

    def forward(batch: Batch, *, tgt_lang: str | None = None, **options: Any) -> Batch:
        named = {key: options.pop(key) for key in OWN if key in options}
        seed = named.pop("rng", None)
        key = jax.random.key(seed or 0) if seed is None or isinstance(seed, int) else seed
        if task == "translation" and has_languages(tokenizer):
            options = {"forced_bos_token_id": language_id(tokenizer, language(tgt_lang, 1)), **options}
        options = with_defaults(model, {**said, **options}, DEFAULTS, named.get("generation_config"))
        config = config_for(model, named.get("generation_config"), options)
        ids, mask = np.asarray(batch["input_ids"]), np.asarray(batch["attention_mask"])
        longest = max(1, int(mask.sum(1).max()))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.asarray(batch[NUMBER]))
        found = generate(model, ids[:, :longest], mask[:, :longest], rng=keys, tokenizer=tokenizer, **named, **options)
        tokens = found.sequences.reshape(len(ids), config.num_return_sequences, -1)
        # The first token begins every text, and may be the one that ends it, too.
        kept = [[1 + kept_length(result[1:], config.eos_token_id or ()) for result in row] for row in tokens]
        outputs: Batch = {"tokens": tokens, "kept": np.array(kept)}
        return {**outputs, HOST: batch[HOST]} if HOST in batch else outputs

    forward.__signature__ = generation_signature("tgt_lang")  # type: ignore[attr-defined]

    def postprocess(
        outputs: Batch, *, return_tensors: bool | None = None, return_text: bool | None = None,
        clean_up_tokenization_spaces: bool = False,
    ) -> Any:  # fmt: skip
        columns, host = fetch(outputs)
        results = []
        for row, kept in zip(columns["tokens"], columns["kept"], strict=True):
            every = [np.asarray(ids)[: int(length)].tolist() for ids, length in zip(row, kept, strict=True)]
            if return_tensors:
                records: list[dict[str, Any]] = [{f"{name}_token_ids": ids} for ids in every]
            else:
                decode = partial(tokenizer.decode, skip_special_tokens=True)
                records = [{f"{name}_text": decode(ids, clean_up_tokenization_spaces=clean_up_tokenization_spaces)}
                           for ids in every]  # fmt: skip
            results.append(records)
        if host["given"] != "many":
            return results[0]
        return [records[0] if len(records) == 1 else records for records in results]

    return Pipeline(
        Preprocess(read_one_text, encode, collate, parts.devices, most_rows=texts.most_rows, window=8),
        forward,
        postprocess,
    )


text2text_generation = partial(text2text, name="generated", task="text2text-generation")
summarization = partial(text2text, name="summary", task="summarization")
translation = partial(text2text, name="translation", task="translation")
