"""Tiny SentencePiece `.model` files made byte by byte, so that the plain tests need nothing that trains them."""

import struct
from collections.abc import Iterable, Mapping

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number is written as its two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes | str) -> bytes:
    """One field of a protocol-buffer message; a float takes 32 bits."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def piece(text: str, score: float = 0.0, kind: int = NORMAL) -> bytes:
    return field(1, field(1, text) + field(2, float(score)) + field(3, kind))


def model(
    pieces: Iterable[tuple[str, float, int]],
    *,
    algorithm: int = 1,
    unk_id: int = 0,
    byte_fallback: bool = False,
    charsmap: bytes = b"",
    dummy_prefix: bool = True,
    remove_spaces: bool = True,
) -> bytes:
    trainer = field(3, algorithm) + field(35, int(byte_fallback)) + field(40, unk_id)
    normalizer = field(2, charsmap) + field(3, int(dummy_prefix)) + field(4, int(remove_spaces))
    return b"".join(piece(*row) for row in pieces) + field(2, trainer) + field(3, normalizer)


def charsmap(rules: Mapping[str, str]) -> bytes:
    """The compiled table of some replacements: a double-array trie in which each node has 256 units to itself."""
    trie: dict = {}
    texts = b""
    for source, target in rules.items():
        node = trie
        for byte in source.encode():
            node = node.setdefault(byte, {})
        node[0] = len(texts)
        texts += target.encode() + b"\0"
    units = [0] * 256

    def place(node: dict, at: int, label: int) -> None:
        base = len(units)
        units.extend([0] * 256)
        units[at] = label | (0 in node) << 8 | (at ^ base) << 10
        for byte, child in node.items():
            if byte:
                place(child, base ^ byte, byte)
            else:
                units[base] = child | 1 << 31

    place(trie, 0, 0)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + texts


# Words that any family can cut: letters, two words, marks, and what NFKC or small letters would change.
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'\"é"
RULES = {"ﬁ": "fi", "Ａ": "A", "\t": " ", "\n": " ", "\u00a0": " ", "e\u0301": "é", "\u200b": ""}


def unigram(special: Iterable[tuple[str, int]], **options) -> bytes:
    """A unigram model: special pieces with their kinds, then words and letters."""
    rows = [(text, 0.0, kind) for text, kind in special]
    rows += [("▁", -3.0, NORMAL), ("▁hello", -4.0, NORMAL), ("▁world", -4.5, NORMAL), ("▁a", -5.0, NORMAL)]
    rows += [("9,", -5.5, NORMAL), ("lo", -6.0, NORMAL), ("▁cafe", -6.5, NORMAL)]
    rows += [(letter, -7.0 - index / 10, NORMAL) for index, letter in enumerate(LETTERS)]
    return model(rows, **{"charsmap": charsmap(RULES)} | options)


def bpe(**options) -> bytes:
    """A BPE model that spells unknown characters in bytes, as Llama's."""
    rows = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    rows += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    rows += [("▁▁", -1e9, NORMAL)]  # an early id, and yet merged last
    words = ["lo", "he", "▁he", "llo", "▁hello", "wor", "▁w", "▁wor", "ld", "▁world"]
    letters = ["▁", *LETTERS]
    rows += [(text, -float(index), NORMAL) for index, text in enumerate(words + letters)]
    return model(rows, algorithm=2, byte_fallback=True, remove_spaces=False, **options)
