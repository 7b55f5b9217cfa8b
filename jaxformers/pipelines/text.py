"""The text pipelines that give a text, or a pair of texts, a class. Results have transformers' keys and nesting.

A factory here is `Parts -> Pipeline`, as for all tasks; the table of tasks is in `__init__`.
"""

from typing import Any

import numpy as np

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.pipelines.base import Batch, Forward, Pipeline, fetch
from jaxformers.pipelines.inputs import WHOLE, Parts, as_float32, softmax, text_preprocess

UNSET: Any = object()  # top_k=None means all labels; not giving it at all means one dict where a list would be


def text_classification(parts: Parts, *, top_k: int | None = UNSET) -> Pipeline:
    """Which class a text, or a pair of texts, belongs to.

    A str gives `[{"label", "score"}]`, a list of n texts n dicts, a dict `{"text", "text_pair"}` one dict. With `top_k` (None:
    all labels) a list of the best stands for each dict. This is transformers' nesting, its oddity included: where `top_k`
    was given when the pipeline was made, a str gives that list within a list.

    Options of a call: `top_k`; `function_to_apply` ("softmax", "sigmoid" or "none"; by default sigmoid for one label or a
    multi-label problem, nothing for regression, else softmax); `truncation`, `max_length`.
    """
    model, made_with = parts.model, top_k

    def compute(params: Tree, batch: Batch) -> Batch:
        return {"logits": as_float32(model.apply(params, execution=WHOLE, **batch).logits)}

    def postprocess(outputs: Batch, *, top_k: int | None = UNSET, function_to_apply: str | None = None) -> Any:
        columns, host = fetch(outputs)
        best = made_with if top_k is UNSET else top_k
        if best is not UNSET and best is not None and (not isinstance(best, int) or isinstance(best, bool) or best < 1):
            raise InputError(f"top_k must be a positive int, or None for all labels, found {best!r}")
        labels = model.config.labels
        results: list[Any] = []
        for scores in scores_of(columns["logits"], function_to_apply or default_function(model.config)):
            order = np.argsort(-scores, kind="stable")
            ranked = [{"label": labels[i], "score": float(scores[i])} for i in order[: 1 if best is UNSET else best]]
            results.append(ranked[0] if best is UNSET else ranked)
        if host["given"] == "many":
            return results
        return results if host["given"] == "text" and top_k is UNSET else results[0]

    return Pipeline(text_preprocess(parts), Forward(model, compute, parts.mesh), postprocess)


def default_function(config: Any) -> str:
    """What turns logits into scores unless the caller says."""
    if config.problem_type == "regression":
        return "none"
    return "sigmoid" if config.problem_type == "multi_label_classification" or config.num_labels == 1 else "softmax"


def scores_of(logits_BC: Any, function: str) -> np.ndarray:
    """Logits to scores, by the name of a function."""
    logits_BC = np.asarray(logits_BC, np.float32)
    match function.lower() if isinstance(function, str) else function:
        case "softmax":
            return softmax(logits_BC)
        case "sigmoid":
            return 0.5 * (1 + np.tanh(0.5 * logits_BC))  # does not overflow
        case "none":
            return logits_BC
    raise InputError(f"function_to_apply must be 'softmax', 'sigmoid', 'none' or None, found {function!r}")
