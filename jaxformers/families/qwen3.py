"""Qwen3 (Yang et al. 2025, arXiv:2505.09388): Llama that normalises each head's queries and keys; see `families.llama`."""

import dataclasses
from typing import ClassVar

from jaxformers.families.llama import family
from jaxformers.families.qwen2 import Qwen2Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3Config(Qwen2Config):
    """Qwen3's numbers; the defaults are transformers'."""

    head_dim: int | None = 128
    attention_bias: bool = False

    OUT_BIAS: ClassVar[bool | None] = None
    HEAD_NORMS = True


FAMILY = family("qwen3", "Qwen3", Qwen3Config, "mlp_bias", spans="transformer.")
