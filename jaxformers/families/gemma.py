"""Gemma (Gemma Team 2024, arXiv:2403.08295): Llama whose words are scaled and whose norms count from 1; see `families.llama`."""

import dataclasses

from jaxformers.families.llama import HEADS, LlamaConfig, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class GemmaConfig(LlamaConfig):
    """Gemma's numbers; the defaults are those of Gemma 7B."""

    vocab_size: int = 256000
    hidden_size: int = 3072
    intermediate_size: int = 24576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16
    head_dim: int | None = 256
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    SCALED_WORDS = True
    NORM_OFFSET = 1.0

    def __post_init__(self) -> None:
        if self.hidden_act == "gelu":  # what the first releases say, and do not mean
            object.__setattr__(self, "hidden_act", "gelu_pytorch_tanh")
        super().__post_init__()


HEADS = {head: forward for head, forward in HEADS.items() if head != "question-answering"}
FAMILY = family(
    "gemma", "Gemma", GemmaConfig, "mlp_bias", "sliding_window", "max_window_layers", "layer_types", heads=HEADS
)
