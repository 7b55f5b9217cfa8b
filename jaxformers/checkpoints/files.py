"""Where a model's files are: a local folder, a bucket or a hub id, and the strict reading of their small JSON files.

Not here: what is in the weight files (readers.py), what config.json means (the families). The cache, the token and
offline mode are huggingface_hub's own (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT).
"""

import difflib
import json
import logging
import math
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from jaxformers.checkpoints.bucket import SCHEME, fetched
from jaxformers.errors import CheckpointError, ConfigError, InputError

INDEX = ".index.json"

# In order of preference: the first that is there is read. The same order picks what to download.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors" + INDEX,
    "flax_model.msgpack",
    "flax_model.msgpack" + INDEX,
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX,
)
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's
WEIGHT_SUFFIXES = (".safetensors", ".msgpack", ".bin", ".h5", ".ot", ".onnx", ".gguf", ".pt", ".pth", ".ckpt")

# Configs, vocabularies, sentencepiece models, chat templates.
_SMALL_SUFFIXES = (".json", ".txt", ".model", ".spm", ".jinja")
_HUB_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_JSON_BYTES = 64 << 20
_JSON_DEPTH = 64

_log = logging.getLogger("jaxformers")


def locate(path_or_id: str | os.PathLike[str], *, revision: str | None = None, weights: bool = True) -> Path:
    """Give the local folder of a model, fetching it when a bucket or a hub id is given.

    Args:
        path_or_id: a folder in Hugging Face layout, here or in a bucket (`gs://…`), or a hub id (`name` or `org/name`).
            A folder of that name wins.
        revision: branch, tag or commit on the hub; None means its default. A folder has none.
        weights: False leaves the weights out (a tokenizer alone) and asks for no config.json. An adapter needs none either.

    Returns:
        The folder. Of a model that was fetched it holds the small files and one weight format.

    Raises:
        CheckpointError: nothing is there, or it cannot be had; one sentence says why.

    >>> locate("no such model/really")
    Traceback (most recent call last):
    jaxformers.errors.CheckpointError: 'no such model/really' is neither a folder here nor a hub id (name or org/name)
    """
    text = os.fspath(path_or_id)
    path = Path(os.path.expanduser(text))
    if text.startswith(SCHEME):
        if revision is not None:
            raise InputError(f"{text} is a folder, which has no revision {revision!r}")
        return fetched(text, partial(_wanted, text, weights=weights))
    if text and os.path.isdir(path):  # unlike Path's own questions, these say no to a name that is too long
        if revision is not None:
            raise InputError(f"{text} is a local folder, which has no revision {revision!r}")
        return _with_config(path, text) if weights else path
    if os.path.isfile(path):
        raise CheckpointError(f"{text} is a file, expected the folder that holds it, with config.json beside it")
    looks_like_path = (
        isinstance(path_or_id, os.PathLike)
        or text.startswith((".", "/", "~", "\\"))
        or text.endswith(("/", *WEIGHT_SUFFIXES, ".json"))
        or text.count("/") > 1
    )
    if looks_like_path:
        raise CheckpointError(f"there is no folder {text}{_nearest_sibling(path)}")
    if not _is_hub_id(text):
        raise CheckpointError(f"{text!r} is neither a folder here nor a hub id (name or org/name)")
    folder = _download(text, revision, weights)
    return _with_config(folder, text) if weights else folder


