"""Images as a model's examples: decoded and prepared when a row is read, in training changed and mixed at random.

Here: `ImageRows` and `MixedRows`. A loader draws their rows with a generator of the seed, the epoch and the row's number, so a
row is the same in the same epoch on any machine, in any process and after a restart.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxformers.data.table import Table
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess.image import ImageProcessor
from jaxformers.preprocess.image_augment import Augment

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageRows:
    """The rows of a table with a column of images as `pixel_values`, beside its other columns.

    Args:
      table: paths, bytes, PIL images or arrays in the column `image`; all else must be numbers.
      processor: what makes numbers of an image.
      augment: what is done to images in training; None reads every image the same way each time.
      image: the name of that column.
      annotation: the name of a column of segmentation maps, which become `labels` int32 [Y, X]; None means there is none.
    """

    table: Table
    processor: ImageProcessor
    augment: Augment | None = None
    image: str = "image"
    annotation: str | None = None

    def __post_init__(self) -> None:
        for column in (self.image, self.annotation):
            if column is not None and column not in self.table.column_names:
                raise DataError(
                    f"{self.table.name} has no column {column!r}, only {', '.join(self.table.column_names)}"
                )
        if self.processor.output_size is None:
            raise InputError(f"the images of a batch have one size, which {self.processor} does not give them")

    @property
    def name(self) -> str:
        """What error messages call it."""
        return self.table.name

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Example:
        return self._example(index, None)

    def draw(self, index: int, generator: np.random.Generator) -> Example:
        """The row as training sees it this time."""
        return self._example(index, generator)

    def outline(self, index: int) -> Example:
        """The row without what must be decoded: enough to know the lengths of its sequences."""
        row = self.table[index]
        return {key: value for key, value in row.items() if key not in (self.image, self.annotation)}

    def _example(self, index: int, generator: np.random.Generator | None) -> Example:
        row = self.table[index]
        image, augment = row.pop(self.image), None if generator is None else self.augment
        try:
            if self.annotation is not None:
                classes = row.pop(self.annotation)
                if augment is None or generator is None:
                    pixels, row["labels"] = self.processor.pixels(image), self.processor.labels(classes)
                else:
                    pixels, row["labels"] = augment.both(image, classes, self.processor, generator)
            elif augment is None or generator is None:
                pixels = self.processor.pixels(image)
            else:
                pixels = augment(image, self.processor, generator)
        except InputError as error:
            raise DataError(f"row {index} of {self.name}: {error}") from None
        return {"pixel_values": pixels, **row}


@dataclasses.dataclass(frozen=True, eq=False)
class MixedRows:
    """Rows of images and classes, each mixed with another row drawn for it: MixUp (Zhang et al. 2017), CutMix (Yun et al. 2019).

    Beside `labels`, a class's number, a row gets `mixed_labels`, the other image's, and `mixed_share`, how much of it there is:
    the losses of classification weigh the two. Rows that are not drawn (`rows[3]`) are not mixed.

    Args:
      rows: with `pixel_values` and `labels`.
      mixup: both shape parameters of the Beta distribution that the share of the other image is drawn from; 0 turns it off.
      cutmix: likewise, for a rectangle of the other image in this one.
      probability: how often a row is mixed at all.
    """

    rows: ImageRows
    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("mixup", np.inf), ("cutmix", np.inf), ("probability", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} must be from 0 to {most}, found {getattr(self, name)!r}")

    @property
    def name(self) -> str:
        """What error messages call it."""
        return self.rows.name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return _mixed(self.rows[index], 0, 0.0)

    def draw(self, index: int, generator: np.random.Generator) -> Example:
        """The row as training sees it this time."""
        row = self.rows.draw(index, generator)
        ways = [way for way, strength in (("mixup", self.mixup), ("cutmix", self.cutmix)) if strength]
        if not ways or generator.random() >= self.probability:
            return _mixed(row, 0, 0.0)
        way = ways[int(generator.integers(len(ways)))]
        other = self.rows.draw(int(generator.integers(len(self))), generator)
        strength = self.mixup if way == "mixup" else self.cutmix
        share = float(generator.beta(strength, strength))
        pixels, across = row["pixel_values"], other["pixel_values"]
        if way == "mixup":
            row["pixel_values"] = pixels + np.float32(share) * (across - pixels)
        else:
            height, width = pixels.shape[:2]
            h, w = round(height * share**0.5), round(width * share**0.5)
            up, left = int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1))
            pixels[up : up + h, left : left + w] = across[up : up + h, left : left + w]
            share = h * w / (height * width)
        return _mixed(row, other["labels"], share)


def _mixed(row: Example, labels: int, share: float) -> Example:
    return {**row, "mixed_labels": labels, "mixed_share": np.float32(share)}
