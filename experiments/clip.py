"""CLIP: images and texts that belong together meet in one space (Radford et al. 2021, arXiv:2103.00020): `[vision]`.

    python -m experiments.clip --data pairs
    python -m experiments.clip --model openai/clip-vit-base-patch32 --data captions.jsonl

`--data` is a table (jsonl, csv, parquet, `hf:NAME`) with a column of images, paths from where the file lies, and one of
captions; a folder with such a file, captions or metadata, and the images beside it; or images of classes, of which `--template`
makes captions. Each image of a batch is to fit its own text better than all others of the whole batch, over all devices, and
each text its own image; of several micro-batches each is compared in itself. `eval_zero_shot_accuracy` is how often a held-out
image is nearest to its own of all different captions held out. With `--data` alone a small CLIP and its tokenizer learn from
nothing. What is saved works in the pipeline zero-shot-image-classification. Without a network it learns from drawn shapes, such
as "a red circle on green".
"""

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments import finetune
from experiments.finetune import BUNDLED, Prepared, Recipe, Start, reading, rename
from experiments.image_classification import AUGMENTS, SETTINGS, SHAPES, SIDE, VIT, fitting_processor, noisy, paint
from experiments.launch import launch
from jaxformers.data import Table, load_dataset
from jaxformers.data.image_rows import ImageRows
from jaxformers.data.sources import SPLIT_NAMES
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess import load_processor, train_wordpiece
from jaxformers.preprocess.image_reading import pillow
from jaxformers.preprocess.processor import Processor
from jaxformers.train import EvalPrediction
from jaxformers.train.metrics import accuracy

DRAWN = {"train": 2400, "validation": 300}
COLOURS = {"red": (210, 40, 40), "green": (40, 150, 60), "blue": (50, 70, 200), "yellow": (225, 205, 50),
           "white": (240, 240, 240), "black": (20, 20, 20)}  # fmt: skip
