"""Rows of numbers to arrays: what the cells of each column are, and how some of them become one padded array.

Here: `Form`, `read_forms`, `read_lengths`, `pad`, `stack`. Which rows make a batch and to which length is decided in
`loader.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxformers.data.table import RowSource, Table
from jaxformers.errors import DataError

IGNORE = -100  # a token's label that asks for nothing, as in PyTorch

# The columns that are padded and what fills them. Any other column must have one shape in all examples.
PAD_VALUES: dict[str, float] = {
    "input_ids": 0,
    "token_type_ids": 0,
    "attention_mask": 0,
    "position_ids": 0,
    "special_tokens_mask": 1,
    "p_mask": 1,  # no answer begins or ends in padding
    "labels": IGNORE,  # only labels that are sequences, not those that are maps of pixels; the losses leave -100 out
    "decoder_input_ids": 0,
    "decoder_attention_mask": 0,
    "input_values": 0,  # waves; spectra have one size
}


@dataclass(frozen=True)
class Form:
    """What the cells of one column are, as the first row shows."""

    key: str
    dataset: str
    dtype: np.dtype
    shape: tuple[int, ...] | None  # None: sequences, padded on their last axis
    choices: int = 0  # for sequences [choices, length] (multiple choice)
    fill: float = 0


def read_forms(examples: RowSource, pad_values: Mapping[str, float], name: str) -> dict[str, Form]:
    """The form of every column. Sequences under a name in `pad_values` are padded; all else has one shape.

    Raises:
      DataError: The first row is no dict, or holds what is not numbers.
    """
    first = examples[0]
    if not isinstance(first, Mapping):
        raise DataError(f"the examples of {name} must be dicts, row 0 is {type(first).__name__}")
    forms = {}
    for key, cell in first.items():
        if key in ("example_weight", "example_index"):
            raise DataError(f"{name} has a column {key!r}, a name that batches use for their own")
        scalar = cell.ndim == 0 if isinstance(cell, np.ndarray) else not isinstance(cell, (list, tuple))
        # of these columns, arrays of several axes have one size: maps of pixels, spectra
        whole = key in ("labels", "input_values") and getattr(cell, "ndim", 0) > 1
        padded = key in pad_values and not scalar and not whole
        values = _flat(cell)
        if scalar and isinstance(examples, Table) and isinstance(examples[key], (list, np.ndarray)):
            values = np.asarray(examples[key])  # the whole column: a rating may be 5 here and 3.8 in the next row
        elif padded and not values.size:
            values = np.asarray(pad_values[key])
        if values.dtype.kind not in "biufV":  # V: bfloat16
            odd = next((v for v in values.tolist() if not isinstance(v, (bool, int, float))), cell)
            raise DataError(
                f"column {key!r} of {name} holds {odd!r:.60}, not numbers: a batch is made of numbers; "
                "drop the column or turn it into numbers"
            )
        nested = padded and len(cell) and isinstance(cell[0], (list, tuple, np.ndarray))
        forms[key] = Form(
            key,
            name,
            np.dtype(np.int32) if scalar and values.dtype.kind in "biu" else _narrow(values.dtype),
            shape=None if padded else np.shape(cell),
            choices=len(cell) if nested else 0,
            fill=pad_values.get(key, 0),
        )
    return forms


def read_lengths(examples: RowSource, forms: Mapping[str, Form]) -> dict[str, np.ndarray]:
    """Lengths of each column of sequences, int64 [examples]: one pass over the rows, none where there are no sequences.

    Rows that are costly to read have a method `outline(index)`, whose sequences need no values: of a wave, a range as long as it
    will be at most.

    Raises:
      DataError: A row lacks a sequence, has no tokens, or has another number of choices than the first.
    """
    padded = [form for form in forms.values() if form.shape is None]
    lengths = {form.key: np.zeros(len(examples), np.int64) for form in padded}
    read = getattr(examples, "outline", examples.__getitem__)  # where rows have more, which would have to be decoded
    for index in range(len(examples) if padded else 0):
        row = read(index)
        for form in padded:
            try:
                cell = row[form.key]
                size = max(map(len, cell)) if form.choices else len(cell)
            except (KeyError, TypeError, ValueError):
                raise DataError(f"row {index} of {form.dataset} has no sequence {form.key!r} as row 0 has") from None
            if form.choices and len(cell) != form.choices:
                raise DataError(
                    f"{form.key} of row {index} of {form.dataset} has {len(cell)} choices, row 0 has {form.choices}"
                )
            if not size and form.key == "input_ids":  # a row of nothing but padding makes NaN in fused kernels
                raise DataError(f"row {index} of {form.dataset} has no tokens: its input_ids are empty")
            lengths[form.key][index] = size
    return lengths


def pad(form: Form, cells: list[Any], numbers: np.ndarray, length: int, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sequences as one array.

    Args:
      form: Their form.
      cells: B sequences, or B lists of sequences.
      numbers: int [B], the numbers of their rows, for error messages.
      length: Length to pad to.
      left: Whether padding stands before the sequence.

    Returns:
      The array, [B, length] or [B, choices, length], and a bool array of that shape: where it is not padding.

    Raises:
      DataError: A value does not fit the column's dtype.
    """
    lines = [line for cell in cells for line in cell] if form.choices else cells
    sizes = np.fromiter(map(len, lines), np.int64, len(lines))[:, None]
    places = np.arange(length)
    mask = places >= length - sizes if left else places < sizes
    padded = np.full(mask.shape, form.fill, form.dtype)
    if sizes.any():
        values = np.concatenate([line for line in lines if len(line)])  # an empty list would count as float
        padded[mask] = _converted(form, values, cells, numbers)
    shape = (len(cells), form.choices, length) if form.choices else mask.shape
    return padded.reshape(shape), mask.reshape(shape)


