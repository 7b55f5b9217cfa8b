"""Data: where it comes from, the form it has, and how it becomes batches.

`sources` (with `files`, `records` and `tfds_source`) opens datasets, `table` is the form they have, `mixing` makes one of
several; `store` keeps rows on disk where they, and all that is made of them, are too many for memory; `buckets`, `collate`
and `loader` make batches of them. Importing this room is cheap: Grain, TensorFlow Datasets, pandas and PyArrow are imported
by the functions that need them.
"""

from jaxformers.data.buckets import bucket_for, choose_buckets
from jaxformers.data.loader import Batches, BatchIterator, iterate
from jaxformers.data.mixing import mix
from jaxformers.data.sources import load_dataset
from jaxformers.data.table import Table, as_table, check_labels

__all__ = [
    "BatchIterator",
    "Batches",
    "Table",
    "as_table",
    "bucket_for",
    "check_labels",
    "choose_buckets",
    "iterate",
    "load_dataset",
    "mix",
]
