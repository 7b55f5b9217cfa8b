"""Sound, from what a person has to one mono wave at the model's rate: files, bytes, addresses, arrays.

Waves are float32 arrays [samples], between -1 and 1 where they come from a file. What a model makes of them is in
`feature_extractors` and `spectrogram`. Decoding needs soundfile (`pip install 'jaxformers[audio]'`); arrays need nothing.
"""

import io
import math
import os
import wave as wave_file
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxformers.errors import InputError
from jaxformers.preprocess.download import download

MOST_BYTES = 1 << 30  # of a download
_ARRAYS, _RATES = ("array", "raw"), ("sampling_rate",)


def read_audio(source: Any, sampling_rate: int, called: str = "the audio") -> np.ndarray:
    """One sound as a mono wave at a model's rate.

    Args:
      source: a path or http(s) address of a wav, flac, ogg or mp3 file; its bytes; an array [samples], [channels, samples] or
        [samples, channels] that already has the rate; or a dict with `array` (or `raw`) and `sampling_rate`, or with
        `bytes` or `path` (as `datasets` has them).
      sampling_rate: samples a second, of the result.
      called: what to call it in an error.

    Returns:
      [samples] of float32.

    Raises:
      InputError: it is no sound, is empty, or holds numbers that are not finite.

    >>> read_audio({"array": [[0.0, 1.0], [1.0, 0.0]], "sampling_rate": 16000}, 16000)
    array([0.5, 0.5], dtype=float32)
    """
    if isinstance(source, Mapping):
        wave, rate = _from_mapping(source, sampling_rate, called)
    elif isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        wave, rate = decode(_fetched(source, called), called)
    else:
        wave, rate = source, sampling_rate
    return resample(mono(wave, called), rate, sampling_rate)


def _from_mapping(source: Mapping[str, Any], sampling_rate: int, called: str) -> tuple[Any, int]:
    array = next((source[key] for key in _ARRAYS if source.get(key) is not None), None)
    if array is not None:
        rate = source.get("sampling_rate")
        if rate is None:
            raise InputError(f"{called} is a dict with an array, which needs its sampling_rate beside it")
        return array, _checked_rate(rate, called)
    kept = source.get("bytes") or source.get("path")
    if not kept:
        raise InputError(
            f"{called} must be a dict with 'array' (or 'raw') and 'sampling_rate', or 'bytes' or 'path'; "
            f"found the keys {', '.join(map(repr, source)) or 'none'}"
        )
    return decode(_fetched(kept, called), called)


def _checked_rate(rate: Any, called: str) -> int:
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or rate < 1:
        raise InputError(f"{called}: sampling_rate must be a positive int, found {rate!r}")
    return int(rate)


def _fetched(source: Any, called: str) -> Any:
    """Bytes, or the path of a file that is there."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    text = os.fspath(source)
    if text.startswith(("http://", "https://")):
        return download(text, called, MOST_BYTES)
    path = Path(os.path.expanduser(text))
    if not os.path.isfile(path):
        raise InputError(f"{called}: there is no file {text[:200]!r}")
    return path


def decode(source: bytes | Path, called: str = "the audio") -> tuple[np.ndarray, int]:
    """The samples of a file.

    Args:
      source: a path, or the file's bytes: wav, flac, ogg, mp3, or what else libsndfile knows.
      called: what to call it in an error.

    Returns:
      [samples, channels] of float32, and samples a second.

    Raises:
      InputError: it is no such file.
    """
    samples, rate = _soundfile(source, called, lambda module, file: module.read(file, dtype="float32", always_2d=True))
    return samples, int(rate)


def _soundfile(source: bytes | Path, called: str, read: Callable[[Any, Any], Any]) -> Any:
    """`read(soundfile, a file or path)`, whose errors are ours."""
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("audio files need soundfile: pip install 'jaxformers[audio]'") from error
    try:
        return read(soundfile, io.BytesIO(source) if isinstance(source, bytes) else source)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        what = "these bytes are" if isinstance(source, bytes) else f"{source} is"
        raise InputError(f"{called}: {what} no audio file that can be read (wav, flac, ogg, mp3): {error}") from error


def count_samples(source: Any, sampling_rate: int, called: str = "the audio") -> int:
    """How many samples `read_audio` gives for a sound, of a file by its header alone. Arguments and errors as of `read_audio`.

    >>> count_samples({"array": [0.0] * 7, "sampling_rate": 8000}, 16000)
    14
    """
    kept = source
    if isinstance(source, Mapping) and all(source.get(key) is None for key in _ARRAYS):
        kept = source.get("bytes") or source.get("path")
    if isinstance(kept, bytes | bytearray | memoryview | str | os.PathLike):
        found = _fetched(kept, called)
        info = _soundfile(found, called, lambda module, file: module.info(file))
        frames, rate = info.frames, int(info.samplerate)
    else:
        wave, rate = (
            _from_mapping(source, sampling_rate, called) if isinstance(source, Mapping) else (source, sampling_rate)
        )
        frames = len(mono(wave, called))
    return -(-frames * sampling_rate // rate)


def mono(wave: Any, called: str = "the audio") -> np.ndarray:
    """The mean of all channels, in float32; whole numbers come out between -1 and 1.

    Args:
      wave: [samples], [channels, samples] or [samples, channels]: there are fewer channels than samples.
      called: what to call it in an error.

    Raises:
      InputError: not an array of numbers of one or two axes, empty, or with a number that is not finite.
    """
    try:
        array = np.asarray(wave)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise InputError(
            f"{called} must be a path, an address, bytes, an array of samples or a dict, found {_kind(wave)}"
        )
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(f"{called} must be samples of one or two axes, found shape {array.shape}")
    if array.dtype.kind == "i":
        array = array / -float(np.iinfo(array.dtype).min) if array.dtype.itemsize < 8 else array
    elif array.dtype.kind == "u":
        half = (float(np.iinfo(array.dtype).max) + 1) / 2
        array = (array - half) / half
    if array.ndim == 2:
        array = array.mean(axis=int(np.argmin(array.shape)), dtype=np.float32 if array.dtype == np.float32 else None)
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{called} holds samples that are not finite")
    return array


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def write_wav(path: str | os.PathLike[str], wave: np.ndarray, sampling_rate: int) -> None:
    """Writes a sound as a wav file of 16 bits, which plays everywhere.

    Args:
      path: where to.
      wave: [samples] or [samples, channels], between -1 and 1; what is beyond is cut.
      sampling_rate: samples a second.
    """
    samples = np.asarray(wave, np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    with wave_file.open(os.fspath(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(sampling_rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())


def resample(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The same sound with another number of samples a second, by a polyphase filter (Kaiser's window, zero phase).

    Args:
      wave: [samples] of float32.
      rate: samples a second.
      wanted: of the result.

    Returns:
      [ceil(samples · wanted / rate)] of float32.
    """
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    shared = math.gcd(rate, wanted)
    return np.asarray(resample_poly(wave, wanted // shared, rate // shared), np.float32)
