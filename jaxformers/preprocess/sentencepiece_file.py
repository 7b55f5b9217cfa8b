"""SentencePiece `.model` files, read from their bytes: the pieces, and how texts are normalised before them.

Such a file is one protocol-buffer message (sentencepiece_model.proto): fields that are a number (field << 3 | wire type)
and a value. Only what a tokenizer needs is read; nothing here needs the sentencepiece or protobuf packages. What the
parts mean for a text is `tokenizer_sentencepiece`.
"""

import enum
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxformers.errors import InputError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class Kind(enum.IntEnum):
    """What a piece is for."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # never made from text: <s>, </s>
    USER_DEFINED = 4  # always one piece, whatever surrounds it
    UNUSED = 5
    BYTE = 6  # <0x00> to <0xFF>, for what no other piece can spell


class Algorithm(enum.IntEnum):
    """How a text is cut into pieces."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its place in the file is its id."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class SentencePiece:
    """What a `.model` file says.

    `charsmap` is a compiled table of character replacements (empty for none); the five flags say what happens to
    spaces and to characters that no piece spells.
    """

    pieces: tuple[Piece, ...]
    algorithm: Algorithm
    unk_id: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    whitespace_as_suffix: bool


def read_sentencepiece(file: Path) -> SentencePiece:
    """Returns what a SentencePiece `.model` file says.

    Raises:
        InputError: naming the file and what in it cannot be: it is cut short, holds no pieces or one piece twice, its
            table of characters points outside itself, ...
    """
    try:
        return _checked(_model(file.read_bytes()))
    except _MalformedError as fault:
        raise InputError(f"{file} is not a SentencePiece model that can be read: {fault}") from fault


class _MalformedError(Exception):
    """What is wrong, as the end of a sentence."""


# ------------------------------------------------------------------------------------------------------------ messages


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number and value, which is an int or, for strings and messages, bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value: int | bytes
            value, position = _varint(data, position)
            yield number, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            size, position = _varint(data, position)
        if size is None or number == 0:
            raise _MalformedError(f"at byte {position} a field of number {number} and wire type {wire} cannot be")
        if position + size > len(data):
            raise _MalformedError(f"it is cut short: a field needs {size} bytes, {len(data) - position} are left")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, lowest first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _MalformedError("it is cut short inside a number")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise _MalformedError(f"the number that ends at byte {position} has more than 64 bits")


def _text(value: int | bytes, name: str) -> str:
    if not isinstance(value, bytes):
        raise _MalformedError(f"{name} is a number, expected text")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _MalformedError(f"{name} is not UTF-8 ({value[:20]!r})") from error


def _whole(value: int | bytes, name: str) -> int:
    if not isinstance(value, int):
        raise _MalformedError(f"{name} is not a whole number")
    return value if value < 1 << 63 else value - (1 << 64)  # two's complement: -1 stands for "none"


def _message(value: int | bytes, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise _MalformedError(f"{name} is a number, expected a message")
    return value


def _model(data: bytes) -> SentencePiece:
    pieces: list[Piece] = []
    trainer, normalizer = b"", b""
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_message(value, "a piece"), len(pieces)))
        elif number == 2:
            trainer += _message(value, "the trainer's part")  # a message that comes twice is merged
        elif number == 3:
            normalizer += _message(value, "the normaliser's part")

    algorithm, unk_id, byte_fallback, suffix = int(Algorithm.UNIGRAM), 0, 0, 0
    for number, value in _fields(trainer):
        if number == 3:
            algorithm = _whole(value, "the model type")
        elif number == 24:
            suffix = _whole(value, "treat_whitespace_as_suffix")
        elif number == 35:
            byte_fallback = _whole(value, "byte_fallback")
        elif number == 40:
            unk_id = _whole(value, "unk_id")
    charsmap, prefix, remove, escape = b"", 1, 1, 1
    for number, value in _fields(normalizer):
        if number == 2:
            charsmap = _message(value, "the table of characters")
        elif number == 3:
            prefix = _whole(value, "add_dummy_prefix")
        elif number == 4:
            remove = _whole(value, "remove_extra_whitespaces")
        elif number == 5:
            escape = _whole(value, "escape_whitespaces")
    if algorithm not in list(Algorithm):
        raise _MalformedError(
            f"its model type is {algorithm}, expected 1 (unigram), 2 (BPE), 3 (word) or 4 (characters)"
        )
    return SentencePiece(
        pieces=tuple(pieces),
        algorithm=Algorithm(algorithm),
        unk_id=unk_id,
        byte_fallback=bool(byte_fallback),
        charsmap=charsmap,
        add_dummy_prefix=bool(prefix),
        remove_extra_whitespaces=bool(remove),
        escape_whitespaces=bool(escape),
        whitespace_as_suffix=bool(suffix),
    )


