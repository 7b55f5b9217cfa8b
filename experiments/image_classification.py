"""Image classification, from random parameters or from a trained model: `pip install -e '.[vision]'`.

    python -m experiments.image_classification --model google/vit-base-patch16-224-in21k --data photos
    python -m experiments.image_classification --data mnist --architecture convnext

`--data` is a folder with a folder of images for each class (or train and validation of such), a folder of MNIST's idx files,
`hf:NAME` or `tfds:NAME`. With `--model` that model goes on learning, with a new classifier; with `--freeze` the classifier
learns alone, over the model's features: transfer learning. With `--data` alone a small ViT learns from nothing, of a size that
fits the images, or a small ConvNeXT, which learns more from few: of MNIST's 10,000 test images it learns 9,000, and 98 % of the
others are right after five epochs. Images are changed at random each time they are seen (`--augment`), and mixed with
`--mixup` and `--cutmix`. `confusion.png` in the output folder shows what was taken for what. Without a network a small ViT
learns to tell drawn shapes apart.
"""

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from experiments import finetune
from experiments.classes import read_classes, scores
from experiments.finetune import BUNDLED, Prepared, Recipe, Start, reading
from experiments.launch import launch
from jaxformers.data import Table, load_dataset
from jaxformers.data.image_rows import ImageRows, MixedRows
from jaxformers.errors import InputError
from jaxformers.preprocess import ImageProcessor, load_image_processor
from jaxformers.preprocess.image_augment import Augment
from jaxformers.preprocess.image_reading import picture, pillow

