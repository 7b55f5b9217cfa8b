"""Semantic segmentation, what each pixel of an image shows, by SegFormer (Xie et al. 2021, arXiv:2105.15203): `[vision]`.

    python -m experiments.segmentation --model nvidia/mit-b0 --data scenes
    python -m experiments.segmentation --data scenes

`--data` is a folder with `images` and `annotations` (or `masks`), a PNG of class numbers for each image, 255 where a pixel does
not count; with splits inside of these or around them; or `hf:NAME` with such columns. `--reduce-labels` is for maps that count
from 1, with 0 for no class, as ADE20K's. Classes are called after `--classes`, or the lines of `classes.txt` in that folder,
else numbered. With `--data` alone a small SegFormer learns from nothing. `segmentation.png` in the output folder shows held-out
images, their maps and what was found. Without a network it learns from drawn shapes.
"""

import colorsys
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import finetune
from experiments.finetune import BUNDLED, Prepared, Recipe, Start, rename
from experiments.image_classification import SETTINGS, SHAPES, fitting_processor, noisy, open_source, paint
from experiments.launch import launch
from experiments.pictures import as_seen, draw_sheet, first_images, run_and_draw
from jaxformers.checkpoints import load
from jaxformers.data import Table
from jaxformers.data.image_rows import ImageRows
from jaxformers.errors import DataError, InputError
from jaxformers.pipelines.images import likeliest
from jaxformers.preprocess import ImageProcessor, load_image_processor
from jaxformers.preprocess.image import IGNORED_LABEL
from jaxformers.preprocess.image_augment import Augment
from jaxformers.preprocess.image_reading import pillow
from jaxformers.train import EvalPrediction, Streaming
from jaxformers.train.metrics import class_counts, segmentation_scores

SIDE = 48  # pixels of a drawn image
DRAWN = {"train": 600, "validation": 100}
AUGMENTS = {
    "none": None,
    "shifts": Augment(crop=None, shift=4, flip=0),
    "crops": Augment(crop=(0.25, 1.0)),
    "strong": Augment(crop=(0.25, 1.0), brightness=0.4, contrast=0.4, saturation=0.4),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    augment: str = "crops"
    """What is done to images and their maps in training: none; shifts (by up to 4 pixels); crops (a part of the image, at times
    mirrored); strong (crops, and other colours)."""
    classes: tuple[str, ...] = ()
    """What the classes are called, in the order of their numbers."""
    reduce_labels: bool = False
    """Maps count from 1, and 0 stands for no class."""
    ignore_mismatched_sizes: bool = True
    """A classifier of other classes than the data's begins anew; else it is refused."""
    dataloader_num_workers: int = 2
    """Threads that decode images ahead of the training."""
    output_dir: str = "out/segmentation"
    """Where checkpoints, metrics, the model card and the final model go."""


def small_segformer(config: Any) -> dict[str, Any]:
    """The SegFormer that learns from nothing, but for what its images say."""
    sizes: dict[str, Any] = {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2],
             "sr_ratios": [2, 1], "mlp_ratios": [2, 2], "decoder_hidden_size": 16} if config.tiny else {
             "num_encoder_blocks": 3, "depths": [1, 1, 2], "hidden_sizes": [16, 32, 64], "num_attention_heads": [1, 2, 4],
             "sr_ratios": [4, 2, 1], "mlp_ratios": [2, 2, 4], "decoder_hidden_size": 32}  # fmt: skip
    count: int = sizes["num_encoder_blocks"]
    return {"model_type": "segformer", "initializer_range": 0.1, "classifier_dropout_prob": 0.0, "drop_path_rate": 0.0,
            "patch_sizes": [3] * count, "strides": [2] * count, **sizes}  # fmt: skip


def learn(given: list[Any]) -> ImageProcessor:
    """The image processor of a model that learns from nothing."""
    found = fitting_processor(given)
    return ImageProcessor(kind="Segformer", size=found.size, image_mean=found.image_mean, image_std=found.image_std)


SEGFORMER = Start("small SegFormer", small_segformer, learn, lambda processor: {"num_channels": processor.channels},
                  SETTINGS | {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 32})  # fmt: skip


def drawn(count: int, seed: int) -> Table:
    """Up to three shapes in each image, each over those before, and maps of them: 0 is the ground."""
    pillow()
    from PIL import Image, ImageDraw

    generator = np.random.default_rng(seed)
    images, maps = [], []
    for _ in range(count):
        low, high = generator.permutation([20, 130]).tolist()  # so that what lies on the ground is to be seen
        colours = [
            generator.integers(low, low + 100, 3).tolist(),
            *generator.integers(high, high + 100, (3, 3)).tolist(),
        ]
        image, classes = Image.new("RGB", (SIDE, SIDE), tuple(colours[0])), Image.new("L", (SIDE, SIDE))
        for colour in colours[1 : 2 + int(generator.integers(3))]:
            number, r = int(generator.integers(len(SHAPES))), int(generator.integers(8, 13))
            x, y = generator.integers(r, SIDE - r, 2).tolist()
            for picture, ink in ((image, tuple(colour)), (classes, number + 1)):
                paint(ImageDraw.Draw(picture), SHAPES[number], (x, y, r), ink)
        images.append(noisy(image, generator))
        maps.append(np.asarray(classes))
    return Table({"image": images, "annotation": maps}, "drawn shapes")


