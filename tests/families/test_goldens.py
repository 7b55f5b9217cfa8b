"""We compute what PyTorch transformers computed when `tests/goldens/make_goldens.py` was run; needs no PyTorch.

Weights are drawn from their names, so a golden is a config, a few inputs, and the numbers that came out.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.families import MODULES
from tests.families.table import ENCODER_DECODERS, ROWS, assert_same, name_of, results, write_checkpoint
from tests.goldens.make_goldens import kept

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
CASES = {
    name: case for family in MODULES for name, case in json.loads((GOLDENS / f"{family}.json").read_text()).items()
}


def arrays(given):
    return {name: np.array(value, np.float32 if "." in str(value) else np.int32) for name, value in given.items()}


def found_and_expected(case, model):
    """Both sides as they are stored: whole arrays, or a norm and a product, which are put on the scale of the norm."""
    computed = results(model, arrays(case["inputs"]), arrays(case["labels"]))
    assert sorted(computed) == sorted(case["results"])
    found, expected = {}, {}
    for name, stored in case["results"].items():
        ours, theirs = np.array(kept(name, computed[name])), np.array(stored)
        scale = 1.0 if theirs.shape == computed[name].shape else max(theirs[0], 1.0)
        found[f"golden {name}"], expected[f"golden {name}"] = ours / scale, theirs / scale
    return found, expected


@pytest.mark.parametrize("name", CASES)
def test_we_compute_what_pytorch_did(name, tmp_path):
    case = CASES[name]
    model = jf.load(write_checkpoint(tmp_path, case["config"], case["shapes"]), case["head"])
    assert_same(*found_and_expected(case, model))


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_every_head_has_a_golden(row):
    """But for an encoder-decoder's heads beside its words: parity has these, each is a few lines over the same states."""
    heads = {None, "seq2seq-lm"} if row in ENCODER_DECODERS else set(row.heads)
    assert {case["head"] for case in CASES.values() if case["config"]["model_type"] == row.family} == heads


@pytest.mark.parametrize("changes", [{"layer_norm_eps": 1e-4}, {"hidden_act": "gelu_new"}], ids=lambda c: next(iter(c)))
def test_a_fault_is_seen(changes, tmp_path):
    case = CASES["bert"]
    model = jf.load(write_checkpoint(tmp_path, case["config"], case["shapes"]), case["head"])
    wrong = dataclasses.replace(model, config=model.config.replace(**changes))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(*found_and_expected(case, wrong))
