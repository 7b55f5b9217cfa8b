"""Table question answering: the cells that answer a question, and what is to be done with them.

A row of a batch is a conversation: questions about one table, of which each is told the answer to the one before. By itself a
question is a conversation of one, so questions are computed side by side; with `sequential` those of an input are one
conversation, which is one compiled loop.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.params import Tree
from jaxformers.data.buckets import bucket_for
from jaxformers.errors import InputError
from jaxformers.families.tapas import COLUMN, PREVIOUS, ROW, SEGMENT, TYPES
from jaxformers.pipelines.base import Batch, Forward, Pipeline, Preprocess, Row, fetch
from jaxformers.pipelines.inputs import LENGTHS, TEXT_KEYS, WHOLE, Parts, valid_text
from jaxformers.preprocess.tokenizer_tapas import TableTokenizer, TextTable, read_table

FORM = "{'table': a DataFrame, a dict of columns or a list of rows, 'query': str or list of str}"


class Asked(NamedTuple):
    """One input: a table and questions about it."""

    table: TextTable
    queries: list[str]
    where: str


def table_question_answering(parts: Parts) -> Pipeline:
    """Which cells of a table answer a question.

    `tqa(table=..., query=...)`, `tqa(table, query)` or `tqa({"table": ..., "query": ...})` gives `{"answer", "coordinates",
    "cells", "aggregator"}`: the chosen cells by (row, column) and by what they hold; `aggregator`, where the model has
    operators, is what is to be done with them; `answer` is both in words, `"SUM > 2, 3"`. Several questions, as a list under
    `query`, give a list of these; so do several inputs, as a list of such dicts. As in transformers a list of one counts as
    that one.

    Options of a call:
      sequential: the questions of an input are a conversation, each told which cells answered the one before (SQA).
      truncation: "drop_rows_to_fit" (or True, the default) shortens cells, then leaves out last rows; False refuses tables
        that are too long.
      padding: for transformers' sake; what is computed does not depend on it.
    """
    model, tokenizer = parts.model, parts.tokenizer
    if not isinstance(tokenizer, TableTokenizer):
        raise InputError(f"table-question-answering needs a tokenizer of tables (TAPAS'), found {tokenizer!r}")
    # Where positions begin anew in every cell, a row may have more tokens than the model has positions.
    anew = model.config.reset_position_index_per_cell
    maximum = min(tokenizer.model_max_length, LENGTHS[-1]) if anew else parts.max_length
    sizes = model.config.type_vocab_sizes
    operators = model.config.aggregation_labels if model.config.num_aggregation_labels else ()
    nothing = model.config.no_aggregation_label_index

    def encode(
        items: list[Asked],
        *,
        sequential: bool = False,
        truncation: bool | str | None = True,
        padding: bool | str = True,
    ) -> tuple[list[Row], dict[str, Any]]:
        rows: list[Row] = []
        places: list[
            list[tuple[int, int]]
        ] = []  # of each item's questions: (row of the batch, place in the conversation)
        cells: list[list[dict[tuple[int, int], int]]] = []  # and of each of their cells: its first token
        for item in items:
            cut = True if truncation is None else truncation
            encoding = tokenizer(item.table, item.queries, truncation=cut, max_length=maximum)
            asked = [dict(zip(TEXT_KEYS, map(np.asarray, row), strict=True)) for row in
                     zip(*(encoding[key] for key in TEXT_KEYS), strict=True)]  # fmt: skip
            _check_types([row["token_type_ids"] for row in asked], sizes, item.where)
            talks = [asked] if sequential else [[row] for row in asked]
            places.append([(len(rows) + t, q) for t, talk in enumerate(talks) for q in range(len(talk))])
            cells.append([_first_tokens(row["token_type_ids"]) for row in asked])
            rows.extend(_conversation(talk) for talk in talks)
        return rows, {"tables": [item.table for item in items], "places": places, "cells": cells}

    lengths = [*(length for length in LENGTHS if length < maximum), maximum]

    def collate(rows: list[Row]) -> Batch:
        length = bucket_for(max((len(row["input_ids"]) for row in rows), default=0), lengths)
        most = max((row["input_ids"].shape[1] for row in rows), default=1)
        questions = 1 << (most - 1).bit_length()  # a power of two: few programs
        batch: Batch = {}
        for key in TEXT_KEYS:
            more = (len(TYPES),) if key == "token_type_ids" else ()
            batch[key] = np.zeros((len(rows), length, questions, *more), np.int32)
            for line, row in zip(batch[key], rows, strict=True):
                line[: len(row[key]), : row[key].shape[1]] = row[key]
        return batch

    def compute(params: Tree, batch: Batch) -> Batch:
        def ask(before: tuple[jax.Array, jax.Array], given: Batch) -> tuple[tuple[jax.Array, jax.Array], Batch]:
            """One question of each conversation; `before` is the last one's cell for each token, and whether it was chosen."""
            types_BLT = given["token_type_ids"]
            inside_BL = (types_BLT[..., SEGMENT] == 1) & (types_BLT[..., COLUMN] > 0) & (types_BLT[..., ROW] > 0)
            cell_BL = jnp.where(inside_BL, types_BLT[..., COLUMN] * sizes[ROW] + types_BLT[..., ROW], -1)
            told_BL = ((cell_BL[:, :, None] == before[0][:, None]) & before[1][:, None]).any(-1)
            types_BLT = types_BLT.at[..., PREVIOUS].set(told_BL.astype(types_BLT.dtype))
            output = model.apply(params, execution=WHOLE, **{**given, "token_type_ids": types_BLT})
            p_BL = jax.nn.sigmoid(output.logits.astype(jnp.float32)) * given["attention_mask"]  # type: ignore[union-attr]
            same_BLL = (cell_BL[:, :, None] == cell_BL[:, None]).astype(jnp.float32)
            chosen_BL = inside_BL & (jnp.einsum("BLS,BS->BL", same_BLL, p_BL) > 0.5 * same_BLL.sum(-1))
            operator = {} if output.logits_aggregation is None else {"operator": output.logits_aggregation.argmax(-1)}
            return (cell_BL, chosen_BL), {"chosen": chosen_BL, **operator}

        each = {key: jnp.moveaxis(array, 2, 0) for key, array in batch.items()}
        none = jnp.full_like(each["input_ids"][0], -1), jnp.zeros_like(each["input_ids"][0], bool)
        _, found = jax.lax.scan(ask, none, each)
        return {key: jnp.moveaxis(array, 0, 1) for key, array in found.items()}

    def postprocess(outputs: Batch) -> Any:
        columns, host = fetch(outputs)
        results: list[Any] = []
        for table, places, cells in zip(host["tables"], host["places"], host["cells"], strict=True):
            answers = []
            for (row, question), first in zip(places, cells, strict=True):
                chosen_L = np.asarray(columns["chosen"][row])[question]
                answer = _answer(table, sorted(cell for cell, token in first.items() if chosen_L[token]))
                if operators:
                    operator = int(np.asarray(columns["operator"][row])[question])
                    answer["aggregator"] = operators[operator]
                    answer["answer"] = ("" if operator == nothing else f"{operators[operator]} > ") + answer["answer"]
                answers.append(answer)
            results.append(answers[0] if len(answers) == 1 else answers)
        return results if host["given"] == "many" else results[0]

    return Pipeline(
        Preprocess(_read, encode, collate, parts.devices, _arrange), Forward(model, compute, parts.mesh), postprocess
    )