SHAPES = ("circle", "cross", "ring", "square", "triangle")
DRAWN = {"train": 800, "validation": 160}
SIDE = 24  # pixels of a drawn shape
SMALL_IMAGES = 64  # pixels: images up to this size keep it, larger ones are brought to
LARGE = 96
AUGMENTS = {
    "none": None,
    "shifts": Augment(crop=None, shift=2, flip=0),
    "crops": Augment(),
    "strong": Augment(rand_augment=2, erase=0.25),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    augment: str = "crops"
    """What is done to images in training: none; shifts (by up to 2 pixels, for digits and drawings, which must not be turned
    round); crops (a part of the image, at times mirrored); strong (crops, RandAugment and erasing)."""
    mixup: float = 0.0
    """How strongly images are blended with others: the parameter of MixUp's Beta distribution, often 0.8."""
    cutmix: float = 0.0
    """Likewise of CutMix, which puts a rectangle of another image into each, often 1."""
    architecture: str = "vit"
    """What learns from nothing: vit; or convnext, which learns more from few images."""
    freeze: bool = False
    """Only the classifier learns, over the features of a trained model."""
    ignore_mismatched_sizes: bool = True
    """A classifier of other classes than the data's begins anew; else it is refused."""
    dataloader_num_workers: int = 2
    """Threads that decode images ahead of the training."""
    output_dir: str = "out/image_classification"
    """Where checkpoints, metrics, the model card and the final model go."""


def small_vit(config: Any) -> dict[str, Any]:
    """The ViT that learns from nothing, but for what its images say."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64} if config.tiny else {
        "hidden_size": 96, "num_hidden_layers": 6, "intermediate_size": 192}  # fmt: skip
    return {"model_type": "vit", "num_attention_heads": 4, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1, **sizes}  # fmt: skip


def small_convnext(config: Any) -> dict[str, Any]:
    """The ConvNeXT that learns from nothing, but for what its images say."""
    sizes = {"hidden_sizes": [16, 32], "depths": [1, 1]} if config.tiny else {
        "hidden_sizes": [64, 128], "depths": [2, 2]}  # fmt: skip
    return {"model_type": "convnext", "num_stages": 2, "initializer_range": 0.1, "layer_scale_init_value": 1.0, **sizes}


def fitting_processor(images: list[Any]) -> ImageProcessor:
    """The image processor of a model that learns from nothing: small images keep their size, and grey ones are grey."""
    pictures = [picture(image, "an image", "RGB", None)[0] for image in images]
    side = int(np.median([min(each.size) for each in pictures]))
    side = side if side <= SMALL_IMAGES else LARGE
    grey = all((np.ptp(np.asarray(each), axis=-1) == 0).all() for each in pictures)
    channels = 1 if grey else 3
    return ImageProcessor(size=4 * max(1, round(side / 4)), image_mean=(0.5,) * channels, image_std=(0.5,) * channels)


def sizes_of_images(processor: ImageProcessor) -> dict[str, Any]:
    """What the config of a ViT says of its images: about fifty patches of each."""
    side = processor.size["height"]
    patch = 4 if side <= 32 else 8 if side % 8 == 0 else 4
    return {"image_size": side, "patch_size": patch, "encoder_stride": patch, "num_channels": processor.channels}


def sizes_of_patches(processor: ImageProcessor) -> dict[str, Any]:
    """What the config of a ConvNeXT says of its images."""
    found = sizes_of_images(processor)
    return {key: found[key] for key in ("image_size", "patch_size", "num_channels")}


SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "num_train_epochs": 20.0, "warmup_steps": 100, "weight_decay": 0.05,
                            "lr_scheduler_type": "cosine", "per_device_train_batch_size": 64, "augment": "shifts",
                            "per_device_eval_batch_size": 128, "logging_steps": 100}  # fmt: skip
VIT = Start("small ViT", small_vit, fitting_processor, sizes_of_images, SETTINGS)
CONVNEXT = Start("small ConvNeXT", small_convnext, fitting_processor, sizes_of_patches,
                 SETTINGS | {"learning_rate": 3e-3, "num_train_epochs": 12.0, "per_device_train_batch_size": 32})  # fmt: skip
STARTS = {"vit": VIT, "convnext": CONVNEXT}


def drawn(count: int, seed: int, shapes: tuple[str, ...] = SHAPES) -> Table:
    """Shapes of random colour, size and place on a noisy ground of another colour."""
    pillow()
    from PIL import Image, ImageDraw

    generator = np.random.default_rng(seed)
    images, labels = [], []
    for _ in range(count):
        label = shapes[int(generator.integers(len(shapes)))]
        ground, colour = (
            tuple(generator.integers(low, low + 100, 3).tolist()) for low in generator.permutation([20, 130])
        )
        image = Image.new("RGB", (SIDE, SIDE), ground)
        r = int(generator.integers(6, 10))
        x, y = generator.integers(r, SIDE - r, 2).tolist()
        paint(ImageDraw.Draw(image), label, (x, y, r), colour)
        images.append(noisy(image, generator))
        labels.append(label)
    return Table({"image": images, "label": labels}, "drawn shapes")


def paint(draw: Any, shape: str, place: tuple[int, int, int], colour: Any) -> None:
    """One of `SHAPES` around x and y, as far as a radius."""
    x, y, r = place
    box = (x - r, y - r, x + r, y + r)
    match shape:
        case "circle":
            draw.ellipse(box, fill=colour)
        case "ring":
            draw.ellipse(box, outline=colour, width=3)
        case "square":
            draw.rectangle(box, fill=colour)
        case "triangle":
            draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
        case "cross":
            draw.line([(x - r, y), (x + r, y)], fill=colour, width=4)
            draw.line([(x, y - r), (x, y + r)], fill=colour, width=4)


def noisy(image: Any, generator: np.random.Generator) -> np.ndarray:
    """A drawing as a camera would see it: uint8 [H, W, 3]."""
    noise = generator.normal(0, 12, (image.height, image.width, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def open_source(place: Any, config: Any) -> dict[str, Table]:
    """The splits of a source, in random order: folders come class by class.

    One that has a single split, whatever it is called, is trained on, and a part of it held out.
    """
    if place == BUNDLED / "shapes":
        return {split: drawn(count, seed) for seed, (split, count) in enumerate(DRAWN.items())}
    splits = load_dataset(place, **reading(config))
    if len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    return {split: table if split.startswith("test") else table.shuffle(0) for split, table in splits.items()}


def read(splits: dict[str, Table], config: Any, classes: list[str]) -> dict[str, Table]:
    """The splits with the columns `image` and `labels`: see `classes.read_classes`."""
    names, labels = {"image": ("img", "pixel_values")}, ("labels", "fine_label", "coarse_label")
    return read_classes(splits, names, labels, classes)


def prepare(splits: dict[str, Table], processor: ImageProcessor, config: Any, classes: list[str]) -> Prepared:
    """Images as the model takes them."""
    if config.augment not in AUGMENTS:
        raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, found {config.augment!r}")
    examples: dict[str, Any] = {
        split: ImageRows(table, processor, AUGMENTS[config.augment]) for split, table in splits.items()
    }
    if config.mixup or config.cutmix:
        examples["train"] = MixedRows(examples["train"], config.mixup, config.cutmix)

    metrics = partial(scores, classes=classes, output_dir=config.output_dir)
    overrides = {"id2label": dict(enumerate(classes))}
    return Prepared(examples, metrics, overrides, trainable="^classifier" if config.freeze else None)


def recipe(start: Start = VIT) -> Recipe:
    """How images are classified, by `start` where it begins from nothing. The classes are found out while the data is read."""
    classes: list[str] = []
    return Recipe(
        name="CIFAR-10",
        head="image-classification",
        model="google/vit-base-patch16-224-in21k",
        data="hf:uoft-cs/cifar10",
        bundled="shapes",
        bundled_is="drawn shapes",
        read=partial(read, classes=classes),
        prepare=partial(prepare, classes=classes),
        texts=lambda table: [table["image"][row] for row in range(min(16, len(table)))],
        told=("accuracy", "f1"),
        small=start,
        own=start,
        open=open_source,
        prepares=load_image_processor,
    )


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    if config.freeze and config.model is None:
        raise InputError("freeze is for a trained model: give --model")
    if config.architecture not in STARTS:
        raise InputError(f"architecture must be one of {', '.join(STARTS)}, found {config.architecture!r}")
    return finetune.run(config, recipe(STARTS[config.architecture]))


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.image_classification")
