"""Qwen2 (Yang et al. 2024, arXiv:2407.10671): Llama with biases on query, key and value; see `families.llama`."""

import dataclasses
from typing import ClassVar

from jaxformers.families.llama import LlamaConfig, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2Config(LlamaConfig):
    """Qwen2's numbers; the defaults are transformers'. The window counts where `use_sliding_window` says so."""

    vocab_size: int = 151936
    intermediate_size: int = 22016
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    attention_bias: bool = True
    use_sliding_window: bool = False
    sliding_window: int = 4096
    max_window_layers: int = 28

    OUT_BIAS: ClassVar[bool | None] = False

    def __post_init__(self) -> None:
        if not self.use_sliding_window:
            object.__setattr__(self, "sliding_window", 0)
        super().__post_init__()


FAMILY = family("qwen2", "Qwen2", Qwen2Config, "attention_bias", "mlp_bias", spans="transformer.")
