"""From raw input to numpy batches: text, images, audio and their combinations, one file a modality.

`text` holds the tokenizers, on top of the `tokenizer_*` files. Padding to a
few chosen shapes and batching of whole datasets live in `jaxformers.data`. Names below are imported on first use.
"""

import importlib
from typing import Any

_HOME = {
    "Encoding": "text",
    "Tokenizer": "text",
    "load_tokenizer": "text",
    "train_byte_level": "tokenizer_training",
    "train_wordpiece": "tokenizer_training",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