# -- what was asked ----------------------------------------------------------------------------------------------------


def _arrange(*inputs: Any, table: Any = None, query: Any = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The forms of a call: a table and a question (or several), by place or by keyword, or one argument that holds both."""
    inputs = (*inputs, *([] if table is None else [table]), *([] if query is None else [query]))
    if len(inputs) == 2:
        given = {"table": inputs[0], "query": inputs[1]}
    elif len(inputs) == 1:
        given = inputs[0]
    else:
        raise InputError(f"table question answering needs table= and query=, or a dict {FORM}, or a list of such dicts")
    return given[0] if isinstance(given, list | tuple) and len(given) == 1 else given, options


def _read(value: Any, where: str) -> Asked:
    if not isinstance(value, Mapping) or value.get("table") is None or value.get("query") is None:
        found = f"the keys {list(map(str, value))!r:.60}" if isinstance(value, Mapping) else f"{type(value).__name__}"
        raise InputError(f"{where} must be a table with a query, {FORM}; found {found}")
    table = read_table(value["table"], f"the table of {where}")
    if not table.header or not table.rows:
        raise InputError(f"the table of {where} is empty: it has {len(table.header)} columns, {len(table.rows)} rows")
    queries = list(value["query"]) if isinstance(value["query"], list | tuple) else [value["query"]]
    if not all(queries) or not queries:
        raise InputError(f"the query of {where} is empty")
    return Asked(table, [valid_text(query, f"the query of {where}") for query in queries], where)


def _check_types(types: list[np.ndarray], sizes: tuple[int, ...], where: str) -> None:
    """Refuses what the model has no embedding for; JAX would silently take its last."""
    for kind, (largest, size) in enumerate(zip(np.concatenate(types).max(axis=0).tolist(), sizes, strict=True)):
        if largest >= size:
            raise InputError(
                f"the table of {where} has a {TYPES[kind]} of {largest}, this model knows them up to {size - 1}"
            )


def _conversation(asked: list[Row]) -> Row:
    """The questions of a conversation as one row, arrays [L, Q, ...]."""
    length = max(len(row["input_ids"]) for row in asked)
    fit = lambda array: np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])  # noqa: E731
    return {key: np.stack([fit(row[key]) for row in asked], axis=1) for key in TEXT_KEYS}


# -- what was found ----------------------------------------------------------------------------------------------------


def _first_tokens(types_LT: np.ndarray) -> dict[tuple[int, int], int]:
    """The first token of each cell, by (row, column) counted from 0."""
    first: dict[tuple[int, int], int] = {}
    for token, (segment, column, row) in enumerate(types_LT[:, : ROW + 1].tolist()):
        if segment == 1 and column and row:
            first.setdefault((row - 1, column - 1), token)
    return first


def _answer(table: TextTable, chosen: list[tuple[int, int]]) -> dict[str, Any]:
    cells = [table.rows[row][column] for row, column in chosen]
    return {"answer": ", ".join(cells), "coordinates": chosen, "cells": cells}
