"""Fill-mask: which words a masked language model puts in the place of [MASK]."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.pipelines.base import Batch, Forward, Pipeline, Row, fetch
from jaxformers.pipelines.inputs import WHOLE, Parts, as_float32, read_one_text, text_preprocess
from jaxformers.preprocess import Tokenizer

LOG = logging.getLogger("jaxformers")
PLACES = "mask_positions"


def fill_mask(parts: Parts) -> Pipeline:
    """The likeliest tokens in the place of the mask token.

    A str gives a list of `{"score", "token", "token_str", "sequence"}`, best first; with several masks in it a list of such
    lists, one a mask, whose scores say nothing of each other. A list of texts gives a list of these, and as in
    transformers a list of one text counts as that text.

    Options of a call: `top_k` (5); `targets`, a token or a list of them, to which the results are confined (their scores stay
    those over the whole vocabulary; a target that is no token is replaced by its first token, with a warning);
    `truncation`, `max_length`, and `tokenizer_kwargs`, a dict of these two.
    """
    model, tokenizer = parts.model, parts.tokenizer
    mask_id = tokenizer.mask_token_id
    if mask_id is None:
        raise InputError("fill-mask needs a tokenizer with a mask token, and this one has none (mask_token)")
    texts = text_preprocess(parts, lambda value, where: (read_one_text(value, where), where))

    def arrange(inputs: Any, tokenizer_kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        one = isinstance(inputs, list | tuple) and len(inputs) == 1
        return inputs[0] if one else inputs, {**(tokenizer_kwargs or {}), **options}

    def encode(
        items: list[tuple[str, str]],
        *,
        truncation: bool | str = True,
        max_length: int | None = None,
        padding: bool | str = True,
    ) -> tuple[list[Row], dict[str, Any]]:
        rows, _ = texts.encode([text for text, _ in items], truncation=truncation, max_length=max_length)
        for row, (text, where) in zip(rows, items, strict=True):
            row[PLACES] = [place for place, token in enumerate(row["input_ids"]) if token == mask_id]
            if not row[PLACES]:
                cut = f" among its first {len(row['input_ids'])} tokens" if tokenizer.mask_token in text else ""
                raise InputError(f"{where} holds no mask token ({tokenizer.mask_token}){cut}: {text!r:.60}")
        return rows, {"input_ids": [row["input_ids"] for row in rows], PLACES: [row[PLACES] for row in rows]}

    def collate(rows: list[Row]) -> Batch:
        batch = texts.collate(rows)
        most = max((len(row[PLACES]) for row in rows), default=1)
        places_BM = np.zeros((len(rows), 1 << (most - 1).bit_length()), np.int32)  # a power of two: few programs
        for line, row in zip(places_BM, rows, strict=True):
            line[: len(row[PLACES])] = row[PLACES]
        return {**batch, PLACES: places_BM}

    def compute(params: Tree, batch: Batch) -> Batch:
        places_BM = batch[PLACES]
        text = {key: array for key, array in batch.items() if key != PLACES}
        logits_BLV = as_float32(model.apply(params, execution=WHOLE, **text).logits)
        # Only the masks' rows leave the device: of the whole [B, L, V] a batch would be gigabytes.
        return {"scores": jax.nn.softmax(jnp.take_along_axis(logits_BLV, places_BM[..., None], axis=1), axis=-1)}

    def postprocess(outputs: Batch, *, top_k: int = 5, targets: str | Sequence[str] | None = None) -> Any:
        columns, host = fetch(outputs)
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise InputError(f"top_k must be a positive int, found {top_k!r}")
        ids = None if targets is None else np.array(_target_ids(targets, tokenizer))
        results = []
        for scores_MV, input_ids, places in zip(columns["scores"], host["input_ids"], host[PLACES], strict=True):
            filled = []
            for scores_V, place in zip(scores_MV, places, strict=False):  # what follows only fills the batch
                of = np.arange(len(scores_V)) if ids is None else ids
                best = of[_best(np.asarray(scores_V)[of], top_k)]
                filled.append(
                    [_filled(tokenizer, input_ids, place, i, float(scores_V[i]), len(places)) for i in best.tolist()]
                )
            results.append(filled[0] if len(places) == 1 else filled)
        return results if host["given"] == "many" else results[0]

    # A row's scores are as wide as the vocabulary: few batches may wait for postprocess.
    preprocess = dataclasses.replace(texts, encode=encode, collate=collate, arrange=arrange, window=4)
    return Pipeline(preprocess, Forward(model, compute, parts.mesh), postprocess)


def _filled(
    tokenizer: Tokenizer, input_ids: list[int], place: int, token: int, score: float, masks: int
) -> dict[str, Any]:
    """One result: the text with `token` at `place`. Special tokens are left out of it unless other masks are to be seen."""
    ids = [*input_ids[:place], token, *input_ids[place + 1 :]]
    sequence = tokenizer.decode([i for i in ids if i != tokenizer.pad_token_id], skip_special_tokens=masks == 1)
    return {"score": score, "token": token, "token_str": tokenizer.decode([token]), "sequence": sequence}


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` highest scores, best first."""
    if count < len(scores):
        places = np.argpartition(-scores, count)[:count]
        return places[np.argsort(-scores[places], kind="stable")]
    return np.argsort(-scores, kind="stable")


def _target_ids(targets: Any, tokenizer: Tokenizer) -> list[int]:
    """The ids of the targets, each once."""
    targets = [targets] if isinstance(targets, str) else targets
    if not isinstance(targets, list | tuple) or not all(isinstance(target, str) for target in targets):
        raise InputError(f"targets must be a str or a list of str, found {targets!r:.60}")
    ids: dict[int, None] = {}
    for target in targets:
        token = tokenizer.backend.token_to_id(target)
        if token is None:
            pieces = tokenizer(target, add_special_tokens=False)["input_ids"]
            if not pieces:
                LOG.warning("the target %r has no token in the vocabulary: it is left out", target)
                continue
            token = pieces[0]
            instead = tokenizer.convert_ids_to_tokens(token)
            LOG.warning("the target %r is not in the vocabulary: its first token %r stands for it", target, instead)
        ids[token] = None
    if not ids:
        raise InputError(f"targets must hold at least one token of the vocabulary, found {targets!r:.60}")
    return list(ids)
