"""SimMIM: pretraining by drawing hidden patches of images (Xie et al. 2021, arXiv:2111.09886): `pip install -e '.[vision]'`.

    python -m experiments.simmim --data photos

Six in ten patches of each image are hidden, and the model learns to draw them: the loss is the mean distance of a drawn pixel
from the image's. It needs no classes: `--data` is a folder of images, or any source of `experiments.image_classification`. A
small ViT learns from nothing; `--model` names one that goes on. `reconstructions.png` in the output folder shows held-out images,
what was left of them, and what was drawn; `experiments.image_classification --model` fine-tunes what is saved there.
Without a network it learns from drawn shapes.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import image_classification
from experiments.finetune import Prepared, Recipe, rename
from experiments.image_classification import AUGMENTS, VIT, open_source
from experiments.launch import launch
from experiments.pictures import as_seen, draw_sheet, first_images, run_and_draw
from jaxformers.checkpoints import load
from jaxformers.checkpoints.files import locate, read_json
from jaxformers.data import Table
from jaxformers.data.image_rows import ImageRows
from jaxformers.data.loader import Batch
from jaxformers.errors import InputError
from jaxformers.preprocess import ImageProcessor, load_image_processor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(image_classification.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    hidden: float = 0.6
    """The share of the patches that is hidden."""
    output_dir: str = "out/simmim"
    """Where checkpoints, metrics, the model card and the final model go."""


def hide(batch: Batch, generators: list[np.random.Generator], grid: int, share: float) -> Batch:
    """A batch with `bool_masked_pos` int32 [B, P]: which of grid × grid patches are hidden, as many of each image."""
    hidden = np.zeros((len(generators), grid**2), np.int32)
    count = round(share * grid**2)
    for row, generator in zip(hidden, generators, strict=True):
        row[generator.permutation(grid**2)[:count]] = 1
    return {**batch, "bool_masked_pos": hidden}


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The splits with the column `image` alone."""
    return {split: rename(table, {"image": ("img", "pixel_values")}) for split, table in splits.items()}


def rows_and_grid(splits: dict[str, Table], processor: ImageProcessor, config: Any) -> tuple[dict[str, ImageRows], int]:
    """The images of each split, and how many patches of the model's lie along a side of each."""
    if config.augment not in AUGMENTS:
        raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, found {config.augment!r}")
    if not 0 < config.hidden < 1:
        raise InputError(f"hidden must be a share between 0 and 1, found {config.hidden}")
    raw = (
        read_json(locate(config.model, weights=False) / "config.json")
        if config.model
        else image_classification.sizes_of_images(processor)
    )
    rows = {split: ImageRows(table, processor, AUGMENTS[config.augment]) for split, table in splits.items()}
    return rows, raw.get("image_size", 224) // raw.get("patch_size", 16)


def prepare(splits: dict[str, Table], processor: ImageProcessor, config: Any) -> Prepared:
    """Images with some of their patches hidden."""
    rows, grid = rows_and_grid(splits, processor, config)
    return Prepared(rows, collator=partial(hide, grid=grid, share=config.hidden))


def held_out(images: ImageRows) -> tuple[np.ndarray, list[np.random.Generator]]:
    """The images of the picture [B, Y, X, C], and what draws which of their patches are hidden."""
    pixels = np.stack([row["pixel_values"] for row in first_images(images)])
    return pixels, [np.random.default_rng((0, row)) for row in range(len(pixels))]


def draw_reconstructions(folder: Path, images: ImageRows, *, share: float) -> None:
    """`reconstructions.png` of the model in a folder."""
    model = load(folder, "masked-image-modeling")
    pixels, generators = held_out(images)
    batch = hide({"pixel_values": pixels}, generators, model.config.image_size // model.config.patch_size, share)
    given: dict[str, Any] = dict(batch)
    drawn = np.asarray(jax.jit(model.apply)(model.params, **given).reconstruction)
    draw_hidden(folder, images.processor, pixels, batch["bool_masked_pos"], drawn)


def draw_hidden(
    folder: Path, processor: ImageProcessor, pixels: np.ndarray, hidden_BP: np.ndarray, drawn: np.ndarray
) -> None:
    """`reconstructions.png`: a row of images, a row of what was left of each, and a row with what the model drew there."""
    grid = round(hidden_BP.shape[1] ** 0.5)
    side = pixels.shape[1] // grid
    hidden = hidden_BP.reshape(-1, grid, grid).repeat(side, 1).repeat(side, 2)[..., None]
    rows = [pixels, np.where(hidden == 1, 0, pixels), np.where(hidden == 1, drawn, pixels)]
    draw_sheet(folder / "reconstructions.png", [as_seen(row, processor) for row in rows])


RECIPE = Recipe(
    name="SimMIM",
    head="masked-image-modeling",
    model="google/vit-base-patch16-224-in21k",
    data="hf:uoft-cs/cifar10",
    bundled="shapes",
    bundled_is="drawn shapes",
    read=read,
    prepare=prepare,
    texts=lambda table: [table["image"][row] for row in range(min(16, len(table)))],
    told=("loss",),
    small=VIT,
    own=VIT,
    open=open_source,
    prepares=load_image_processor,
)


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return run_and_draw(config, RECIPE, partial(draw_reconstructions, share=config.hidden))


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.simmim")
