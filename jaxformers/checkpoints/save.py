"""From a `Model` to a folder that PyTorch transformers (and `load`) opens: config.json, model.safetensors, tokenizer files.

Every file is written beside its place and moved over it, weights before config, so a folder is never half a model.
"""

import contextlib
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

from jaxformers.checkpoints.mapping import file_names, is_stacked, to_file
from jaxformers.core.params import leaves
from jaxformers.errors import InputError
from jaxformers.families import Model

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # transformers' own limit for one file


def save(model: Model, directory: str | os.PathLike[str], tokenizer: Any = None) -> None:
    """Writes `model` in Hugging Face layout.

    Args:
      model: what to save.
      directory: the folder; made if it is not there.
      tokenizer: anything with `.save(directory)`, written beside the model.

    Raises:
      InputError: the folder cannot be written.
    """
    directory = Path(directory)
    if jax.process_index() == 0:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {directory}: {error.strerror}") from None
    _write_weights(model, directory)
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
    """Every tensor of the model under its checkpoint name and in its checkpoint layout, one at a time."""
    ours, theirs = model.family.prefix, model.family.prefix_of(model.head)
    declared = dict(leaves(model.declare()))
    for path, array in leaves(model.params):
        param = declared[path]
        for n, name in enumerate(file_names(param)):
            layer = _host(array[n] if is_stacked(param) else array)
            name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
            yield name, np.asarray(to_file(layer, param.layout), order="C")  # keeps a scalar one


def _host(array: jax.Array | np.ndarray) -> np.ndarray:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _write_weights(model: Model, directory: Path) -> None:
    """One model.safetensors, or numbered shards and their index above `SHARD_BYTES`."""
    shards: list[list[str]] = [[]]
    size = total = 0
    for path, param in leaves(model.declare()):
        itemsize = _leaf(model, path).dtype.itemsize
        for name in file_names(param):
            length = int(np.prod(param.shape[1:] if is_stacked(param) else param.shape)) * itemsize
            if size and size + length > SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size, total = size + length, total + length
    stream = tensors(model)
    index: dict[str, str] = {}
    with contextlib.ExitStack() as written:  # every file is whole before the first takes an old one's place
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
            content = dict(next(stream) for _ in names)
            index |= dict.fromkeys(content, file)
            if jax.process_index() == 0:
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
