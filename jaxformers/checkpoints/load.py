"""From a checkpoint (or a config alone) to a `Model`: what is loaded, what is new, what is dropped, what is refused.

One line says what was dropped or newly drawn; one error lists everything that does not fit. Each parameter goes to its
place on the devices as soon as it is read, so that a host never holds the model twice.
"""

import dataclasses
import functools
import gc
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from jaxformers.checkpoints.files import locate, read_json
from jaxformers.checkpoints.int8 import in_8_bits, quantise, quantised_family
from jaxformers.checkpoints.mapping import expected, file_names, from_file, is_stacked, layer_shape
from jaxformers.checkpoints.peft import base_of, is_adapter, with_adapter
from jaxformers.checkpoints.readers import Weights, open_weights
from jaxformers.core import params as core_params
from jaxformers.core.params import Param, Tree, initialise_leaf, leaves, nested, shardings
from jaxformers.errors import CheckpointError, ConfigError, InputError
from jaxformers.families import MODULES, Family, Model, family_for, family_of
from jaxformers.families.config import Config, merge_overrides

LOG = logging.getLogger("jaxformers")
LEGACY = {"gamma": "weight", "beta": "bias"}  # TensorFlow's words for a norm's scale and bias, in early PyTorch files


def load(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config,
    head: str | None = None,
    *,
    dtype: Any = "float32",
    mesh: Mesh | None = None,
    seed: int = 0,
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    ignore_mismatched_sizes: bool = False,
    **overrides: Any,
) -> Model:
    """Loads a checkpoint, or builds a model from a config alone.

    Args:
      source: a folder in Hugging Face layout, here or in a bucket (`gs://…`), a hub id, a config as a dict (with
        `model_type`), or a `Config`. Where it holds an adapter alone (PEFT's files), the model that it stands on is loaded, too.
      head: the task head, such as `"sequence-classification"`; None gives hidden states.
      dtype: how parameters are stored, whatever the file holds; "int8" stores kernels in 8 bits, the rest in float32, for
        inference (`checkpoints.int8`).
      mesh: where they live; None means the default device.
      seed: for what is drawn anew: everything with a bare config, else a head the file does not hold.
      revision: branch, tag or commit of a hub id.
      adapter: a folder or hub id with a LoRA adapter in PEFT's files, to be put on the model (`checkpoints.lora`).
      ignore_mismatched_sizes: draw what lies outside the trunk anew where the file has it in another shape: a classifier of
        other classes.
      **overrides: config values under transformers' names (`num_labels=3`).

    Returns:
      The model.

    Raises:
      CheckpointError: files missing or damaged, tensors missing, unexpected or misshapen (all listed in one error).
      ConfigError: a config or override with something unknown in it.

    >>> tiny = {"model_type": "bert", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
    ...         "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
    >>> load(tiny, head="sequence-classification", num_labels=3).apply
    <bound method Model.apply of ...>
    """
    in_bits, dtype = dtype == "int8", _float_dtype("float32" if dtype == "int8" else dtype)
    family, config, folder, own_adapter = _described(source, head, revision, overrides)
    if own_adapter is not None and adapter is not None:
        raise InputError(f"{source} is an adapter, and stands under no other: found adapter={os.fspath(adapter)!r}")
    adapter = own_adapter if adapter is None else adapter
    if folder is None:
        declared = family.declare(config, head)
        model = Model(family, head, config, core_params.initialise(declared, jax.random.key(seed), dtype, mesh))
        model = quantise(model) if in_bits else model
        return model if adapter is None else with_adapter(model, adapter)
    with open_weights(folder) as weights:
        keep = functools.partial(in_8_bits, family) if in_bits else lambda path, param, leaf: {path: leaf}
        params, report = read_params(family, config, head, weights, dtype, mesh, seed, keep, ignore_mismatched_sizes)
    generation = folder / "generation_config.json"
    family = quantised_family(family) if in_bits else family
    model = Model(family, head, config, params, read_json(generation) if generation.is_file() else {})
    line = report.line()
    if adapter is not None:
        model = with_adapter(model, adapter)
        line = report.without(model).line()
    if line:
        LOG.warning("%s: %s", source, line)
    return model


def outline(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config,
    head: str | None = None,
    *,
    dtype: Any = "float32",
    revision: str | None = None,
    **overrides: Any,
) -> Model:
    """A model without its numbers, of any size: each parameter is a `jax.ShapeDtypeStruct`. Weights are not looked for.

    Arguments and errors as for `load`.

    >>> model = outline({"model_type": "llama"}, head="causal-lm")  # Llama 2's 7 billion parameters
    >>> model.params["embeddings"]["word"].shape
    (32000, 4096)
    """
    family, config, *_ = _described(source, head, revision, overrides)
    return Model(family, head, config, core_params.abstract(family.declare(config, head), _float_dtype(dtype)))


