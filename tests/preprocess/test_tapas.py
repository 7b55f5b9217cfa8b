"""TAPAS' tokenizer against what transformers' laid out (`tests/goldens/make_tables.py`), and what it takes and refuses."""

import datetime
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess import load_tokenizer, table_values
from jaxformers.preprocess.tokenizer_tapas import TableTokenizer, TextTable, read_table
from tests.goldens.tables import LONG, SHORT, asked, table, write_tapas

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
LAYOUTS = json.loads((GOLDENS / "tables.json").read_text())["layouts"]


@pytest.fixture(scope="session")
def tok(tmp_path_factory):
    return load_tokenizer(write_tapas(tmp_path_factory.mktemp("tapas")))


@pytest.mark.parametrize("seed", LAYOUTS)
def test_a_table_is_laid_out_as_theirs(seed, tok):
    found = tok(table(int(seed)), asked(int(seed)), truncation=True, max_length=72)
    for key, rows in LAYOUTS[seed].items():
        assert [np.asarray(row).tolist() for row in found[key]] == rows, key
    assert [sum(row) for row in found["attention_mask"]] == [len(row) for row in found["input_ids"]]


def test_the_types_of_a_table(tok):
    found = tok({"age": ["9", "may", "7"], "x": ["5", "5", "-"]}, "more than 7 in 2010?", return_tensors="np")
    tokens = tok.convert_ids_to_tokens(found["input_ids"][0])
    types = found["token_type_ids"][0]
    assert types.dtype == np.int32
    table = tokens.index("[SEP]") + 1
    assert tokens[table:] == ["age", "x", "9", "5", "may", "5", "7", "[EMPTY]"]
    assert not types[:table].any()
    assert types[table:].tolist() == [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 2, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],  # two of three cells are numbers: too few
        [1, 2, 1, 0, 0, 0, 0],
        [1, 1, 2, 0, 0, 0, 0],
        [1, 2, 2, 0, 0, 0, 0],
        [1, 1, 3, 0, 0, 0, 0],
        [1, 2, 3, 0, 0, 0, 0],
    ]
    types = tok({"age": ["9", "7", "7"]}, "more than 7 in 2010?")["token_type_ids"]
    # 7 is less than 9 and equal to 7; 2010 is greater than all.
    assert types[-3:] == [[1, 1, 1, 0, 2, 1, 2 + 4], [1, 1, 2, 0, 1, 2, 1 + 4], [1, 1, 3, 0, 1, 2, 1 + 4]]


def test_answers_become_labels_and_the_next_question_hears_them(tok):
    table = {"age": ["9", "7"], "city": ["bern", "x y"]}
    first, second = [(1, 1)], [(0, 0), (0, 1)]
    found = tok(
        table, ["who?", "and?"], answer_coordinates=[first, second], answer_text=[["x y"], ["9", "bern"]], padding=True
    )
    places = {token: list(found["input_ids"][0]).index(tok.convert_tokens_to_ids(token)) for token in "97xy"}
    assert np.flatnonzero(found["labels"][0]).tolist() == [places["x"], places["y"]]
    assert found["labels"][1].sum() == 2
    assert not found["token_type_ids"][0][:, 3].any()
    np.testing.assert_array_equal(found["token_type_ids"][1][:, 3], found["labels"][0])
    assert found["numeric_values"][0][[places["9"], places["7"]]].tolist() == [9, 7]
    assert np.isnan(found["numeric_values"][0]).sum() == found["labels"].shape[1] - 2
    assert found["numeric_values_scale"][0][places["x"]] == 2
    single = tok(table, "who?", answer_coordinates=first)
    assert single["labels"] == found["labels"][0].tolist()[: len(single["labels"])]
    with pytest.raises(InputError, match=r"the answer to query 0 has row 2, column 0, of which no token is there"):
        tok(table, "who?", answer_coordinates=[(2, 0)])
    with pytest.raises(InputError, match=r"the answer to query 0 must be a list of \(row, column\), found 3 in it"):
        tok(table, "who?", answer_coordinates=[3])
    with pytest.raises(InputError, match="must hold a list for each of 2 queries, found 1"):
        tok(table, ["who?", "and?"], answer_coordinates=[first])


def test_cells_lose_words_before_rows_are_left_out(tok):
    whole = tok(LONG, "x")
    kept = {}
    for limit in (400, 160, 100, 20):
        found = tok(LONG, "x", truncation=True, max_length=limit)
        types = np.array(found["token_type_ids"])
        kept[limit] = types[:, 2].max(), len(found["input_ids"])
        assert len(found["input_ids"]) <= limit < len(whole["input_ids"])
    assert kept[400][0] == 40
    assert 0 < kept[20][0] < kept[100][0] < 40
    assert (
        tok(LONG, "x", truncation="drop_rows_to_fit", max_length=100)["input_ids"]
        == tok(LONG, "x", truncation=True, max_length=100)["input_ids"]
    )
    with pytest.raises(InputError, match=r"query 0 \(1 tokens\) and the table make 9 tokens, 5 are allowed$"):
        tok(LONG, "x", truncation=True, max_length=5)
    with pytest.raises(InputError, match="100 are allowed; truncation=True leaves rows out"):
        tok(LONG, "x", max_length=100)


