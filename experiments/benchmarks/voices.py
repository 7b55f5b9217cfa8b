"""Recordings and, beside them, what synthesizers make of the same words: more speakers than anyone recorded.

    apt install espeak-ng flite festival festvox-kallpc16k
    python -m experiments.benchmarks.voices --recordings fsdd --output out/voices
    python -m experiments.audio_classification --data out/voices --file-names '(?P<label>\\d)_(?P<speaker>[a-z]+)_\\d+' \\
      --held-out speaker=lucas --num-train-epochs 10

For digits: files are `DIGIT_SPEAKER_NUMBER.wav`, at 8 kHz, as FSDD has them. espeak-ng gives each of its voices a few times over,
with accents, pitches and paces drawn from a seed, flite and festival what they have. The recordings are linked, several times, so
that they are not lost among so many. Programs that are not installed are left out, and named.
"""

import dataclasses
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tyro

from jaxformers.errors import InputError
from jaxformers.preprocess.audio import read_audio, write_wav

RATE = 8000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029")
FLITE = {"awb": 110, "rms": 110, "slt": 170, "kal16": 110}  # voice -> Hz
FESTIVAL = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
Say = Callable[[str], bytes | None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to make."""

    recordings: Path
    """A folder of recorded digits, named alike."""
    output: Path = Path("out/voices")
    """The folder to fill, which must not be there yet."""
    each: int = 3
    """How many times each voice of espeak-ng speaks, each time another way."""
    times: int = 3
    """How many times the recordings are there."""
    seed: int = 0
    """For accents, pitches and paces."""


def spoken(*command: str, text: str = "") -> bytes | None:
    """What a program writes to its standard output; None where it cannot."""
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    return None if done.returncode or not done.stdout else done.stdout


def espeak(generator: np.random.Generator, each: int) -> Iterator[tuple[str, Say]]:
    """espeak-ng's voices: a name of letters, and what says a word."""
    listed = (spoken("espeak-ng", "--voices=variant") or b"").decode().splitlines()
    variants = sorted({line.split("!v/")[1].split()[0] for line in listed if "!v/" in line})
    for number, variant in enumerate(np.repeat(variants, each)):
        voice = f"{generator.choice(ACCENTS)}+{variant}"

        def say(word: str, voice: str = voice) -> bytes | None:
            pitch, pace = generator.integers(15, 86), generator.integers(90, 201)
            return spoken("espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(pace), "--stdout", word)

        yield "espeak" + "".join(LETTERS[number // 26**place % 26] for place in (1, 0, 2)), say


def flite(generator: np.random.Generator, each: int) -> Iterator[tuple[str, Say]]:
    """flite's voices."""
    for voice, pitch in FLITE.items():
        for number in range(8):

            def say(word: str, voice: str = voice, pitch: int = pitch) -> bytes | None:
                pace, height = generator.uniform(0.8, 1.5), pitch * generator.uniform(0.8, 1.25)
                with tempfile.NamedTemporaryFile(suffix=".wav") as file:
                    sets = (f"duration_stretch={pace:.2f}", f"int_f0_target_mean={height:.0f}")
                    flags = [part for each in sets for part in ("--setf", each)]
                    spoken("flite", "-voice", voice, *flags, "-t", word, "-o", file.name)
                    return Path(file.name).read_bytes()

            yield f"flite{voice.rstrip('16')}{LETTERS[number]}", say


def festival(generator: np.random.Generator, each: int) -> Iterator[tuple[str, Say]]:
    """festival's voices, as far as they are installed."""
    for voice in FESTIVAL:
        for number in range(3):

            def say(word: str, voice: str = voice) -> bytes | None:
                ask = f"(begin (voice_{voice}) (Parameter.set 'Duration_Stretch {generator.uniform(0.8, 1.5):.2f}))"
                return spoken("text2wave", "-eval", ask, text=word)

            yield f"fest{voice.replace('_', '')}{LETTERS[number]}", say


PROGRAMS = {"espeak-ng": espeak, "flite": flite, "text2wave": festival}


def trimmed(sound: bytes) -> np.ndarray | None:
    """A wave at `RATE` without the silence around it, as loud as any other; None where there is nothing in it."""
    try:
        wave = read_audio(sound, RATE)
    except InputError:  # a voice that says nothing
        return None
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max(initial=0))
    if len(loud) < RATE // 20:
        return None
    wave = wave[max(0, loud[0] - RATE // 20) : loud[-1] + RATE // 20]
    return np.asarray(0.5 * wave / np.abs(wave).max(), np.float32)


def main(options: Options) -> None:
    """Fills the folder and tells."""
    recordings = sorted(options.recordings.glob("*.wav"))
    if not recordings:
        sys.exit(f"error: no .wav files in {options.recordings}")
    if options.output.exists():
        sys.exit(f"error: {options.output} is there already")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        told = f"not installed: {', '.join(missing)}"
        if len(missing) == len(PROGRAMS):
            sys.exit(f"error: {told}; at least one of them must be there")
        print(f"{told}; left out", flush=True)
    options.output.mkdir(parents=True)
    for path in recordings:
        for again in range(options.times):
            (options.output / f"{path.stem}{again}.wav").symlink_to(path.resolve())
    made = speakers = 0
    for program, voices in PROGRAMS.items():
        if program in missing:
            continue
        for name, say in voices(np.random.default_rng(options.seed), options.each):
            found = {digit: trimmed(sound) for digit, word in enumerate(WORDS) if (sound := say(word))}
            there = {digit: wave for digit, wave in found.items() if wave is not None}
            for digit, wave in there.items():
                write_wav(options.output / f"{digit}_{name}_0.wav", wave, RATE)
            made, speakers = made + len(there), speakers + bool(there)
    print(f"{made} clips of {speakers} synthetic speakers beside {options.times} times {len(recordings)} recordings")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