def _piece(data: bytes, index: int) -> Piece:
    name, text, score, kind = f"piece {index}", "", 0.0, int(Kind.NORMAL)
    for number, value in _fields(data):
        if number == 1:
            text = _text(value, name)
        elif number == 2:
            if not isinstance(value, bytes) or len(value) != 4:
                raise _MalformedError(f"the score of {name} is not a 32-bit float")
            score = struct.unpack("<f", value)[0]
        elif number == 3:
            kind = _whole(value, f"the kind of {name}")
    if kind not in list(Kind):
        raise _MalformedError(f"{name} is of kind {kind}, expected 1 to {len(Kind)}")
    return Piece(text, score, Kind(kind))


# ---------------------------------------------------------------------------------------------------------- what can be


def _checked(model: SentencePiece) -> SentencePiece:
    if not model.pieces:
        raise _MalformedError("it holds no pieces")
    first: dict[str, int] = {}
    for index, piece in enumerate(model.pieces):
        if not piece.text or "\0" in piece.text:
            raise _MalformedError(f"piece {index} is {piece.text!r}, expected some text")
        if not math.isfinite(piece.score):
            raise _MalformedError(f"the score of piece {index} ({piece.text!r}) is {piece.score}")
        if first.setdefault(piece.text, index) != index:
            raise _MalformedError(f"the piece {piece.text!r} is there twice, as {first[piece.text]} and {index}")
    if not 0 <= model.unk_id < len(model.pieces):
        raise _MalformedError(f"its unknown piece has id {model.unk_id}, but there are {len(model.pieces)} pieces")
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in first]
    if model.byte_fallback and missing:
        raise _MalformedError(
            f"it falls back to bytes, but {len(missing)} of their 256 pieces are missing ({missing[0]})"
        )
    _check_charsmap(model.charsmap)
    return model


def _check_charsmap(charsmap: bytes) -> None:
    """Refuses a table whose look-ups could leave it: the library that walks it checks nothing and aborts.

    The table is a double-array trie (size in bytes, then 32-bit units) and the replacements, each ended by a zero byte.
    A unit with the top bit set holds the place of a replacement; any other unit leads to one block of 256 units.
    """
    if not charsmap:
        return
    size = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or size % 4 or not 0 < size <= len(charsmap) - 4:
        raise _MalformedError(f"its table of characters says it has {size} of {len(charsmap)} bytes")
    unit = np.frombuffer(charsmap, "<u4", size // 4, 4)
    replacements = np.frombuffer(charsmap, np.uint8, offset=4 + size)
    is_value = unit >> 31 == 1
    offset = (unit >> 10) << ((unit >> 6) & 8)
    reached = (np.arange(len(unit), dtype=np.uint32) ^ offset) | 255
    if (reached[~is_value] >= len(unit)).any():
        raise _MalformedError("its table of characters leads outside itself")
    places = unit[is_value] & 0x7FFFFFFF
    try:
        charsmap[4 + size :].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _MalformedError("the replacements in its table of characters are not UTF-8") from error
    ended = len(replacements) > 0 and replacements[-1] == 0
    if not ended or (places >= len(replacements)).any() or (replacements[places] & 0xC0 == 0x80).any():
        raise _MalformedError("its table of characters points to no whole replacement")
