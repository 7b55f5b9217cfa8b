"""From a `Model` to a folder that PyTorch transformers (and `load`) opens: config.json, model.safetensors, tokenizer files.

Every file is written beside its place and moved over it, weights before config, so a folder is never half a model.
"""

import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxformers.checkpoints.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from jaxformers.checkpoints.int8 import QuantisedFamily
from jaxformers.checkpoints.lora import AdaptedFamily
from jaxformers.checkpoints.mapping import file_names, is_stacked, to_file
from jaxformers.checkpoints.peft import PREFIX, adapter_config
from jaxformers.core.params import leaves
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.parallel.distributed import fetch

INDEX = "model.safetensors.index.json"
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def save(
    model: Model, directory: str | os.PathLike[str], tokenizer: Any = None, *, max_shard_size: int | str = "5GB"
) -> None:
    """Writes `model` in Hugging Face layout. In a run of several processes all call it, and the first writes.

    Of an adapted model (`lora`) the adapter alone is written, in PEFT's files, and its config.json.

    The host holds one file's tensors at a time, also where the parameters lie on many devices.

    Args:
      model: what to save.
      directory: the folder; made if it is not there.
      tokenizer: anything with `.save(directory)`, written beside the model.
      max_shard_size: bytes, or such as "500MB": weights beyond that go into several numbered files and an index. A tensor
        that is larger has a file of its own.

    Raises:
      InputError: the folder cannot be written, the size not be read, or the model is in 8 bits.
    """
    limit = _bytes(max_shard_size)
    if isinstance(model.family, QuantisedFamily):
        raise InputError("a model in 8 bits is for inference: save the one it was made of")
    directory = Path(directory)
    if jax.process_index() == 0:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}") from None
    if isinstance(model.family, AdaptedFamily):
        _write_adapter(model, directory)
    else:
        _write_weights(model, directory, limit)
    if jax.process_index() != 0:
        return
    config = model.family.config_to_hf(model.config, model.family.architectures[model.head])
    config["dtype"] = str(jax.tree.leaves(model.params)[0].dtype)
    if tokenizer is not None:
        tokenizer.save(directory)
    if model.generation:
        write_text(directory / "generation_config.json", json.dumps(dict(model.generation), indent=2) + "\n")
    write_text(directory / "config.json", json.dumps(config, indent=2) + "\n")


def tensors(model: Model) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the model under its checkpoint name and in its checkpoint layout, one at a time; of an adapted model
    those of its adapter."""
    declared = dict(leaves(model.declare()))
    alone = isinstance(model.family, AdaptedFamily)
    for path, array in leaves(model.params):
        param = declared[path]
        if alone and not param.learns:
            continue
        for n, name in enumerate(file_names(param)):
            layer = fetch(array[n] if is_stacked(param) else array)
            # order="C" keeps a scalar one
            yield model.family.name_in(model.head, name), np.asarray(to_file(layer, param.layout), order="C")


def _bytes(size: int | str) -> int:
    number, unit = (size[:-2].strip(), size[-2:].upper()) if isinstance(size, str) else (str(size), "")
    try:
        found = int(float(number) * (UNITS[unit] if unit else 1))
    except (KeyError, ValueError):
        found = 0
    if found < 1:
        raise InputError(f"max_shard_size must be a number of bytes or such as '5GB', found {size!r}")
    return found


def _write_weights(model: Model, directory: Path, limit: int) -> None:
    """One model.safetensors, or above `limit` bytes numbered shards and their index."""
    shards: list[list[str]] = [[]]
    size = total = 0
    for path, param in leaves(model.declare()):
        itemsize = _leaf(model, path).dtype.itemsize
        for name in file_names(param):
            length = int(np.prod(param.shape[1:] if is_stacked(param) else param.shape)) * itemsize
            if size and size + length > limit:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size, total = size + length, total + length
    stream = tensors(model)
    index: dict[str, str] = {}
    with contextlib.ExitStack() as written:  # every file is whole before the first takes an old one's place
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
            content: dict[str, np.ndarray] = {}
            for name, array in itertools.islice(stream, len(names)):
                index[name] = file
                if jax.process_index() == 0:  # the others have to ask for a tensor too, and need not keep it
                    content[name] = array
            if content:
                save_file(content, written.enter_context(replacing(directory / file)), metadata={"format": "pt"})
        if jax.process_index() != 0:
            return
        keep = set(index.values())
        if len(shards) > 1:
            text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2)
            written.enter_context(replacing(directory / INDEX)).write_text(text, encoding="utf-8")
            keep.add(INDEX)
    for old in [*directory.glob("model.safetensors*"), *directory.glob("model-*-of-*.safetensors")]:
        if old.name not in keep:  # an earlier save's, which would otherwise be read in place of this one's
            old.unlink()


def _write_adapter(model: Model, directory: Path) -> None:
    """PEFT's two files."""
    content = {PREFIX + name: array for name, array in tensors(model)}
    if jax.process_index() == 0:
        with replacing(directory / ADAPTER_WEIGHTS) as temporary:
            save_file(content, temporary, metadata={"format": "pt"})
        write_text(directory / ADAPTER_CONFIG, json.dumps(adapter_config(model), indent=2) + "\n")


def _leaf(model: Model, path: tuple[str, ...]) -> Any:
    tree: Any = model.params
    for key in path:
        tree = tree[key]
    return tree


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, flushed to disk and moved over it if the block ends well, removed if it does not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # the latter is how a full disk reaches us through safetensors
        raise InputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
