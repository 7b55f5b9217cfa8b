"""Tasks over pairs of texts: zero-shot classification, next-sentence prediction and multiple choice."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.pipelines.base import Batch, Forward, Pipeline, Row, fetch
from jaxformers.pipelines.inputs import (
    WHOLE,
    Parts,
    as_float32,
    read_one_text,
    read_text,
    softmax,
    text_preprocess,
    valid_text,
)

LOG = logging.getLogger("jaxformers")
TEMPLATE = "This example is {}."


def zero_shot_classification(parts: Parts) -> Pipeline:
    """Which of the labels named in the call a text deserves, by a model that was trained on entailment (NLI).

    Each label is put into the hypothesis, and the text is asked whether it entails it. A str gives `{"sequence", "labels",
    "scores"}`, best first; a list of texts gives a list of these.

    Options of a call:
      candidate_labels: a list, or a str of labels with commas between; may be the call's second argument.
      hypothesis_template: a str with `{}` for the label.
      multi_label: each label by itself, its score from entailment against contradiction; otherwise the scores of all
        labels sum to 1.
      truncation: "only_first" cuts long texts and never the hypothesis; False refuses them. max_length: the tokens.
    """
    model = parts.model
    entailment = _entailment_id(model.config.labels)

    def read(value: Any, where: str) -> str:
        text = read_one_text(value, where)
        if not text:
            raise InputError(f"{where} is empty: there is nothing to classify")
        return text

    def arrange(sequences: Any, candidate_labels: Any = None, **options: Any) -> tuple[Any, dict[str, Any]]:
        return sequences, options if candidate_labels is None else {**options, "candidate_labels": candidate_labels}

    pairs = text_preprocess(parts, read)

    def encode(
        items: list[str],
        *,
        candidate_labels: str | Sequence[str] | None = None,
        hypothesis_template: str = TEMPLATE,
        truncation: bool | str = "only_first",
        max_length: int | None = None,
        padding: bool | str = True,
    ) -> tuple[list[Row], dict[str, Any]]:
        labels = _labels(candidate_labels)
        hypotheses = _hypotheses(hypothesis_template, labels)
        asked = [(text, hypothesis) for text in items for hypothesis in hypotheses]
        rows, _ = pairs.encode(asked, truncation=truncation, max_length=max_length)
        return rows, {"items": items, "labels": labels}

    def compute(params: Tree, batch: Batch) -> Batch:
        return {"logits": as_float32(model.apply(params, execution=WHOLE, **batch).logits)}

    def postprocess(outputs: Batch, *, multi_label: bool = False) -> Any:
        columns, host = fetch(outputs)
        labels = host["labels"]
        logits_NAC = np.reshape(columns["logits"], (len(host["items"]), len(labels), -1))
        if multi_label or len(labels) == 1:
            contradiction = -1 if entailment == 0 else 0
            scores_NA = softmax(logits_NAC[..., [contradiction, entailment]])[..., 1]
        else:
            scores_NA = softmax(logits_NAC[..., entailment])
        results = []
        for text, scores_A in zip(host["items"], scores_NA, strict=True):
            order = np.argsort(scores_A, kind="stable")[::-1]
            results.append({"sequence": text, "labels": [labels[i] for i in order], "scores": scores_A[order].tolist()})
        return results if host["given"] == "many" else results[0]

    preprocess = dataclasses.replace(pairs, encode=encode, arrange=arrange)
    return Pipeline(preprocess, Forward(model, compute, parts.mesh), postprocess)


def _entailment_id(labels: Sequence[str]) -> int:
    for index, label in enumerate(labels):
        if label.lower().startswith("entail"):
            return index
    LOG.warning(
        "none of the model's labels (%s) begins with 'entail': the last is taken to mean entailment", ", ".join(labels)
    )
    return -1


def _labels(given: Any) -> list[str]:
    if given is None:
        raise InputError("zero-shot classification needs candidate_labels=, a list of labels or a str with commas")
    labels = [label.strip() for label in given.split(",") if label.strip()] if isinstance(given, str) else given
    if not isinstance(labels, list | tuple) or not labels or not all(isinstance(label, str) for label in labels):
        raise InputError(f"candidate_labels must be a list of str with at least one label, found {given!r:.60}")
    return [valid_text(label, "a candidate label") for label in labels]


def _hypotheses(template: Any, labels: list[str]) -> list[str]:
    try:
        hypotheses = [template.format(label) for label in labels]
    except (AttributeError, IndexError, KeyError, ValueError) as error:
        raise InputError(f"hypothesis_template must be a str with one {{}}, found {template!r:.60} ({error})") from None
    if hypotheses[0] == template:
        raise InputError(f"hypothesis_template must have a {{}} in the place of the label, found {template!r:.60}")
    return hypotheses


FOLLOWS = ("IsNext", "NotNext")  # the classes of BERT's head, in order


def next_sentence_prediction(parts: Parts) -> Pipeline:
    """Does the second text follow the first? By the head BERT was pretrained with.

    A pair, `{"text": str, "text_pair": str}` or within a list a tuple of two, gives `{"label": "IsNext" or "NotNext", "score"}`,
    the likelier of the two; a list of pairs gives a list of these. transformers has no pipeline for it.

    Options of a call: `truncation`, `max_length`.
    """
    model = parts.model

    def read(value: Any, where: str) -> tuple[str, str]:
        pair = None if isinstance(value, str) else read_text(value, where)
        if not isinstance(pair, tuple):
            raise InputError(f"{where} must be a pair {{'text': str, 'text_pair': str}}, found {value!r:.60}")
        return pair

    def compute(params: Tree, batch: Batch) -> Batch:
        return {"logits": as_float32(model.apply(params, execution=WHOLE, **batch).logits)}

    def postprocess(outputs: Batch) -> Any:
        columns, host = fetch(outputs)
        results = []
        for scores_2 in softmax(np.reshape(columns["logits"], (-1, 2))):
            best = int(scores_2.argmax())
            results.append({"label": FOLLOWS[best], "score": float(scores_2[best])})
        return results if host["given"] == "many" else results[0]

    return Pipeline(text_preprocess(parts, read), Forward(model, compute, parts.mesh), postprocess)


def multiple_choice(parts: Parts) -> Pipeline:
    """Which of several texts goes on best with a prompt, or answers it, as in SWAG.

    `{"prompt": str, "choices": [str, ...]}` gives `{"choice": str, "index": int, "score": float, "scores": [float, ...]}`: the
    best choice, its place and its score, and the scores of all choices in their order, which sum to 1. A list gives a
    list; its inputs may differ in the number of choices. transformers has no pipeline for it.

    Options of a call: `truncation`, `max_length`.
    """
    model = parts.model

    def read(value: Any, where: str) -> tuple[str, list[str]]:
        if not isinstance(value, Mapping) or not {"prompt", "choices"} <= value.keys():
            found = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else f"{value!r:.60}"
            raise InputError(f"{where} must be a dict {{'prompt': str, 'choices': [str, ...]}}, found {found}")
        choices = value["choices"]
        if not isinstance(choices, list | tuple) or not choices:
            raise InputError(f"{where} must have a list of at least one choice, found {choices!r:.60}")
        return valid_text(value["prompt"], where), [valid_text(choice, where) for choice in choices]

    def flatten(items: list[tuple[str, list[str]]]) -> tuple[list[tuple[str, str]], dict[str, Any]]:
        pairs = [(prompt, choice) for prompt, choices in items for choice in choices]
        return pairs, {"choices": [choices for _, choices in items]}

    def compute(params: Tree, batch: Batch) -> Batch:
        # Each choice is a row with itself as its only choice: the head reads choices apart, and a batch may mix numbers of them.
        logits_B1 = model.apply(params, execution=WHOLE, **{key: array[:, None] for key, array in batch.items()}).logits
        return {"logits": as_float32(logits_B1)}

    def postprocess(outputs: Batch) -> Any:
        columns, host = fetch(outputs)
        results, start = [], 0
        for choices in host["choices"]:
            scores = softmax(np.reshape(columns["logits"][start : start + len(choices)], -1))
            start += len(choices)
            best = int(scores.argmax())
            results.append(
                {"choice": choices[best], "index": best, "score": float(scores[best]), "scores": scores.tolist()}
            )
        return results if host["given"] == "many" else results[0]

    return Pipeline(text_preprocess(parts, read, flatten), Forward(model, compute, parts.mesh), postprocess)
