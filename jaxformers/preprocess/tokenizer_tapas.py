"""TAPAS' tokenizer: a question and the table it is about, laid out as one row of tokens that know their cells.

`[CLS] question [SEP] header row row …`, and beside each token seven types: segment (0 question, 1 table), column and row (from
1; the header's row is 0), whether it answered the previous question, its number's rank in its column from below and from
above, and how that number stands to those of the question. Numbers and dates are found by `table_values`.

Here: reading a table in the forms people have, `TextTable`; and `TableTokenizer`, which `load_tokenizer` gives for TAPAS.
"""

import datetime
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxformers.errors import InputError
from jaxformers.preprocess import table_values
from jaxformers.preprocess.text import Tokenizer
from jaxformers.preprocess.tokenizer_encoding import Encoding, encode
from jaxformers.preprocess.tokenizer_padding import pad_columns, stack

_TRUNCATION = {False: False, True: True, None: False, "drop_rows_to_fit": True, "do_not_truncate": False}
_PADDING = {False: "", None: "", "do_not_pad": "", True: "longest", "longest": "longest", "max_length": "max_length"}
_EMPTY = ("n/a", "?", "nan")  # what a cell without content also says
_ANSWERED = {"labels": 0, "numeric_values": math.nan, "numeric_values_scale": 1.0}  # with what each is padded
FORM = "a pandas DataFrame, a dict of columns (lists of equal length) or a list of rows (dicts)"


class TextTable(NamedTuple):
    """A table of texts: its header, and its rows, each as long as the header."""

    header: list[str]
    rows: list[list[str]]


def read_table(table: Any, where: str = "the table") -> TextTable:
    """A table in any of the forms people have, as texts.

    Args:
      table: a pandas DataFrame, a dict of columns, or a list of rows as dicts, whose columns are all that a row has. Numbers,
        dates and truth values are written as `str` writes them; None, NaN and what a row lacks are empty cells.
      where: what to call it in an error.

    Raises:
      InputError: another form, columns of unequal length, or a cell that is none of these.

    >>> read_table([{"city": "Bern", "people": 134794}, {"city": "Chur"}])
    TextTable(header=['city', 'people'], rows=[['Bern', '134794'], ['Chur', '']])
    """
    if isinstance(table, TextTable):
        return table
    rows: list[Sequence[Any]]
    if all(hasattr(table, name) for name in ("columns", "itertuples", "iloc")):  # a DataFrame, pandas unimported
        header, rows = list(table.columns), list(table.itertuples(index=False, name=None))
    elif isinstance(table, Mapping):
        for name, column in table.items():
            if isinstance(column, str | bytes | Mapping) or not (
                hasattr(column, "__iter__") and hasattr(column, "__len__")
            ):
                found = f"{type(column).__name__} as the column {name!r:.40}"
                raise InputError(f"{where} must be {FORM}, found a {found}")
        lengths = sorted({len(column) for column in table.values()})
        if len(lengths) > 1:
            raise InputError(f"the columns of {where} must have one length, found {lengths}")
        header, rows = list(table), list(zip(*table.values(), strict=True))
    elif isinstance(table, list | tuple) and table and all(isinstance(row, Mapping) for row in table):
        header = list(dict.fromkeys(itertools.chain(*table)))
        rows = [[row.get(name) for name in header] for row in table]
    else:
        raise InputError(f"{where} must be {FORM}, found {type(table).__name__}: {table!r:.60}")
    return TextTable(
        [_text(name, f"the header of column {column} of {where}") for column, name in enumerate(header)],
        [
            [_text(cell, f"row {index}, column {column} of {where}") for column, cell in enumerate(row)]
            for index, row in enumerate(rows)
        ],
    )


def _text(cell: Any, where: str) -> str:
    """A cell as a text."""
    if isinstance(cell, str):
        return cell
    if cell is None or type(cell).__name__ == "NAType":  # pandas' own None
        return ""
    if isinstance(cell, numbers.Number | np.bool_ | datetime.date | datetime.time):
        return "" if cell != cell else str(cell)  # NaN, and pandas' date that is none, differ from themselves
    raise InputError(f"{where} must be a text, a number or a date, found {type(cell).__name__}: {cell!r:.40}")


class Cell(NamedTuple):
    """The tokens of a cell (or of a header): ids, and for each the place in the cell where its word begins."""

    ids: list[int]
    begins: list[int]


