"""TAPAS' tokenizer beside transformers', over many drawn tables of hard cells: every id, mask, type, label and number equal."""

import numpy as np
import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess import load_tokenizer
from tests.goldens.tables import LONG, SHORT, asked, table, write_tapas

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(ours, theirs) of some settings."""
    transformers = pytest.importorskip("transformers")
    pandas = pytest.importorskip("pandas")
    made = {}

    def build(**settings):
        key = str(settings)
        if key not in made:
            folder = write_tapas(tmp_path_factory.mktemp("tapas"), **settings)
            theirs = transformers.TapasTokenizer.from_pretrained(folder)
            # It writes the questions it leaves out into the list it is given.
            made[key] = (
                load_tokenizer(folder),
                lambda table, queries, **options: theirs(
                    pandas.DataFrame(table).astype(str),
                    list(queries) if isinstance(queries, list) else queries,
                    **options,
                ),
            )
        return made[key]

    return build


def agree(both, table, queries, **options):
    ours, theirs = both
    try:
        expected = theirs(table, queries, **options)
    except ValueError:
        with pytest.raises(InputError):
            ours(table, queries, **options)
        return
    found = ours(table, queries, **options)
    assert set(found) == set(expected)
    for key, rows in expected.items():
        single = isinstance(queries, str)
        for ours_, theirs_ in zip([found[key]] if single else found[key], [rows] if single else rows, strict=True):
            np.testing.assert_array_equal(ours_, theirs_, err_msg=key)


OPTIONS = (
    {},
    {"truncation": True, "max_length": 40},
    {"truncation": "drop_rows_to_fit", "max_length": 64, "padding": "max_length"},
    {"max_length": 90},
    {"padding": True, "return_special_tokens_mask": True},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_drawn_tables(both, options):
    for seed in range(100, 160):
        agree(both(), table(seed), asked(seed), **options)


@pytest.mark.parametrize(
    "settings",
    [{"cell_trim_length": 2}, {"strip_column_names": True}, {"min_question_length": 3, "max_question_length": 12},
     {"max_row_id": 5}, {"max_column_id": 4}, {"do_lower_case": False}, {"model_max_length": 60}],
    ids=str,
)  # fmt: skip
def test_settings(both, settings):
    for seed in range(12):
        agree(both(**settings), table(seed), asked(seed), truncation=True)
        agree(both(**settings), table(seed), asked(seed)[0])


def test_long_tables(both):
    for limit in range(10, 400, 13):
        agree(both(), LONG, ["how many movies", "x"], truncation=True, max_length=limit)


def test_answers(both):
    answers = [[(0, 1)], [(1, 0), (2, 0)], []]
    queries = ["how many?", "who is 45?", "who?"]
    texts = [["56"], ["Leonardo Di Caprio", "George Clooney"], [""]]
    agree(both(), SHORT, queries, answer_coordinates=answers, answer_text=texts, padding="max_length", max_length=128)
    agree(both(), SHORT, queries[1], answer_coordinates=answers[1], answer_text=texts[1])
    mixed = {"n": ["1,200", "may 2010", "x 7", "9"], "date": ["may 2010", "june 2011", "2012", "5"]}
    agree(both(), mixed, ["7"], answer_coordinates=[[(3, 1)]], answer_text=[["5"]])
