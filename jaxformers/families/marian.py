"""Marian (Junczys-Dowmunt et al. 2018; Opus-MT): translation from one language to another, with fixed positions.

Its own: the two languages may have a vocabulary each.
"""

import dataclasses

from jaxformers.core.params import Param, Tree, normal
from jaxformers.errors import ConfigError
from jaxformers.families import bart
from jaxformers.families.bart import BartConfig, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarianConfig(BartConfig):
    """Marian's numbers, with transformers' defaults."""

    vocab_size: int = 58101
    decoder_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    pad_token_id: int = 58100
    eos_token_id: int = 0
    decoder_start_token_id: int | None = 58100

    NORMED_WORDS = False
    POSITIONS = "halves"
    SCALED_VECTORS = True

    def __post_init__(self) -> None:
        if self.decoder_vocab_size is None:
            object.__setattr__(self, "decoder_vocab_size", self.vocab_size)
        if self.share_encoder_decoder_embeddings and self.decoder_vocab_size != self.vocab_size:
            raise ConfigError(
                f"one table of words cannot be of {self.vocab_size} and of {self.decoder_vocab_size} (decoder)"
            )
        super().__post_init__()


def declare(config: MarianConfig, head: str | None = None) -> Tree:
    """Every parameter of Marian: BART's, and the decoder's own words where they are not shared."""
    tree = bart.declare(config, head)
    if config.share_encoder_decoder_embeddings:
        return tree
    assert config.decoder_vocab_size is not None
    D, init = config.hidden_size, normal(config.initializer_range)

    def words(side: str, vocab: int) -> Param:
        return Param((vocab, D), ("vocab", "table"), init, f"model.{side}.embed_tokens.weight")

    tree["embeddings"] = {"word": words("encoder", config.vocab_size)}
    tree["decoder"]["word"] = words("decoder", config.decoder_vocab_size)
    if head == "seq2seq-lm":
        tree["masked_lm"] = bart.declare_logits_bias(config.decoder_vocab_size)
    return tree


FAMILY = family(
    "marian", {None: "MarianModel", "seq2seq-lm": "MarianMTModel"}, MarianConfig, "classifier_dropout", declare=declare
)
