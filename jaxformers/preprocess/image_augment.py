"""What is done to images in training, at random: crops, flips, shifts, colours, RandAugment, erasing.

A recipe is an `Augment`, a function (image, processor, generator) -> pixel values; a generator in the same state gives the same
numbers. What mixes several images is in `jaxformers.data.image_rows`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxformers.errors import InputError
from jaxformers.preprocess.image import IGNORED_LABEL, ImageProcessor
from jaxformers.preprocess.image_config import NEAREST
from jaxformers.preprocess.image_reading import pillow

if TYPE_CHECKING:
    from PIL.Image import Image

Generator = np.random.Generator
TRIES = 10  # to find a crop of the drawn area and shape inside of the image
MOST = 30  # the largest magnitude of RandAugment


@dataclasses.dataclass(frozen=True)
class Augment:
    """A recipe of changes. As it is, crops and flips: what ImageNet is trained with.

    Args:
      crop: the share of the image's area that is cut out and brought to the processor's size, from and to; None leaves the
        image whole, resized and cropped as for predictions.
      ratio: width over height of that, from and to.
      shift: pixels by which the resized image may move up, down and to either side.
      flip: how often left and right are exchanged.
      brightness: by how much it changes at most, 0.4 for 0.6 to 1.4 times; likewise
      contrast, saturation: and
      hue: of a full circle, at most 0.5.
      rand_augment: how many of RandAugment's operations each image gets (Cubuk et al. 2020).
      magnitude: how strong they are, 0 to 30.
      erase: how often a rectangle is replaced by the mean colour (Zhong et al. 2017).

    >>> from jaxformers.preprocess import ImageProcessor
    >>> image = np.zeros((40, 60, 3), np.uint8)
    >>> Augment()(image, ImageProcessor(size=32), np.random.default_rng(0)).shape
    (32, 32, 3)
    """

    crop: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    shift: int = 0
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    rand_augment: int = 0
    magnitude: int = 9
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop", "ratio"):
            pair = getattr(self, name)
            if pair is not None and not (len(pair) == 2 and 0 < pair[0] <= pair[1]):
                raise InputError(f"{name} must be two numbers above 0, the smaller first, found {pair!r}")
        if self.crop is not None and self.crop[1] > 1:
            raise InputError(f"crop must be a share of the image's area, at most 1, found {self.crop[1]}")
        for name, most in (("flip", 1), ("erase", 1), ("hue", 0.5), ("magnitude", MOST), ("brightness", math.inf),
                           ("contrast", math.inf), ("saturation", math.inf), ("shift", math.inf),
                           ("rand_augment", math.inf)):  # fmt: skip
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"{name} must be from 0 to {most}, found {getattr(self, name)!r}")

    def __call__(self, image: Any, processor: ImageProcessor, generator: Generator) -> np.ndarray:
        """One image, as `processor` takes it, to its numbers after random changes.

        Args:
          image: whatever is an image.
          processor: says the size, the filter and the normalisation.
          generator: what is drawn from.

        Returns:
          float32 [H, W, C].
        """
        drawn, unit = processor.read(image)
        drawn = self._moves(drawn, processor, generator)(drawn, processor.resample)
        for _ in range(self.rand_augment):
            drawn = rand_augment(drawn, self.magnitude, generator)
        return self._numbers(drawn, unit, processor, generator)

    def both(
        self, image: Any, segmentation_map: Any, processor: ImageProcessor, generator: Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One image and its map of class numbers, which is cut, moved and mirrored as the image is.

        Args:
          image: whatever is an image.
          segmentation_map: of the image's size, as `ImageProcessor.labels` takes it.
          processor: says the size, the filter, the normalisation and how classes are counted.
          generator: what is drawn from.

        Returns:
          float32 [H, W, C] and int32 [H, W], 255 for no class and what is moved in from outside.

        Raises:
          InputError: the map has another size; or the recipe has RandAugment, which would move the image alone.
        """
        if self.rand_augment:
            raise InputError(
                "rand_augment moves an image and not its segmentation map: use crop, shift, flip, colours, erase"
            )
        drawn, unit = processor.read(image)
        classes = processor.read_map(segmentation_map)
        if classes.size != drawn.size:
            raise InputError(
                f"the segmentation map is {classes.height} × {classes.width}, its image {drawn.height} × {drawn.width}"
            )
        move = self._moves(drawn, processor, generator)
        turned = classes.point(
            lambda value: IGNORED_LABEL - value
        )  # what comes in from outside is 0, which is no class
        labels = IGNORED_LABEL - np.asarray(move(turned, NEAREST)).astype(np.int32)
        return self._numbers(move(drawn, processor.resample), unit, processor, generator), labels

    def _moves(self, image: Image, processor: ImageProcessor, generator: Generator) -> Callable[[Image, int], Image]:
        """Draws where the image's pixels go: a function of an image of its size, and a filter."""
        size, box, down, right = processor.output_size, None, 0, 0
        if self.crop is not None and size is not None:
            box = random_box(image.height, image.width, self.crop, self.ratio, generator)
        if self.shift:
            down, right = generator.integers(-self.shift, self.shift + 1, 2).tolist()
        mirrored = generator.random() < self.flip

        def move(image: Image, resample: int) -> Image:
            image = image.resize(size[::-1], resample, box=box) if size and box else processor.shaped(image, resample)
            if down or right:
                image = image.crop((right, down, right + image.width, down + image.height))  # black comes in
            return image.transpose(pillow().Transpose.FLIP_LEFT_RIGHT) if mirrored else image

        return move

    def _numbers(self, drawn: Image, unit: bool, processor: ImageProcessor, generator: Generator) -> np.ndarray:
        """What is done to an image where it lies, and its numbers."""
        drawn = self._colours(drawn, generator)
        values = processor.numbers(np.asarray(drawn), unit)
        if self.erase and generator.random() < self.erase:
            height, width = values.shape[:2]
            left, up, right, down = random_box(height, width, (0.02, 1 / 3), (0.3, 3.3), generator)
            values[up:down, left:right] = 0
        return values

    def _colours(self, image: Image, generator: Generator) -> Image:
        """The four changes of colour, in random order."""
        from PIL import ImageEnhance

        steps: list[Callable[[Image], Image]] = []
        for change, kind in (
            (self.brightness, ImageEnhance.Brightness),
            (self.contrast, ImageEnhance.Contrast),
            (self.saturation, ImageEnhance.Color),
        ):
            if change:
                factor = float(generator.uniform(max(0.0, 1 - change), 1 + change))
                steps.append(lambda picture, kind=kind, factor=factor: kind(picture).enhance(factor))  # type: ignore[misc]
        if self.hue and image.mode == "RGB":
            turn = round(255 * generator.uniform(-self.hue, self.hue))
            steps.append(lambda picture: _turned_hue(picture, turn))
        for place in generator.permutation(len(steps)) if len(steps) > 1 else range(len(steps)):
            image = steps[place](image)
        return image


