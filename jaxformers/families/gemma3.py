"""Gemma 3 (Gemma Team 2025, arXiv:2503.19786), its text model: Gemma 2 that normalises each head's queries and keys in place of
capping logits, and whose layers that see near tokens turn faster; see `families.llama`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxformers.errors import ConfigError
from jaxformers.families import gemma2
from jaxformers.families.config import shown
from jaxformers.families.gemma2 import Gemma2Config
from jaxformers.families.llama import family
from jaxformers.families.text_decoder import FULL, SLIDING


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemma3Config(Gemma2Config):
    """Gemma 3's numbers; the defaults are transformers'."""

    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    attn_logit_softcapping: float = 0.0  # not in its files: PyTorch's model does not read it
    final_logit_softcapping: float = 0.0
    sliding_window_pattern: int = 6
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0

    HEAD_NORMS = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sliding_window_pattern", "rope_local_base_freq"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}")


_BASE = family(
    "gemma3_text",
    "Gemma3Text",
    Gemma3Config,
    *("mlp_bias", "max_window_layers", "attn_logit_softcapping"),
    heads={head: gemma2.HEADS[head] for head in (None, "causal-lm", "sequence-classification")},
    hidden_act="hidden_activation",
)


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> Gemma3Config:
    """Reads a config.json; newer ones have `rope_parameters` for each kind of layer, those of near tokens without scaling."""
    plain, rope = dict(raw), raw.get("rope_parameters") or {}
    if not isinstance(rope, Mapping) or not all(isinstance(rope.get(kind) or {}, Mapping) for kind in (FULL, SLIDING)):
        raise ConfigError(f"{source}: rope_parameters must hold an object a kind of layer, found {shown(rope)}")
    if {*rope} & {FULL, SLIDING}:
        near, key = dict(rope.get(SLIDING) or {}), "rope_local_base_freq"
        if not {*rope} <= {FULL, SLIDING} or near.pop("rope_type", "default") != "default" or {*near} - {"rope_theta"}:
            raise ConfigError(
                f"{source}: rope_parameters hold {shown(rope)}, only plain rotations of near tokens are supported"
            )
        plain["rope_parameters"] = rope.get(FULL)
        if (base := near.get("rope_theta")) is not None and plain.setdefault(key, base) != base:
            raise ConfigError(f"{source}: {key}={shown(plain[key])} and rope_parameters ({shown(base)}) differ")
    config: Gemma3Config = _BASE.config_from_hf(plain, source)  # type: ignore[assignment]
    return config


def config_to_hf(config: Gemma3Config, architecture: str) -> dict[str, Any]:
    """Writes a config.json that transformers reads."""
    raw = _BASE.config_to_hf(config, architecture)
    near = {"rope_type": "default", "rope_theta": config.rope_local_base_freq}
    return raw | {"rope_parameters": {FULL: raw["rope_parameters"], SLIDING: near}}


FAMILY = dataclasses.replace(
    _BASE,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    architectures={**_BASE.architectures, "causal-lm": "Gemma3ForCausalLM"},
)
