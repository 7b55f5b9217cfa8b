"""Folders of images, and MNIST's idx files, as splits. Images are tables of paths: they are decoded when they are used.

Here: `open_images`, which knows the layouts that people have. What is made of a row is in `image_rows.py`.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from jaxformers.data.table import Table
from jaxformers.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_IDX = re.compile(r"(train|t10k|test|validation)-(images|labels)[.-]idx[13]-ubyte(\.gz)?")
_SPLITS = {"t10k": "test"}
_MAPS = ("annotations", "masks", "labels")  # folders of segmentation maps, beside one of images


def open_images(folder: Path, split_names: Mapping[str, str]) -> dict[str, Callable[[], Table]]:
    """The splits of a folder of images; none where it holds no images.

    A folder may hold idx files under MNIST's names; folders of splits (train, validation, test) of one of these: folders of
    classes, which are called after them, or images without classes; or the folders `images` and `annotations` (or `masks`, or
    `labels`), of images and the segmentation maps of the same names, with splits inside of both, or both inside of splits.

    Args:
      folder: that folder.
      split_names: how splits are called -> their name.

    Returns:
      Split name -> function that reads it: a column `image`, of paths or (of idx files) uint8 [rows, height, width], and, where
      there are classes, `label`, their names (of idx files: numbers), or, where there are maps, `annotation`, their paths.

    Raises:
      DataError: a folder of a class is empty, or an idx file or an image with maps has no fellow.
    """
    found = _idx_files(folder)
    if found:
        return found
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    splits = {split_names[path.name]: path for path in inside if path.name in split_names}
    mapped = {name: pair for name, path in splits.items() if (pair := _with_maps(path))}
    if not splits and (pair := _with_maps(folder)):
        parts = {split_names[path.name]: path.name for path in sorted(pair[0].iterdir()) if path.name in split_names}
        mapped = {name: (pair[0] / part, pair[1] / part) for name, part in parts.items()} or {"train": pair}
    if mapped:
        return {name: partial(_read_maps, *pair, f"{folder.resolve().name}/{name}") for name, pair in mapped.items()}
    if not splits and any(map(_holds_images, (folder, *inside))):
        splits = {"train": folder}
    if not any(_holds_images(path) for part in splits.values() for path in (part, *part.iterdir()) if path.is_dir()):
        return {}
    return {name: partial(_read_folder, path, f"{folder.resolve().name}/{name}") for name, path in splits.items()}


def _images_of(folder: Path) -> list[Path]:
    files = folder.rglob("*")
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES and path.is_file() for path in folder.iterdir())


def _with_maps(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of their segmentation maps in a folder that has both."""
    maps = next((folder / name for name in _MAPS if (folder / name).is_dir()), None)
    return (folder / "images", maps) if maps is not None and (folder / "images").is_dir() else None


def _read_maps(images: Path, maps: Path, name: str) -> Table:
    """Images and the segmentation maps of the same names."""
    found = {path.relative_to(maps).with_suffix(""): path for path in _images_of(maps)}
    paths = _images_of(images)
    for path in paths:
        if path.relative_to(images).with_suffix("") not in found:
            raise DataError(f"{path} of {name} has no segmentation map of its name in {maps}")
    if not paths:
        raise DataError(f"{images} of {name} holds no image ({', '.join(SUFFIXES)})")
    columns = {"image": paths, "annotation": [found[path.relative_to(images).with_suffix("")] for path in paths]}
    return Table({key: [str(path) for path in column] for key, column in columns.items()}, name)


def _read_folder(folder: Path, name: str) -> Table:
    """The images of one split: of each class, or, where there are no classes, all."""
    if _holds_images(folder):
        return Table({"image": [str(path) for path in _images_of(folder)]}, name)
    images: list[str] = []
    labels: list[str] = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = _images_of(place)
        if not files:
            raise DataError(f"{place} stands for a class of {name} and holds no image ({', '.join(SUFFIXES)})")
        images += map(str, files)
        labels += [place.name] * len(files)
    return Table({"image": images, "label": labels}, name)


def _idx_files(folder: Path) -> dict[str, Callable[[], Table]]:
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
