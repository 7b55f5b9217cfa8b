"""What all configs share: labels, the raw config.json they came from, and reading one strictly in both directions.

Every key of a config.json is known to its family, ignored by name for a reason that stands here, or refused. Nothing read
from a file selects code: strings pick from dict literals.
"""

import dataclasses
import difflib
import json
import logging
from collections.abc import Iterable, Mapping
from reprlib import repr as shown  # values of a file, cut to a length that fits into a sentence
from typing import Any, ClassVar, Self, TypeVar, get_args

from jaxformers.core.layers import ACTIVATIONS
from jaxformers.errors import ConfigError

# Keys that change no number we compute, each with why.
IGNORED = {
    **dict.fromkeys(("architectures", "model_type"), "the head and the family are chosen by the caller and the table"),
    **dict.fromkeys(("transformers_version", "torch_dtype", "dtype", "finetuning_task"), "a record of how it was made"),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id",
                     "decoder_start_token_id", "tokenizer_class", "prefix", "suffix"), "the tokenizer's business"),
    **dict.fromkeys(("use_cache", "output_past", "task_specific_params", "max_length", "min_length", "do_sample",
                     "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
                     "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
                     "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
                     "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
                     "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
                    "belongs to generation"),
    "chunk_size_feed_forward": "the result does not depend on it, and gradient_checkpointing saves more memory",
    **dict.fromkeys(("gradient_checkpointing", "torchscript", "use_bfloat16", "tf_legacy_loss",
                     "return_dict", "output_hidden_states", "output_attentions", "xla_device"),
                    "how it is run, which the caller says"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The part of a config every family has. Frozen and hashable, so it can be a static argument of `jax.jit`.

    Args:
      labels: the classes' names, in order of their ids.
      problem_type: `"regression"`, `"single_label_classification"`, `"multi_label_classification"`, or None.
      raw: the config.json this came from, as JSON text; kept for saving, ignored by comparison.
    """

    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    problem_type: str | None = None
    raw: str = dataclasses.field(default="{}", repr=False, compare=False)

    LOOKS_BACK: ClassVar[bool] = False  # whether a token sees only what stands before it, so that a model can write

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return len(self.labels)

    @property
    def id2label(self) -> dict[int, str]:
        """Class id to name."""
        return dict(enumerate(self.labels))

    @property
    def label2id(self) -> dict[str, int]:
        """Class name to id."""
        return {label: i for i, label in enumerate(self.labels)}

    def replace(self, **changes: Any) -> Self:
        """A copy with fields changed."""
        return dataclasses.replace(self, **changes)


def check_numbers(config: Config, sizes: Iterable[str]) -> None:
    """Refuses by name what no model can have: `sizes` below 1, shares outside of [0, 1), unknown activations, a width that its
    heads do not divide. Raises `ConfigError`."""
    for name in sizes:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1, found {getattr(config, name)}")
    for name, value in vars(config).items():
        if name.endswith(("norm_eps", "initializer_range")) and value < 0:
            raise ConfigError(f"{name} must not be negative, found {value}")
        if ("dropout" in name or name == "drop_path_rate") and not 0 <= (value or 0) < 1:
            raise ConfigError(f"{name} must be at least 0 and below 1, found {value}")
        if name.endswith(("_act", "_activation")) and isinstance(value, str) and value not in ACTIVATIONS:
            raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(sorted(ACTIVATIONS))}")
    width, heads = getattr(config, "hidden_size", 0), getattr(config, "num_attention_heads", 1)
    if getattr(config, "head_dim", None) is None and isinstance(heads, int) and width % heads:
        raise ConfigError(f"hidden_size {width} does not divide into {heads} heads")


MOST_LABELS = 1_000_000  # names are kept for each; beyond this a number is a slip, or an attack on memory
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
_SHARED = ("num_labels", "id2label", "label2id", "problem_type")


C = TypeVar("C", bound="Config")


def keys_of(cls: type[Config], *, without: tuple[str, ...] = (), **theirs: str) -> dict[str, str]:
    """transformers' config key -> field, for every field a family's config class adds to `Config`.

    Args:
      cls: the family's config class.
      without: fields its config.json does not have.
      **theirs: field -> transformers' key, where it is not the house's own name.
    """
    shared = {field.name for field in dataclasses.fields(Config)}
    own = [field.name for field in dataclasses.fields(cls) if field.name not in shared]
    return {theirs.get(name, name): name for name in own if name not in without}


def read_config(
    cls: type[C],
    names: Mapping[str, str],
    fixed: Mapping[str, tuple[Any, str]],
    ignored: Mapping[str, str],
    raw: Mapping[str, Any],
    source: str = "config.json",
) -> C:
    """Reads a config.json strictly. A family's `config_from_hf` is this with its first four arguments given.

    Args:
      cls: the family's config class.
      names: transformers' key -> field of `cls`.
      fixed: key -> (the only value we compute, what it stands for); any other value is refused.
      ignored: the family's own ignored keys -> the reason.
      raw: the parsed file, overrides already merged in.
      source: what to call the file in an error.

    Raises:
      ConfigError: an unknown key, a value of the wrong type, or a feature we do not compute.
    """
    types = {field.name: field.type for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key in names:
            values[names[key]] = _checked(source, key, value, types[names[key]])
        elif key in fixed:
            allowed, meaning = fixed[key]
            if value is not None and value != allowed:
                raise ConfigError(f"{source}: {key}={shown(value)} ({meaning}) is not supported, only {allowed!r} is")
        elif key == "auto_map":
            logging.getLogger("jaxformers").warning("%s names custom code (auto_map); it is never run", source)
        elif key in _SHARED or key in ignored or key in IGNORED:
            continue
        elif value and not key.startswith("_"):  # an unknown key that is null, false, empty or private asks for nothing
            known = [*names, *fixed, *_SHARED, *ignored, *IGNORED]
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{source}: unknown key {str(key)[:80]!r} = {shown(value)}{hint}")
    values["labels"] = _labels(raw, source)
    values["problem_type"] = raw.get("problem_type")
    if values["problem_type"] not in PROBLEM_TYPES:
        raise ConfigError(
            f"{source}: problem_type must be one of {PROBLEM_TYPES[1:]}, found {shown(values['problem_type'])}"
        )
    try:  # None in a file means the default of the class, as in transformers.
        return cls(**{key: value for key, value in values.items() if value is not None}, raw=json.dumps(dict(raw)))
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def with_new_names(raw: Mapping[str, Any], old: Mapping[str, str]) -> dict[str, Any]:
    """A config.json whose keys have their present names; where a file has both, the present one's value is kept.

    Args:
      raw: the parsed file.
      old: a key's old name -> its present one.
    """
    renamed = {old[key]: value for key, value in raw.items() if key in old}
    return renamed | {key: value for key, value in raw.items() if key not in old}


def write_config(names: Mapping[str, str], model_type: str, config: Config, architecture: str) -> dict[str, Any]:
    """The config.json of `config`: what it was read from, with every field written over it by transformers' name.

    A family's `config_to_hf` is this with its first two arguments given.
    """
    raw: dict[str, Any] = json.loads(config.raw)
    for key in ("torch_dtype", "num_labels", "problem_type"):
        raw.pop(key, None)
    for key, field in names.items():
        value = getattr(config, field)
        raw[key] = list(value) if isinstance(value, tuple) else value
    raw |= {
        "model_type": model_type,
        "architectures": [architecture],
        "dtype": "float32",
        "id2label": {str(i): label for i, label in enumerate(config.labels)},
        "label2id": config.label2id,
    }
    if config.problem_type is not None:
        raw["problem_type"] = config.problem_type
    return dict(sorted(raw.items()))


def merge_overrides(raw: Mapping[str, Any], overrides: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`raw` with keyword overrides (transformers' names, `num_labels` among them) written over it.

    Raises:
      ConfigError: an override that no config of this family has.
    """
    known = [*names, *_SHARED]
    for key in overrides:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            raise ConfigError(f"unknown override {key!r}{f'; did you mean {close[0]!r}?' if close else ''}")
    merged = {**raw, **overrides}
    if "num_labels" in overrides and "id2label" not in overrides:
        size = _number_of_labels(overrides["num_labels"], "overrides")
        if len(raw.get("id2label") or {}) != size:
            merged["id2label"] = {str(i): f"LABEL_{i}" for i in range(size)}
    if "id2label" in overrides:
        merged.pop("label2id", None)
    elif "label2id" in overrides:
        merged.pop("id2label", None)
    return merged


def _labels(raw: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """The classes' names from `id2label`, else `label2id`, else `num_labels`, else two."""
    key = "id2label" if raw.get("id2label") is not None else "label2id"
    table = raw.get(key)
    if table is None:
        return tuple(f"LABEL_{i}" for i in range(_number_of_labels(raw.get("num_labels", 2), source)))
    if not isinstance(table, Mapping):
        raise ConfigError(f"{source}: {key} must be an object of ids and names, found {type(table).__name__}")
    pairs = list(table.items()) if key == "id2label" else [(i, label) for label, i in table.items()]
    try:
        ids = [int(str(i)) for i, _ in pairs]
    except ValueError:
        raise ConfigError(
            f"{source}: {key} must have whole numbers as ids, found {shown([i for i, _ in pairs])}"
        ) from None
    if sorted(ids) != list(range(len(ids))) or not ids:
        raise ConfigError(f"{source}: {key} must name the ids 0 to n-1 once each, found {shown(sorted(ids))}")
    if odd := [label for _, label in pairs if not isinstance(label, str | int | float)]:
        raise ConfigError(f"{source}: {key} must have texts as names, found {shown(odd[0])}")
    return tuple(str(label) for _, (_, label) in sorted(zip(ids, pairs, strict=True), key=lambda pair: pair[0]))


def _number_of_labels(value: Any, source: str) -> int:
    if value is None:
        return 2
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_LABELS:
        raise ConfigError(
            f"{source}: num_labels must be a whole number from 1 to {MOST_LABELS:,}, found {shown(value)}"
        )
    return value


def _checked(source: str, key: str, value: Any, wanted: Any) -> Any:
    """`value`, if it has the field's type; an int serves as float, and None stands for the default."""
    if value is None:
        return None
    if _type_name(wanted) == "tuple":
        inner = get_args(wanted)[0]
        if _type_name(inner) == "tuple" and isinstance(value, list | tuple):
            return tuple(_checked(source, key, each, inner) for each in value)
        element, called = (int, "whole numbers") if inner is int else (str, "texts")
        if not isinstance(value, list | tuple) or not all(type(each) is element for each in value):
            raise ConfigError(f"{source}: {key} must be a list of {called}, found {shown(value)}")
        return tuple(value)
    kind = {"int": int, "float": float, "bool": bool, "str": str}[_type_name(wanted)]
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"{source}: {key} must fit into 64 bits, found a number of {value.bit_length()}")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{source}: {key} must be {kind.__name__}, found {shown(value)}")
    return value


def _type_name(wanted: Any) -> str:
    name = wanted if isinstance(wanted, str) else getattr(wanted, "__name__", str(wanted))
    return name.removesuffix(" | None")
