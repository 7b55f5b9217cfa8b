"""Where data comes from: `load_dataset` turns what a person names or holds into splits, each a `Table`.

Here: files and folders, what is in memory, the Hugging Face hub, and the grammar of splits (`train[:10%]`). TensorFlow
Datasets has its own file, `tfds_source.py`; how a single file is read is in `files.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, overload

from jaxformers.data.files import file_kind, read_file
from jaxformers.data.image_files import open_idx, open_maps
from jaxformers.data.media_folders import open_media, with_paths
from jaxformers.data.reach import reachable
from jaxformers.data.records import READERS, BadRecords
from jaxformers.data.table import Table, as_table, did_you_mean, is_frame
from jaxformers.errors import DataError, InputError

Reader = Callable[..., Table]  # `read_file` with what the caller has said of encoding and columns
Splits = dict[str, Callable[[], Table]]  # opened only when asked for: a damaged test.tsv does not stop a training run

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    # MNLI has two of each
    "dev_matched": "validation",
    "validation_matched": "validation",
    "dev_mismatched": "validation_mismatched",
    "validation_mismatched": "validation_mismatched",
    "test_matched": "test",
    "test_mismatched": "test_mismatched",
}
_PREFIXES = ("tfds:", "hf:")
_SPLIT = re.compile(r"([^\[\]]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


@overload
def load_dataset(
    source: Any,
    *,
    split: None = None,
    encoding: str | None = None,
    column_names: tuple[str, ...] | None = None,
    on_disk: bool | None = None,
    on_bad_record: str = "raise",
    bad_records: str | Path | None = None,
) -> dict[str, Table]: ...
@overload
def load_dataset(
    source: Any,
    *,
    split: str,
    encoding: str | None = None,
    column_names: tuple[str, ...] | None = None,
    on_disk: bool | None = None,
    on_bad_record: str = "raise",
    bad_records: str | Path | None = None,
) -> Table: ...
def load_dataset(
    source: Any,
    *,
    split: str | None = None,
    encoding: str | None = None,
    column_names: tuple[str, ...] | None = None,
    on_disk: bool | None = None,
    on_bad_record: str = "raise",
    bad_records: str | Path | None = None,
) -> dict[str, Table] | Table:
    """Opens a dataset.

    Args:
      source: `tfds:NAME/CONFIG` (TensorFlow Datasets, without TensorFlow), `hf:NAME/CONFIG` (the Hugging Face hub,
        extra `hf`), a data file (.csv, .tsv, .json, .jsonl, .txt, .parquet; see `files.read_file`), a folder with files
        named train, validation (or valid, val, dev) and test, a folder of images or of MNIST's idx files (see
        `media_folders.open_media`), or what is in memory: a Table, a DataFrame, a dict of columns, a list of dict rows, a
        dataset with dict rows, or a dict of splits of any of these.
      split: One split, or a slice of one: `train`, `train[:100]`, `train[10:20]`, `train[:10%]`.
      encoding: Encoding of text files that are not UTF-8.
      column_names: Names for the columns of csv and tsv files that have no header line.
      on_disk: Whether the rows of files are kept on disk and read when they are used, by any number; by default those of
        files of more than 32 MiB (see `files.read_file`).
      on_bad_record: `raise` stops at a record that cannot be read; `skip` leaves it out, and one line tells how many.
      bad_records: A text file that gets a line for each: the file, the line or record, and what is wrong.

    Returns:
      Split name -> Table; dev, val and valid are called `validation`, and a source without splits is `train`. One Table
      if `split` is given.

    Raises:
      DataError: The source is missing, empty or unreadable, or has no such split.
      InputError: An optional package is not installed.

    >>> load_dataset({"text": ["good", "bad", "fine", "poor"], "label": [1, 0, 1, 0]}, split="train[:50%]")["text"]
    ['good', 'bad']
    """
    bad = BadRecords(on_bad_record, bad_records)
    reader = partial(read_file, encoding=encoding, column_names=column_names, on_disk=on_disk, bad=bad)
    splits, name = _open(source, reader)
    if split is None:
        return {key: _readable(read(), bad) for key, read in splits.items()}
    match = _SPLIT.fullmatch(split.replace(" ", ""))
    if match is None:
        raise DataError(f"split {split!r} is not of the form train, train[:100], train[10:20] or train[:10%]")
    wanted = match[1]
    key = wanted if wanted in splits else SPLIT_NAMES.get(wanted, wanted)
    if key not in splits:
        raise DataError(f"{name} has no split {wanted!r}{did_you_mean(wanted, splits)}; it has {', '.join(splits)}")
    table = _readable(splits[key](), bad)
    return table[_place(match[2], len(table), split) : _place(match[3], len(table), split)]


def _readable(table: Table, bad: BadRecords) -> Table:
    """The rows that can be read, of a source that reads them when they are used, where bad ones are to be left out."""
    if bad.policy == "raise" or not table.lazy:
        return table
    here, kept = BadRecords(bad.policy, bad.report), []
    for row in range(len(table)):
        try:
            table[row]
            kept.append(row)
        except DataError as error:
            here(error)
    here.tell(table.name)
    return table.select(kept) if here.messages else table


def _place(text: str | None, size: int, split: str) -> int | None:
    if text is None or not text.endswith("%"):
        return None if text is None else int(text)
    percent = int(text[:-1])
    if abs(percent) > 100:
        raise DataError(f"split {split!r} asks for {text}, more than 100%")
    return round(size * percent / 100)


def _open(source: Any, reader: Reader) -> tuple[Splits, str]:
    """The splits of a source, none of them read yet, and what error messages call it."""
    if isinstance(source, Path) or (isinstance(source, str) and os.path.exists(source)):
        return _open_path(Path(source), reader)
    if isinstance(source, str):
        prefix = re.match(r"[A-Za-z][\w+.-]+:", source)  # one letter and a colon is a Windows drive
        if prefix is None:
            return _open_path(Path(source), reader)
        name = source.removeprefix(prefix[0])
        if prefix[0] == "tfds:":
            from jaxformers.data.tfds_source import open_tfds

            return _renamed(open_tfds(name)), name
        if prefix[0] == "hf:":
            return _renamed(_open_hf(name)), name
        raise DataError(
            f"{source!r} begins with {prefix[0]!r}{did_you_mean(prefix[0], _PREFIXES)}; a source is "
            "tfds:NAME/CONFIG, hf:NAME/CONFIG, a file or a folder"
        )
    if isinstance(source, Mapping) and source and _holds_splits(source):
        splits: Splits = {}
        for key, part in source.items():
            key = SPLIT_NAMES.get(key, str(key))
            if key in splits:
                raise DataError(f"the dict of splits holds {key!r} under two names")
            splits[key] = partial(_one, part, f"data/{key}", reader)
        return splits, "data"
    return {"train": partial(_one, source, "data", reader)}, "data"


def _holds_splits(source: Mapping[str, Any]) -> bool:
    """Whether a dict maps names to datasets; else it maps names to columns.

    A list of dicts can be either (a column of translations, a list of rows): the name of a split decides.
    """

    def dataset(key: Any, part: Any) -> bool:
        if isinstance(part, (str, Path, Table, Mapping)) or hasattr(part, "column_names") or is_frame(part):
            return True
        return key in SPLIT_NAMES and hasattr(part, "__getitem__") and isinstance(next(iter(part), {}), Mapping)

    return all(dataset(key, part) for key, part in source.items())


def _renamed(splits: Splits) -> Splits:
    """The splits under the names of `SPLIT_NAMES`, where no other has that name."""
    return {
        key if SPLIT_NAMES.get(key, key) in splits else SPLIT_NAMES.get(key, key): read for key, read in splits.items()
    }


def _one(part: Any, name: str, reader: Reader) -> Table:
    if not isinstance(part, (str, Path)):
        table = as_table(part, part.name if isinstance(part, Table) else name)
        if not len(table):
            raise DataError(f"{name} is empty: it holds no rows")
        return table
    splits, called = _open(part, reader)
    if len(splits) > 1:
        raise DataError(f"{called} stands for {name}, one split, but has {', '.join(splits)}")
    return next(iter(splits.values()))()


def _open_path(path: Path, reader: Reader) -> tuple[Splits, str]:
    path = path.expanduser()
    if path.is_file():
        return {_split_of(path.name) or "train": partial(_read, path, reader)}, path.name
    if not path.is_dir():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        known = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(path)) and file_kind(path) is None
        hint = f"; a data set of that name would be tfds:{path} or hf:{path}" if known else ""
        raise DataError(f"there is no file or folder {str(path)!r}{did_you_mean(path.name, siblings)}{hint}")
    name = path.resolve().name
    files = [file for file in sorted(path.iterdir()) if file_kind(file) is not None and file.is_file()]
    found: dict[str, Path] = {}
    for split_of in (_named, _split_of):  # train.tsv is the training split, whatever else has train in its name
        taken = set(found)
        for file in files:
            key = split_of(file.name)
            if key is None or key in taken or file in found.values():
                continue
            if key in found:
                raise DataError(f"{path} has two files for the split {key!r}: {found[key].name} and {file.name}")
            found[key] = file
    if not found:
        media = open_idx(path) or open_maps(path, SPLIT_NAMES) or open_media(path, SPLIT_NAMES, reader)
        if media:
            return media, name
        raise DataError(
            f"{path} has no file for a split: one of train, validation (valid, val, dev), test with one of "
            f"{', '.join(READERS)} is expected{_near_split_file(path)}"
        )
    order = sorted(found, key=lambda key: [*SPLIT_NAMES.values()].index(key))
    return {key: partial(_read, found[key], reader, name=f"{name}/{key}") for key in order}, name


def _read(path: Path, reader: Reader, **options: Any) -> Table:
    """A file's rows, with the images or sounds that it names."""
    return with_paths(reader(path, **options), path.parent)


