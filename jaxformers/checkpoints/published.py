"""Published models by name, as config.json says them: enough to plan a run without their files.

`--model` also takes a config.json (or its folder) and, with a network, a hub id.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxformers.checkpoints.files import read_json
from jaxformers.errors import InputError

_LLAMA = {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2}

MODELS: dict[str, dict[str, Any]] = {
    "bert-base-uncased": {"model_type": "bert"},
    "bert-base-cased": {"model_type": "bert", "vocab_size": 28996},
    "bert-large-uncased": {
        "model_type": "bert",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "gpt2": {"model_type": "gpt2"},
    "gpt2-xl": {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25},
    "llama-2-7b": {**_LLAMA, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    "llama-2-13b": {
        **_LLAMA,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
    "llama-3-8b": {
        **_LLAMA,
        "vocab_size": 128256,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
    },
}


def described(source: str) -> str | Mapping[str, Any]:
    """The config of a name in `MODELS` or of a config.json; any other source as it is, for `outline` to find."""
    if source in MODELS and not os.path.isdir(source):
        return MODELS[source]
    if source.endswith(".json"):
        if not Path(source).is_file():
            raise InputError(f"there is no file {source}; known by name are {', '.join(MODELS)}")
        return read_json(Path(source))
    return source
