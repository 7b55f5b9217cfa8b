"""What is hidden of a batch of waves: SpecAugment over Wav2Vec2's and HuBERT's frames, and what Wav2Vec2 is pretrained by.

Collators, which draw on the host (`preprocess.spec_augment`) by one generator a row: what is hidden of a row does not depend on
its neighbours, nor on the number of processes.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxformers.data.loader import Batch
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess.spec_augment import negatives, span_mask


def frames_of(batch: Batch, config: Any) -> tuple[int, np.ndarray]:
    """How many frames a model makes of a batch of waves, and [B] of each wave itself."""
    return config.frames(batch["input_values"].shape[1]), config.frames(batch["attention_mask"].sum(-1))


@dataclasses.dataclass(frozen=True)
class HideFrames:
    """SpecAugment (Park et al. 2019) as a model's config asks for it: `mask_time_prob`, `mask_feature_length` and the like.

    Args:
      config: the model's.
    """

    config: Any

    def __call__(self, batch: Batch, generators: list[np.random.Generator]) -> Batch:
        """The batch with `mask_time_indices` [B, T] and `mask_feature_indices` [B, D], int32, as far as they are asked for."""
        c = self.config
        T, lengths_B = frames_of(batch, c)
        asked = {"mask_time_indices": (T, c.mask_time_prob, c.mask_time_length, c.mask_time_min_masks, lengths_B),
                 "mask_feature_indices": (c.hidden_size, c.mask_feature_prob, c.mask_feature_length,
                                          c.mask_feature_min_masks, np.full(len(lengths_B), c.hidden_size))}  # fmt: skip
        masks = {
            name: np.concatenate([
                span_mask((1, size), share, min(span, size), generator, lengths=lengths[row : row + 1], least=least)
                for row, generator in enumerate(generators)
            ]).astype(np.int32)
            for name, (size, share, span, least, lengths) in asked.items() if share > 0
        }  # fmt: skip
        return {**batch, **masks}


@dataclasses.dataclass(frozen=True)
class HideAndAsk:
    """Wav2Vec2's pretraining (Baevski et al. 2020): spans of frames are hidden, and each is to be told from others of its sound.

    Args:
      config: the model's: `mask_time_prob`, `mask_time_length`, `num_negatives`.
      warmest, coolest, decay: the quantizer's temperature at first, at last, and what it is multiplied with at each step.
      step: of the training.
    """

    config: Any
    warmest: float = 2.0
    coolest: float = 0.5
    decay: float = 0.999995
    step: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.coolest <= self.warmest or not 0 < self.decay <= 1:
            raise InputError(
                f"the temperature falls from {self.warmest} to {self.coolest} by {self.decay} a step: the first must not be "
                "below the last, and both and the factor above 0, which is at most 1"
            )

    def at(self, step: int) -> "HideAndAsk":
        """What is done at a step of the training."""
        return dataclasses.replace(self, step=step)

    def __call__(self, batch: Batch, generators: list[np.random.Generator]) -> Batch:
        """The batch with `mask_time_indices` [B, T], `sampled_negative_indices` [B, T, n] and `gumbel_temperature` [B].

        Raises:
          DataError: a sound that is too short for two spans.
        """
        c = self.config
        T, lengths_B = frames_of(batch, c)
        masks = []
        for length, index, generator in zip(lengths_B, batch["example_index"], generators, strict=True):
            mask = span_mask(
                (1, T), c.mask_time_prob, c.mask_time_length, generator, lengths=np.array([length]), least=1
            )
            if mask.sum() < 2:
                raise DataError(
                    f"the sound of row {index} has {length} frames, too few for a hidden span of {c.mask_time_length}"
                )
            masks.append(mask)
        asked = [negatives(mask, c.num_negatives, generator) for mask, generator in zip(masks, generators, strict=True)]
        temperature = max(self.warmest * self.decay**self.step, self.coolest)
        return {
            **batch,
            "mask_time_indices": np.concatenate(masks).astype(np.int32),
            "sampled_negative_indices": np.concatenate(asked),
            "gumbel_temperature": np.full(len(masks), temperature, np.float32),
        }
