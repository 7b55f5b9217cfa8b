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

from experiments import finetune, image_classification
from experiments.finetune import Prepared, Recipe, rename
from experiments.image_classification import AUGMENTS, VIT, open_source
from experiments.launch import launch
from jaxformers.checkpoints import load
from jaxformers.checkpoints.files import locate, read_json
from jaxformers.data import Table
from jaxformers.data.image_rows import ImageRows
from jaxformers.data.loader import Batch
from jaxformers.errors import InputError
from jaxformers.preprocess import ImageProcessor, load_image_processor
from jaxformers.preprocess.image_reading import pillow
from jaxformers.train.folder import folder_of

SHOWN = 8  # images in the picture
ZOOM = 96  # pixels of each there, at least


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


def prepare(splits: dict[str, Table], processor: ImageProcessor, config: Any) -> Prepared:
    """Images with some of their patches hidden."""
    if config.augment not in AUGMENTS:
        raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, found {config.augment!r}")
    if not 0 < config.hidden < 1:
        raise InputError(f"hidden must be a share between 0 and 1, found {config.hidden}")
    raw = (
        read_json(locate(config.model, weights=False) / "config.json")
        if config.model
        else image_classification.sizes_of_images(processor)
    )
    grid = raw.get("image_size", 224) // raw.get("patch_size", 16)
    examples = {split: ImageRows(table, processor, AUGMENTS[config.augment]) for split, table in splits.items()}
    return Prepared(examples, collator=partial(hide, grid=grid, share=config.hidden))


def draw_reconstructions(folder: Path, images: ImageRows, share: float) -> None:
    """`reconstructions.png`: a row of images, a row of what was left of each, and a row of what the model drew."""
    model, processor = load(folder, "masked-image-modeling"), images.processor
    grid = model.config.image_size // model.config.patch_size
    pixels = np.stack([images[row]["pixel_values"] for row in range(min(SHOWN, len(images)))])
    generators = [np.random.default_rng((0, row)) for row in range(len(pixels))]
    batch = hide({"pixel_values": pixels}, generators, grid, share)
    given: dict[str, Any] = dict(batch)
    drawn = np.asarray(model.apply(model.params, **given).reconstruction)
    hidden = batch["bool_masked_pos"].reshape(-1, grid, grid).repeat(model.config.patch_size, 1)
    hidden = hidden.repeat(model.config.patch_size, 2)[..., None]
    rows = [pixels, np.where(hidden == 1, 0, pixels), np.where(hidden == 1, drawn, pixels)]
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    sheet = (sheet * np.asarray(processor.image_std)[None, None] + np.asarray(processor.image_mean)[None, None]) * 255
    sheet = np.clip(np.round(sheet), 0, 255).astype(np.uint8)
    image = pillow().fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)
    zoom = -(-ZOOM // pixels.shape[1])
    image.resize((image.width * zoom, image.height * zoom), pillow().Resampling.NEAREST).save(
        folder / "reconstructions.png"
    )


def recipe(shown: dict[str, ImageRows]) -> Recipe:
    """How hidden patches are learned. `shown` gets the held-out images."""

    def remembered(splits: dict[str, Table], processor: ImageProcessor, config: Any) -> Prepared:
        prepared = prepare(splits, processor, config)
        shown["validation"] = prepared.examples["validation"]  # type: ignore[assignment]
        return prepared

    return Recipe(
        name="SimMIM",
        head="masked-image-modeling",
        model="google/vit-base-patch16-224-in21k",
        data="hf:uoft-cs/cifar10",
        bundled="shapes",
        bundled_is="drawn shapes",
        read=read,
        prepare=remembered,
        texts=lambda table: [table["image"][row] for row in range(min(16, len(table)))],
        told=("loss",),
        small=VIT,
        own=VIT,
        open=open_source,
        prepares=load_image_processor,
    )


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    shown: dict[str, ImageRows] = {}
    metrics = finetune.run(config, recipe(shown))
    if shown and config.do_train and jax.process_index() == 0:
        folder = folder_of(config.output_dir)
        draw_reconstructions(folder.here, shown["validation"], config.hidden)
        folder.send()
    return metrics


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.simmim")
