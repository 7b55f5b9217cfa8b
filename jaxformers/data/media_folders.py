"""Folders of images and of sounds as splits. They are tables of paths: what is at a path is decoded when a row is used.

Here: `open_media`, which knows the layouts that people have, and `with_paths`. What is made of a row is in `image_rows.py` and
`audio_rows.py`; MNIST's files and segmentation maps are in `image_files.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from jaxformers.data.table import Table
from jaxformers.errors import DataError

SUFFIXES = {
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus"),
}
METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
FILE = "file_name"  # the column of it that names a row's file
# LibriSpeech's, beside the sounds of a speaker's chapter: a line is a file's name, a blank, and what is said in it.
TRANSCRIPTS = ("*.trans.txt", "[0-9]*/[0-9]*/*.trans.txt")

Reader = Callable[..., Table]


def open_media(folder: Path, split_names: Mapping[str, str], reader: Reader) -> dict[str, Callable[[], Table]]:
    """The splits of a folder of images or sounds; none where it holds none.

    A folder may hold folders of splits (train, validation, test) of one of these, or is one of these: folders of classes, which
    are called after them; files with a table of them, metadata.csv, whose column `file_name` says which row is whose;
    LibriSpeech's tree, with its .trans.txt files; LJSpeech's, with its metadata.csv without a header; or files without anything.

    Args:
      folder: that folder.
      split_names: how splits are called -> their name.
      reader: path -> the table in that file.

    Returns:
      Split name -> function that reads it: a column `image` or `audio`, of paths, and, where they are known, `label`, the names
      of classes, `text`, or the columns of the table.

    Raises:
      DataError: a folder of a class is empty, or a table names a file that is not there.
    """
    inside = folders_in(folder)
    splits = {split_names[path.name]: path for path in inside if path.name in split_names}
    if not splits and any(map(_is_split, (folder, *inside))):
        splits = {"train": folder}
    if not any(_is_split(path) for part in splits.values() for path in (part, *folders_in(part))):
        return {}
    return {name: partial(_read, path, f"{folder.resolve().name}/{name}", reader) for name, path in splits.items()}


def with_paths(table: Table, folder: Path) -> Table:
    """A table whose column `file_name` names images or sounds in `folder`, with their whole paths as `image` or `audio`
    in its place.

    Any other table is given back as it is. Raises `DataError` where a file is not there.
    """
    if FILE not in table.column_names:
        return table
    kind = next((kind for kind, suffixes in SUFFIXES.items() if str(table[FILE][0]).lower().endswith(suffixes)), None)
    if kind is None or kind in table.column_names:
        return table
    paths = [str(folder.resolve() / str(file)) for file in table[FILE]]
    for row, path in enumerate(paths):
        if not Path(path).is_file():
            raise DataError(f"row {row} of {table.name} names the file {table[FILE][row]!r}, and there is no {path}")
    return table.drop([FILE]).with_column(kind, paths)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _kind(folder: Path) -> str | None:
    """Of which kind the files are that lie in a folder; None where they are no media."""
    suffixes = {path.suffix.lower() for path in folder.iterdir() if path.is_file()}
    return next((kind for kind, known in SUFFIXES.items() if suffixes & {*known}), None)


def _is_split(folder: Path) -> bool:
    """Whether a folder holds media itself, or says what they are."""
    return bool(_kind(folder) or _metadata(folder) or _transcripts(folder))


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _transcripts(folder: Path) -> list[Path]:
    return sorted(path for pattern in TRANSCRIPTS for path in folder.glob(pattern))


def files_of(folder: Path, kind: str) -> list[Path]:
    """The images, or the sounds, anywhere in a folder, by name, without hidden ones."""
    files = folder.rglob("*")
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES[kind] and not path.name.startswith("."))


def _read(folder: Path, name: str, reader: Reader) -> Table:
    """The rows of one split."""
    if transcripts := _transcripts(folder):
        return _librispeech(transcripts, name)
    metadata = _metadata(folder)
    if metadata is not None and metadata.suffix == ".csv" and (folder / "wavs").is_dir():
        return _ljspeech(metadata, name)
    if metadata is not None:
        table = with_paths(reader(metadata, name=name), folder)
        if not {*SUFFIXES} & {*table.column_names}:
            raise DataError(
                f"{metadata} has no column {FILE!r} of images or sounds, only {', '.join(table.column_names)}"
            )
        return table
    kind = _kind(folder)
    if kind is not None:
        return Table({kind: [str(path) for path in files_of(folder, kind)]}, name)
    places = folders_in(folder)
    kind = next(kind for path in folder.rglob("*") if path.is_dir() and (kind := _kind(path)) is not None)
    paths: list[str] = []
    labels: list[str] = []
    for place in places:
        files = files_of(place, kind)
        if not files:
            raise DataError(f"{place} stands for a class of {name} and holds no {kind} ({', '.join(SUFFIXES[kind])})")
        paths += map(str, files)
        labels += [place.name] * len(files)
    return Table({kind: paths, "label": labels}, name)


def _librispeech(transcripts: list[Path], name: str) -> Table:
    """The rows of transcripts whose sounds are there."""
    paths: list[str] = []
    texts: list[str] = []
    for file in transcripts:
        sounds = {path.stem: path for path in file.parent.iterdir() if path.suffix.lower() in SUFFIXES["audio"]}
        for line in file.read_text("utf-8").splitlines():
            key, _, text = line.partition(" ")
            if key in sounds:
                paths.append(str(sounds[key]))
                texts.append(text.strip())
    return _spoken(paths, texts, name, transcripts[0])


def _ljspeech(metadata: Path, name: str) -> Table:
    """A line is a file's name, what is read, and the same with numbers in words, with | between them."""
    paths: list[str] = []
    texts: list[str] = []
    for number, line in enumerate(metadata.read_text("utf-8").splitlines(), 1):
        fields = line.split("|")
        if len(fields) != 3:
            raise DataError(f"line {number} of {metadata} is not of the form NAME|text|text, as LJSpeech's are")
        path = metadata.parent / "wavs" / f"{fields[0]}.wav"
        if path.is_file():
            paths.append(str(path))
            texts.append(fields[2])
    return _spoken(paths, texts, name, metadata)


def _spoken(paths: list[str], texts: list[str], name: str, source: Path) -> Table:
    if not paths:
        raise DataError(f"{source} names no sound that is there")
    return Table({"audio": paths, "text": texts}, name)
