"""Sounds as a model's examples: decoded and prepared when a row is read, in training changed at random.

Here: `AudioRows`. A loader draws its rows with a generator of the seed, the epoch and the row's number, so a row is the same in
the same epoch on any machine, in any process and after a restart.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import Any

import numpy as np

from jaxformers.data.loader import Collator
from jaxformers.data.table import Table
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess.audio import count_samples
from jaxformers.preprocess.audio_augment import AudioAugment
from jaxformers.preprocess.feature_extractors import FeatureExtractor, Wav2Vec2FeatureExtractor, must_be_seen

Example = dict[str, Any]
GRAIN = 20  # lengths of waves are told in twentieths of a second: a loader weighs each of them


@dataclasses.dataclass(frozen=True, eq=False)
class AudioRows:
    """The rows of a table with a column of sounds as waves or spectra, beside its other columns.

    Waves (`input_values` [samples]) are as long as each sound, which a loader pads; spectra have one size, and with
    `as_image` are what an image model sees: `pixel_values` [frames, bands, 1] (or [bands, frames, 1], as the extractor has them).

    Args:
      table: paths, bytes, arrays or dicts (`preprocess.audio.read_audio`) in the column `audio`; all else must be numbers.
      extractor: what makes a model's input of a sound.
      augment: what is done to sounds in training; None reads every sound the same way each time.
      most: seconds; longer sounds are cut.
      audio: the name of that column.
      as_image: whether a spectrum is an image of one channel.
      collate: what a loader does to each padded batch of them (`audio_masks`), beside its own collator.
    """

    table: Table
    extractor: FeatureExtractor
    augment: AudioAugment | None = None
    most: float = math.inf
    audio: str = "audio"
    as_image: bool = False
    collate: Collator | None = None

    def __post_init__(self) -> None:
        if self.audio not in self.table.column_names:
            raise DataError(
                f"{self.table.name} has no column {self.audio!r}, only {', '.join(self.table.column_names)}"
            )
        if self.as_image:
            must_be_seen(self.extractor)

    @property
    def name(self) -> str:
        """What error messages call it."""
        return self.table.name

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Example:
        return self._example(index, None)

    def draw(self, index: int, generator: np.random.Generator) -> Example:
        """The row as training sees it this time."""
        return self._example(index, generator)

    def outline(self, index: int) -> Example:
        """The row with a range in place of its wave, as long as that is at most: its file's header says it, none is decoded."""
        row = self.table[index]
        del row[self.audio]
        return {"input_values": range(self._samples[index]), **row} if self._waves else row

    @cached_property
    def _samples(self) -> np.ndarray:
        rate, counts = self.extractor.sampling_rate, np.zeros(len(self), np.int64)
        longest = self.augment.longest if self.augment is not None else 1.0
        for index, sound in enumerate(self.table[self.audio]):
            try:
                samples = min(count_samples(sound, rate), self._cut)
            except InputError as error:
                raise DataError(f"row {index} of {self.name}: {error}") from None
            counts[index] = math.ceil(samples * longest) + self._silence
        return -(-counts * GRAIN // rate) * rate // GRAIN

    @property
    def _waves(self) -> bool:
        return isinstance(self.extractor, Wav2Vec2FeatureExtractor)

    @property
    def _cut(self) -> float:
        return self.most * self.extractor.sampling_rate

    @property
    def _silence(self) -> int:
        return 0 if self.augment is None else math.ceil(self.augment.shift * self.extractor.sampling_rate)

    def _example(self, index: int, generator: np.random.Generator | None) -> Example:
        row = self.table[index]
        sound = row.pop(self.audio)
        try:
            wave = self.extractor.waves(sound)[0]
        except InputError as error:
            raise DataError(f"row {index} of {self.name}: {error}") from None
        if len(wave) > self._cut:
            wave = wave[: int(self._cut)]
        if self.augment is not None and generator is not None:
            wave = self.augment.wave(wave, self.extractor.sampling_rate, generator)
        (key, (features, *_)), *_ = self.extractor.batch([wave]).items()
        if self._waves:
            return {key: features[: self._samples[index]], **row}  # a header may say too little
        if self.augment is not None and generator is not None:
            features = self.augment.spectrum(features, generator, 1 if key == "input_features" else 0)
        return {"pixel_values": features[..., None], **row} if self.as_image else {key: features, **row}
