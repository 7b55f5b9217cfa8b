"""Mistral (Jiang et al. 2023, arXiv:2310.06825): Llama whose layers see a window of near tokens; see `families.llama`."""

import dataclasses

from jaxformers.families.llama import LlamaConfig, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class MistralConfig(LlamaConfig):
    """Mistral's numbers; the defaults are those of Mistral 7B."""

    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    sliding_window: int = 4096


FAMILY = family("mistral", "Mistral", MistralConfig, "max_window_layers", "layer_types", "attention_bias", "mlp_bias")
