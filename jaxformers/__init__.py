"""jaxformers: Hugging Face models, pipelines and training as pure JAX functions over plain trees of arrays.

The public names are imported when first used, so that `import jaxformers` costs next to nothing.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "InputError": "jaxformers.errors",
    "Model": "jaxformers.families",
    "Output": "jaxformers.core.outputs",
    "compose": "jaxformers.pipelines",
    "generate": "jaxformers.generate",
    "load": "jaxformers.checkpoints",
    "load_dataset": "jaxformers.data",
    "load_feature_extractor": "jaxformers.preprocess",
    "load_image_processor": "jaxformers.preprocess",
    "load_processor": "jaxformers.preprocess",
    "load_tokenizer": "jaxformers.preprocess",
    "look": "jaxformers.pipelines.look",
    "lora": "jaxformers.checkpoints",
    "merge": "jaxformers.checkpoints",
    "pipeline": "jaxformers.pipelines",
    "push_to_hub": "jaxformers.checkpoints.push",
    "register_pipeline": "jaxformers.pipelines",
    "save": "jaxformers.checkpoints",
    "set_verbosity": "jaxformers.core.messages",
    "summary": "jaxformers.families.summary",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxformers' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


if _level := os.environ.get("JAXFORMERS_VERBOSITY"):
    from jaxformers.core.messages import set_verbosity

    set_verbosity(_level)
