"""What the experiments of images draw into their output folder, and when: PNGs, with Pillow alone."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import finetune
from experiments.finetune import Prepared, Recipe
from jaxformers.data import Table
from jaxformers.data.image_rows import ImageRows
from jaxformers.preprocess import ImageProcessor
from jaxformers.preprocess.image_reading import pillow
from jaxformers.train.folder import folder_of

SHOWN = 8  # images in a picture
ZOOM = 96  # pixels of each there, at least


def run_and_draw(config: Any, recipe: Recipe, draw: Callable[[Path, ImageRows], None]) -> dict[str, Any]:
    """Runs a recipe, and then `draw(the model's folder, held-out images)`."""
    shown: dict[str, Any] = {}

    def prepare(splits: dict[str, Table], processor: ImageProcessor, config: Any) -> Prepared:
        prepared = recipe.prepare(splits, processor, config)
        shown["images"] = prepared.examples["validation"]
        return prepared

    metrics = finetune.run(config, dataclasses.replace(recipe, prepare=prepare))
    if shown and config.do_train and jax.process_index() == 0:
        folder = folder_of(config.output_dir)
        draw(folder.here, shown["images"])
        folder.send()
    return metrics


def first_images(images: ImageRows) -> list[dict[str, Any]]:
    """The examples that a picture shows."""
    return [images[row] for row in range(min(SHOWN, len(images)))]


def as_seen(pixels: np.ndarray, processor: ImageProcessor) -> np.ndarray:
    """`pixel_values` [..., C] as colours, uint8."""
    inner = (1,) * (pixels.ndim - 1)
    scale, shift = (np.reshape(each, (*inner, -1)) for each in (processor.image_std, processor.image_mean))
    return np.clip(np.round((pixels * scale + shift) * 255), 0, 255).astype(np.uint8)


def draw_sheet(path: Path, rows: Sequence[np.ndarray]) -> None:
    """Rows of images, each uint8 [B, Y, X, C], under each other; small ones are enlarged."""
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    image = pillow().fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)
    zoom = -(-ZOOM // rows[0].shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * zoom, image.height * zoom), pillow().Resampling.NEAREST).save(path)


def draw_confusion(labels: np.ndarray, said: np.ndarray, names: list[str], path: Path) -> None:
    """A picture of how often each class (a row) was taken for each (a column): the darker the oftener, its number inside."""
    image_module = pillow()
    from PIL import ImageDraw

    count = len(names)
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (labels, said), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell, edge = (34, 90) if count <= 25 else (max(1, 850 // count), 0)
    image = image_module.new("RGB", (edge + cell * count, edge + cell * count), "white")
    draw = ImageDraw.Draw(image)
    for row, column in np.ndindex(count, count):
        left, up = edge + cell * column, edge + cell * row
        shade = round(255 * (1 - share[row, column]))
        draw.rectangle((left, up, left + cell - 1, up + cell - 1), fill=(shade, shade, 255 if row == column else shade))
        if edge and counts[row, column]:
            draw.text((left + 3, up + 10), str(counts[row, column]), fill="white" if shade < 128 else "black")
    for number, name in enumerate(names if edge else ()):
        draw.text((4, edge + cell * number + 10), name[:13], fill="black")
        draw.text((edge + cell * number + 3, edge - 14 - 11 * (number % 3)), name[:13], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