def random_box(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], generator: Generator
) -> tuple[int, int, int, int]:
    """A rectangle inside of an image with a drawn share of its area and a drawn width over height.

    Where none is found in a few tries: the middle, with as little cut off as `ratio` allows.

    Returns:
      left, upper, right and lower edge, in pixels.
    """
    for _ in range(TRIES):
        size = generator.uniform(*area) * height * width
        shape = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(size * shape)), round(math.sqrt(size / shape))
        if 0 < w <= width and 0 < h <= height:
            left, up = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
            return left, up, left + w, up + h
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    left, up = (width - w) // 2, (height - h) // 2
    return left, up, left + max(w, 1), up + max(h, 1)


def _turned_hue(image: Image, turn: int) -> Image:
    hue, saturation, value = image.convert("HSV").split()
    moved = pillow().fromarray(((np.asarray(hue).astype(np.int16) + turn) % 256).astype(np.uint8))
    return pillow().merge("HSV", (moved, saturation, value)).convert("RGB")


def rand_augment(image: Image, magnitude: int, generator: Generator) -> Image:
    """One of RandAugment's fourteen operations, at this magnitude of 30, to a drawn side where it has two."""
    from PIL import ImageEnhance, ImageOps

    level = magnitude / MOST
    side = 1.0 if generator.random() < 0.5 else -1.0
    factor = 1 + side * 0.9 * level
    grey = 128 if image.mode == "L" else (128, 128, 128)

    def moved(across: float, slant_x: float, down: float, slant_y: float) -> Image:
        matrix = (1, slant_x, across, slant_y, 1, down)
        return image.transform(
            image.size, pillow().Transform.AFFINE, matrix, pillow().Resampling.BILINEAR, fillcolor=grey
        )

    operations: tuple[Callable[[], Image], ...] = (
        lambda: image,
        lambda: ImageOps.autocontrast(image),
        lambda: ImageOps.equalize(image),
        lambda: image.rotate(side * 30 * level, pillow().Resampling.BILINEAR, fillcolor=grey),
        lambda: ImageOps.solarize(image, round(256 * (1 - level))),
        lambda: ImageOps.posterize(image, 8 - round(4 * level)),
        lambda: ImageEnhance.Color(image).enhance(factor),
        lambda: ImageEnhance.Contrast(image).enhance(factor),
        lambda: ImageEnhance.Brightness(image).enhance(factor),
        lambda: ImageEnhance.Sharpness(image).enhance(factor),
        lambda: moved(0, side * 0.3 * level, 0, 0),
        lambda: moved(0, 0, 0, side * 0.3 * level),
        lambda: moved(side * 0.45 * level * image.width, 0, 0, 0),
        lambda: moved(0, 0, side * 0.45 * level * image.height, 0),
    )
    return operations[int(generator.integers(len(operations)))]()
