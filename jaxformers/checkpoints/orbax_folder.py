"""Parameters kept by Orbax: those in a training checkpoint (`OUT/checkpoints/STEP`), and a folder of a model's own.

A folder of a model is `config.json`, as in Hugging Face layout, beside `params/`, our tree as Orbax writes trees: for JAX
programs that read with Orbax alone. A training checkpoint holds the whole state; of it only the parameters are read.
"""

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from jaxformers.checkpoints.files import read_json
from jaxformers.checkpoints.load import outline
from jaxformers.checkpoints.save import write_text
from jaxformers.core.params import Tree, leaves
from jaxformers.errors import CheckpointError, InputError
from jaxformers.families import Model, head_of

PARAMS = "params"


def is_orbax(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds parameters by Orbax: a training checkpoint, or what `save_orbax` wrote."""
    folder = Path(folder)
    return (folder / "state" / "_METADATA").is_file() or (folder / PARAMS / "_METADATA").is_file()


def load_orbax(folder: str | os.PathLike[str], head: str | None = None, *, dtype: Any = "float32") -> Model:
    """The model in an Orbax folder, on the default device.

    Args:
      folder: `OUT/checkpoints/STEP` of a run, or what `save_orbax` wrote.
      head: the head it was written with; None takes what the folder says.
      dtype: how parameters are stored, whatever the folder holds.

    Raises:
      CheckpointError: the parameters are another model's, or cannot be read.
      InputError: the folder does not say what model it is.
    """
    folder = Path(folder).absolute()
    training = (folder / "state").is_dir()
    raw = _meta(folder) if training else read_json(folder / "config.json")
    head = head_of(raw, str(folder)) if head is None else head
    model = outline(raw, head, dtype=dtype)
    device = SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), model.params)
    place, tree = (folder / "state", {PARAMS: wanted}) if training else (folder / PARAMS, wanted)
    found = _restore(place, tree)
    params: Tree = found[PARAMS] if training else found
    return Model(model.family, head, model.config, params)


def save_orbax(model: Model, folder: str | os.PathLike[str], tokenizer: Any = None) -> None:
    """Writes `config.json`, `params/` and a tokenizer. Raises `InputError` where the folder cannot be written."""
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
            writer.save(folder / PARAMS, args=ocp.args.PyTreeSave(model.params), force=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from None
    if tokenizer is not None:
        tokenizer.save(folder)
    config = model.family.config_to_hf(model.config, model.family.architectures[model.head])
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _meta(folder: Path) -> dict[str, Any]:
    """The config.json that a training checkpoint carries."""
    path = folder / "meta" / "metadata"
    config = read_json(path).get("config") if path.is_file() else None
    if not config:
        raise InputError(
            f"{folder} does not say what model it is of: it was written by an earlier version of jaxformers"
        )
    return dict(config)


def _restore(folder: Path, wanted: Tree) -> Any:
    """The leaves of `wanted` out of what Orbax wrote in `folder`; what else is there is not read."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that not all of it is read
            _check(folder, wanted, reader.metadata(folder).item_metadata.tree)
            return reader.restore(
                folder, args=ocp.args.PyTreeRestore(wanted, restore_args=arguments, partial_restore=True)
            )
    except CheckpointError:
        raise
    except Exception as error:  # damage shows as almost anything; what matters is that it is told
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"{folder} cannot be read as this model's parameters: {first[:300]}") from error


def _check(folder: Path, wanted: Tree, held: Tree) -> None:
    """Refuses parameters of another model, with all that does not fit; without an adapter's corrections it would be another."""
    ours = {".".join(path): leaf.shape for path, leaf in leaves(wanted)}
    whole = held if PARAMS not in wanted else {PARAMS: held.get(PARAMS, {})}
    theirs = {".".join(path): leaf.shape for path, leaf in leaves(whole)}
    problems = [f"missing {name} {shape}" for name, shape in ours.items() if name not in theirs]
    problems += [f"unexpected {name} {shape}" for name, shape in theirs.items() if name not in ours]
    problems += [f"{name}: file {theirs[name]}, model {ours[name]}" for name in ours
                 if name in theirs and theirs[name] != ours[name]]  # fmt: skip
    if problems:
        raise CheckpointError(f"{folder} does not fit this model: {'; '.join(problems)}")