def hub_reachable(timeout: float = 3.0) -> bool:
    """Ask once, quickly, whether the hub answers.

    Args:
        timeout: seconds after which the answer is no, name lookup included.

    Returns:
        True when it answered; False at once in offline mode.
    """
    from huggingface_hub import constants

    request = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE or not request.startswith(("https://", "http://")):
        return False
    answered = threading.Event()

    def probe() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(request, method="HEAD"), timeout=timeout).close()
        except urllib.error.HTTPError as refusal:  # an answer too, unless a server between us and the hub gave up
            refusal.close()
            if refusal.code >= 500:
                return
        except Exception:  # name lookup, proxies, TLS: whatever it is, the hub did not answer
            return
        answered.set()

    # A thread, because looking a name up obeys no timeout.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON file that must hold one object.

    Args:
        path: config.json, an index of shards, and the like.

    Returns:
        The object, as plain Python values; every number in it is finite.

    Raises:
        ConfigError: missing, unreadable, too large, not UTF-8, not JSON, not an object, a key twice, NaN, too deep.
    """
    name = path.name
    try:
        if path.stat().st_size > _JSON_BYTES:
            raise ConfigError(f"{name} is {path.stat().st_size} bytes, expected at most {_JSON_BYTES}: {path}")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {name} in {path.parent}") from error
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror} ({path})") from error

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ConfigError(f"{name} holds the number {text[:40]}, expected finite numbers only")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ConfigError(f"{name} holds the key {twice[:80]!r} twice in one object")
        return found

    too_deep = ConfigError(f"{name} is nested deeper than {_JSON_DEPTH} levels")
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text, parse_float=number, parse_constant=number, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 (byte 0x{content[error.start]:02x} at {error.start})") from error
    except json.JSONDecodeError as error:
        found = [*text.splitlines(), ""][error.lineno - 1][:60] if text.strip() else "nothing"
        raise ConfigError(f"{name} line {error.lineno} is not JSON ({error.msg}): {found}") from error
    except RecursionError:
        raise too_deep from None
    except ConfigError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"{name} holds a number that is too long") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name} holds a {type(value).__name__}, expected an object {{...}}")
    level: list[Any] = [value]
    for _ in range(_JSON_DEPTH):
        level = [x for v in level for x in (v.values() if isinstance(v, dict) else v) if isinstance(x, dict | list)]
        if not level:
            return value
    raise too_deep


def contents(folder: Path) -> str:
    """Name what a folder holds, shortly, for a message."""
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:12]) + (f", ... ({len(names) - 12} more)" if len(names) > 12 else "")
    return f"it holds {shown}" if names else "it is empty"


def _with_config(folder: Path, asked: str) -> Path:
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        raise CheckpointError(f"{asked} holds no config.json, which a model folder needs; {contents(folder)}")
    return folder


def _nearest_sibling(path: Path) -> str:
    parent = path.parent
    names = [entry.name for entry in parent.iterdir() if entry.is_dir()] if os.path.isdir(parent) else []
    close = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean {parent / close[0]}?" if close else ""


def _is_hub_id(text: str) -> bool:
    return (
        len(text) <= 96
        and all(_HUB_NAME.fullmatch(part) for part in text.split("/"))
        and not any(sign in text for sign in ("--", ".."))
        and not text.endswith(".git")
    )


def _download(repo: str, revision: str | None, weights: bool) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import errors

    named = repo if revision is None else f"{repo} at revision {revision!r}"
    offline = hub.is_offline_mode()
    patterns: list[str] = []  # from the cache we take what is there: none of the files is asked for
    unreachable: Exception | None = None
    if not offline:
        try:
            patterns = _wanted(f"{repo} on the hub", hub.list_repo_files(repo, revision=revision), weights)
        except CheckpointError:
            raise
        except Exception as error:  # across versions of the hub library, a lost connection has many types
            if (answer := _refusal(error, repo, named)) is not None:
                raise CheckpointError(answer) from error
            unreachable = error
    cached = offline or unreachable is not None
    try:
        folder = hub.snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=cached)
    except errors.LocalEntryNotFoundError as error:
        if offline:
            why = "HF_HUB_OFFLINE is set and it is not in the cache: unset it, or download the model first"
        else:
            why = "the hub cannot be reached and it is not in the cache: try again when the network is back"
        raise CheckpointError(f"{named} cannot be loaded, {why}") from error
    except Exception as error:
        answer = _refusal(error, repo, named)
        broken = f"the download of {named} broke off ({_short(error)}): run again to resume it"
        raise CheckpointError(answer or broken) from error
    if unreachable is not None:
        _log.warning("the hub cannot be reached (%s): using the cached copy of %s", _short(unreachable), named)
    return Path(folder)


def _wanted(place: str, files: Iterable[str], weights: bool) -> list[str]:
    """The small files at the top of a repository or bucket and, of its weights, the one format we like best."""
    files = list(files)
    top = [name for name in files if "/" not in name]
    # sentence-transformers keeps what its embeddings are pooled by one folder down.
    small = [name for name in files if name in top or name.endswith("_Pooling/config.json")]
    small = [name for name in small if name.endswith(_SMALL_SUFFIXES)]
    if not weights:
        return small
    if ADAPTER_CONFIG in small and not any(name in top for name in WEIGHT_FILES):
        return [*small, ADAPTER_WEIGHTS]
    if "config.json" not in small:
        raise CheckpointError(f"{place} holds no config.json, so it is no transformers model")
    best = next((name for name in WEIGHT_FILES if name in top), None)
    if best is None:
        others = ", ".join(name for name in top if name.endswith(WEIGHT_SUFFIXES)) or "none"
        raise CheckpointError(f"{place} holds no weights that can be read; its weight files: {others}")
    if not best.endswith(INDEX):
        return [*small, best]
    stem, suffix = os.path.splitext(best.removesuffix(INDEX))
    return small + [name for name in top if name.startswith(f"{stem}-") and name.endswith(suffix)]


def _refusal(error: Exception, repo: str, named: str) -> str | None:
    """The sentence for what the hub answered; None when it did not answer."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo}, "
            "then run 'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{repo} is neither a folder here nor a model on the hub (check the spelling; "
            "if it is private, run 'hf auth login' or set HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{named} does not exist: the hub has {repo}, but no such branch, tag or commit"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{named} lost a file while it was being downloaded ({_short(error)}): run again"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
        return f"the hub refuses {named} ({_short(error)})"
    return None


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"
