"""Padding and stacking of rows that were tokenized before, as a data collator does. Padding within a call is `text`."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxformers.errors import InputError


def columns_of(encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], bool]:
    """Returns rows by name (input_ids is among them), and whether `encoded` was one row, not a list."""
    if isinstance(encoded, Mapping):
        columns = dict(encoded)
    else:
        names = encoded[0].keys() if len(encoded) else {"input_ids": None}.keys()
        for index, row in enumerate(encoded):
            if row.keys() != names:
                raise InputError(
                    f"row {index} holds {sorted(row)}, row 0 holds {sorted(names)}: they cannot be stacked"
                )
        columns = {name: [row[name] for row in encoded] for name in names}
    if "input_ids" not in columns:
        raise InputError(f"pad needs input_ids, found only {sorted(columns)}")
    single = len(columns["input_ids"]) > 0 and np.ndim(columns["input_ids"][0]) == 0
    return {name: [value] for name, value in columns.items()} if single else columns, single


def pad_columns(
    columns: Mapping[str, Any], length: int, fill: Mapping[str, Any], also: Mapping[str, float] = MappingProxyType({})
) -> dict[str, Any]:
    """Returns the columns with a row for each token filled to `length`; longer rows and other columns stay.

    `fill` has the library's words for how: `pad_id`, `pad_type_id`, `direction`; `also`, what further columns are filled with.
    A token may have several types (TAPAS' has seven).
    """
    values = {
        "input_ids": fill["pad_id"],
        "attention_mask": 0,
        "token_type_ids": fill["pad_type_id"],
        "special_tokens_mask": 1,
        **also,
    }

    def filled(row: Any, value: float, most: int) -> np.ndarray:
        if not 1 <= np.ndim(row) <= most:
            raise InputError(f"pad expects rows of ids, found one of shape {np.shape(row)}")
        whole = np.full(
            (max(length, len(row)), *np.shape(row)[1:]), value, np.float32 if type(value) is float else np.int32
        )
        start = 0 if fill["direction"] == "right" else len(whole) - len(row)
        whole[start : start + len(row)] = row
        return whole

    return {
        name: [filled(row, values[name], 2 if name == "token_type_ids" else 1) for row in rows]
        if name in values
        else rows
        for name, rows in columns.items()
    }


def stack(columns: Mapping[str, Any], single: bool, *, ragged: bool) -> dict[str, Any]:
    """Returns each column as one int32 or float32 array; as lists if `ragged`, or if its values do not stack."""
    stacked = {
        name: [np.asarray(row).tolist() for row in rows] if ragged else _array(rows) for name, rows in columns.items()
    }
    return {name: rows[0] for name, rows in stacked.items()} if single else stacked


def _array(rows: Sequence[Any]) -> Any:
    if not len(rows):
        return np.zeros((0, 0), np.int32)
    try:
        array = np.asarray(rows)
    except ValueError:  # rows of several lengths
        return rows
    kind = {"i": np.int32, "u": np.int32, "f": np.float32}.get(array.dtype.kind)
    return rows if kind is None else array.astype(kind)
