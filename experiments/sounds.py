"""What the experiments of hearing share: their flags, where their rows come from, the sounds they have without a network.

These are drawn from a seed: vowels, each a row of harmonics under the formants of a mouth (Peterson & Barney 1952), said by
voices of any pitch and size.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from experiments import finetune
from experiments.finetune import BUNDLED, reading
from jaxformers.data import Table, load_dataset
from jaxformers.data.audio_masks import HideFrames
from jaxformers.errors import InputError
from jaxformers.preprocess.audio import read_audio
from jaxformers.preprocess.image_reading import pillow
from jaxformers.preprocess.spectrogram import slaney_filters, whisper_log_mel

RATE = 16000  # samples a second of drawn sounds
# The three formants of each, in Hz, of a grown man.
VOWELS = {
    "A": (730, 1090, 2440),
    "E": (530, 1840, 2480),
    "I": (270, 2290, 3010),
    "O": (570, 840, 2410),
    "U": (300, 870, 2240),
}
DRAWN = {"train": 400, "validation": 80}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of an experiment of hearing, and every field of TrainingArguments."""

    file_names: str | None = None
    r"""A regular expression of the files' names, whose named groups become columns: (?P<label>\d)_(?P<speaker>[a-z]+)_.* ."""
    held_out: str | None = None
    """COLUMN=VALUE (or values, with commas): the training rows that are the validation split instead, such as a speaker's."""
    dataloader_num_workers: int = 2
    """Threads that decode sounds ahead of the training."""


def open_source(place: Any, config: Any) -> dict[str, Table]:
    """The splits of a source, in random order, with the columns and the held-out rows that the flags ask for.

    One that has a single split, whatever it is called, is trained on, and a part of it held out.

    Raises:
      InputError: a flag does not fit the rows.
    """
    if isinstance(place, Path) and place.parent == BUNDLED:
        draw = drawn_vowels if place.name == "vowels" else drawn_words
        limits = {"train": config.max_train_samples, "validation": config.max_eval_samples}
        return {
            split: draw(min(count, limits[split] or count), seed) for seed, (split, count) in enumerate(DRAWN.items())
        }
    splits = load_dataset(place, **reading(config))
    if len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    if config.file_names is not None:
        splits = {split: with_names(table, config.file_names) for split, table in splits.items()}
    if config.held_out is not None:
        splits = {**splits, **part(splits["train"], config.held_out)}
    return {split: table if split.startswith("test") else table.shuffle(0) for split, table in splits.items()}


def with_names(table: Table, pattern: str) -> Table:
    """The table with a column for each named group of a regular expression of its files' names (without their endings)."""
    try:
        known = re.compile(pattern)
    except re.error as error:
        raise InputError(f"file_names must be a regular expression, found {pattern!r}: {error}") from None
    if not known.groupindex or "audio" not in table.column_names or not all(isinstance(p, str) for p in table["audio"]):
        raise InputError(f"file_names needs files, and named groups such as (?P<label>...), found {pattern!r}")
    found = [known.fullmatch(Path(path).stem) for path in table["audio"]]
    for path, match in zip(table["audio"], found, strict=True):
        if match is None:
            raise InputError(f"file_names {pattern!r} does not describe {Path(path).stem!r}")
    for name in known.groupindex:
        table = table.with_column(name, [match[name] for match in found if match is not None])
    return table


def part(train: Table, held_out: str) -> dict[str, Table]:
    """The training rows without those of the values that `held_out` names, and these as the validation split."""
    column, _, values = held_out.partition("=")
    if not values or column not in train.column_names:
        raise InputError(
            f"held_out must be COLUMN=VALUE, of one of the columns {', '.join(train.column_names)}; found {held_out!r}"
        )
    away = np.array([str(value) in values.split(",") for value in train[column]])
    if not 0 < away.sum() < len(away):
        raise InputError(f"held_out={held_out} holds {away.sum()} of {len(away)} rows of {train.name} out")
    return {"train": train.select(np.flatnonzero(~away)), "validation": train.select(np.flatnonzero(away))}


def hiding(config: Any) -> HideFrames | None:
    """What hides frames of waves in training, where a model's config asks for it."""
    return HideFrames(config) if getattr(config, "apply_spec_augment", False) else None


