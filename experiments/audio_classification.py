"""Audio classification, from random parameters or from a trained model: `pip install -e '.[audio,vision]'`.

    python -m experiments.audio_classification --model facebook/wav2vec2-base --data recordings
    python -m experiments.audio_classification --data recordings

`--data` is a folder with a folder of sounds for each class (or train and validation of such), a folder of sounds with a
metadata.csv (columns `file_name` and `label`), or `hf:NAME`. `--file-names` reads classes out of the files' names, and
`--held-out` keeps a speaker for validation. With `--model` that model (Wav2Vec2, HuBERT, Whisper, AST, or a classifier of images
that was trained on spectra) goes on learning, with a new classifier; with `--freeze` the classifier learns alone. With `--data`
alone a small ResNet learns from nothing, which sees a log-mel spectrum as an image. Sounds are changed at random each time they
are heard (`--augment`). `confusion.png` in the output folder shows what was taken for what, and the folder is one for the
pipeline `audio-classification`. Without a network it learns to tell drawn vowels apart.

Spoken digits of FSDD (8 clips a digit of each of 4 speakers), a speaker held out whom the model never heard:

    python -m experiments.audio_classification --data fsdd --file-names '(?P<label>\\d)_(?P<speaker>[a-z]+)_\\d+' \\
      --held-out speaker=lucas

Three speakers hardly teach a fourth; `experiments.benchmarks.voices` adds hundreds of synthetic ones.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import numpy as np

from experiments import finetune, sounds
from experiments.classes import read_classes, scores
from experiments.finetune import Prepared, Recipe, Start
from experiments.launch import launch
from jaxformers.checkpoints.load import describe
from jaxformers.data import Table
from jaxformers.data.audio_rows import AudioRows
from jaxformers.errors import InputError
from jaxformers.preprocess import load_feature_extractor
from jaxformers.preprocess.audio import count_samples
from jaxformers.preprocess.audio_augment import AudioAugment
from jaxformers.preprocess.feature_extractors import FeatureExtractor, WhisperFeatureExtractor

MODEL = "facebook/wav2vec2-base"
AUGMENTS = {
    "none": None,
    "light": AudioAugment(shift=0.1, gain=6, noise=20),
    "strong": AudioAugment(speed=(0.7, 1.3), shift=0.2, gain=6, noise=10, throat=0.2, time_masks=2, time_width=12,
                           band_masks=2, band_width=8),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sounds.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    augment: str = "light"
    """What is done to sounds in training: none; light (moved, louder or quieter, with noise); strong (faster or slower too, by
    other throats, and parts of a spectrum hidden)."""
    most_seconds: float = 20.0
    """Longer sounds are cut."""
    freeze: bool = False
    """Only the classifier learns, over the features of a trained model."""
    output_dir: str = "out/audio_classification"
    """Where checkpoints, metrics, the model card and the final model go."""


def small_resnet(config: Any) -> dict[str, Any]:
    """The classifier that learns from nothing."""
    width = 8 if config.tiny else 32
    return {"model_type": "resnet", "num_channels": 1, "embedding_size": width, "layer_type": "basic", "depths": (1, 1, 1),
            "hidden_sizes": (width, 2 * width, 4 * width)}  # fmt: skip


def fitting_extractor(found: list[Any], share: float = 0.9) -> WhisperFeatureExtractor:
    """The extractor of a model that learns from nothing: as many whole seconds as a share of these sounds fit into.

    Whisper's, whose spectra reach 80 dB below their loudest place and are silent where they are filled.
    """
    lengths = [count_samples(sound, sounds.RATE) / sounds.RATE for sound in found]
    return WhisperFeatureExtractor(chunk_length=min(30, math.ceil(np.quantile(lengths, share))))


SETTINGS: dict[str, Any] = {"learning_rate": 2e-3, "num_train_epochs": 60.0, "warmup_steps": 50, "weight_decay": 0.05,
                            "lr_scheduler_type": "cosine", "per_device_train_batch_size": 32, "augment": "strong",
                            "per_device_eval_batch_size": 64, "logging_steps": 50, "label_smoothing_factor": 0.1}  # fmt: skip
SMALL = Start("small ResNet over spectra", small_resnet, fitting_extractor, lambda extractor: {}, SETTINGS,
              "image-classification")  # fmt: skip


def head_for(model: str | None) -> str:
    """The head by which a trained model tells sounds apart; one of images sees a spectrum as an image."""
    seen = model is not None and "pixel_values" in describe(model)[0].inputs
    return "image-classification" if seen else "audio-classification"


def read(splits: dict[str, Table], config: Any, classes: list[str]) -> dict[str, Table]:
    """The splits with the columns `audio` and `labels`: see `classes.read_classes`."""
    return read_classes(splits, {"audio": ("file", "path", "speech")}, ("labels", "class", "intent_class"), classes)


def prepare(splits: dict[str, Table], extractor: FeatureExtractor, config: Any, classes: list[str]) -> Prepared:
    """Sounds as the model takes them."""
    if config.augment not in AUGMENTS:
        raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, found {config.augment!r}")
    trained = config.model or (MODEL if config.data is None else None)
    head = SMALL.head if trained is None else head_for(trained)
    seen = head == "image-classification"
    hide = None if trained is None or seen else sounds.hiding(describe(trained, head)[1])
    train: dict[str, Any] = {"augment": AUGMENTS[config.augment], "collate": hide}
    examples = {
        split: AudioRows(
            table, extractor, most=config.most_seconds, as_image=seen, **(train if split == "train" else {})
        )
        for split, table in splits.items()
    }
    metrics = partial(scores, classes=classes, output_dir=config.output_dir)
    overrides = {"id2label": dict(enumerate(classes))}
    return Prepared(examples, metrics, overrides, trainable="^(classifier|projector)" if config.freeze else None)


def recipe(model: str | None = None) -> Recipe:
    """How sounds are classified, by a trained model or by one that learns from nothing. Reading the data finds the classes."""
    classes: list[str] = []
    return Recipe(
        name="MInDS-14",
        head=head_for(model),
        model=MODEL,
        data="hf:PolyAI/minds14/en-US",
        bundled="vowels",
        bundled_is="drawn vowels",
        read=partial(read, classes=classes),
        prepare=partial(prepare, classes=classes),
        texts=lambda table: list(table["audio"]),
        told=("accuracy", "f1"),
        small=SMALL,
        own=SMALL,
        open=sounds.open_source,
        prepares=load_feature_extractor,
    )


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    if config.freeze and config.model is None:
        raise InputError("freeze is for a trained model: give --model")
    return finetune.run(config, recipe(config.model))


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.audio_classification")
