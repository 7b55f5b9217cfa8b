"""HuBERT (Hsu et al. 2021, arXiv:2106.07447): Wav2Vec2's encoder, trained on clusters; see `families.speech_encoder`."""

import dataclasses
from functools import partial
from typing import Any

from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family
from jaxformers.families.speech_encoder import (
    FIXED,
    IGNORED,
    INPUTS,
    TRUNK,
    SpeechConfig,
    declare_trunk,
    encode,
    position_aliases,
)
from jaxformers.families.speech_heads import CLASS_NAMES, declare_head
from jaxformers.families.speech_heads import HEADS as SPEECH_HEADS


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubertConfig(SpeechConfig):
    """HuBERT's numbers; the defaults are those of hubert-base."""

    feat_proj_layer_norm: bool = True


KEYS = keys_of(HubertConfig, **SpeechConfig.KEYS)
HUBERT_FIXED = {**FIXED, "conv_pos_batch_norm": (False, "a batch norm before the positions")}
config_from_hf = partial(read_config, HubertConfig, KEYS, HUBERT_FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "hubert")


def declare(config: HubertConfig, head: str | None = None) -> Tree:
    """Every parameter of HuBERT with `head`: shape, axes, initialiser, checkpoint name and layout."""
    return {**declare_trunk(config, "hubert.", config.feat_proj_layer_norm), **declare_head(config, head)}


def states(*arguments: Any, **named: Any) -> Output:
    """`speech_encoder.encode` without what the convolutions made, which only Wav2Vec2's pretraining looks at again."""
    return encode(*arguments, **named).replace(extract_features=None)  # type: ignore[attr-defined]


HEADS = {**SPEECH_HEADS, None: states}

FAMILY = Family(
    name="hubert",
    config_class=HubertConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={head: "Hubert" + CLASS_NAMES[head] for head in HEADS},
    prefix="hubert.",
    trunk=TRUNK,
    inputs=INPUTS,
    aliases=position_aliases("hubert.encoder.pos_conv_embed.conv."),
)