# -- a picture ---------------------------------------------------------------------------------------------------------

PIXELS, BANDS = 100, 80  # of a second, and a spectrum's bands


def draw_spectra(found: list[Any], chunks: list[list[dict[str, Any]]], path: Path) -> None:
    """Writes a picture of sounds: each a log-mel spectrum, low bands below, and under it what was heard, where it was heard.

    Args:
      found: sounds, as `read_audio` takes them.
      chunks: of each what a pipeline heard, `{"text", "timestamp": (start, end)}` in seconds.
      path: a PNG.
    """
    from PIL import ImageDraw

    waves = [read_audio(sound, RATE) for sound in found]
    image = pillow().new(
        "L", (max(len(wave) * PIXELS // RATE for wave in waves) + 8, len(waves) * (2 * BANDS + 40)), 255
    )
    draw = ImageDraw.Draw(image)
    for number, (wave, heard) in enumerate(zip(waves, chunks, strict=True)):
        mel = whisper_log_mel(wave, slaney_filters(BANDS, 400, RATE, 0.0, RATE / 2), hop=RATE // PIXELS)[::-1]
        shades = 255 * (1 - (mel - mel.min()) / max(np.ptp(mel), 1e-6))
        top = number * (2 * BANDS + 40) + 4
        image.paste(pillow().fromarray(np.repeat(shades, 2, 0).astype(np.uint8)), (4, top))
        for place, chunk in enumerate(heard):
            start, end = (4 + round(PIXELS * second) for second in chunk["timestamp"])
            line = top + 2 * BANDS + 14 * (place % 2)  # neighbours stand on two lines
            draw.line((start, top + 2 * BANDS + 2, max(end, start + 1), top + 2 * BANDS + 2), fill=0)
            draw.text((start, line + 3), chunk["text"], fill=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


# -- drawn sounds ------------------------------------------------------------------------------------------------------


def vowel(name: str, seconds: float, pitch: float, size: float) -> np.ndarray:
    """A vowel [samples], fading in and out.

    Args:
      name: which.
      seconds: how long.
      pitch: in Hz; it falls by a tenth.
      size: what the formants are multiplied with: more than 1 for a smaller mouth.
    """
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * pitch * (time - 0.05 * time**2 / seconds)
    harmonics = np.arange(1, int(4000 / pitch) + 1)
    peaks = sum(1 / (1 + ((harmonics * pitch - size * formant) / 90) ** 2) for formant in VOWELS[name])
    wave = (peaks / harmonics**0.5) @ np.sin(harmonics[:, None] * phase)
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.02)
    return np.asarray(wave * fade / np.abs(wave).max(), np.float32)


def spoken(text: str, generator: np.random.Generator) -> dict[str, Any]:
    """A voice that says the vowels of a text one by one: a sound as `read_audio` takes it."""
    pitch, size, pace = generator.uniform(90, 250), generator.uniform(0.9, 1.15), generator.uniform(0.09, 0.16)
    parts = [np.zeros(round(generator.uniform(0.02, 0.1) * RATE), np.float32)]
    for letter in text:
        if letter == " ":
            parts.append(np.zeros(round(pace * RATE), np.float32))
        else:
            parts += [vowel(letter, pace, pitch, size), np.zeros(round(0.03 * RATE), np.float32)]
    wave = 0.5 * np.concatenate(parts)
    return {"array": wave + np.float32(0.005) * generator.standard_normal(len(wave), np.float32), "sampling_rate": RATE}


def drawn_vowels(count: int, seed: int) -> Table:
    """Vowels and what they are."""
    generator = np.random.default_rng(seed)
    labels = generator.choice([*VOWELS], count).tolist()
    return Table({"audio": [spoken(label, generator) for label in labels], "label": labels}, "drawn vowels")


def drawn_words(count: int, seed: int) -> Table:
    """One to three words of one to three vowels, and what they are."""
    generator = np.random.default_rng(seed)

    def word() -> str:
        return "".join(generator.choice([*VOWELS], generator.integers(1, 4)))

    texts = [" ".join(word() for _ in range(generator.integers(1, 4))) for _ in range(count)]
    return Table({"audio": [spoken(text, generator) for text in texts], "text": texts}, "drawn words")
