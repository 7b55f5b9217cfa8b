"""Metrics: pure functions on the host from predictions and labels to Python floats, exact over the whole set.

Predictions come first, labels second. They agree with scikit-learn, SciPy, seqeval and SQuAD's own script, where these
define a value; what has none (no examples at all, lengths that differ) is an `InputError`.
"""

from jaxformers.train.metrics.answers import exact_match, normalise_answer, squad_scores, squad_v2_scores, word_f1
from jaxformers.train.metrics.classification import accuracy, f1, matthews_correlation, precision, recall
from jaxformers.train.metrics.entities import entities_of, entity_scores
from jaxformers.train.metrics.regression import pearson, perplexity, spearman
from jaxformers.train.metrics.segmentation import class_counts, mean_iou, segmentation_scores
from jaxformers.train.metrics.texts import bleu, letter_error_rate, rouge, word_error_rate

__all__ = ["accuracy", "bleu", "class_counts", "entities_of", "entity_scores", "exact_match", "f1", "letter_error_rate",
           "matthews_correlation", "mean_iou", "normalise_answer", "pearson", "perplexity", "precision", "recall", "rouge",
           "segmentation_scores", "spearman", "squad_scores", "squad_v2_scores", "word_error_rate", "word_f1"]  # fmt: skip