def _named(file: str) -> str | None:
    """The split a file is called after: `dev.tsv`."""
    return SPLIT_NAMES.get(file.split(".")[0])


def _split_of(file: str) -> str | None:
    """The split that a word of a file's name names: `train-v1.1.json`, `wnut17train.conll`, `emerging.dev.conll`."""
    words = re.split(r"[^a-z]+", file.lower())
    return _named(file) or next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def _near_split_file(folder: Path) -> str:
    wanted = [f"{stem}{suffix}" for stem in SPLIT_NAMES for suffix in READERS]
    for file in sorted(folder.iterdir()):
        near = did_you_mean(file.name, wanted)
        if near:
            return f"; it holds {file.name}{near}"
    return ""


def _open_hf(name: str) -> Splits:
    """A dataset of the Hugging Face hub, or of its local cache."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(f'hf:{name} needs the datasets package: pip install "jaxformers[hf]"') from error
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not reachable(constants.ENDPOINT):
        raise DataError(
            f"cannot reach {constants.ENDPOINT} for hf:{name}; set HF_HUB_OFFLINE=1 to use the cache, or give a local file or "
            "folder as data"
        )
    # a hub name may itself hold a slash (owner/name): the longest reading that exists is meant
    owner, _, rest = name.partition("/")
    dataset, _, config = rest.partition("/")
    readings = [(f"{owner}/{dataset}", config or None)] if rest else []
    if not config:
        readings.append((owner, rest or None))
    for path, config_name in readings:
        try:
            loaded = datasets.load_dataset(path, config_name)
        except Exception as error:
            problem = error
        else:
            return {
                str(key): partial(_one, _undecoded(part), f"{name} {key}", read_file) for key, part in loaded.items()
            }
    reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    raise DataError(f"hf:{name} cannot be loaded: {reason}") from problem


def _undecoded(part: Any) -> Any:
    """A dataset of the hub with its sounds as the bytes or paths that it keeps: they are decoded when a row is used."""
    import datasets

    for column, feature in (getattr(part, "features", None) or {}).items():
        if type(feature).__name__ == "Audio":
            part = part.cast_column(column, datasets.Audio(decode=False))
    return part
