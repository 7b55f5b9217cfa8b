"""Model folders in a bucket (`gs://…`): what is needed of one is copied here, and again where it has changed there."""

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jaxformers.core.compilation import cache_folder
from jaxformers.errors import CheckpointError, InputError

SCHEME = "gs://"

_log = logging.getLogger("jaxformers")


def remote_path(name: str, what: str) -> Any:
    """A path in a bucket, which has the methods of a `pathlib.Path`.

    Args:
        name: `gs://BUCKET/…`.
        what: what it is to the caller, for the message.

    Raises:
        InputError: the package that knows buckets is not installed.
    """
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(f"{what} {name} needs the package gcsfs: pip install 'jaxformers[gcs]'")
    from etils import epath

    return epath.Path(name)


def own_folder(kind: str, name: str) -> Path:
    """The folder in our cache that stands for a place in a bucket."""
    return cache_folder() / kind / hashlib.sha256(name.rstrip("/").encode()).hexdigest()[:16]


def fetched(name: str, wanted: Callable[[Iterable[str]], list[str]]) -> Path:
    """Copies the files of a model folder in a bucket that are not here yet, or are of another size or time there.

    Args:
        name: `gs://BUCKET/…`, a folder in Hugging Face layout.
        wanted: names of all its files, relative to it -> those that are needed.

    Returns:
        The folder here.

    Raises:
        CheckpointError: there is no such folder, or it cannot be read.
    """
    there, here = remote_path(name, "the model"), own_folder("buckets", name)
    try:
        if not there.is_dir():
            raise CheckpointError(f"there is no folder {name}")
        files: dict[str, Any] = {}
        for entry in there.iterdir():
            inside = entry.iterdir() if entry.is_dir() and entry.name.endswith("_Pooling") else [entry]
            files |= {each.relative_to(there).as_posix(): each for each in inside if not each.is_dir()}
        for file in wanted(files):
            _copy(files[file], here / file)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error}") from error
    return here


def _copy(source: Any, target: Path) -> None:
    """Copies a file and its time, whole or not at all, unless it is here."""
    stat = source.stat()
    if target.is_file() and (target.stat().st_size, int(target.stat().st_mtime)) == (stat.length, int(stat.mtime)):
        return
    _log.info("copying %s (%d bytes)", source, stat.length)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".")
    try:
        with source.open("rb") as reader, os.fdopen(handle, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 24)
        os.utime(partial, (int(stat.mtime),) * 2)
        os.replace(partial, target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