def describe(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config,
    head: str | None = None,
    *,
    revision: str | None = None,
    **overrides: Any,
) -> tuple[Family, Any]:
    """The family and the config that `load` would give these arguments, without the parameters. Raises as it does."""
    family, config, *_ = _described(source, head, revision, overrides)
    return family, config


def _described(
    source: str | os.PathLike[str] | Mapping[str, Any] | Config,
    head: str | None,
    revision: str | None,
    overrides: Mapping[str, Any],
) -> tuple[Family, Config, Path | None, Path | None]:
    """The family and config of a source that has this head, the folder its weights are in (of a config alone: None), and that
    of its adapter, if it is one."""
    if isinstance(source, Config | Mapping):
        family, config = _from_config(source, overrides)
        folder = adapter = None
    else:
        folder, adapter = locate(source, revision=revision), None
        raw = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        if is_adapter(folder):
            adapter, folder = folder, locate(base_of(folder))
            raw = raw or read_json(folder / "config.json")
        family = family_of(raw, f"{source}: config.json")
        config = family.config_from_hf(merge_overrides(raw, overrides, family.config_keys), f"{source}: config.json")
    family.forward(head)
    return family, config, folder, adapter


@dataclasses.dataclass(frozen=True)
class Report:
    """What loading did besides loading.

    Args:
      initialised: checkpoint names drawn anew because the file does not hold them.
      dropped: checkpoint names the file holds for another head, or that hold no parameters.
    """

    initialised: tuple[str, ...]
    dropped: tuple[str, ...]

    def without(self, model: Model) -> "Report":
        """The report of a model whose adapter has brought parameters of its own: what was drawn for them is not told."""
        brought = {name for _, param in leaves(model.declare()) if param.learns for name in file_names(param)}
        return Report(tuple(name for name in self.initialised if name not in brought), self.dropped)

    def line(self) -> str:
        """The report as one line; empty where there is nothing to say."""
        parts = []
        if self.initialised:
            parts.append(f"newly initialised: {', '.join(_grouped(self.initialised))}")
        if self.dropped:
            parts.append(f"in the file but not used: {', '.join(_grouped(self.dropped))}")
        return "; ".join(parts)


def _names(family: Family, config: Any, head: str | None) -> list[str]:
    """The checkpoint names of a head; none of one that this config cannot have."""
    try:
        return [name for name, _, _ in expected(family.declare(config, head))]
    except ConfigError:
        return []


def read_params(
    family: Family,
    config: Any,
    head: str | None,
    weights: Weights,
    dtype: Any,
    mesh: Mesh | None,
    seed: int,
    keep: Callable[[tuple[str, ...], Param, jax.Array], dict[tuple[str, ...], jax.Array]],
    ignore_mismatched: bool = False,
) -> tuple[Tree, Report]:
    """Reads the parameters of `family` with `head` out of `weights`; `keep` says as what each is kept.

    With `ignore_mismatched` what lies outside the trunk in another shape counts as not there.

    Raises:
      CheckpointError: listing all misfits.
    """
    declared = family.declare(config, head)
    core_params.check_fits(declared, dtype)
    wanted = {name: (path, shape) for name, path, shape in expected(declared)}
    others = {name for other in family.heads for name in _names(family, config, other)}
    there, dropped, unexpected = _canonical(family, weights, wanted, others)
    if family.ties and config.tie_word_embeddings:  # a table that is the words' unless the file holds another (T5)
        there |= {name: there[words] for name, words in family.ties.items()
                  if name in wanted and name not in there and words in there}  # fmt: skip

    if ignore_mismatched:
        for name, (path, shape) in wanted.items():
            if name in there and there[name][1] != shape and path[0] not in family.trunk:
                dropped.append(there.pop(name)[0])
    missing = {name for name in wanted if name not in there}
    new = {name for name in missing if wanted[name][0][0] not in family.trunk}
    problems = [f"missing {name} {wanted[name][1]}" for name in wanted if name in missing - new]
    problems += [f"unexpected {name} {shape}" for name, shape in unexpected.items()]
    for name, (path_shape, (_, shape)) in ((name, (there.get(name), wanted[name])) for name in wanted):
        if path_shape is not None and path_shape[1] != shape:
            problems.append(f"{name}: file {path_shape[1]}, model {shape}")
    if problems:
        raise CheckpointError(f"{weights.source} does not fit {family.name} with head {head!r}: " + "; ".join(problems))

    key = jax.random.key(seed)
    placed = None if mesh is None else shardings(declared, mesh)
    flat: dict[tuple[str, ...], Any] = {}
    # The largest first: while a leaf travels it is there twice, which the small ones that are left at the end can afford.
    for path, param in sorted(leaves(declared), key=lambda leaf: -math.prod(leaf[1].shape)):
        sharding: Any = SingleDeviceSharding(jax.local_devices()[0])
        if placed is not None:
            sharding = _at(placed, path)
        names = file_names(param)
        if any(name in new for name in names):
            if not all(name in new for name in names):
                raise CheckpointError(f"{weights.source} holds only some layers of {param.name}")
            leaf = jax.device_put(initialise_leaf(path, param, key, dtype), sharding)
        else:
            leaf = _read_leaf(weights, param, [there[name][0] for name in names], dtype, sharding)
        flat |= jax.block_until_ready(keep(path, param, leaf))
        del leaf
        gc.collect(0)  # JAX lets go of the array that has travelled when the youngest garbage is looked through
    report = Report(tuple(name for name in wanted if name in new), tuple(dropped))
    return nested(flat), report


