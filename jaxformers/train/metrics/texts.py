"""Scores of written texts: ROUGE of summaries, BLEU of translations, in percent, by the packages of the [metrics] extra; and how
much of what was heard is wrong, by words (WER) and by letters (CER)."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxformers.errors import InputError

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(said: Sequence[str], right: Sequence[str]) -> dict[str, float]:
    """ROUGE (Lin 2004) by the package rouge-score: the mean F of stemmed words over all texts, in percent.

    Args:
      said: the summaries.
      right: the reference of each.

    Returns:
      `rouge1` and `rouge2` (words and pairs of words), `rougeL` (the longest common subsequence), `rougeLsum` (that of each
      sentence, put together; a sentence ends at ". ", "! " or "? ").

    Raises:
      InputError: no texts, unequally many, or the package is not installed.
    """
    _check(said, right)
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise InputError('ROUGE needs the package rouge-score: pip install "jaxformers[metrics]"') from error
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    scores = [scorer.score(_sentences(b), _sentences(a)) for a, b in zip(said, right, strict=True)]
    return {name: 100 * sum(score[name].fmeasure for score in scores) / len(scores) for name in ROUGE}


def bleu(said: Sequence[str], right: Sequence[str]) -> float:
    """BLEU over all texts (Papineni et al. 2002) by sacrebleu with its defaults (Post 2018), in percent.

    Args:
      said: the translations, as one reads them: not tokenized.
      right: the reference of each.

    Raises:
      InputError: no texts, unequally many, or the package is not installed.
    """
    _check(said, right)
    try:
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise InputError('BLEU needs the package sacrebleu: pip install "jaxformers[metrics]"') from error
    return float(corpus_bleu(list(said), [list(right)]).score)


def word_error_rate(said: Sequence[str], right: Sequence[str]) -> float:
    """WER: the words that must be put in, taken out or exchanged to make all texts right, over the words of the right ones.

    Args:
      said: what was heard.
      right: what was said, of each.

    Raises:
      InputError: no texts, unequally many, or no words that were said.

    >>> word_error_rate(["a cat sad", "it"], ["the cat sat", "it is"])
    0.6
    """
    return _error_rate([text.split() for text in said], [text.split() for text in right])


def letter_error_rate(said: Sequence[str], right: Sequence[str]) -> float:
    """CER: likewise of letters, blanks between words among them; runs of blanks count as one. Arguments as above.

    >>> letter_error_rate(["cast"], ["cat"])
    0.3333333333333333
    """
    return _error_rate([" ".join(text.split()) for text in said], [" ".join(text.split()) for text in right])


def _error_rate(said: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> float:
    _check(said, right)
    whole = sum(map(len, right))
    if not whole:
        raise InputError("no text says anything: there is nothing to hear wrongly")
    return sum(_edits(a, b) for a, b in zip(said, right, strict=True)) / whole


def _edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's distance, row by row."""
    number = {part: place for place, part in enumerate({*a, *b})}
    ids, steps = np.array([number[part] for part in b], np.int64), np.arange(len(b) + 1)
    row = steps.copy()
    for part in a:
        next_row = np.minimum(row + 1, np.concatenate(([row[0] + 1], row[:-1] + (ids != number[part]))))
        row = np.minimum.accumulate(next_row - steps) + steps  # parts of b put in, one after another
    return int(row[-1])


def _sentences(text: str) -> str:
    """One sentence a line, as ROUGE-Lsum wants them."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())


def _check(said: Sequence[Any], right: Sequence[Any]) -> None:
    if len(said) != len(right) or not said:
        raise InputError(f"texts and references must be equally many and not none, found {len(said)} and {len(right)}")
