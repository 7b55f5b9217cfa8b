"""From raw input to numpy batches: text, images, audio and their combinations, one file a modality.

`text` holds the tokenizers, on top of the `tokenizer_*` files; `image` the image processors, on top of the `image_*` files;
`audio` reads sounds, `feature_extractors` (over `spectrogram`) makes of them what models take; `processor` is two of these for a
model that takes both. Padding to a few chosen shapes and batching of whole datasets live in `jaxformers.data`. Names below are
imported on first use.
"""

import importlib
from typing import Any

_HOME = {
    "Encoding": "text",
    "FeatureExtractor": "feature_extractors",
    "ImageProcessor": "image",
    "Processor": "processor",
    "Tokenizer": "text",
    "load_feature_extractor": "feature_extractors",
    "load_image_processor": "image",
    "load_processor": "processor",
    "load_tokenizer": "text",
    "read_audio": "audio",
    "train_byte_level": "tokenizer_training",
    "train_letters": "tokenizer_ctc",
    "train_wordpiece": "tokenizer_training",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