LISTS = re.compile(r"(captions|metadata)\.(jsonl|json|csv|tsv|parquet)")
NAMES = {
    "image": ("file_name", "img", "path", "filename"),
    "caption": ("text", "sentence", "captions", "caption_0", "title"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    max_length: int = 77
    """Longer captions are cut to this many tokens."""
    template: str = "a photo of a {}"
    """What is said of an image that has a class and no caption."""
    augment: str = "shifts"
    """What is done to images in training: none, shifts, crops or strong, as in experiments.image_classification."""
    dataloader_num_workers: int = 2
    """Threads that decode images ahead of the training."""
    output_dir: str = "out/clip"
    """Where checkpoints, metrics, the model card and the final model go."""


def learn(given: list[Any]) -> Processor:
    """The tokenizer and the image processor of a model that learns from nothing, from captions and some of the images."""
    captions, images = given
    tokenizer = train_wordpiece(captions, vocab_size=600)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # CLIP knows no kinds of tokens
    return Processor(tokenizer, fitting_processor(images))


def small_clip(processor: Processor, config: Any) -> dict[str, Any]:
    """The CLIP that learns from nothing: two towers as the small ViT is one."""
    assert processor.image_processor is not None
    tower = {
        key: value for key, value in VIT.sizes(config).items() if not key.endswith("_prob") and key != "model_type"
    }
    text = tower | {"num_hidden_layers": 2, "vocab_size": len(processor.tokenizer), "max_position_embeddings": config.max_length,
                    "eos_token_id": processor.tokenizer.sep_token_id}  # fmt: skip
    images = {k: v for k, v in VIT.found(processor.image_processor).items() if k != "encoder_stride"}
    return {
        "model_type": "clip",
        "projection_dim": tower["hidden_size"],
        "text_config": text,
        "vision_config": tower | images,
    }


def drawn(count: int, seed: int) -> Table:
    """Shapes with what is to be seen: the colour, the shape, and the colour of the ground."""
    pillow()
    from PIL import Image, ImageDraw

    generator = np.random.default_rng(seed)
    images, captions = [], []
    for _ in range(count):
        shape = SHAPES[int(generator.integers(len(SHAPES)))]
        colour, ground = (list(COLOURS)[number] for number in generator.permutation(len(COLOURS))[:2])
        image = Image.new("RGB", (SIDE, SIDE), COLOURS[ground])
        r = int(generator.integers(6, 10))
        x, y = generator.integers(r, SIDE - r, 2).tolist()
        paint(ImageDraw.Draw(image), shape, (x, y, r), COLOURS[colour])
        images.append(noisy(image, generator))
        captions.append(f"a {colour} {shape} on {ground}")
    return Table({"image": images, "caption": captions}, "drawn shapes")


def open_pairs(place: Any, config: Any) -> dict[str, Table]:
    """The splits of a source with `image` and `caption`, in random order. Raises `DataError` where there is none of either."""
    if place == BUNDLED / "shapes":
        return {split: drawn(count, seed) for seed, (split, count) in enumerate(DRAWN.items())}
    folder = Path(place) if isinstance(place, str) and Path(place).is_dir() else None
    parts = {} if folder is None else {path: SPLIT_NAMES.get(path.name) for path in sorted(folder.iterdir())}
    lists = {split: found for path, split in parts.items() if split and path.is_dir() and (found := list_in(path))}
    if folder is not None and not lists and (alone := list_in(folder)):
        lists = {"train": alone}
    if lists:
        splits = {
            split: beside(load_dataset(path, **reading(config), split="train"), path) for split, path in lists.items()
        }
    else:
        splits = load_dataset(place, **reading(config))
        if isinstance(place, str) and Path(place).is_file():
            splits = {split: beside(table, Path(place)) for split, table in splits.items()}
    if len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    return {split: table.shuffle(0) for split, table in splits.items()}


def list_in(folder: Path) -> Path | None:
    """The file of captions in a folder."""
    return next((path for path in sorted(folder.iterdir()) if LISTS.fullmatch(path.name)), None)


def beside(table: Table, file: Path) -> Table:
    """The rows of a file with the paths of their images seen from where it lies."""
    found = rename(table, NAMES)
    images = [
        str(file.parent / path) if isinstance(path, str) and "://" not in path else path for path in found["image"]
    ]
    return Table({"image": images, "caption": list(found["caption"])}, table.name)


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The splits with the columns `image` and `caption`, which is made of the class where there is none; the first of several."""
    if "{}" not in config.template:
        raise InputError(f"template must have a place {{}} for a class, found {config.template!r}")
    found = {}
    for split, table in splits.items():
        if not {"caption", *NAMES["caption"]} & {*table.column_names} and "label" in table.column_names:
            captions = [config.template.format(label) for label in table["label"]]
            found[split] = Table(
                {"image": rename(table, {"image": NAMES["image"]})["image"], "caption": captions}, table.name
            )
            continue
        table = rename(table, NAMES)
        captions = [text[0] if isinstance(text, list | tuple) and text else text for text in table["caption"]]
        for row, text in enumerate(captions):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"the caption of row {row} of {table.name} must be a text, found {text!r:.60}")
        found[split] = Table({"image": table["image"], "caption": captions}, table.name)
    return found


def prepare(splits: dict[str, Table], processor: Processor, config: Any) -> Prepared:
    """Images and captions as the model takes them; all captions of one length, so that no batch is of long ones alone."""
    if config.augment not in AUGMENTS:
        raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, found {config.augment!r}")
    assert processor.image_processor is not None
    options = {"truncation": True, "max_length": config.max_length}
    encoded = {split: processor.tokenizer(table["caption"], **options)["input_ids"] for split, table in splits.items()}
    longest = max(len(ids) for texts in encoded.values() for ids in texts)
    examples = {}
    for split, table in splits.items():
        ids_NL = np.full((len(table), longest), processor.tokenizer.pad_token_id or 0, np.int32)
        mask_NL = np.zeros_like(ids_NL)
        for row, ids in enumerate(encoded[split]):
            ids_NL[row, : len(ids)], mask_NL[row, : len(ids)] = ids, 1
        number = {caption: place for place, caption in enumerate(dict.fromkeys(table["caption"]))}
        labels = np.array([number[caption] for caption in table["caption"]], np.int32)
        columns = {"image": table["image"], "input_ids": ids_NL, "attention_mask": mask_NL, "labels": labels}
        examples[split] = ImageRows(Table(columns, table.name), processor.image_processor, AUGMENTS[config.augment])
    return Prepared(examples, zero_shot)


def zero_shot(prediction: EvalPrediction) -> dict[str, float]:
    """How often the nearest of all different captions is an image's own: embeddings [N, E] of both, the captions' numbers [N]."""
    texts_NE, images_NE = prediction.predictions
    numbers, first = np.unique(prediction.label_ids, return_index=True)
    said = numbers[np.argmax(images_NE @ texts_NE[first].T, -1)]
    return {"zero_shot_accuracy": accuracy(said, prediction.label_ids)}


def recipe(config: Any) -> Recipe:
    """How images and texts are brought together."""
    small = Start(
        "small CLIP", lambda config: {}, learn, partial(small_clip, config=config), SETTINGS | {"augment": "shifts"}
    )
    return Recipe(
        name="CLIP's pairs",
        head="zero-shot-image-classification",
        model="openai/clip-vit-base-patch32",
        data="hf:jxie/flickr8k",
        bundled="shapes",
        bundled_is="drawn shapes",
        read=read,
        prepare=prepare,
        texts=lambda table: [table["caption"], [table["image"][row] for row in range(min(16, len(table)))]],
        told=("zero_shot_accuracy", "loss"),
        small=small,
        own=small,
        open=open_pairs,
        prepares=load_processor,
    )


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, recipe(config))


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.clip")
