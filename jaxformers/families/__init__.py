"""The families of models, and the one table of family × head.

A family is a module with a `FAMILY` record: how its config.json reads, what parameters it owns, and a pure function for
each head. Modules are imported when first asked for.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from jaxformers.errors import ConfigError, InputError
from jaxformers.families import timm
from jaxformers.families.model import Family, Model

# model_type in config.json -> module here. String literals only: nothing read from a file chooses what is imported.
MODULES = {
    "albert": "jaxformers.families.albert",
    "audio-spectrogram-transformer": "jaxformers.families.audio_spectrogram_transformer",
    "bart": "jaxformers.families.bart",
    "beit": "jaxformers.families.beit",
    "bert": "jaxformers.families.bert",
    "clip": "jaxformers.families.clip",
    "convnext": "jaxformers.families.convnext",
    "ctrl": "jaxformers.families.ctrl",
    "deberta-v2": "jaxformers.families.deberta_v2",
    "deit": "jaxformers.families.deit",
    "dinov2": "jaxformers.families.dinov2",
    "distilbert": "jaxformers.families.distilbert",
    "efficientnet": "jaxformers.families.efficientnet",
    "electra": "jaxformers.families.electra",
    "gemma": "jaxformers.families.gemma",
    "gemma2": "jaxformers.families.gemma2",
    "gemma3_text": "jaxformers.families.gemma3",
    "gpt2": "jaxformers.families.gpt2",
    "gpt_neox": "jaxformers.families.gpt_neox",
    "hubert": "jaxformers.families.hubert",
    "llama": "jaxformers.families.llama",
    "m2m_100": "jaxformers.families.m2m_100",
    "marian": "jaxformers.families.marian",
    "mbart": "jaxformers.families.mbart",
    "mistral": "jaxformers.families.mistral",
    "modernbert": "jaxformers.families.modernbert",
    "mt5": "jaxformers.families.mt5",
    "openai-gpt": "jaxformers.families.openai_gpt",
    "pegasus": "jaxformers.families.pegasus",
    "qwen2": "jaxformers.families.qwen2",
    "qwen3": "jaxformers.families.qwen3",
    "resnet": "jaxformers.families.resnet",
    "roberta": "jaxformers.families.roberta",
    "segformer": "jaxformers.families.segformer",
    "speecht5": "jaxformers.families.speecht5",
    "speecht5_hifigan": "jaxformers.families.speecht5_hifigan",
    "swin": "jaxformers.families.swin",
    "t5": "jaxformers.families.t5",
    "tapas": "jaxformers.families.tapas",
    "transfo-xl": "jaxformers.families.transfo_xl",
    "vgg": "jaxformers.families.vgg",
    "vision-encoder-decoder": "jaxformers.families.vision_encoder_decoder",
    "vit": "jaxformers.families.vit",
    "vit_mae": "jaxformers.families.vit_mae",
    "wav2vec2": "jaxformers.families.wav2vec2",
    "whisper": "jaxformers.families.whisper",
    "xlm": "jaxformers.families.xlm",
    "xlm-roberta": "jaxformers.families.xlm_roberta",
    "xlnet": "jaxformers.families.xlnet",
}

FORMER = {"hifigan": "speecht5_hifigan"}  # a model_type of old -> its present one

__all__ = ["MODULES", "Family", "Model", "family_for", "family_of", "head_of"]


def family_for(model_type: object) -> Family:
    """The family of a config's `model_type`.

    Raises:
      ConfigError: no such family; names the nearest and lists all.

    >>> family_for("bert").name
    'bert'
    """
    model_type = FORMER.get(model_type, model_type) if isinstance(model_type, str) else model_type
    if not isinstance(model_type, str) or model_type not in MODULES:
        close = difflib.get_close_matches(str(model_type), MODULES, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"unknown model_type {model_type!r}{hint}; supported: {', '.join(sorted(MODULES))}")
    family: Family = importlib.import_module(MODULES[model_type]).FAMILY
    return family


def family_of(raw: Mapping[str, Any], source: str) -> Family:
    """The family of a config.json: of its `model_type`, or of timm's `architecture`.

    Args:
      raw: the config.json.
      source: where it is, for the message.

    Raises:
      ConfigError: it names neither, or one that is not here.

    >>> family_of({"architecture": "vgg16", "num_classes": 10}, "here").name
    'vgg'
    """
    model_type = timm.model_type_of(raw)
    if model_type is None:
        raise ConfigError(f"{source} has no model_type; supported: {', '.join(sorted(MODULES))}")
    try:
        return family_for(model_type)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def head_of(raw: Mapping[str, Any], source: str) -> str | None:
    """The head that a config.json's `architectures` names.

    Args:
      raw: the config.json.
      source: where it is, for the message.

    Raises:
      InputError: it names none, or one that the family has not.

    >>> head_of({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "here")
    'masked-lm'
    """
    heads = {architecture: head for head, architecture in family_of(raw, source).architectures.items()}
    named = raw.get("architectures")
    if "architecture" in raw and named is None:  # timm's files are of classifiers
        return "image-classification"
    if not isinstance(named, list) or not named or named[0] not in heads:
        raise InputError(
            f"{source}: config.json has architectures {named!r}, which tell no head: name the task or the head"
        )
    return heads[named[0]]
