"""Audio classification, from random parameters or from a trained model: `pip install -e '.[audio,vision]'`.

    python -m experiments.audio_classification --model facebook/wav2vec2-base --data recordings
    python -m experiments.audio_classification --data recordings

`--data` is a folder with a folder of sounds for each class (or train and validation of such), a folder of sounds with a
metadata.csv (columns `file_name` and `label`), or `hf:NAME`. `--file-names` reads classes out of the files' names, and
`--held-out` keeps a speaker for validation. With `--model` that model (Wav2Vec2, HuBERT, Whisper, AST) goes on learning, with a
new classifier; with `--freeze` the classifier learns alone. With `--data` alone a small encoder of Whisper's kind learns from
nothing: convolutions over a log-mel spectrum, and a transformer over these. Sounds are changed at random each time they are heard
(`--augment`). `confusion.png` in the output folder shows what was taken for what. Without a network it learns to tell drawn
vowels apart.

Spoken digits of FSDD (8 clips a digit of each of 4 speakers), a speaker held out whom the model never heard:

    python -m experiments.audio_classification --data fsdd --file-names '(?P<label>\\d)_(?P<speaker>[a-z]+)_\\d+' \\
      --held-out speaker=lucas
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
    "strong": AudioAugment(speed=(0.7, 1.3), shift=0.2, gain=6, noise=10, time_masks=1, time_width=15, band_masks=2,
                           band_width=12),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sounds.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    augment: str = "light"
    """What is done to sounds in training: none; light (moved, louder or quieter, with noise); strong (faster or slower too, and
    parts of a spectrum hidden)."""
    most_seconds: float = 20.0
    """Longer sounds are cut."""
    freeze: bool = False
    """Only the classifier learns, over the features of a trained model."""
    output_dir: str = "out/audio_classification"
    """Where checkpoints, metrics, the model card and the final model go."""


def small_encoder(config: Any) -> dict[str, Any]:
    """The encoder that learns from nothing, but for what its sounds say."""
    width, layers = (32, 1) if config.tiny else (64, 2)
    return {"model_type": "whisper", "d_model": width, "encoder_layers": layers, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 2 * width, "classifier_proj_size": width,
            "dropout": 0.0 if config.tiny else 0.1, "init_std": 0.1}  # fmt: skip


def fitting_extractor(found: list[Any], share: float = 0.9) -> WhisperFeatureExtractor:
    """The extractor of a model that learns from nothing: as many whole seconds as a share of these sounds fit into."""
    lengths = [count_samples(sound, sounds.RATE) / sounds.RATE for sound in found]
    return WhisperFeatureExtractor(chunk_length=min(30, math.ceil(np.quantile(lengths, share))))


def sizes_of_sounds(extractor: WhisperFeatureExtractor) -> dict[str, Any]:
    """What the config of a Whisper says of its sounds."""
    frames = extractor.n_samples // extractor.hop_length
    return {"num_mel_bins": extractor.feature_size, "max_source_positions": frames // 2}


SETTINGS: dict[str, Any] = {"learning_rate": 2e-3, "num_train_epochs": 60.0, "warmup_steps": 50, "weight_decay": 0.05,
                            "lr_scheduler_type": "cosine", "per_device_train_batch_size": 32, "augment": "strong",
                            "per_device_eval_batch_size": 64, "logging_steps": 50, "label_smoothing_factor": 0.1}  # fmt: skip
SMALL = Start("small encoder of Whisper's kind", small_encoder, fitting_extractor, sizes_of_sounds, SETTINGS)


def read(splits: dict[str, Table], config: Any, classes: list[str]) -> dict[str, Table]:
    """The splits with the columns `audio` and `labels`: see `classes.read_classes`."""
    return read_classes(splits, {"audio": ("file", "path", "speech")}, ("labels", "class", "intent_class"), classes)


def prepare(splits: dict[str, Table], extractor: FeatureExtractor, config: Any, classes: list[str]) -> Prepared:
    """Sounds as the model takes them."""
    if config.augment not in AUGMENTS:
        raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, found {config.augment!r}")
    trained = config.model or (MODEL if config.data is None else None)
    hide = None if trained is None else sounds.hiding(describe(trained, "audio-classification")[1])
    train: dict[str, Any] = {"augment": AUGMENTS[config.augment], "collate": hide}
    examples = {
        split: AudioRows(table, extractor, most=config.most_seconds, **(train if split == "train" else {}))
        for split, table in splits.items()
    }
    metrics = partial(scores, classes=classes, output_dir=config.output_dir)
    overrides = {"id2label": dict(enumerate(classes))}
    return Prepared(examples, metrics, overrides, trainable="^(classifier|projector)" if config.freeze else None)


def recipe() -> Recipe:
    """How sounds are classified. The names of the classes are found out while the data is read."""
    classes: list[str] = []
    return Recipe(
        name="MInDS-14",
        head="audio-classification",
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
    return finetune.run(config, recipe())


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.audio_classification")