def open_pairs(place: Any, config: Any) -> dict[str, Table]:
    """The splits of a source, in random order."""
    if place == BUNDLED / "shapes":
        return {split: drawn(count, seed) for seed, (split, count) in enumerate(DRAWN.items())}
    return open_source(place, config)


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The splits with the columns `image` and `annotation`."""
    names = {"image": ("img", "pixel_values"), "annotation": ("mask", "segmentation_map", "label", "labels")}
    return {split: rename(table, names) for split, table in splits.items()}


def class_names(train: Table, processor: ImageProcessor, config: Any) -> list[str]:
    """What the classes are called: by the flag, by the folder, or by the numbers that the training rows have."""
    if config.data == "bundled":
        return ["ground", *SHAPES]
    listed = Path(config.data or "") / "classes.txt"
    names = [*config.classes] or (listed.read_text("utf-8").split("\n") if listed.is_file() else [])
    names = [name.strip() for name in names if name.strip()]
    found: set[int] = set()
    for row, annotation in enumerate(train["annotation"]):
        found |= {*np.unique(np.asarray(processor.read_map(annotation, f"the map of row {row}"))).tolist()}
    most = max(found - {IGNORED_LABEL}, default=-1)
    if most < 0:
        raise DataError(f"the maps of {train.name} have no class at all")
    if names and most >= len(names):
        raise DataError(
            f"the maps of {train.name} have the class {most}, and there are names for 0 to {len(names) - 1}"
        )
    return names or [str(number) for number in range(most + 1)]


def prepare(splits: dict[str, Table], processor: ImageProcessor, config: Any) -> Prepared:
    """Images and their maps, both of the model's size."""
    if config.augment not in AUGMENTS:
        raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, found {config.augment!r}")
    names = class_names(splits["train"], processor, config)
    examples = {
        split: ImageRows(table, processor, AUGMENTS[config.augment], annotation="annotation")
        for split, table in splits.items()
    }

    def update(counts: np.ndarray, prediction: EvalPrediction) -> np.ndarray:
        for logits_YXC, labels_YX in zip(prediction.predictions, prediction.label_ids, strict=True):
            counts = counts + class_counts(likeliest(logits_YXC, labels_YX.shape), labels_YX, len(names), IGNORED_LABEL)
        return counts

    def result(counts: np.ndarray) -> dict[str, float]:
        scores = segmentation_scores(counts)
        each = scores.pop("per_category_iou")
        del scores["per_category_accuracy"]
        return scores | {f"iou_{name}": value for name, value in zip(names, each, strict=True) if value == value}

    start = partial(np.zeros, (len(names), len(names)), np.int64)
    overrides = {"id2label": dict(enumerate(names)), "semantic_loss_ignore_index": IGNORED_LABEL}
    return Prepared(examples, Streaming(start, update, result), overrides)


def draw_maps(folder: Path, images: ImageRows) -> None:
    """`segmentation.png`: a row of held-out images, a row of their maps, and a row of what the model in the folder finds."""
    model, rows = load(folder, "semantic-segmentation"), first_images(images)
    pixels = np.stack([row["pixel_values"] for row in rows])
    logits = np.asarray(jax.jit(model.apply)(model.params, pixel_values=pixels).logits)
    found = np.stack([likeliest(each, pixels.shape[1:3]) for each in logits])
    seen = as_seen(pixels, images.processor)
    seen = np.broadcast_to(seen, (*seen.shape[:3], 3))
    count = len(model.config.labels)
    wheel = [colorsys.hsv_to_rgb(number / count, 0.8, 0.6 + 0.4 * (number % 2)) for number in range(count)]
    colours = np.zeros((IGNORED_LABEL + 1, 3), np.uint8)  # black where a pixel does not count
    colours[:count] = np.round(255 * np.asarray(wheel))
    maps = np.stack([row["labels"] for row in rows])
    draw_sheet(folder / "segmentation.png", [seen, colours[maps], colours[found]])


def recipe(config: Any) -> Recipe:
    """How maps are learned."""
    counted = {"do_reduce_labels": True} if config.reduce_labels else {}
    start = dataclasses.replace(SEGFORMER, learn=lambda images: learn(images).replace(**counted))
    return Recipe(
        name="ADE20K",
        head="semantic-segmentation",
        model="nvidia/mit-b0",
        data="hf:zhoubolei/scene_parse_150",
        bundled="shapes",
        bundled_is="drawn shapes",
        read=read,
        prepare=prepare,
        texts=lambda table: [table["image"][row] for row in range(min(16, len(table)))],
        told=("mean_iou", "overall_accuracy"),
        small=start,
        own=start,
        open=open_pairs,
        prepares=partial(load_image_processor, **counted),
    )


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return run_and_draw(config, recipe(config), draw_maps)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.segmentation")
