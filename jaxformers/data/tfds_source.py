"""TensorFlow Datasets as a source of tables, with TensorFlow not installed.

Here: `open_tfds`. Only the array_record format is used: it gives random access, and unlike parquet it honours slices
and notices a damaged record. A copy that is already prepared is used as it is; what must be downloaded is asked for
with one quick knock first, since a download that cannot happen is retried by the library for minutes.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from jaxformers.data.reach import reachable
from jaxformers.data.table import Table, as_table, did_you_mean
from jaxformers.errors import DataError, InputError

if TYPE_CHECKING:
    from jaxformers.data.sources import Splits

# The library knows these only after their module was imported: it registers a class when it is defined. All others lie
# in folders that it searches by itself.
MODULES = {
    **{
        name: f"text.{name}"
        for name in ("c4", "civil_comments", "clinc_oos", "conll2002", "conll2003", "glue", "goemotions")
    },
    **{name: f"text.{name}" for name in ("gsm8k", "hellaswag", "multi_nli", "super_glue", "wiki40b", "wikiann")},
    **{name: f"text.{name}" for name in ("wikipedia", "winogrande", "xnli")},
    "yelp_polarity_reviews": "text.yelp_polarity",
    **{name: f"question_answering.{name}" for name in ("coqa", "cosmos_qa", "tydi_qa", "web_questions", "xquad")},
    **{name: f"summarization.{name}" for name in ("cnn_dailymail", "gigaword", "wikihow", "xsum")},
    **{f"wmt{year}_translate": f"translate.wmt{year}" for year in range(13, 20)},
    "flores": "translate.flores",
}


def open_tfds(name: str) -> Splits:
    """The splits of a TensorFlow Datasets dataset; their records are read when they are used.

    Args:
      name: `NAME`, `NAME/CONFIG` or `NAME/CONFIG:VERSION`.

    Returns:
      Split name -> function that opens it.

    Raises:
      DataError: There is no such dataset or config, or it is neither prepared here nor can be downloaded.
    """
    builder = _builder(name)
    if not builder.data_path.exists():
        _prepare(builder, name)
    if not builder.info.splits:
        raise DataError(f"tfds:{name} is prepared in {builder.data_dir} but has no splits there")
    return {split: partial(_read, builder, name, split) for split in builder.info.splits}


def _builder(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(f"tfds:{name} cannot be opened, tensorflow_datasets does not import: {error}") from error
    task, config = re.fullmatch(r"([^/:]*)/?([^:]*)(?::.*)?", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if task in MODULES:
        importlib.import_module(f"tensorflow_datasets.{MODULES[task]}")
    known = set(tfds.list_builders(with_community_datasets=False))  # community names would be looked up on the network
    try:
        if task not in known:
            return tfds.core.read_only_builder.builder_from_files(name)  # prepared by code that is not here
        configs = tfds.builder_cls(task).builder_configs
        if config and configs and config not in configs:
            raise DataError(
                f"tfds:{name} is not there: {task} has no config {config!r}{did_you_mean(config, configs)}; "
                f"it has {', '.join(configs)}"
            )
        return tfds.builder(name, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        near = did_you_mean(task, known | set(MODULES))
        raise DataError(f"tfds:{name} is not there: TensorFlow Datasets has no dataset {task!r}{near}") from error
    except DataError:
        raise
    except Exception as error:  # constructing a builder runs the dataset's own code
        raise DataError(f"tfds:{name} cannot be opened: {_sentence(error)}") from error


def _prepare(builder: Any, name: str) -> None:
    import tensorflow_datasets as tfds

    hosts = Counter(f"https://{urlsplit(url).netloc}" for url in builder.url_infos or {})
    host = hosts.most_common(1)[0][0] if hosts else "https://storage.googleapis.com"
    if not reachable(host):
        raise DataError(
            f"tfds:{name} is not prepared in {builder.data_dir} and {urlsplit(host).netloc} cannot be reached to "
            "download it; set TFDS_DATA_DIR to where a prepared copy is, or give a local file or folder as data"
        )
    try:
        # the ready-made copies in the cloud are tfrecord files, which need TensorFlow
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:
        raise DataError(f"tfds:{name} cannot be prepared: {_sentence(error)}") from error


def _read(builder: Any, name: str, split: str) -> Table:
    called = f"{name} {split}"
    try:
        records = _Records(
            builder.as_data_source(split=split), called, builder.info.splits[split], builder.info.features
        )
    except Exception as error:
        raise DataError(f"tfds:{name} cannot be read from {builder.data_dir}: {_sentence(error)}") from error
    if not len(records):
        raise DataError(f"{called} is empty: it holds no rows")
    records[len(records) - 1]  # a truncated file still knows its length: find out now, not hours into a run
    return as_table(records, called)


class _Records:
    """A data source whose rows are plain Python and whose errors say which record of which file."""

    def __init__(self, source: Any, name: str, info: Any, features: Any):
        self._source, self._name, self._info, self.features = source, name, info, features

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            record = self._source[index]
        except Exception as error:
            raise DataError(
                f"{self._name} record {index} unreadable in {self._file(index)}: {_sentence(error)}"
            ) from error
        return _plain(record)

    def _file(self, index: int) -> str:
        ends = list(accumulate(self._info.shard_lengths))
        return str(self._info.filepaths[int(np.searchsorted(ends, index, side="right"))])


def _plain(value: Any) -> Any:
    """Text comes as bytes; bytes that are no text (an encoded image) stay bytes."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _plain(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