class Laid(NamedTuple):
    """A table's tokens as far as they fit: ids, and for each its column and row, from 1 (0 for a header's row)."""

    ids: list[int]
    columns: list[int]
    rows: list[int]

    def places(self, length: int) -> dict[tuple[int, int], list[int]]:
        """Where the tokens of each cell stand, (row, column) counted from 0, in a text of `length` whose end this table is."""
        found: dict[tuple[int, int], list[int]] = {}
        for place, cell in enumerate(zip(self.rows, self.columns, strict=True), length - len(self.ids)):
            found.setdefault((cell[0] - 1, cell[1] - 1), []).append(place)
        return found


class TableTokenizer(Tokenizer):
    """Turns a table and questions about it into what TAPAS takes; call it. What else it can is `Tokenizer`'s."""

    def __call__(  # type: ignore[override]  # takes a table where other tokenizers take a text
        self,
        table: Any,
        queries: str | Sequence[str] | None = None,
        *,
        answer_coordinates: Sequence[Any] | None = None,
        answer_text: Sequence[Any] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
    ) -> Encoding:
        """Lays a table out behind each of B questions; keys and meaning are transformers'.

        Numbers come as arrays where `padding` or `return_tensors="np"` asks for them and the rows have one length L, else as
        lists. One question (a str) gives values without the batch axis, unless tensors are asked for.

        Args:
            table: in a form that `read_table` takes. A text or a list of texts, without `queries`: questions of no table.
            queries: a question, or a list of them, all about this table.
            answer_coordinates: for each question the (row, column) of the cells that answer it, from 0: adds labels,
                numeric_values and numeric_values_scale, and tells each question the answer of the one before.
            answer_text: for transformers' sake; answers are found by their coordinates.
            add_special_tokens: whether [CLS] and [SEP] frame the question.
            padding: True or "longest" (of this call), "max_length", or False.
            truncation: True or "drop_rows_to_fit": each cell loses its last words, and where one word of each is still too
                much, the last rows are left out. False leaves all as it is.
            max_length: tokens to truncate or pad to; None means `model_max_length`.
            pad_to_multiple_of: round the padded length up to a multiple.
            padding_side: "right" or "left", in place of the tokenizer's own.
            return_tensors: "np" for arrays with the batch axis, else None.
            return_token_type_ids, return_attention_mask: None means what the model takes.
            return_special_tokens_mask: add `special_tokens_mask`, 1 for special and padding tokens.
            return_length: add `length`, the tokens of each row.

        Returns:
            input_ids [B, L], attention_mask [B, L], token_type_ids [B, L, 7]; labels [B, L], numeric_values [B, L] (NaN
            where a cell holds no number) and numeric_values_scale [B, L] (the tokens of a cell) with answers.

        Raises:
            InputError: what is no table or no question, a table with more columns or rows than the model can number, an answer
                that is not in the table, or a question and a header that do not fit.
        """
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors must be 'np' or None, found {return_tensors!r}")
        for name, value, known in (("truncation", truncation, _TRUNCATION), ("padding", padding, _PADDING)):
            if not isinstance(value, bool | str | None) or value not in known:
                raise InputError(f"{name} must be one of {', '.join(map(repr, known))}; found {value!r}")
        if queries is None and (isinstance(table, str) or _are_texts(table)):
            table, queries = TextTable([], []), table
        if not isinstance(queries, str) and not (queries and _are_texts(queries)):
            raise InputError(f"queries must be a question or a list of questions, each a str, found {queries!r:.60}")
        single = isinstance(queries, str)
        questions = [queries] if isinstance(queries, str) else list(queries)
        answers = self._answers(answer_coordinates, len(questions), single)
        read, cut = read_table(table), _TRUNCATION[truncation]
        limit = self.model_max_length if max_length is None else max_length
        cells = self._cells(read)
        values = [table_values.column_values([row[column] for row in read.rows]) for column in range(len(read.header))]

        def wanted(name: str, asked: bool | None) -> bool:
            return name in self.model_input_names if asked is None else asked

        made: list[dict[str, Any]] = []
        for index, (question, tokens) in enumerate(self._questions(questions)):
            laid = self._laid(cells, limit - len(tokens) - 2 if cut else None)
            start, end = ([self.cls_token_id], [self.sep_token_id]) if add_special_tokens else ([], [])
            ids = [*start, *tokens, *end, *laid.ids]
            if len(ids) > limit:
                message = (
                    f"query {index} ({len(tokens)} tokens) and the table make {len(ids)} tokens, {limit} are allowed"
                )
                if cut or max_length is not None:
                    raise InputError(message + ("" if cut else "; truncation=True leaves rows out"))
                self._say("too long", message)
            places = laid.places(len(ids))
            types = _types(laid, len(ids), places, values, table_values.values_in(question))
            row: dict[str, Any] = {"input_ids": ids}
            if wanted("attention_mask", return_attention_mask):
                row["attention_mask"] = [1] * len(ids)
            if answers is not None:
                row |= _answered(answers[index], places, values, len(ids), f"the answer to query {index}")
                if index:
                    types[_tokens_of(answers[index - 1], places, f"the answer to query {index - 1}"), 3] = 1
            if wanted("token_type_ids", return_token_type_ids):
                row["token_type_ids"] = types
            if return_special_tokens_mask:
                framed = [*[1] * len(start), *[0] * len(tokens), *[1] * len(end)]
                row["special_tokens_mask"] = [*framed, *[0] * len(laid.ids)]
            if return_length:
                row["length"] = len(ids)
            made.append(row)

        columns = {name: [row[name] for row in made] for name in made[0]}
        if how := _PADDING[padding]:
            fill = self._fill(pad_to_multiple_of, None, padding_side)
            length = limit if how == "max_length" else max(map(len, columns["input_ids"]))
            multiple = pad_to_multiple_of or 1
            columns = pad_columns(columns, -(-length // multiple) * multiple, fill, _ANSWERED)
        lengths = sorted({len(row) for row in columns["input_ids"]})
        if len(lengths) > 1 and return_tensors:
            raise InputError(
                f"return_tensors={return_tensors!r} needs rows of one length, found {lengths}: ask for padding=True"
            )
        stacked = stack(columns, False, ragged=len(lengths) > 1 or not (how or return_tensors))
        return Encoding({name: rows[0] for name, rows in stacked.items()} if single and not return_tensors else stacked)

    def tokenize(self, text: str, pair: str | None = None, *, add_special_tokens: bool = False) -> list[str]:
        """Returns the tokens of one question, header or cell."""
        tokens = self.convert_ids_to_tokens(self(text, pair, add_special_tokens=add_special_tokens)["input_ids"])
        return list(tokens)

    # ------------------------------------------------------------------------------------------------------ parts

    def _option(self, name: str, otherwise: Any = None) -> Any:
        value = self._config.get(name)
        return otherwise if value is None else value

    def _answers(self, coordinates: Any, count: int, single: bool) -> list[Any] | None:
        """Each question's answer as a list of (row, column)."""
        if coordinates is None:
            return None
        if self._option("update_answer_coordinates"):
            raise InputError(
                "update_answer_coordinates, which finds answers by their texts, is not supported: set it to false"
            )
        answers = [coordinates] if single else list(coordinates)
        if len(answers) != count:
            raise InputError(f"answer_coordinates must hold a list for each of {count} queries, found {len(answers)}")
        return answers

    def _questions(self, questions: list[str]) -> list[tuple[str, list[int]]]:
        """Each question with its tokens; one that the options say is too short or too long is left out: "" stands for it."""
        least, most = self._option("min_question_length", 0), self._option("max_question_length", math.inf)
        found = []
        for question, cell in zip(questions, self._tokens(questions), strict=True):
            fits = least <= len(cell.ids) <= most
            if not fits:
                self._say(
                    "question", f"a question of {len(cell.ids)} tokens is left out: not {least} to {most} of them"
                )
            found.append((question, cell.ids) if fits else ("", []))
        return found

    def _cells(self, table: TextTable) -> list[list[Cell]]:
        """The tokens of every cell, the header as the first row."""
        if len(table.header) >= (most := self._option("max_column_id", self.model_max_length)):
            raise InputError(f"the table has {len(table.header)} columns, this model can tell at most {most - 1} apart")
        header = [""] * len(table.header) if self._option("strip_column_names") else table.header
        flat = iter(self._tokens([text for row in (header, *table.rows) for text in row]))
        return [[next(flat) for _ in header] for _ in range(len(table.rows) + 1)]

    def _tokens(self, texts: list[str]) -> list[Cell]:
        """The tokens of each text; what holds no letter and no figure says that it is empty."""
        empty = self.extra_special_tokens[0]
        shown = [text if not text or _says(text) else empty for text in texts]
        cells = []
        for encoding in encode(self.backend, shown, single=False, add_special_tokens=False, words=False):
            begins: list[int] = []
            for place, token in enumerate(encoding.tokens):
                begins.append(begins[-1] if begins and token.startswith("##") else place)
            cells.append(Cell(encoding.ids, begins))
        return cells

    def _laid(self, cells: list[list[Cell]], budget: int | None) -> Laid:
        """The table row by row, as much of it as `budget` tokens hold; None takes all."""
        longest = max((cell.begins[-1] + 1 for row in cells for cell in row if cell.ids), default=0)
        rows, words, most = len(cells) - 1, longest, self._option("max_row_id", self.model_max_length)
        if rows >= most:
            if budget is None:
                raise InputError(f"the table has {rows} rows, this model can tell at most {most - 1} apart")
            rows = most - 1
        if budget is not None:
            rows, words = self._room(cells, rows, longest, budget)
        laid = Laid([], [], [])
        for line, row in enumerate(cells[: rows + 1]):
            for column, cell in enumerate(row, 1):
                kept = [index for index, begin in zip(cell.ids, cell.begins, strict=True) if begin < words]
                laid.ids.extend(kept)
                laid.columns.extend([column] * len(kept))
                laid.rows.extend([line] * len(kept))
        return laid

    def _room(self, cells: list[list[Cell]], rows: int, longest: int, budget: int) -> tuple[int, int]:
        """How many rows fit into `budget` tokens, and where in a cell the words that fit end."""
        trim = self._option("cell_trim_length", -1)
        most = min(longest, trim) if trim >= 0 else longest
        counts_RT = np.zeros((len(cells), longest + 1), int)  # tokens of a row whose word begins there
        for line, row in enumerate(cells):
            for cell in row:
                np.add.at(counts_RT[line], cell.begins, 1)
        tokens_RT = counts_RT.cumsum(0).cumsum(1)[
            :, : most + 1
        ]  # of all rows up to this, whose word begins up to there
        while True:
            words = min(int((tokens_RT[rows] <= budget).sum()), most)
            if words == most or (words and trim < 0):
                return rows, words or 1
            rows -= 1
            if rows < 1:
                return 0, 1


def _types(
    laid: Laid,
    length: int,
    places: Mapping[tuple[int, int], list[int]],
    values: list[dict[int, table_values.Value]],
    asked: list[table_values.Value],
) -> np.ndarray:
    """The seven types of each token, [length, 7], those of an earlier answer zero.

    Args:
        laid: the table's tokens, which come last.
        length: of the whole row of tokens.
        places: where the tokens of a cell are.
        values: each column's numbers or dates, by row.
        asked: those of the question.
    """
    types = np.zeros((length, 7), np.int32)
    types[length - len(laid.ids) :, :3] = np.stack([np.ones_like(laid.ids), laid.columns, laid.rows], axis=-1)
    for column, known in enumerate(values):
        for row, both in table_values.ranks(known).items():
            types[places.get((row, column), []), 4:6] = both
        for row, relation in table_values.relations(known, asked).items():
            types[places.get((row, column), []), 6] = relation
    return types


def _says(text: str) -> bool:
    """Whether a text says anything."""
    return text.lower().strip() not in _EMPTY and any(c.isalnum() for c in text)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _tokens_of(answer: Any, places: Mapping[tuple[int, int], list[int]], where: str) -> list[int]:
    """The tokens of an answer's cells."""
    found: list[int] = []
    for cell in answer:
        try:
            row, column = map(int, cell)
            found += places[row, column]
        except (TypeError, ValueError):
            raise InputError(f"{where} must be a list of (row, column), found {cell!r:.40} in it") from None
        except KeyError:
            raise InputError(
                f"{where} has row {row}, column {column}, of which no token is there (rows may be truncated)"
            ) from None
    return found


def _answered(
    answer: Any, places: Mapping[tuple[int, int], list[int]], values: list[dict[int, Any]], length: int, where: str
) -> dict[str, Any]:
    """What a model learns from an answer: whether a token is of it, its cell's number, and over how many tokens that is told."""
    labels, numbers_L, scale_L = (
        np.zeros(length, np.int32),
        np.full(length, np.nan, np.float32),
        np.ones(length, np.float32),
    )
    labels[_tokens_of(answer, places, where)] = 1
    for (line, column), tokens in places.items():
        if line >= 0:
            scale_L[tokens] = len(tokens)
            if isinstance(value := values[column].get(line), float):
                numbers_L[tokens] = value
    return {"labels": labels, "numeric_values": numbers_L, "numeric_values_scale": scale_L}
