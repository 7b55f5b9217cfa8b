"""Spectra of a wave on the mel scale, as numpy computes them: Whisper's, Kaldi's (which AST reads), SpeechT5's.

Frames go through one FFT, in float64: quiet bands lie eight orders of magnitude under loud ones.
"""

from functools import cache

import numpy as np

KALDI_FLOOR = 1.1920928955078125e-07  # of float32, below which Kaldi hears nothing


def slaney_mel(hertz: np.ndarray) -> np.ndarray:
    """Hertz to Slaney's mel (Auditory Toolbox 1998): linear up to 1000 Hz, logarithmic beyond."""
    return np.where(hertz < 1000, 3 * hertz / 200, 15 + np.log(np.maximum(hertz, 1000) / 1000) * 27 / np.log(6.4))


def slaney_hertz(mel: np.ndarray) -> np.ndarray:
    """The inverse of `slaney_mel`."""
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


def kaldi_mel(hertz: np.ndarray) -> np.ndarray:
    """Hertz to Kaldi's mel."""
    return 1127 * np.log1p(hertz / 700)


def _corners(ends: np.ndarray, bands: int) -> np.ndarray:
    return np.linspace(ends[0], ends[1], bands + 2)


def _triangles(places: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """[places, corners - 2]: how much of each place is in the triangle over three neighbouring corners."""
    width = np.diff(corners)
    away = corners[None, :] - places[:, None]
    return np.maximum(0, np.minimum(-away[:, :-2] / width[:-1], away[:, 2:] / width[1:]))


@cache
def slaney_filters(bands: int, size: int, rate: int, low: float, high: float) -> np.ndarray:
    """Triangles of equal area, equally far apart on Slaney's mel scale.

    Args:
      bands: how many.
      size: of the FFT.
      rate: samples a second.
      low, high: the range of frequencies, in Hz.

    Returns:
      [size // 2 + 1, bands] of float64.
    """
    corners = slaney_hertz(_corners(slaney_mel(np.array([low, high])), bands))
    filters = _triangles(np.linspace(0, rate // 2, size // 2 + 1), corners)
    return _kept(filters * (2 / (corners[2:] - corners[:-2])))


@cache
def kaldi_filters(bands: int, size: int, rate: int, low: float, high: float) -> np.ndarray:
    """Triangles on Kaldi's mel scale, of equal height; arguments as of `slaney_filters`."""
    corners = _corners(kaldi_mel(np.array([low, high])), bands)
    return _kept(_triangles(kaldi_mel(np.arange(size // 2 + 1) * rate / size), corners))


def _kept(filters: np.ndarray) -> np.ndarray:
    filters.flags.writeable = False  # it is shared by all who ask
    return filters


def hann(size: int, periodic: bool = True) -> np.ndarray:
    """Hann's window [size]."""
    return np.hanning(size + 1)[:-1] if periodic else np.hanning(size)


def frames(wave: np.ndarray, size: int, hop: int) -> np.ndarray:
    """[n, size]: every `hop` samples, the next `size`; a view."""
    if len(wave) < size:
        return np.empty((0, size), wave.dtype)
    return np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]


def _magnitudes(framed: np.ndarray, size: int) -> np.ndarray:
    from scipy.fft import rfft

    return np.abs(rfft(framed, size, axis=-1))


def _centred(wave: np.ndarray, size: int) -> np.ndarray:
    """The wave mirrored at both ends, so that the first frame stands around the first sample."""
    return np.pad(wave.astype(np.float64), size // 2, mode="reflect")


def whisper_log_mel(wave: np.ndarray, filters: np.ndarray, size: int = 400, hop: int = 160) -> np.ndarray:
    """Whisper's features (Radford et al. 2022): log10 of mel power, at most 8 below the loudest, brought near [-1, 1].

    Args:
      wave: [samples], padded to the model's 30 seconds.
      filters: [size // 2 + 1, bands].
      size: of a frame, in samples.
      hop: samples from one frame to the next.

    Returns:
      [bands, samples // hop] of float32.
    """
    power = _magnitudes(frames(_centred(wave, size), size, hop)[:-1] * hann(size), size) ** 2
    mel = np.log10(np.maximum(power @ filters, 1e-10))
    return ((np.maximum(mel, mel.max() - 8) + 4) / 4).T.astype(np.float32)


def speecht5_log_mel(
    wave: np.ndarray, filters: np.ndarray, size: int, hop: int, length: int, floor: float
) -> np.ndarray:
    """SpeechT5's: log10 of mel amplitude.

    Args:
      wave: [samples].
      filters: [size // 2 + 1, bands].
      size: of the FFT.
      hop: samples from one frame to the next.
      length: of a frame, in samples.
      floor: the least amplitude.

    Returns:
      [frames, bands] of float32.
    """
    amplitude = _magnitudes(frames(_centred(wave, length), length, hop) * hann(length), size)
    return np.log10(np.maximum(amplitude @ filters, floor)).astype(np.float32)


def kaldi_log_mel(
    wave: np.ndarray, filters: np.ndarray, length: int = 400, hop: int = 160, size: int = 512
) -> np.ndarray:
    """Kaldi's fbank, as the Audio Spectrogram Transformer reads it: frames without their mean, pre-emphasised by 0.97.

    Args:
      wave: [samples].
      filters: [size // 2 + 1, bands].
      length: of a frame, in samples.
      hop: samples from one frame to the next.
      size: of the FFT.

    Returns:
      [frames, bands] of float32; there are none of a wave shorter than a frame.
    """
    framed = frames(wave.astype(np.float64), length, hop)
    framed = framed - framed.mean(-1, keepdims=True)
    before = np.concatenate((framed[:, :1], framed[:, :-1]), axis=1)
    power = _magnitudes((framed - 0.97 * before) * hann(length, periodic=False), size) ** 2
    return np.log(np.maximum(power @ filters, KALDI_FLOOR)).astype(np.float32)
