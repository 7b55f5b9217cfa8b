"""mT5 (Xue et al. 2020, arXiv:2010.11934): T5 1.1 in a hundred languages, with a vocabulary to match."""

import dataclasses

from jaxformers.families.config import keys_of
from jaxformers.families.t5 import LACKING, RENAMED, T5Config, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class MT5Config(T5Config):
    """mT5's numbers; the defaults are those of mt5-small. Its states are never scaled before they meet the words."""

    vocab_size: int = 250112
    intermediate_size: int = 1024
    num_hidden_layers: int = 8
    num_attention_heads: int = 6
    feed_forward_proj: str = "gated-gelu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale_decoder_outputs", False)
        super().__post_init__()


FAMILY = family("mt5", "MT5", MT5Config, keys_of(MT5Config, without=(*LACKING, "scale_decoder_outputs"), **RENAMED))
