"""PEGASUS (Zhang et al. 2019, arXiv:1912.08777): norms first, fixed positions; learned to write the sentences left out."""

import dataclasses

from jaxformers.families.bart import BartConfig, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class PegasusConfig(BartConfig):
    """PEGASUS's numbers, with transformers' defaults."""

    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int | None = 0

    NORM_FIRST = True
    NORMED_WORDS = False
    POSITIONS = "halves"
    SCALED_VECTORS = True


FAMILY = family(
    "pegasus",
    {None: "PegasusModel", "seq2seq-lm": "PegasusForConditionalGeneration"},
    PegasusConfig,
    "classifier_dropout",
)
