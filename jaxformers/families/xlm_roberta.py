"""XLM-RoBERTa (Conneau et al. 2019, arXiv:1911.02116): RoBERTa trained on a hundred languages. Only its names are its own."""

import dataclasses
from functools import partial

from jaxformers.families import roberta
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import class_names
from jaxformers.families.text_encoder import FIXED, EncoderConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class XlmRobertaConfig(EncoderConfig):
    """XLM-RoBERTa's numbers; the defaults are transformers', xlm-roberta-base itself has 250,002 words."""

    pad_token_id: int = 1


KEYS = keys_of(XlmRobertaConfig)
config_from_hf = partial(read_config, XlmRobertaConfig, KEYS, FIXED, {})
config_to_hf = partial(write_config, KEYS, "xlm-roberta")
declare, encode, HEADS = roberta.declare, roberta.encode, roberta.HEADS

FAMILY = dataclasses.replace(
    roberta.FAMILY,
    name="xlm-roberta",
    config_class=XlmRobertaConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    architectures=class_names("XLMRoberta", HEADS),
)
