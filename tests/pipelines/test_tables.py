"""Table question answering: what transformers' pipeline answered (`tests/goldens/make_tables.py`), and what is refused."""

import json
from pathlib import Path

import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from tests.families.table import write_checkpoint
from tests.goldens.make_tables import ASKED, CALLS, LENGTH, MANY, MODELS, STD, WORDS
from tests.goldens.tables import LONG, SHORT, write_tapas

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
CASES = json.loads((GOLDENS / "tables.json").read_text())["pipelines"]


def model_of(name, folder):
    """A case's folder in Hugging Face layout."""
    write_checkpoint(
        folder, {**MODELS[name], "architectures": ["TapasForQuestionAnswering"]}, CASES[name]["shapes"], STD
    )
    return write_tapas(folder, model_max_length=LENGTH)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Each case's pipeline by its name; the model tells the task."""
    return {name: jf.pipeline(model=model_of(name, tmp_path_factory.mktemp("tables"))) for name in CASES}


@pytest.fixture
def tqa(made):
    return made["operators"]


@pytest.mark.parametrize("name", CASES)
def test_every_call_returns_what_transformers_did(name, made):
    pipe = made[name]
    for (arguments, options), expected in zip(CALLS, CASES[name]["results"], strict=True):
        assert json.loads(json.dumps(pipe(*arguments, **options))) == expected


def test_the_goldens_tell_answers_apart():
    answers = [
        each for call, each in zip(CALLS, CASES["operators"]["results"], strict=True) if not isinstance(each, list)
    ]
    assert len({each["answer"] for each in answers}) > 3
    assert all(f'"{operator}"' in json.dumps(CASES["operators"]["results"]) for operator in ("SUM", "COUNT", "NONE"))
    side_by_side, in_turn = (CASES["operators"]["results"][CALLS.index(([MANY], options))]
                             for options in ({}, {"sequential": True}))  # fmt: skip
    assert side_by_side != in_turn


def test_keys_and_kinds(tqa, made):
    answer = tqa(WORDS, ASKED[0])
    assert list(answer) == ["answer", "coordinates", "cells", "aggregator"]
    assert all(isinstance(place, tuple) for place in answer["coordinates"])
    assert [WORDS[list(WORDS)[column]][row] for row, column in answer["coordinates"]] == answer["cells"]
    assert list(made["cells alone"](WORDS, ASKED[0])) == ["answer", "coordinates", "cells"]


def test_a_batch_is_its_questions(tqa):
    """Order, streams, batches and the three stages change nothing, and shapes that were there compile nothing."""
    expected = tqa(MANY)
    before = tqa.forward.compiled.compilations
    assert tqa(MANY[::-1] * 2, batch_size=4) == expected[::-1] * 2
    assert list(tqa(iter(MANY))) == expected
    assert [tqa(each) for each in MANY] == expected
    assert tqa.postprocess(tqa.forward(tqa.preprocess(MANY))) == expected
    in_turn = tqa(MANY, sequential=True)
    assert tqa.postprocess(tqa.forward(tqa.preprocess(MANY, sequential=True))) == in_turn
    assert tqa.forward.compiled.compilations <= before + 2  # one question alone, and conversations


def test_tables_in_every_form(tqa):
    pandas = pytest.importorskip("pandas")
    expected = tqa(WORDS, ASKED[0])
    rows = [dict(zip(WORDS, row, strict=True)) for row in zip(*WORDS.values(), strict=True)]
    for form in (pandas.DataFrame(WORDS), rows):
        assert tqa(table=form, query=ASKED[0]) == tqa({"table": form, "query": ASKED[0]}) == expected
    ages = tqa({**WORDS, "age": [7, 9, 3, 9, None]}, ASKED[0])
    assert ages == tqa({**WORDS, "age": ["7", "9", "3", "9", ""]}, ASKED[0])
    json.dumps(ages)


def test_a_long_table_loses_rows_unless_told_not_to(tqa):
    assert max((row for row, _ in tqa(LONG, ASKED[2])["coordinates"]), default=0) < 10
    with pytest.raises(InputError, match="32 are allowed; truncation=True leaves rows out"):
        tqa({name: cells[:20] for name, cells in LONG.items()}, ASKED[2], truncation=False)


def test_ranks_beyond_the_model_are_named(tqa):
    """JAX would look them up as the last rank it has."""
    with pytest.raises(InputError, match="the table of the input has a rank of 300, this model knows them up to 255"):
        tqa({"age": [300 - n for n in range(300)]}, "how many?")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "table question answering needs table= and query="),
        ([SHORT, "x", "y"], "table question answering needs table= and query="),
        (
            [SHORT],
            r"the input must be a table with a query, .*found the keys \['Actor', 'Age', 'Movies in 2010', 'Born'\]",
        ),
        ([{"table": SHORT}], r"found the keys \['table'\]"),
        (["how many?"], "the input must be a table with a query, .* found str"),
        ([[{"table": SHORT, "query": "x"}, {"table": SHORT}]], "input 1 must be a table with a query"),
        ([{}, "x"], "the table of the input is empty: it has 0 columns, 0 rows"),
        ([{"a": []}, "x"], "the table of the input is empty: it has 1 columns, 0 rows"),
        ([SHORT, ""], "the query of the input is empty"),
        ([SHORT, []], "the query of the input is empty"),
        ([SHORT, ["x", ""]], "the query of the input is empty"),
        ([SHORT, 3], "the query of the input must be a str, found int: 3"),
        ([SHORT, ["x", 3]], "the query of the input must be a str, found int: 3"),
        ([[["a"]], "x"], "the table of the input must be a pandas DataFrame, a dict of columns"),
        (
            [{"a": [["x"]]}, "x"],
            "row 0, column 0 of the table of the input must be a text, a number or a date, found list",
        ),
    ],
    ids=lambda value: None,
)
def test_what_is_no_question_about_a_table(tqa, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        tqa(*arguments)


def test_another_tokenizer_is_refused(tokenizer, tmp_path):
    model = jf.load(model_of("operators", tmp_path), "table-question-answering")
    with pytest.raises(InputError, match="needs a tokenizer of tables"):
        jf.pipeline("table-question-answering", model, tokenizer=tokenizer)


def test_seven_types_a_token_go_through_the_pipelines_of_texts(tmp_path):
    fill = jf.pipeline("fill-mask", model_of("operators", tmp_path))
    batch = fill.preprocess(["how [MASK] movies", "the [MASK]"])
    assert batch["token_type_ids"].shape == (*batch["input_ids"].shape, 7)
    assert [len(each) for each in fill(["how [MASK] movies", "the [MASK]"], top_k=3)] == [3, 3]
