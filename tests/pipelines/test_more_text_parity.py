"""Fill-mask and zero-shot classification beside transformers' own pipelines. Question answering, which it no longer has, is
held against transformers 4 in `test_goldens`."""

import json

import pytest

import jaxformers as jf
from tests.pipelines.conftest import make_sentences, same

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def both(config, tokenizer, tmp_path_factory):
    def both(task, head, **overrides):
        folder = tmp_path_factory.mktemp("model")
        jf.save(jf.load(config, head=head, **overrides), folder, tokenizer=tokenizer)
        return jf.pipeline(task, folder), transformers.pipeline(task, str(folder), device="cpu")

    return both


@pytest.fixture(scope="module")
def fillers(both):
    return both("fill-mask", "masked-lm")


ONE, TWO = "the [MASK] sees a tree", "[MASK] old dog, a [MASK]!"


INPUTS = [ONE, TWO, [ONE], [TWO], [ONE, TWO, ONE], [TWO, "Caf\u00e9 [MASK] \u6f22  [SEP] x"]]
OPTIONS = [{}, {"top_k": 1}, {"top_k": 30}, {"targets": ["cat", "dog", "green"]}, {"targets": "house"},
           {"targets": ["dogs", "cat", "dog", "\u6f22"], "top_k": 2}]  # fmt: skip


@pytest.mark.parametrize("inputs", INPUTS, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_fill_mask(fillers, inputs, options):
    ours, theirs = (pipe(inputs, **options) for pipe in fillers)
    same(ours, theirs)
    json.dumps(ours)


def test_fill_mask_over_a_generator(fillers):
    ours, theirs = (list(pipe(text for text in (ONE, TWO))) for pipe in fillers)
    same(ours, theirs)


TEXTS = make_sentences(3, longest=60, seed=8)
LABELS = ["cat", "dog house", "tree"]


@pytest.mark.parametrize("names", ["contradiction neutral entailment", "Entailment other", "a b c"])
@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS[:1], TEXTS], ids=["text", "list of one", "list"])
def test_zero_shot(both, names, inputs):
    labels = {str(i): name for i, name in enumerate(names.split())}
    pair = both("zero-shot-classification", "sequence-classification", id2label=labels)
    for options in ({"candidate_labels": LABELS}, {"candidate_labels": "cat,  tree ,,"}, {"candidate_labels": "cat"},
                    {"candidate_labels": LABELS, "multi_label": True},
                    {"candidate_labels": LABELS, "hypothesis_template": "a {} and the house"}):  # fmt: skip
        ours, theirs = (pipe(inputs, **options) for pipe in pair)
        same(ours, theirs)
        json.dumps(ours)
    same(*(pipe(inputs, LABELS) for pipe in pair))
