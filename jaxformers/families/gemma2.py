"""Gemma 2 (Gemma Team 2024, arXiv:2408.00118): Gemma with norms after attention and feed-forward layers too, logits that are
capped (in attention, and of words), and every other layer looking at near tokens only; see `families.llama`."""

import dataclasses
from typing import Any

from jaxformers.core import vocabulary
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree
from jaxformers.families import gemma
from jaxformers.families.gemma import GemmaConfig
from jaxformers.families.llama import family
from jaxformers.families.model import Forward
from jaxformers.families.text_decoder import FULL, SLIDING


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemma2Config(GemmaConfig):
    """Gemma 2's numbers; the defaults are transformers'. A cap of 0 caps nothing."""

    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    sliding_window: int = 4096
    query_pre_attn_scalar: int = 256
    attn_logit_softcapping: float = 50.0
    final_logit_softcapping: float = 30.0

    NORMS_AFTER = True
    sliding_window_pattern = 2  # of so many layers the last looks at everything, where `layer_types` does not say

    def __post_init__(self) -> None:
        if not self.layer_types:
            every, depth = max(self.sliding_window_pattern, 1), min(self.num_hidden_layers, 10_000)
            kinds = tuple(SLIDING if (n + 1) % every else FULL for n in range(depth))
            object.__setattr__(self, "layer_types", kinds)
        super().__post_init__()


def capped(forward: Forward) -> Forward:
    """`forward`, whose logits come near `final_logit_softcapping` and never pass it."""

    def run(params: Tree, *inputs: Any, config: Gemma2Config, **named: Any) -> Output:
        output = forward(params, *inputs, config=config, **named)
        cap = config.final_logit_softcapping
        return output.replace(logits=vocabulary.capped(output.logits, cap)) if cap else output  # type: ignore[attr-defined]

    return run


HEADS = {**gemma.HEADS, "causal-lm": capped(gemma.HEADS["causal-lm"])}
FAMILY = family("gemma2", "Gemma2", Gemma2Config, "mlp_bias", "max_window_layers", heads=HEADS,
                hidden_act="hidden_activation")  # fmt: skip