def test_padding_and_shapes(tok):
    rows = tok(SHORT, ["x", "how many movies"])
    assert len({len(row) for row in rows["input_ids"]}) == 2
    assert isinstance(rows["input_ids"][0], list)
    padded = tok(SHORT, ["x", "how many movies"], padding=True)
    assert padded["token_type_ids"].shape == (*padded["input_ids"].shape, 7)
    assert padded["attention_mask"].sum(1).tolist() == [len(row) for row in rows["input_ids"]]
    assert padded["input_ids"][0].tolist()[: len(rows["input_ids"][0])] == rows["input_ids"][0]
    left = tok(SHORT, ["x", "how many movies"], padding=True, padding_side="left", return_special_tokens_mask=True)
    assert left["input_ids"][0, -1] == rows["input_ids"][0][-1]
    assert left["special_tokens_mask"][0].tolist()[:4] == [1, 1, 1, 0]
    assert tok(SHORT, "x", padding="max_length", max_length=200)["input_ids"].shape == (200,)
    assert tok(SHORT, ["x"], padding=True, pad_to_multiple_of=64, return_length=True)["input_ids"].shape == (1, 128)
    again = tok.pad(dict(rows), return_tensors="np")
    for key in ("input_ids", "attention_mask", "token_type_ids"):
        np.testing.assert_array_equal(again[key], padded[key])
    with pytest.raises(InputError, match=r"needs rows of one length, found \[93, 95\]: ask for padding=True"):
        tok(SHORT, ["x", "how many movies"], return_tensors="np")


def test_a_question_of_no_table(tok):
    found = tok("how many movies?")
    assert tok.convert_ids_to_tokens(found["input_ids"]) == ["[CLS]", "how", "many", "movies", "?", "[SEP]"]
    assert np.shape(found["token_type_ids"]) == (6, 7)
    assert tok.tokenize("Movies [MASK]") == ["movies", "[MASK]"]
    assert tok.tokenize("?!") == ["[EMPTY]"]
    assert tok.encode(SHORT, "x")[:3] == tok("x")["input_ids"]


def test_options_of_its_config(tmp_path, caplog):
    def made(**settings):
        return load_tokenizer(write_tapas(tmp_path, **settings))

    bare = made(strip_column_names=True)("x", None)["input_ids"]
    assert made(strip_column_names=True)(SHORT, "x")["token_type_ids"][len(bare)][2] == 1
    trimmed = made(cell_trim_length=1)(SHORT, "x", truncation=True)["token_type_ids"]
    assert np.array(trimmed)[:, 2].max() == 3
    assert len(made(max_question_length=2)(SHORT, "how many movies")["input_ids"]) == 2 + len(
        made()(SHORT, "x")["input_ids"]
    ) - len(bare)
    assert caplog.messages == ["a question of 3 tokens is left out: not 0 to 2 of them (said once)"]
    assert np.array(made(max_row_id=3)(LONG, "x", truncation=True)["token_type_ids"])[:, 2].max() == 2
    with pytest.raises(InputError, match="the table has 40 rows, this model can tell at most 2 apart"):
        made(max_row_id=3)(LONG, "x")
    with pytest.raises(InputError, match="the table has 4 columns, this model can tell at most 2 apart"):
        made(max_column_id=3)(SHORT, "x")
    with pytest.raises(InputError, match="update_answer_coordinates, which finds answers by their texts, is not"):
        made(update_answer_coordinates=True)(SHORT, "x", answer_coordinates=[(0, 0)])


def test_saved_and_loaded_it_is_the_same(tok, tmp_path):
    write_tapas(tmp_path / "first", cell_trim_length=2)
    load_tokenizer(tmp_path / "first").save(tmp_path / "second")
    first, second = (
        load_tokenizer(tmp_path / name)(LONG, "x", truncation=True, max_length=150) for name in ("first", "second")
    )
    assert first == second != tok(LONG, "x", truncation=True, max_length=150)
    assert isinstance(tok, TableTokenizer)


# -- tables in the forms people have -----------------------------------------------------------------------------------


