"""Hidden states and sentence embeddings: feature extraction, sentence embedding and sentence similarity."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.checkpoints.files import read_json
from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.pipelines.base import Batch, Forward, Pipeline, fetch
from jaxformers.pipelines.inputs import WHOLE, Parts, as_float32, read_text, text_preprocess, valid_text


def feature_extraction(parts: Parts) -> Pipeline:
    """The last hidden states of a text's tokens: nested lists [1][tokens][width], padding left out; a list of these for many.

    Options of a call: `return_tensors` (numpy arrays [1, tokens, width] in place of lists), `truncation`, `max_length`.
    """

    def compute(params: Tree, batch: Batch) -> Batch:
        states_BLD = _states(parts.model, params, batch)
        return {"last_hidden_state": states_BLD, "attention_mask": batch["attention_mask"]}

    def postprocess(outputs: Batch, *, return_tensors: bool = False) -> Any:
        columns, host = fetch(outputs)
        rows = zip(columns["last_hidden_state"], columns["attention_mask"], strict=True)
        results = [state_LD[None, mask_L.astype(bool)] for state_LD, mask_L in rows]
        return _plain(results, host, return_tensors)

    return Pipeline(text_preprocess(parts), Forward(parts.model, compute, parts.mesh), postprocess)


def sentence_embedding(parts: Parts) -> Pipeline:
    """One vector of length 1 for a text: its tokens' states pooled, over the attention mask, and L2-normalised.

    How they are pooled (mean, cls or max; mean where nothing is said) and how long a text may be is read from the files of
    sentence-transformers where the model has them. A text gives a list of floats, many texts a list of these.

    Options of a call: `return_tensors` (numpy arrays [width] in place of lists), `truncation`, `max_length`.
    """
    pooling, limit = sentence_settings(parts.folder)

    def postprocess(outputs: Batch, *, return_tensors: bool = False) -> Any:
        columns, host = fetch(outputs)
        return _plain(list(columns["embedding"]), host, return_tensors)

    return Pipeline(text_preprocess(parts, limit=limit), _embedder(parts, pooling), postprocess)


def sentence_similarity(parts: Parts) -> Pipeline:
    """How alike sentences are: the cosine of their embeddings (see `sentence_embedding`), from -1 to 1.

    One input is either `{"source_sentence": str, "sentences": [str, ...]}`, which gives a list of floats, one a sentence
    (the hub's form of this task), or a pair, `{"text": str, "text_pair": str}` or within a list a tuple of two, which gives a
    float. A list of inputs gives a list of their results.

    Options of a call: `truncation`, `max_length`.
    """
    pooling, limit = sentence_settings(parts.folder)

    def read(value: Any, where: str) -> tuple[bool, list[str]]:
        if isinstance(value, Mapping) and "source_sentence" in value:
            others = value.get("sentences")
            if not isinstance(others, list | tuple):
                raise InputError(f"{where} must have a list of str under 'sentences', found {others!r:.60}")
            return False, [valid_text(text, where) for text in (value["source_sentence"], *others)]
        pair = None if isinstance(value, str) else read_text(value, where)
        if not isinstance(pair, tuple):
            form = "{'source_sentence': str, 'sentences': [str, ...]} or a pair of texts"
            raise InputError(f"{where} must be {form}, found {value!r:.60}")
        return True, list(pair)

    def flatten(items: list[tuple[bool, list[str]]]) -> tuple[list[str], dict[str, Any]]:
        return [text for _, texts in items for text in texts], {"items": [(pair, len(texts)) for pair, texts in items]}

    def postprocess(outputs: Batch) -> Any:
        columns, host = fetch(outputs)
        results: list[Any] = []
        start = 0
        for pair, size in host["items"]:
            source_D, *others = columns["embedding"][start : start + size]
            cosines = [float(np.dot(source_D, other_D)) for other_D in others]
            results.append(cosines[0] if pair else cosines)
            start += size
        return results if host["given"] == "many" else results[0]

    return Pipeline(text_preprocess(parts, read, flatten, limit), _embedder(parts, pooling), postprocess)


Pooling = Literal["mean", "cls", "max"]
POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean",  # another length than the mean, which normalising takes away
}


def sentence_settings(folder: Path | None) -> tuple[Pooling, int | None]:
    """How a model's sentence embeddings are pooled, and its most tokens, from the files of sentence-transformers.

    Args:
      folder: the model's; without one, or without such files in it, sentences are pooled by their mean.

    Raises:
      InputError: the files ask for something else than pooling by mean, cls or max, and normalising.
    """
    if folder is None or not (folder / "modules.json").is_file():
        return "mean", None
    pooling: Pooling = "mean"
    for module in _modules(folder / "modules.json"):
        kind, path = module["type"].rpartition(".")[2], module["path"]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise InputError(f"modules.json asks for a {kind} module, expected Transformer, Pooling and Normalize only")
        if kind == "Pooling":
            if not path or Path(path).name != path:
                raise InputError(f"modules.json names the folder {path!r}, expected a plain name")
            pooling = _pooling(read_json(folder / path / "config.json"))
    settings = folder / "sentence_bert_config.json"
    return pooling, read_json(settings).get("max_seq_length") if settings.is_file() else None


def _modules(path: Path) -> list[dict[str, str]]:
    try:
        modules = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    fields = ("type", "path")
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and all(isinstance(module.get(field), str) for field in fields) for module in modules
    ):
        raise InputError(f"{path} must be a list of objects with a type and a path")
    return modules


def _pooling(config: Mapping[str, Any]) -> Pooling:
    asked = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    if len(asked) != 1 or asked[0] not in POOLINGS:
        raise InputError(
            f"pooling by {' and '.join(asked) or 'nothing'} is not supported; known: {', '.join(POOLINGS)}"
        )
    return POOLINGS[asked[0]]


def pool(states_BLD: jax.Array, mask_BL: jax.Array, pooling: Pooling) -> jax.Array:
    """Token states to one vector a text, [B, L, D] -> [B, D]; padding does not count."""
    mask_BL1 = mask_BL[..., None].astype(states_BLD.dtype)
    match pooling:
        case "mean":
            return (states_BLD * mask_BL1).sum(1) / jnp.maximum(mask_BL1.sum(1), 1)
        case "cls":
            return states_BLD[:, 0]
        case "max":
            return jnp.where(mask_BL1 > 0, states_BLD, -jnp.inf).max(1)


def _embedder(parts: Parts, pooling: Pooling) -> Forward:
    def compute(params: Tree, batch: Batch) -> Batch:
        pooled_BD = pool(_states(parts.model, params, batch), batch["attention_mask"], pooling)
        norm_B1 = jnp.linalg.norm(pooled_BD, axis=-1, keepdims=True)
        return {"embedding": pooled_BD / jnp.maximum(norm_B1, 1e-12)}

    return Forward(parts.model, compute, parts.mesh)


def _states(model: Model, params: Tree, batch: Batch) -> jax.Array:
    """[B, L, D]; a model's head, if it has one, is left aside."""
    return as_float32(dataclasses.replace(model, head=None).apply(params, execution=WHOLE, **batch).last_hidden_state)


def _plain(results: list[Any], host: Mapping[str, Any], return_tensors: bool) -> Any:
    plain = results if return_tensors else [array.tolist() for array in results]
    return plain if host["given"] == "many" else plain[0]