def _read_leaf(weights: Weights, param: Param, names: list[str], dtype: np.dtype, sharding: Any) -> jax.Array:
    shape = layer_shape(param)
    if is_stacked(param):
        whole = np.empty(param.shape, dtype)
        for n, name in enumerate(names):
            whole[n] = from_file(weights.read(name), param.layout, shape)
    else:
        whole = np.asarray(from_file(weights.read(names[0]), param.layout, shape), dtype, order="C")
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def _canonical(
    family: Family, weights: Weights, wanted: Mapping[str, Any], others: set[str]
) -> tuple[dict[str, tuple[str, tuple[int, ...]]], list[str], dict[str, tuple[int, ...]]]:
    """Sorts the file's tensors: (our name -> (file name, shape)), dropped ones, and unexpected ones with their shapes."""
    there: dict[str, tuple[str, tuple[int, ...]]] = {}
    dropped: list[str] = []
    unexpected: dict[str, tuple[int, ...]] = {}
    spare: dict[str, tuple[str, tuple[int, ...]]] = {}
    shapes = weights.shapes()
    bare = not any(name.startswith(family.prefix) for name in shapes)  # the file of a base model, all of it trunk
    for file_name, (shape, _) in shapes.items():
        stem, _, last = file_name.rpartition(".")
        name = f"{stem}.{LEGACY[last]}" if last in LEGACY else file_name
        for old, new in family.renamed.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        known = others | set(wanted) | set(family.ties) | set(family.buffers)
        for other in family.prefixes.values():
            if other and name.startswith(other):
                name = family.prefix + name.removeprefix(other)
        name = family.aliases.get(name, family.aliases.get(family.prefix + name, name))
        if (name not in known or (bare and name not in wanted)) and family.prefix + name in known:
            name = family.prefix + name
        is_buffer = {*_any_layer(name), *_any_layer(family.prefix + name)} & {*family.buffers}
        if name in there:
            raise CheckpointError(f"{weights.source} holds {name} twice ({there[name][0]} and {file_name})")
        if name in wanted:
            there[name] = (file_name, shape)
        elif name in family.ties:
            spare[family.ties[name]] = (file_name, shape)
        elif name in others or is_buffer:
            dropped.append(file_name)
        else:
            unexpected[file_name] = shape
    for name, found in spare.items():  # a tied copy stands in where the original is not there
        if name in wanted and name not in there:
            there[name] = found
        elif name not in wanted:
            dropped.append(found[0])
    return there, dropped, unexpected


def _any_layer(name: str) -> tuple[str, str, str]:
    """A name as it is, with `{}` for the number of its layer, and with `{}` for every number in it."""
    return name, re.sub(r"\.\d+\.", ".{}.", name, count=1), re.sub(r"\.\d+(?=\.)", ".{}", name)


def _grouped(names: tuple[str, ...]) -> list[str]:
    """`a.weight, a.bias` as `a.{weight,bias}`; more than eight groups end in a count."""
    groups: dict[str, list[str]] = {}
    for name in names:
        stem, _, last = name.rpartition(".")
        groups.setdefault(stem, []).append(last)
    lines = [
        f"{stem}.{{{','.join(lasts)}}}" if len(lasts) > 1 else f"{stem}.{lasts[0]}".lstrip(".")
        for stem, lasts in groups.items()
    ]
    return lines if len(lines) <= 8 else [*lines[:7], f"and {len(lines) - 7} more"]


def _at(tree: Tree, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _from_config(source: Mapping[str, Any] | Config, overrides: Mapping[str, Any]) -> tuple[Family, Config]:
    if isinstance(source, Config):
        family = next(family for family in map(family_for, MODULES) if type(source) is family.config_class)
        if not overrides:
            return family, source
        source = family.config_to_hf(source, family.architectures[None])
    family = family_of(source, "config")
    return family, family.config_from_hf(merge_overrides(source, overrides, family.config_keys), "config")


def _float_dtype(dtype: Any) -> np.dtype:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise InputError(f"dtype must be a floating type such as 'float32' or 'bfloat16', found {dtype!r}")
    return found
