"""Pretraining Wav2Vec2 on sounds alone (Baevski et al. 2020, arXiv:2006.11477): `pip install -e '.[audio]'`.

    python -m experiments.wav2vec2_pretraining --data recordings

Spans of frames are hidden from the transformer, which learns to tell what each of them was, a code of its own choosing, from what
other hidden frames of the same sound were; the loss is that of this choice, and of how few codes are used. The temperature of the
choice of codes falls from step to step. It needs no texts and no classes: `--data` is any source of `experiments.ctc` or
`experiments.audio_classification`, which both go on from the folder that is saved (`--model out/wav2vec2_pretraining`). A small
Wav2Vec2 learns from nothing; `--model` names one that goes on. Without a network it learns from drawn words of vowels.
"""

import dataclasses
from typing import Any

from experiments import ctc, finetune, sounds
from experiments.finetune import Prepared, Recipe, Start, rename
from experiments.launch import launch
from jaxformers.checkpoints.load import describe
from jaxformers.data import Table
from jaxformers.data.audio_masks import HideAndAsk
from jaxformers.data.audio_rows import AudioRows
from jaxformers.errors import DataError
from jaxformers.preprocess import load_feature_extractor
from jaxformers.preprocess.audio import count_samples
from jaxformers.preprocess.feature_extractors import FeatureExtractor, Wav2Vec2FeatureExtractor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sounds.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    most_seconds: float = 20.0
    """Longer sounds are cut."""
    max_gumbel_temperature: float = 2.0
    """Of the choice of codes, at the first step."""
    min_gumbel_temperature: float = 0.5
    """The lowest it falls to."""
    gumbel_temperature_decay: float = 0.999995
    """What it is multiplied with at each step."""
    output_dir: str = "out/wav2vec2_pretraining"
    """Where checkpoints, metrics, the model card and the final model go."""


def small_wav2vec2(config: Any) -> dict[str, Any]:
    """The Wav2Vec2 that learns from nothing: that of `experiments.ctc`, with fewer codes and distractors than a large one."""
    return {**ctc.small_wav2vec2(config), "mask_time_prob": 0.5, "num_negatives": 20, "num_codevectors_per_group": 32,
            "codevector_dim": 64, "proj_codevector_dim": 64}  # fmt: skip


SETTINGS: dict[str, Any] = {**ctc.SETTINGS, "gumbel_temperature_decay": 0.999}
SMALL = Start(
    "small Wav2Vec2",
    small_wav2vec2,
    lambda found: Wav2Vec2FeatureExtractor(return_attention_mask=True),
    lambda extractor: {},
    SETTINGS,
)


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The splits with the column `audio` alone."""
    return {split: rename(table, {"audio": ("file", "path", "speech")}) for split, table in splits.items()}


def prepare(splits: dict[str, Table], extractor: FeatureExtractor, config: Any) -> Prepared:
    """Waves, of which spans are hidden; those that are too short for one are left out."""
    trained = config.model or (ctc.MODEL if config.data is None else None)
    numbers = describe(trained or small_wav2vec2(config), "pretraining")[1]
    examples = {}
    for split, table in splits.items():
        frames = [numbers.frames(count_samples(sound, extractor.sampling_rate)) for sound in table["audio"]]
        kept = [row for row, count in enumerate(frames) if count >= max(2, numbers.mask_time_length)]
        if not kept:
            raise DataError(f"no sound of {table.name} is as long as a hidden span, {numbers.mask_time_length} frames")
        examples[split] = AudioRows(table.select(kept), extractor, most=config.most_seconds)
    hide = HideAndAsk(
        numbers, config.max_gumbel_temperature, config.min_gumbel_temperature, config.gumbel_temperature_decay
    )
    return Prepared(examples, collator=hide)


RECIPE = Recipe(
    name="LibriSpeech",
    head="pretraining",
    model=ctc.MODEL,
    data=ctc.DATA,
    bundled="words",
    bundled_is="drawn words of vowels",
    read=read,
    prepare=prepare,
    texts=lambda table: [],
    told=("loss",),
    small=SMALL,
    own=SMALL,
    open=sounds.open_source,
    prepares=load_feature_extractor,
)


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.wav2vec2_pretraining")
