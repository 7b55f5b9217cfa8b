"""M2M-100 (Fan et al. 2020, arXiv:2010.11125) and NLLB-200 (Costa-jussà et al. 2022): translation between any two languages.

Norms come first, positions are fixed and skip padding.
"""

import dataclasses

from jaxformers.families.bart import BartConfig, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class M2M100Config(BartConfig):
    """M2M-100's numbers; the defaults are those of m2m100_418M."""

    vocab_size: int = 128112
    hidden_act: str = "relu"
    attention_probs_dropout_prob: float = 0.1
    scale_embedding: bool = True

    NORM_FIRST = True
    NORMED_WORDS = False
    POSITIONS = "fairseq"
    LOGITS_BIAS = False


FAMILY = family(
    "m2m_100", {None: "M2M100Model", "seq2seq-lm": "M2M100ForConditionalGeneration"}, M2M100Config, "classifier_dropout"
)
