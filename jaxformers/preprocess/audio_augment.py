"""What is done to sounds in training, at random: speed, place, loudness, colour, noise, throats, and SpecAugment's masks.

A recipe is an `AudioAugment`; a generator in the same state gives the same numbers. The masks by which Wav2Vec2 hides its own
frames are in `spec_augment`.
"""

import dataclasses

import numpy as np

from jaxformers.errors import InputError
from jaxformers.preprocess.audio import resample

Generator = np.random.Generator
LOWEST = 62.5  # Hz, where the first octave begins that has a loudness of its own
STEPS = 50  # speeds are whole parts of this, so that few filters are made


@dataclasses.dataclass(frozen=True)
class AudioAugment:
    """A recipe of changes. As it is, none.

    Args:
      speed: how fast a sound is played, from and to; pitch goes along (Ko et al. 2015).
      shift: seconds of silence before it, at most.
      gain: by how many dB it is made louder or quieter, at most.
      colour: by how many dB an octave is made louder or quieter, at most: as other microphones and rooms would have it.
      noise: the least distance, in dB, of white noise under the sound; at random up to 40 dB more. None adds none.
      throat: how much longer or shorter a speaker's throat becomes at most, as a share: all bands of a spectrum move that much
        down or up (Jaitly & Hinton 2013).
      time_masks, time_width: how many stretches of a spectrum are hidden, and frames of each at most (Park et al. 2019).
      band_masks, band_width: likewise of its bands.

    >>> AudioAugment(speed=(0.5, 0.5)).wave(np.ones(800, np.float32), 8000, np.random.default_rng(0)).shape
    (1600,)
    """

    speed: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    gain: float = 0.0
    colour: float = 0.0
    noise: float | None = None
    throat: float = 0.0
    time_masks: int = 0
    time_width: int = 0
    band_masks: int = 0
    band_width: int = 0

    def __post_init__(self) -> None:
        if not (len(self.speed) == 2 and 1 / STEPS <= self.speed[0] <= self.speed[1]):
            raise InputError(f"speed must be two numbers above 0, the smaller first, found {self.speed!r}")
        for name in ("shift", "gain", "colour", "throat", "time_masks", "time_width", "band_masks", "band_width"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be below 0, found {getattr(self, name)!r}")
        if self.throat >= 1:
            raise InputError(f"throat must be below 1, found {self.throat!r}")

    @property
    def longest(self) -> float:
        """How many times as long a sound becomes at most, but for the silence before it."""
        return STEPS / round(STEPS * self.speed[0])

    def wave(self, wave: np.ndarray, rate: int, generator: Generator) -> np.ndarray:
        """A changed sound.

        Args:
          wave: [samples] of float32.
          rate: samples a second.
          generator: where the changes are drawn from.
        """
        if self.speed != (1.0, 1.0):
            low, high = (round(STEPS * speed) for speed in self.speed)
            wave = resample(wave, int(generator.integers(low, high + 1)), STEPS)
        if self.colour:
            octaves = np.log2(np.maximum(np.fft.rfftfreq(len(wave), 1 / rate), LOWEST) / LOWEST)
            decibels = generator.uniform(-self.colour, self.colour, int(octaves[-1]) + 2)
            loudness = 10 ** (np.interp(octaves, np.arange(len(decibels)), decibels) / 20)
            wave = np.fft.irfft(np.fft.rfft(wave) * loudness, len(wave)).astype(np.float32)
        if self.gain:
            wave = wave * np.float32(10 ** (generator.uniform(-self.gain, self.gain) / 20))
        if self.shift:
            wave = np.pad(wave, (int(generator.uniform(0, self.shift) * rate), 0))
        if self.noise is not None:
            under = 10 ** (-(self.noise + generator.uniform(0, 40)) / 20)
            power = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
            wave = wave + np.float32(under * power) * generator.standard_normal(len(wave), np.float32)
        return wave

    def spectrum(self, spectrum: np.ndarray, generator: Generator, time_axis: int = 0) -> np.ndarray:
        """A spectrum of another throat, some of whose frames and bands are its mean.

        Args:
          spectrum: [frames, bands], or with `time_axis` 1 [bands, frames].
          generator: where the masks are drawn from.
          time_axis: the axis of frames.
        """
        if self.throat:
            spectrum = _moved(spectrum, 1 - time_axis, 1 + generator.uniform(-self.throat, self.throat))
        hidden = np.zeros(spectrum.shape, bool)
        for axis, count, width in ((time_axis, self.time_masks, self.time_width),
                                   (1 - time_axis, self.band_masks, self.band_width)):  # fmt: skip
            size = spectrum.shape[axis]
            for _ in range(count):
                span = int(generator.integers(0, min(width, size) + 1))
                first = int(generator.integers(0, size - span + 1))
                hidden[(slice(None),) * axis + (slice(first, first + span),)] = True
        return np.where(hidden, spectrum.mean(), spectrum)


def _moved(spectrum: np.ndarray, axis: int, factor: float) -> np.ndarray:
    """Each band takes what stood at its number times `factor`, between two bands a part of both; the last one is repeated."""
    last = spectrum.shape[axis] - 1
    places = np.minimum(np.arange(last + 1) * factor, last)
    low = places.astype(int)
    part = np.expand_dims((places - low).astype(spectrum.dtype), 1 - axis)
    below, above = np.take(spectrum, low, axis), np.take(spectrum, np.minimum(low + 1, last), axis)
    return np.asarray(below + part * (above - below))
