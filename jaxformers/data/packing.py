"""Several texts in one row, each of which sees itself alone. `pack` makes the rows, `own_text` is the collator for them.

A text's first token has position 0, and nothing else has: from `position_ids` alone one knows where each text stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxformers.data.collate import IGNORE
from jaxformers.data.loader import Batch
from jaxformers.errors import InputError


def pack(texts: Sequence[Sequence[int]], length: int) -> dict[str, list[list[int]]]:
    """Rows of at most `length` tokens that hold all texts, the longest first, each where it leaves the least room.

    Args:
      texts: token ids; one of more than `length` tokens is cut into texts.
      length: the most tokens of a row.

    Returns:
      `input_ids`; `position_ids`, which begin anew with each text; `labels`, the tokens again but for each text's first one,
      which nothing before it predicts: -100.

    >>> pack([[5, 6, 7], [8], [9, 9, 9, 9, 9]], 4)["input_ids"]
    [[9, 9, 9, 9], [5, 6, 7, 8], [9]]
    """
    if length < 1:
        raise InputError(f"a row must hold at least 1 token, found length={length}")
    pieces = [list(text[start : start + length]) for text in texts for start in range(0, len(text), length)]
    rows: list[list[list[int]]] = []
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # room -> the numbers of the rows that have it
    for piece in sorted(pieces, key=len, reverse=True):
        room = next((room for room in range(len(piece), length + 1) if with_room[room]), None)
        number = len(rows) if room is None else with_room[room].pop()
        if room is None:
            rows.append([])
        rows[number].append(piece)
        with_room[(length if room is None else room) - len(piece)].append(number)
    return {
        "input_ids": [[token for text in row for token in text] for row in rows],
        "position_ids": [[place for text in row for place in range(len(text))] for row in rows],
        "labels": [[token for text in row for token in (IGNORE, *text[1:])] for row in rows],
    }


def own_text(batch: Batch, generators: list[np.random.Generator]) -> Batch:
    """A collator: `attention_mask` as int8 [B, L, L], 1 where query and key are of one text. Padding sees itself."""
    texts_BL = np.cumsum(batch["position_ids"] == 0, axis=1)
    return {**batch, "attention_mask": (texts_BL[:, :, None] == texts_BL[:, None, :]).astype(np.int8)}
