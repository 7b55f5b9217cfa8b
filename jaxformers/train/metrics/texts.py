"""Scores of written texts: ROUGE of summaries, BLEU of translations, in percent. By the packages of the [metrics] extra."""

import re
from collections.abc import Sequence

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


def _sentences(text: str) -> str:
    """One sentence a line, as ROUGE-Lsum wants them."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())


def _check(said: Sequence[str], right: Sequence[str]) -> None:
    if len(said) != len(right) or not said:
        raise InputError(f"texts and references must be equally many and not none, found {len(said)} and {len(right)}")
