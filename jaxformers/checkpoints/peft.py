"""PEFT's files: adapter_config.json and adapter_model.safetensors, to an adapted model and back (`lora.py` is the transform).

What PEFT can say and is not here (DoRA, ranks that differ between layers, adapted biases or embeddings) is refused by name.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxformers.checkpoints.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, WEIGHT_FILES, contents, locate, read_json
from jaxformers.checkpoints.lora import AdaptedFamily, Adapter, adapted, linear_letters
from jaxformers.checkpoints.mapping import file_names, file_shape, from_file, is_stacked, layer_shape
from jaxformers.checkpoints.readers import Weights, read_safetensors
from jaxformers.core.params import leaves, nested
from jaxformers.errors import CheckpointError, ConfigError
from jaxformers.families import Model

PREFIX = "base_model.model."  # PEFT's wrappers around the model, in each tensor's name

TASK_TYPES = {
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    None: "FEATURE_EXTRACTION",
}
IGNORED = dict.fromkeys(
    ("task_type", "inference_mode", "fan_in_fan_out", "auto_mapping", "revision", "peft_version", "megatron_core",
     "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "qalora_group_size",
     "base_model_name_or_path"),
    "what the model and the head already say, or how PEFT made or runs it",
)  # fmt: skip
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")  # after which the model under the adapter is as it was


def adapter_config(model: Model) -> dict[str, Any]:
    """What adapter_config.json says of an adapted model."""
    family = model.family
    assert isinstance(family, AdaptedFamily)
    adapter = family.adapter
    declared = dict(leaves(model.declare()))
    kernels = [(*path[:-1], "kernel") for path in declared if path[-1] == "lora_a"]
    letters = [linear_letters(path, declared[path]) for path in kernels]
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES.get(model.head),
        "base_model_name_or_path": adapter.base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "target_modules": adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets),
        "modules_to_save": list(adapter.modules_to_save) or None,
        "bias": "none",
        "fan_in_fan_out": any(found is not None and found[2] for found in letters),
        "init_lora_weights": True,
        "inference_mode": True,
    }


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model beside it."""
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / name).is_file() for name in WEIGHT_FILES)


def read_adapter(raw: Mapping[str, Any], source: str) -> Adapter:
    """What an adapter_config.json says. Raises `ConfigError` naming what is not understood."""
    raw = dict(raw)
    if raw.get("peft_type") != "LORA":
        raise ConfigError(f"{source}: peft_type must be 'LORA', found {raw.get('peft_type')!r}")
    if raw.get("bias", "none") != "none":
        raise ConfigError(f"{source}: bias must be 'none', found {raw['bias']!r}: biases are not adapted here")
    if (start := raw.get("init_lora_weights", True)) not in PLAIN_STARTS:
        raise ConfigError(
            f"{source}: init_lora_weights={start!r} changes the model under the adapter, which is not read here"
        )
    targets = raw.get("target_modules")
    if not isinstance(targets, str | list) or not targets:
        raise ConfigError(f"{source}: target_modules must be names or a regular expression, found {targets!r}")
    known = ("peft_type", "bias", "init_lora_weights", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules",
             "modules_to_save")  # fmt: skip
    for key, value in raw.items():
        if key not in known and key not in IGNORED and value:
            raise ConfigError(f"{source}: {key}={value!r} is not supported")
    return Adapter(
        rank=raw.get("r", 8),
        alpha=raw.get("lora_alpha", 8),
        targets=targets if isinstance(targets, str) else tuple(sorted(targets)),
        modules_to_save=tuple(raw.get("modules_to_save") or ()),
        dropout=raw.get("lora_dropout", 0.0),
        rslora=raw.get("use_rslora", False),
        base=raw.get("base_model_name_or_path"),
    )


def with_adapter(model: Model, source: str | os.PathLike[str], revision: str | None = None) -> Model:
    """The model with the adapter of a folder or hub id in PEFT's layout.

    Args:
      model: the model that the adapter was trained on, with the same head.
      source: where adapter_config.json and adapter_model.safetensors are.
      revision: branch, tag or commit of a hub id.

    Returns:
      The adapted model; `merge` makes a plain one of it.

    Raises:
      ConfigError: the adapter is of a kind that is not read.
      CheckpointError: files or tensors are missing, unexpected or misshapen, all listed in one error.
    """
    folder = locate(source, revision=revision)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{source} holds no {ADAPTER_CONFIG}, which an adapter needs; {contents(folder)}")
    adapter = read_adapter(read_json(folder / ADAPTER_CONFIG), f"{source}: {ADAPTER_CONFIG}")
    new = adapted(model, adapter)
    wanted = {path: param for path, param in leaves(new.declare()) if param.learns}
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"{source} holds no {ADAPTER_WEIGHTS}; {contents(folder)}")
    with Weights(ADAPTER_WEIGHTS, read_safetensors(folder / ADAPTER_WEIGHTS)) as weights:
        found = {name: shape for name, (shape, _) in weights.shapes().items()}
        shapes = {
            name: file_shape(param.layout, layer_shape(param))
            for param in wanted.values()
            for name in _names(new, param)
        }
        problems = [f"missing {name}" for name in shapes if name not in found]
        problems += [f"unexpected {name}" for name in found if name not in shapes]
        problems += [
            f"{name}: file {found[name]}, model {shape}" for name, shape in shapes.items() if found.get(name, shape) != shape
        ]  # fmt: skip
        if problems:
            what = f"{new.family.name} with head {new.head!r} and targets {adapter.targets!r}"
            raise CheckpointError(f"the adapter {source} does not fit {what}: " + "; ".join(problems))
        flat = dict(leaves(new.params))
        for path, param in wanted.items():
            each = [from_file(weights.read(name), param.layout, layer_shape(param)) for name in _names(new, param)]
            array = np.asarray(np.stack(each) if is_stacked(param) else each[0], flat[path].dtype)
            flat[path] = jax.device_put(array, flat[path].sharding)
    return Model(new.family, new.head, new.config, nested(flat), new.generation)


def base_of(folder: Path) -> str:
    """The folder or hub id that the adapter in a folder stands on. Raises `ConfigError` where it names none."""
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise ConfigError(
            f"{folder}: {ADAPTER_CONFIG} names no base model: load it yourself, with adapter={os.fspath(folder)!r}"
        )
    return base


def _names(model: Model, param: Any) -> list[str]:
    return [PREFIX + model.family.name_in(model.head, name) for name in file_names(param)]