def test_every_form_of_a_table_is_the_same():
    pandas = pytest.importorskip("pandas")
    rows = [{"a": "x", "b": 1}, {"a": "y", "b": 2}]
    columns = {"a": ["x", "y"], "b": [1, 2]}
    expected = TextTable(["a", "b"], [["x", "1"], ["y", "2"]])
    for form in (
        rows,
        columns,
        {"a": ("x", "y"), "b": np.array([1, 2])},
        pandas.DataFrame(columns, index=[7, 3]),
        expected,
    ):
        assert read_table(form) == expected


def test_cells_that_are_no_texts():
    day = datetime.date(2010, 6, 5)
    cells = ["a", 1, 2.5, True, None, float("nan"), np.float32(1.5), np.bool_(False), day, np.int64(3)]
    expected = ["a", "1", "2.5", "True", "", "", "1.5", "False", "2010-06-05", "3"]
    assert [row[0] for row in read_table({"a": cells}).rows] == expected
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.Series([1, None], dtype="Int64"), "b": [pandas.NaT, pandas.Timestamp(day)]})
    assert read_table(frame).rows == [["1", ""], ["", "2010-06-05 00:00:00"]]
    assert read_table([{"a": 1}, {"b": "x"}]) == TextTable(["a", "b"], [["1", ""], ["", "x"]])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (3, "the table must be a pandas DataFrame, a dict of columns .* found int: 3"),
        ([["a", "b"]], "found list"),
        ([], r"found list: \[\]"),
        ({"a": "xy"}, "found a str as the column 'a'"),
        ({"a": {"0": "x"}}, "found a dict as the column 'a'"),
        ({"a": [1], "b": [1, 2]}, r"the columns of the table must have one length, found \[1, 2\]"),
        ({"a": ["x", ["y"]]}, r"row 1, column 0 of the table must be a text, a number or a date, found list: \['y'\]"),
        ({"a": ["x"], ("b",): ["y"]}, "the header of column 1 of the table must be a text"),
    ],
)
def test_what_is_no_table(tok, wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        tok(wrong, "how many?")


@pytest.mark.parametrize("wrong", [None, [], 3, ["x", 3], {"x": 1}])
def test_what_is_no_question(tok, wrong):
    with pytest.raises(InputError, match="queries must be a question or a list of questions, each a str"):
        tok(SHORT, wrong)


@pytest.mark.parametrize("option", [{"truncation": "longest_first"}, {"padding": "shortest"}, {"return_tensors": "pt"}])
def test_what_is_no_option(tok, option):
    with pytest.raises(InputError, match=f"{next(iter(option))} must be"):
        tok(SHORT, "x", **option)


def test_pandas_is_not_imported():
    code = """
import sys
from jaxformers.preprocess.tokenizer_tapas import read_table
read_table({"a": [1, None]})
print("pandas" in sys.modules)
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


# -- numbers and dates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,200,300.5 and -3 but 4-5", [1200300.5, -3.0, 4.0, 5.0]),
        ("1,23", [1.0, 23.0]),
        ("the 2nd, third and twelve", [2.0, 3.0, 12.0]),
        ("1e3", [1000.0]),
        ("inf nan 1e999", [1.0, 999.0]),
        ("2010", [2010.0, (2010, None, None)]),
        ("1990s", [(1990, None, None)]),
        ("1699", [1699.0]),
        ("2017", [2017.0]),
        ("May", [(None, 5, None)]),
        ("dec", []),
        ("5 Jun", [(None, 6, 5)]),
        ("Monday, June 5", [(None, 6, 5)]),
        ("June 5, 2010 or 2010-6-7", [(2010, 6, 5), (2010, 6, 7)]),
        ("5.6.2010", [(2010, 6, 5)]),
        ("05-06-2010", [(2010, 5, 6)]),
        ("31 april", [31.0, (None, 4, None)]),
        ("february 29", [(None, 2, None), 29.0]),
        ("february 29, 2012", [(2012, 2, 29)]),
    ],
)
def test_values_in_a_text(text, values):
    assert table_values.values_in(text) == values


def test_a_column_agrees_on_numbers_or_dates():
    assert table_values.column_values(["2010", "2011", "x"]) == {}
    assert table_values.column_values(["2010", "2011"]) == {0: (2010, None, None), 1: (2011, None, None)}
    assert table_values.column_values(["7", "2011", "8", "x"]) == {0: 7.0, 1: 2011.0, 2: 8.0}
    assert table_values.column_values([]) == {}
    assert table_values.ranks({0: 5.0, 2: -1.0, 3: 5.0}) == {0: (2, 1), 2: (1, 2), 3: (2, 1)}
    assert table_values.ranks({0: (2010, 5, None), 1: (None, 4, 1)}) == {0: (2, 1), 1: (1, 2)}
    assert table_values.ranks({0: (2010, None, None), 1: (None, 4, None)}) == {}
    assert table_values.relations({0: 5.0, 1: 7.0}, [7.0, 9.0, (2010, None, None)]) == {0: 4, 1: 1 | 4}
