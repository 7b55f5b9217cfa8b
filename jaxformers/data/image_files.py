"""MNIST's idx files, and images with segmentation maps, as splits."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from jaxformers.data.media_folders import SUFFIXES, files_of, folders_in
from jaxformers.data.table import Table
from jaxformers.errors import DataError

_IDX = re.compile(r"(train|t10k|test|validation)-(images|labels)[.-]idx[13]-ubyte(\.gz)?")
_SPLITS = {"t10k": "test"}
_MAPS = ("annotations", "masks", "labels")  # folders of segmentation maps, beside one of images


def open_maps(folder: Path, split_names: Mapping[str, str]) -> dict[str, Callable[[], Table]]:
    """The splits of a folder of images with segmentation maps; none where it holds none.

    It holds the folders `images` and `annotations` (or `masks`, or `labels`), of images and the maps of the same names, with
    splits inside of both, or both inside of splits.

    Args:
      folder: that folder.
      split_names: how splits are called -> their name.

    Returns:
      Split name -> function that reads it: columns `image` and `annotation`, of paths.

    Raises:
      DataError: an image has no map.
    """
    splits = {split_names[path.name]: path for path in folders_in(folder) if path.name in split_names}
    mapped = {name: pair for name, path in splits.items() if (pair := _with_maps(path))}
    if not splits and (pair := _with_maps(folder)):
        parts = {split_names[path.name]: path.name for path in sorted(pair[0].iterdir()) if path.name in split_names}
        mapped = {name: (pair[0] / part, pair[1] / part) for name, part in parts.items()} or {"train": pair}
    return {name: partial(_read_maps, *pair, f"{folder.resolve().name}/{name}") for name, pair in mapped.items()}


def _with_maps(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of their segmentation maps in a folder that has both."""
    maps = next((folder / name for name in _MAPS if (folder / name).is_dir()), None)
    return (folder / "images", maps) if maps is not None and (folder / "images").is_dir() else None


def _read_maps(images: Path, maps: Path, name: str) -> Table:
    """Images and the segmentation maps of the same names."""
    found = {path.relative_to(maps).with_suffix(""): path for path in files_of(maps, "image")}
    paths = files_of(images, "image")
    for path in paths:
        if path.relative_to(images).with_suffix("") not in found:
            raise DataError(f"{path} of {name} has no segmentation map of its name in {maps}")
    if not paths:
        raise DataError(f"{images} of {name} holds no image ({', '.join(SUFFIXES['image'])})")
    columns = {"image": paths, "annotation": [found[path.relative_to(images).with_suffix("")] for path in paths]}
    return Table({key: [str(path) for path in column] for key, column in columns.items()}, name)


def open_idx(folder: Path) -> dict[str, Callable[[], Table]]:
    """The splits of a folder of idx files under MNIST's names; none where it holds none of these.

    Args:
      folder: that folder.

    Returns:
      Split name -> function that reads it: columns `image`, uint8 [rows, height, width], and `label`, numbers.

    Raises:
      DataError: an idx file has no fellow.
    """
    pairs: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _IDX.fullmatch(path.name)
        if match:
            pairs.setdefault(_SPLITS.get(match[1], match[1]), {})[match[2]] = path
    for split, pair in pairs.items():
        if len(pair) < 2:
            missing = ({"images", "labels"} - set(pair)).pop()
            raise DataError(f"{folder} has {next(iter(pair.values())).name}, and no idx file of {missing} for {split}")
    return {split: partial(_read_idx, pair, f"{folder.resolve().name}/{split}") for split, pair in pairs.items()}


def _read_idx(pair: dict[str, Path], name: str) -> Table:
    images, labels = read_idx(pair["images"]), read_idx(pair["labels"])
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{name} has images {list(images.shape)} and labels {list(labels.shape)}, expected as many of both"
        )
    return Table({"image": images, "label": labels.astype(np.int32)}, name)


def read_idx(path: Path) -> np.ndarray:
    """An idx file of bytes (LeCun's format, as MNIST's): uint8, of the shape it names. Raises `DataError` where it is damaged."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, axes = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{axes}I", data, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path} is no complete idx file: {error}") from None
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if zero or kind != 8 or values.size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is no idx file of bytes of the size that it names, {list(shape)}")
    return values.reshape(shape)
