"""Answers to questions: exact match and word F1, as SQuAD's own scripts count them (Rajpurkar et al. 2016, 2018).

Scores are in percent, as in those scripts and wherever SQuAD is reported.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxformers.errors import InputError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower case, without punctuation, English articles and spare spaces.

    >>> normalise_answer("The  Eiffel-Tower, a tower")
    'eiffeltower tower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, answer: str) -> float:
    """1 if the two are equal once normalised, else 0.

    >>> exact_match("Paris.", "the Paris")
    1.0
    """
    return float(normalise_answer(predicted) == normalise_answer(answer))


def word_f1(predicted: str, answer: str, *, version_2: bool = False) -> float:
    """The F1 of the two's normalised words, each counted as often as it occurs.

    Args:
      predicted, answer: texts.
      version_2: what an answer without words is worth: equality with SQuAD 2, always 0 with SQuAD 1.

    >>> round(word_f1("in Paris, France", "Paris"), 3)
    0.5
    """
    said, true = normalise_answer(predicted).split(), normalise_answer(answer).split()
    if version_2 and not (said and true):
        return float(said == true)
    common = (Counter(said) & Counter(true)).total()
    return 2 * common / (len(said) + len(true)) if common else 0.0


def squad_scores(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """SQuAD 1.1: each prediction counts by the best of its question's answers.

    Args:
      predicted: N texts.
      answers: for each the texts that are right, at least one.

    Returns:
      `exact_match` and `f1`, in percent.

    Raises:
      InputError: the lengths differ, or a question has no answer.

    >>> squad_scores(["Paris", "in 1889"], [["Paris", "the city of Paris"], ["1889"]])
    {'exact_match': 50.0, 'f1': 83.33333333333333}
    """
    _check(predicted, answers)
    for index, right in enumerate(answers):
        if not right:
            raise InputError(f"question {index} has no answer; for SQuAD 2 there is squad_v2_scores")
    return {
        "exact_match": _mean(
            [max(exact_match(p, a) for a in right) for p, right in zip(predicted, answers, strict=True)]
        ),
        "f1": _mean([max(word_f1(p, a) for a in right) for p, right in zip(predicted, answers, strict=True)]),
    }


def squad_v2_scores(
    predicted: Sequence[str],
    answers: Sequence[Sequence[str]],
    no_answer_probabilities: Sequence[float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """SQuAD 2.0: some questions have no answer, and "" is what should be predicted for them.

    Args:
      predicted: N texts; "" says that there is no answer.
      answers: for each the texts that are right; none means that there is no answer.
      no_answer_probabilities: [N]; a prediction counts as "" where it is above `threshold`.
      threshold: from 0 to 1.

    Returns:
      `exact`, `f1` in percent and `total`; the same for questions with (`HasAns_…`) and without an answer (`NoAns_…`), where
      there are any; with probabilities also the `best_exact` and `best_f1` of any threshold, and those thresholds.

    >>> scores = squad_v2_scores(["Paris", "", "1889"], [["Paris"], [], []])
    >>> scores["NoAns_exact"], scores["HasAns_f1"], scores["NoAns_total"]
    (50.0, 100.0, 2)
    """
    _check(predicted, answers)
    if no_answer_probabilities is not None and len(no_answer_probabilities) != len(predicted):
        raise InputError(
            f"no_answer_probabilities must be one for each of {len(predicted)} predictions,"
            f" found {len(no_answer_probabilities)}"
        )
    has = np.array([bool(right) for right in answers])
    right = [[text for text in texts if normalise_answer(text)] or [""] for texts in answers]
    pairs = list(zip(predicted, right, strict=True))
    raw = {
        "exact": np.array([max(exact_match(p, a) for a in texts) for p, texts in pairs]),
        "f1": np.array([max(word_f1(p, a, version_2=True) for a in texts) for p, texts in pairs]),
    }
    none = np.zeros(len(has)) if no_answer_probabilities is None else np.asarray(no_answer_probabilities, float)
    kept = {name: np.where(none > threshold, ~has, scores) for name, scores in raw.items()}
    found: dict[str, float] = {}
    for prefix, chosen in (("", np.ones_like(has)), ("HasAns_", has), ("NoAns_", ~has)):
        if chosen.any():
            found |= {f"{prefix}{name}": _mean(scores[chosen]) for name, scores in kept.items()}
            found[f"{prefix}total"] = int(chosen.sum())
    if no_answer_probabilities is not None:
        for name, scores in raw.items():
            found[f"best_{name}"], found[f"best_{name}_thresh"] = _best_threshold(predicted, has, scores, none)
    return found


def _best_threshold(
    predicted: Sequence[str], has: np.ndarray, scores: np.ndarray, none: np.ndarray
) -> tuple[float, float]:
    """The highest score (in percent) that any threshold gives, and the lowest such threshold.

    At threshold 0 nothing is answered; raising it past a question lets its prediction count.
    """
    order = np.argsort(none, kind="stable")
    answered = np.array([bool(text) for text in predicted])
    gain = np.where(has, scores, -answered.astype(float))[order]
    totals = (~has).sum() + np.concatenate([[0.0], np.cumsum(gain)])
    best = int(totals.argmax())
    return float(100 * totals[best] / len(has)), float(none[order][best - 1]) if best else 0.0


def _check(predicted: Sequence[Any], answers: Sequence[Any]) -> None:
    if isinstance(predicted, str) or isinstance(answers, str) or len(predicted) != len(answers):
        raise InputError(f"give a prediction for each question's answers, found {len(predicted)} and {len(answers)}")
    if not len(predicted):
        raise InputError("SQuAD's scores of no questions are not defined")
    for index, (text, right) in enumerate(zip(predicted, answers, strict=True)):
        if not isinstance(text, str) or isinstance(right, str) or not all(isinstance(each, str) for each in right):
            raise InputError(f"question {index} needs a str and a list of str, found {text!r:.40} and {right!r:.40}")


def _mean(scores: Any) -> float:
    return float(100 * np.mean(scores))
