"""Table question answering: what transformers' pipeline answered (`tests/goldens/make_tables.py`), and what is refused."""

import json
from pathlib import Path

import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.preprocess import load_tokenizer
from tests.families.table import write_checkpoint
from tests.goldens.make_tables import CALLS, MANY, MODELS, WORDS
from tests.goldens.tables import SHORT, write_tapas

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
CASES = json.loads((GOLDENS / "tables.json").read_text())["pipelines"]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """name -> the pipeline of a case."""
    pipes = {}

    def pipe(name):
        if name not in pipes:
            folder = tmp_path_factory.mktemp("tables")
            write_checkpoint(folder, MODELS[name], CASES[name]["shapes"])
            (folder / "config.json").write_text(
                json.dumps({**MODELS[name], "architectures": ["TapasForQuestionAnswering"]})
            )
            write_tapas(folder, model_max_length=128)
            pipes[name] = jf.pipeline(model=folder)  # the model tells the task
        return pipes[name]

    return pipe


@pytest.fixture
def tqa(made):
    return made("operators")


@pytest.mark.parametrize("name", CASES)
def test_every_call_returns_what_transformers_did(name, made):
    pipe = made(name)
    for (arguments, options), expected in zip(CALLS, CASES[name]["results"], strict=True):
        assert json.loads(json.dumps(pipe(*arguments, **options))) == expected


def test_the_goldens_tell_answers_apart():
    found = [json.dumps(each) for case in CASES.values() for each in case["results"]]
    assert len(set(found)) > len(found) // 2
    side_by_side, in_turn = (CASES["operators"]["results"][CALLS.index(([MANY], options))]
                             for options in ({}, {"sequential": True}))  # fmt: skip
    assert side_by_side != in_turn


def test_keys_and_kinds(tqa, made):
    answer = tqa(WORDS, "9")
    assert list(answer) == ["answer", "coordinates", "cells", "aggregator"]
    assert all(isinstance(place, tuple) for place in answer["coordinates"])
    assert [WORDS[list(WORDS)[column]][row] for row, column in answer["coordinates"]] == answer["cells"]
    assert list(made("cells alone")(WORDS, "9")) == ["answer", "coordinates", "cells"]


def test_a_batch_is_its_questions(tqa):
    """Order, tables of several lengths side by side, streams and the three stages change nothing."""
    expected = tqa(MANY)
    assert tqa(MANY[::-1], batch_size=2) == expected[::-1]
    assert list(tqa(iter(MANY))) == expected
    assert [tqa(each) for each in MANY] == expected
    assert tqa.postprocess(tqa.forward(tqa.preprocess(MANY))) == expected
    in_turn = tqa(MANY, sequential=True)
    assert [tqa(each, sequential=True) for each in MANY] == in_turn
    assert tqa.postprocess(tqa.forward(tqa.preprocess(MANY, sequential=True))) == in_turn


def test_a_second_call_compiles_nothing(tqa):
    tqa(MANY, sequential=True)
    before = tqa.forward.compiled.compilations
    tqa(MANY[::-1], sequential=True)
    assert tqa.forward.compiled.compilations == before


def test_tables_in_every_form(tqa):
    pandas = pytest.importorskip("pandas")
    expected = tqa(WORDS, "the city of 9")
    rows = [dict(zip(WORDS, row, strict=True)) for row in zip(*WORDS.values(), strict=True)]
    for form in (pandas.DataFrame(WORDS), rows):
        assert tqa(table=form, query="the city of 9") == tqa({"table": form, "query": "the city of 9"}) == expected
    numbers = tqa({"age": [7, 9, None]}, "age?")
    assert numbers == tqa({"age": ["7", "9", ""]}, "age?")
    json.dumps(numbers)


def test_a_long_table_loses_rows_unless_told_not_to(tqa):
    table = {"age": [str(n % 10) for n in range(200)]}
    assert max(row for row, _ in tqa(table, "age?")["coordinates"]) < 125
    with pytest.raises(InputError, match="128 are allowed; truncation=True leaves rows out"):
        tqa(table, "age?", truncation=False)


def test_ranks_beyond_the_model_are_named(tmp_path):
    """JAX would look them up as the last rank it has."""
    raw = {**MODELS["operators"], "type_vocab_sizes": [3, 9, 9, 2, 4, 4, 10]}
    model = jf.load(raw, head="table-question-answering")
    small = jf.pipeline("table-question-answering", model, tokenizer=load_tokenizer(write_tapas(tmp_path)))
    small({"age": ["1", "2", "3"]}, "x")
    with pytest.raises(InputError, match="the table of the input has a rank of 4, this model knows them up to 3"):
        small({"age": ["1", "2", "3", "4"]}, "x")


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


def test_another_tokenizer_is_refused(tokenizer):
    model = jf.load(MODELS["operators"], head="table-question-answering")
    with pytest.raises(InputError, match="needs a tokenizer of tables"):
        jf.pipeline("table-question-answering", model, tokenizer=tokenizer)


def test_words_of_a_question_without_a_table(tmp_path):
    """TAPAS' other heads serve the pipelines of texts: seven types a token go through their batches."""
    tok = load_tokenizer(write_tapas(tmp_path))
    fill = jf.pipeline("fill-mask", jf.load(MODELS["operators"], head="masked-lm"), tokenizer=tok)
    assert [len(each) for each in fill(["how [MASK] movies", "the [MASK]"], top_k=3)] == [3, 3]