def stack(form: Form, cells: list[Any], numbers: np.ndarray) -> np.ndarray:
    """Scalars, or arrays of one shape, as one array [B, ...]; arguments and errors as in `pad`."""
    try:
        stacked = np.asarray(cells)
    except ValueError:  # how numpy says that shapes differ
        stacked = None
    if stacked is None or stacked.shape[1:] != form.shape:
        row, shape = next((n, np.shape(c)) for n, c in zip(numbers, cells, strict=True) if np.shape(c) != form.shape)
        raise DataError(
            f"{form.key} of row {row} of {form.dataset} has shape {shape}, of row 0 {form.shape}; "
            "a column to be padded needs an entry in pad_values"
        )
    return _converted(form, stacked, cells, numbers)


def _converted(form: Form, values: np.ndarray, cells: list[Any], numbers: np.ndarray) -> np.ndarray:
    if values.dtype == form.dtype:
        return values
    converted = _cast(values, form.dtype)
    if converted is None:
        row, cell = next((n, c) for n, c in zip(numbers, cells, strict=True) if _cast(_flat(c), form.dtype) is None)
        raise DataError(
            f"{form.key} of row {row} of {form.dataset} must be {form.dtype} as in row 0, it is {cell!r:.80}"
        )
    return converted


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """`values` as `dtype`, or None if they are no numbers or an integer dtype cannot hold them."""
    if not values.size:
        return values.astype(dtype)
    if values.dtype.kind not in "biuf":
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        converted = values.astype(dtype)
    return converted if dtype.kind not in "biu" or np.array_equal(converted, values) else None


def _narrow(dtype: np.dtype) -> np.dtype:
    """JAX computes in 32 bits: wider integers and floats are narrowed, all else (bytes of an image, masks) stays."""
    if dtype.kind in "iu" and dtype.itemsize > 4:
        return np.dtype(np.int32)
    return np.dtype(np.float32) if dtype == np.float64 else dtype


def _flat(cell: Any) -> np.ndarray:
    """All values of a cell in one row; its lines may differ in length."""
    if isinstance(cell, (list, tuple)) and cell and isinstance(cell[0], (list, tuple, np.ndarray)):
        return np.concatenate([_flat(part) for part in cell])
    return np.ravel(np.asarray(cell))
