"""XLNet and XLM through pipelines, beside transformers' own over the same checkpoint: all equal, scores to 1e-4.

transformers pads XLNet's texts on the left, we pad all on the right: XLNet's results do not depend on it. One number does,
there: a token's `index`, which counts the padding before it and so the texts it was batched with. Ours counts tokens.
"""

import itertools
import json

import pytest

import jaxformers as jf
from tests.families.table import XLM, XLNET
from tests.goldens.make_goldens import torch_model
from tests.pipelines.conftest import make_sentences, plain, same
from tests.preprocess import sentencepiece_writer

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]
TEXTS = [*make_sentences(5, longest=20), "the", "old trees, quick dogs!"]
LETTERS = "abcdefghijklmnopqrstuvwxyz.,!"
TAGS = {str(i): tag for i, tag in enumerate(("O", "B-PER", "I-PER"))}


def xlnet_files(folder):
    """XLNet's own special tokens in their order, and pieces of one letter, of words' starts, and of some words."""
    words = ["the", "cat", "dog", "tree", "see", "quick", "old"]
    pieces = [
        *((f"▁{word}", -3.0) for word in (*words, *LETTERS)),
        *((letter, -6.0) for letter in LETTERS),
        ("▁", -5.0),
    ]
    special = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<cls>", 3), ("<sep>", 3), ("<pad>", 3), ("<mask>", 3)]
    rows = [*((token, 0.0, kind) for token, kind in special), *((token, score, 1) for token, score in pieces)]
    (folder / "spiece.model").write_bytes(sentencepiece_writer.model(rows))
    return {"tokenizer_class": "XLNetTokenizer"}


def xlm_files(folder):
    special = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{index}>" for index in range(10))]
    merges = [
        ("t", "h"),
        ("th", "e</w>"),
        ("d", "o"),
        ("do", "g"),
        ("o", "l"),
        ("ol", "d</w>"),
        ("s", "e"),
        ("se", "e"),
    ]
    tokens = [*special, *LETTERS, *(f"{letter}</w>" for letter in LETTERS), *map("".join, merges)]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("".join(f"{left} {right} 1\n" for left, right in merges))
    return {"tokenizer_class": "XLMTokenizer"}


FAMILIES = {"XLNet": (XLNET, xlnet_files), "XLM": (XLM, xlm_files)}
TASKS = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "fill-mask": "WithLMHeadModel",
}
CASES = [
    case for case in itertools.product(FAMILIES, TASKS) if case != ("XLNet", "fill-mask")
]  # it predicts by targets


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def pair(request, tmp_path_factory):
    """(task, ours, theirs)."""
    (name, task), folder = request.param, tmp_path_factory.mktemp("older")
    row, files = FAMILIES[name]
    (folder / "tokenizer_config.json").write_text(json.dumps({**files(folder), "model_max_length": 24}))
    (folder / "config.json").write_text(json.dumps(row.config))
    tokenizer = jf.load_tokenizer(folder)
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "id2label": TAGS}
    torch_model(name + TASKS[task], {**row.config, **sizes}).save_pretrained(folder)
    return task, jf.pipeline(task, folder), transformers.pipeline(task, str(folder), device="cpu")


def told(result):
    """A result without what the slow tokenizer there cannot tell: places in the text."""
    if isinstance(result, list):
        return [told(each) for each in result]
    return {key: value for key, value in result.items() if key not in ("start", "end")}


def test_every_result(pair):
    task, ours, theirs = pair
    options = {"text-classification": {"top_k": None}, "token-classification": {"aggregation_strategy": "simple"},
               "fill-mask": {"top_k": 2}}[task]  # fmt: skip
    mask = theirs.tokenizer.mask_token
    texts = [f"the old {mask} sees", f"{mask} dogs"] if task == "fill-mask" else [text[:20] for text in TEXTS]
    show = (lambda result: result) if theirs.tokenizer.is_fast else told
    same(show(ours(texts)), show(plain(theirs(texts))))
    same(show(ours(texts[0])), show(plain(theirs(texts[0]))))
    same(show(ours(texts, **options)), show(plain(theirs(texts, batch_size=3, **options))))
