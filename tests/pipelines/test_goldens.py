"""What our pipelines return is what transformers 4 returned when `tests/goldens/make_pipelines.py` ran: every key, label,
word, place and nesting, and scores to 1e-4. Needs no PyTorch."""

import json
from pathlib import Path

import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.pipelines.base import options_of
from tests.families.table import write_checkpoint
from tests.goldens.make_pipelines import write_tokenizer

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
CASES = json.loads((GOLDENS / "pipelines.json").read_text())


def same(ours, theirs):
    """Equal types, nesting, keys, labels and places, and scores within 1e-4."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, abs=1e-4)
    else:
        assert ours == theirs


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A case, and our pipeline over its checkpoint."""
    case = CASES[request.param]
    folder = write_checkpoint(tmp_path_factory.mktemp("golden") / "model", case["config"], case["shapes"])
    write_tokenizer(folder)
    return case, jf.pipeline(case["task"], folder)


def test_every_call_returns_what_transformers_did(case):
    golden, pipe = case
    for call in golden["calls"]:
        found = pipe(*call["args"], **call["options"])
        same(found, call["expected"])
        json.dumps(found)


def test_a_batch_is_its_texts(case):
    """Order, and rows of several lengths side by side, change nothing."""
    golden, pipe = case
    many = next((call for call in golden["calls"] if call["args"] and isinstance(call["args"][0], list)), None)
    if many is None or len(many["args"][0]) == 1:
        return
    inputs, expected = many["args"][0], many["expected"]
    same(pipe(inputs[::-1] * 3, batch_size=2, **many["options"]), expected[::-1] * 3)
    same(list(pipe(iter(inputs), **many["options"])), expected)
    same([pipe(each, **many["options"]) for each in inputs], expected)
    first = {name: value for name, value in many["options"].items() if name in options_of(pipe.preprocess)}
    last = {name: value for name, value in many["options"].items() if name not in first}
    same(pipe.postprocess(pipe.forward(pipe.preprocess(inputs, **first)), **last), expected)


def test_a_wrong_golden_is_seen(case):
    golden, pipe = case
    call = golden["calls"][0]
    with pytest.raises((AssertionError, InputError)):
        same(pipe(*call["args"], **call["options"]), [call["expected"]])
