"""Table question answering beside transformers' own pipeline, over what we saved: every answer equal."""

import json

import pytest

import jaxformers as jf
from jaxformers.preprocess import load_tokenizer
from tests.goldens.make_tables import CALLS, written
from tests.goldens.tables import asked, table
from tests.pipelines.test_tables import CASES, model_of

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("name", CASES)
def test_what_we_save_answers_the_same_there(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("pandas")
    folder = model_of(name, tmp_path / "first")
    model, tokenizer = jf.load(folder, "table-question-answering"), load_tokenizer(folder)
    tokenizer.model_max_length = 48
    jf.save(model, tmp_path / "saved", tokenizer=tokenizer)
    theirs = transformers.pipeline("table-question-answering", str(tmp_path / "saved"), device="cpu")
    ours = jf.pipeline("table-question-answering", tmp_path / "saved")
    drawn = [{"table": table(seed), "query": asked(seed)[0]} for seed in range(300, 320)]
    short = [each for each in drawn if len(tokenizer(each["table"], each["query"])["input_ids"]) < 200]
    for arguments, options in [*CALLS, ([short[:6]], {})]:
        assert json.loads(json.dumps(ours(*arguments, **options))) == written(theirs, *arguments, **options)
