"""Feature extractors: waves to what an audio model takes, with transformers' names and numbers.

Each is a frozen record whose fields are the keys of its preprocessor_config.json; call it. Sounds may be given in every
form that `audio.read_audio` knows, and are brought to the extractor's rate. A call returns a dict of numpy arrays with a
batch axis, under transformers' keys (`input_values` or `input_features`, `attention_mask`).
"""

import dataclasses
import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxformers.errors import ConfigError, InputError
from jaxformers.preprocess.audio import mono, read_audio, resample
from jaxformers.preprocess.spectrogram import (
    kaldi_filters,
    kaldi_log_mel,
    slaney_filters,
    speecht5_log_mel,
    whisper_log_mel,
)

FILE = "preprocessor_config.json"
Padding = bool | str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """What all feature extractors have.

    Args:
      sampling_rate: samples a second of the waves it reads.
      feature_size: numbers at each step of what it returns.
      padding_value: what padding is filled with.
      padding_side: "right" or "left".
      return_attention_mask: whether a call returns `attention_mask` by itself.
    """

    sampling_rate: int = 16000
    feature_size: int = 1
    padding_value: float = 0.0
    padding_side: str = "right"
    return_attention_mask: bool = False

    IGNORED: ClassVar[Mapping[str, str]] = {}  # keys of the file that say nothing, each with why
    batch: ClassVar[Callable[..., dict[str, Any]]]  # (self, waves [samples] of its own rate, **options) -> a batch

    def __post_init__(self) -> None:
        if self.padding_side not in ("right", "left"):
            raise ConfigError(f"padding_side must be 'right' or 'left', found {self.padding_side!r}")
        if self.sampling_rate < 1 or self.feature_size < 1:
            raise ConfigError(
                f"sampling_rate and feature_size must be positive, found {self.sampling_rate} and {self.feature_size}"
            )

    def __call__(self, audio: Any, *, sampling_rate: int | None = None, **options: Any) -> dict[str, Any]:
        """One sound, or a list of B sounds, as a model takes them.

        Args:
          audio: a path, an address, bytes, an array [samples] or a dict (see `read_audio`); or a list of them.
          sampling_rate: of arrays that come without one; None means the extractor's own. Other rates are resampled.
          **options: see the subclass's `batch`.

        Raises:
          InputError: a sound cannot be read.
        """
        return self.batch(self.waves(audio, sampling_rate), **options)

    def waves(self, audio: Any, sampling_rate: int | None = None) -> list[np.ndarray]:
        """The waves [samples] of one sound or many, at the extractor's rate; arguments as of a call."""
        many = isinstance(audio, list | tuple) and not (audio and isinstance(audio[0], int | float | np.number))
        given = rate_of(sampling_rate, self.sampling_rate)
        sounds = list(audio) if many else [audio]
        names = [f"sound {index}" if many else "the audio" for index in range(len(sounds))]
        return [
            read_audio(sound, self.sampling_rate, name)
            if isinstance(sound, Mapping | str | bytes | bytearray | memoryview | os.PathLike)
            else resample(mono(sound, name), given, self.sampling_rate)
            for sound, name in zip(sounds, names, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """What its preprocessor_config.json holds."""
        return {"feature_extractor_type": type(self).__name__, **dataclasses.asdict(self)}

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the file from which `load_feature_extractor` and transformers make an equal one."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def pad(
        self, rows: Sequence[np.ndarray], padding: Padding, max_length: int | None, truncation: bool,
        pad_to_multiple_of: int | None,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
        """Rows [L, ...] cut and filled to one length, and their masks [L] of int32: 1 for what was there.

        Args:
          rows: of any length.
          padding: True or "longest", "max_length", or False.
          max_length: what longer rows are cut to with `truncation`, and what "max_length" fills to.
          truncation: whether longer rows are cut.
          pad_to_multiple_of: lengths are rounded up to a multiple of this.
        """
        how = {True: "longest", None: "do_not_pad", False: "do_not_pad"}.get(padding, padding)  # type: ignore[arg-type]
        if how not in ("longest", "max_length", "do_not_pad"):
            raise InputError(f"padding must be True, 'longest', 'max_length' or False, found {padding!r}")
        if max_length is None and (how == "max_length" or truncation):
            raise InputError("padding='max_length' and truncation=True need a max_length")
        if max_length is not None:
            max_length = rounded(max_length, pad_to_multiple_of)
        if truncation:
            rows = [row[:max_length] for row in rows]
        length = max_length if how == "max_length" else max(map(len, rows), default=0)
        length = 0 if how == "do_not_pad" else rounded(length or 0, pad_to_multiple_of)
        filled, masks = [], []
        for row in rows:
            more = max(0, length - len(row))
            ends = (more, 0) if self.padding_side == "left" else (0, more)
            filled.append(np.pad(row, [ends, *[(0, 0)] * (row.ndim - 1)], constant_values=self.padding_value))
            masks.append(np.pad(np.ones(len(row), np.int32), ends))
        return filled, masks


def rate_of(given: Any, own: int) -> int:
    """A sampling rate as a caller gave it, or `own` where none was given."""
    if given is None:
        return own
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise InputError(f"sampling_rate must be a positive int, found {given!r}")
    return int(given)


def rounded(length: int, multiple: int | None) -> int:
    """The next multiple."""
    return length if not multiple else -(-length // multiple) * multiple


def stacked(rows: Sequence[np.ndarray]) -> Any:
    """Rows of one shape as one array; others as they are."""
    return np.stack(rows) if len({row.shape for row in rows}) == 1 else list(rows)


def normalised(rows: list[np.ndarray], masks: list[np.ndarray] | None, padding_value: float) -> list[np.ndarray]:
    """Each row with mean 0 and variance 1 of what the mask calls real; without masks, of all."""
    result = []
    for index, row in enumerate(rows):
        # As transformers has it: the first so many, on whichever side padding stands.
        length = len(row) if masks is None else int(masks[index].sum())
        real = row[:length]
        normed = (row - real.mean()) / np.sqrt(real.var() + 1e-7)
        normed[length:] = padding_value
        result.append(normed.astype(np.float32))
    return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wav2Vec2FeatureExtractor(FeatureExtractor):
    """The wave itself, each with mean 0 and variance 1 (Wav2Vec2, HuBERT).

    Args:
      do_normalize: whether it is normalised.
    """

    do_normalize: bool = True

    def batch(
        self, waves: list[np.ndarray], *, padding: Padding = False, max_length: int | None = None, truncation: bool = False,
        pad_to_multiple_of: int | None = None, return_attention_mask: bool | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """`input_values` [B, L], and `attention_mask` [B, L] where asked for; lists of rows where lengths differ.

        Where padded rows are normalised without a mask, padding counts, as in transformers: models whose features are
        normed by groups (`feat_extract_norm="group"`) were trained on single sounds, and padding is zero for them only if each
        was normalised alone. Give such rows one by one, as the pipelines do.
        """
        asked = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        rows, masks = self.pad(waves, padding, max_length, truncation, pad_to_multiple_of)
        if self.do_normalize:
            rows = normalised(rows, masks if asked and padding else None, self.padding_value)
        return {"input_values": stacked(rows), **({"attention_mask": stacked(masks)} if asked else {})}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhisperFeatureExtractor(FeatureExtractor):
    """Whisper's log-mel spectrum of 30 seconds.

    Args:
      hop_length: samples from one frame to the next.
      chunk_length: seconds that shorter sounds are filled to, and longer ones are cut to.
      n_fft: samples in a frame.
      dither: 0; noise is not added.
    """

    feature_size: int = 80
    hop_length: int = 160
    chunk_length: int = 30
    n_fft: int = 400
    dither: float = 0.0

    IGNORED: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("n_samples", "nb_max_frames"), "follow from the others"),
        **dict.fromkeys(("mel_filters",), "are computed"),
        **dict.fromkeys(("do_normalize",), "is for a call to say"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dither:
            raise ConfigError(f"dither={self.dither} (noise added to frames) is not supported, only 0.0 is")

    @property
    def n_samples(self) -> int:
        """Samples in `chunk_length` seconds."""
        return self.chunk_length * self.sampling_rate

    def batch(
        self, waves: list[np.ndarray], *, padding: Padding = "max_length", max_length: int | None = None,
        truncation: bool = True, pad_to_multiple_of: int | None = None, return_attention_mask: bool | None = None,
        do_normalize: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """`input_features` [B, bands, frames] (80 × 3000), and `attention_mask` [B, frames] where asked for.

        Longer sounds than `chunk_length` need `truncation=False` and `padding="longest"`, and give more frames.
        """
        asked = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        most = max_length or self.n_samples
        rows, masks = self.pad(waves, padding, most, truncation, pad_to_multiple_of)
        if do_normalize:
            rows = normalised(rows, masks, self.padding_value)
        filters = slaney_filters(self.feature_size, self.n_fft, self.sampling_rate, 0.0, 8000.0)
        features = [whisper_log_mel(row, filters, self.n_fft, self.hop_length) for row in rows]
        frames = [mask[:: self.hop_length][: len(mask) // self.hop_length] for mask in masks]
        return {"input_features": stacked(features), **({"attention_mask": stacked(frames)} if asked else {})}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ASTFeatureExtractor(FeatureExtractor):
    """Kaldi's log-mel spectrum, cut or filled to one length (Audio Spectrogram Transformer).

    Args:
      num_mel_bins: bands.
      max_length: frames.
      do_normalize: whether `mean` is taken off, and the rest divided by twice `std`.
      mean, std: of the training data's spectra.
    """

    num_mel_bins: int = 128
    max_length: int = 1024
    do_normalize: bool = True
    mean: float = -4.2677393
    std: float = 4.5689974

    IGNORED: ClassVar[Mapping[str, str]] = dict.fromkeys(("mel_filters", "window"), "are computed")

    def batch(self, waves: list[np.ndarray]) -> dict[str, Any]:
        """`input_values` [B, frames, bands]."""
        filters = kaldi_filters(self.num_mel_bins, 512, self.sampling_rate, 20.0, float(self.sampling_rate // 2))
        rows = []
        for wave in waves:
            mel = kaldi_log_mel(wave, filters)[: self.max_length]
            rows.append(np.pad(mel, ((0, self.max_length - len(mel)), (0, 0))))
        features = np.stack(rows)
        if self.do_normalize:
            features = (features - np.float32(self.mean)) / np.float32(2 * self.std)
        return {"input_values": features}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechT5FeatureExtractor(FeatureExtractor):
    """The wave, for SpeechT5's encoder; or its log-mel spectrum, which its decoder writes.

    Args:
      do_normalize: whether waves are brought to mean 0 and variance 1.
      num_mel_bins: bands.
      hop_length, win_length: milliseconds from one frame to the next, and in a frame.
      win_function: Hann's window.
      fmin, fmax: lowest and highest frequency, in Hz.
      mel_floor: the least amplitude.
    """

    return_attention_mask: bool = True
    do_normalize: bool = False
    num_mel_bins: int = 80
    hop_length: int = 16
    win_length: int = 64
    win_function: str = "hann_window"
    fmin: float = 80
    fmax: float = 7600
    mel_floor: float = 1e-10

    IGNORED: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("window", "mel_filters", "sample_size", "sample_stride", "n_fft", "n_freqs"), "are computed"),
        **dict.fromkeys(("frame_signal_scale", "reduction_factor"), "are no longer used by transformers"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.win_function != "hann_window":
            raise ConfigError(f"win_function={self.win_function!r} is not supported, only 'hann_window' is")

    def batch(
        self, waves: list[np.ndarray], *, padding: Padding = False, max_length: int | None = None, truncation: bool = False,
        pad_to_multiple_of: int | None = None, return_attention_mask: bool | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """`input_values` [B, L], and `attention_mask` [B, L] where asked for; lists of rows where lengths differ."""
        asked = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        rows, masks = self.pad(waves, padding, max_length, truncation, pad_to_multiple_of)
        if self.do_normalize:
            rows = normalised(rows, masks if asked and padding else None, self.padding_value)
        return {"input_values": stacked(rows), **({"attention_mask": stacked(masks)} if asked else {})}

    def targets(
        self, audio: Any, *, sampling_rate: int | None = None, padding: Padding = False, max_length: int | None = None,
        truncation: bool = False, pad_to_multiple_of: int | None = None, return_attention_mask: bool | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """What the decoder is to write: `labels` [B, frames, bands], `decoder_attention_mask` (transformers' `audio_target`)."""
        asked = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        length, hop = (ms * self.sampling_rate // 1000 for ms in (self.win_length, self.hop_length))
        size = 1 << (length - 1).bit_length()
        filters = slaney_filters(self.num_mel_bins, size, self.sampling_rate, float(self.fmin), float(self.fmax))
        mels = [
            speecht5_log_mel(wave, filters, size, hop, length, self.mel_floor)
            for wave in self.waves(audio, sampling_rate)
        ]
        rows, masks = self.pad(mels, padding, max_length, truncation, pad_to_multiple_of)
        return {"labels": stacked(rows), **({"decoder_attention_mask": stacked(masks)} if asked else {})}


# `feature_extractor_type` -> the class here.
CLASSES: dict[str, Callable[..., FeatureExtractor]] = {
    kind.__name__: kind
    for kind in (Wav2Vec2FeatureExtractor, WhisperFeatureExtractor, ASTFeatureExtractor, SpeechT5FeatureExtractor)
}
# Where the file does not name its class, the model's type does.
CLASS_OF_MODEL = {
    **dict.fromkeys(("wav2vec2", "hubert"), "Wav2Vec2FeatureExtractor"),
    "whisper": "WhisperFeatureExtractor",
    "audio-spectrogram-transformer": "ASTFeatureExtractor",
    "speecht5": "SpeechT5FeatureExtractor",
}
_IGNORED = {"feature_extractor_type", "processor_class", "auto_map", "return_tensors"}


def must_be_seen(extractor: FeatureExtractor) -> None:
    """Raises `InputError` where what an extractor makes is nothing that an image model could see."""
    if isinstance(extractor, Wav2Vec2FeatureExtractor | SpeechT5FeatureExtractor):
        raise InputError(
            f"an image model reads spectra, and {type(extractor).__name__} gives waves: use one that makes spectra, such as "
            "ASTFeatureExtractor"
        )


def describes_sounds(folder: Path) -> bool:
    """Whether a model's folder has a preprocessor_config.json that names a feature extractor."""
    from jaxformers.checkpoints.files import read_json  # its room loads models, which this does not need

    return (folder / FILE).is_file() and read_json(folder / FILE).get("feature_extractor_type") in CLASSES


def load_feature_extractor(
    path: str | os.PathLike[str], *, revision: str | None = None, **overrides: Any
) -> FeatureExtractor:
    """The feature extractor of a model, from its preprocessor_config.json.

    Args:
      path: a folder, or a hub id.
      revision: branch, tag or commit on the hub.
      **overrides: what the file would say.

    Raises:
      ConfigError: there is no such file, or it holds what we do not know.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Wav2Vec2FeatureExtractor(do_normalize=False).save(folder)
    ...     extractor = load_feature_extractor(folder)
    >>> extractor([0.0, 0.5])["input_values"]
    array([[0. , 0.5]], dtype=float32)
    """
    from jaxformers.checkpoints.files import locate, read_json  # its room loads models, which this does not need

    folder = locate(path, revision=revision, weights=False)
    raw = read_json(folder / FILE)
    kind = raw.get("feature_extractor_type")
    if kind is None and (folder / "config.json").is_file():
        kind = CLASS_OF_MODEL.get(str(read_json(folder / "config.json").get("model_type")))
    return from_dict({**raw, **overrides, "feature_extractor_type": kind}, f"{path}: {FILE}")


def from_dict(raw: Mapping[str, Any], source: str = FILE) -> FeatureExtractor:
    """The feature extractor that a parsed preprocessor_config.json describes. Raises `ConfigError` for what we do not know."""
    kind = raw.get("feature_extractor_type")
    if not isinstance(kind, str) or kind not in CLASSES:
        raise ConfigError(f"{source}: unknown feature_extractor_type {kind!r}; supported: {', '.join(CLASSES)}")
    cls: Any = CLASSES[kind]
    types = {field.name: field.type for field in dataclasses.fields(cls)}
    values = {}
    for key, value in raw.items():
        if key in types:
            values[key] = _checked(source, key, value, types[key])
        elif key not in _IGNORED and key not in cls.IGNORED and value and not key.startswith("_"):
            close = difflib.get_close_matches(key, types, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{source}: unknown key {key[:80]!r} = {value!r:.60}{hint}")
    made: FeatureExtractor = cls(**values)
    return made


def _checked(source: str, key: str, value: Any, kind: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{source}: {key} must be of type {kind.__name__}, found {value!r:.60}")
    return value
