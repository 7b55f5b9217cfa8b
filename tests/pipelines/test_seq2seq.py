"""Texts from texts over a tiny T5: what comes back, prefixes and options of a task, languages, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.preprocess import Tokenizer, load_tokenizer

GREEDY = {"num_beams": 1, "max_new_tokens": 5}
TASKS = {
    "summarization": {"prefix": "the very ", "max_new_tokens": 4, "num_beams": 1},
    "translation_en_to_de": {"prefix": "old ", "max_new_tokens": 6, "num_beams": 1},
}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """An encoder-decoder in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("tiny-translator")
    tokenizer.save(folder)
    own = load_tokenizer(folder, pad_token="[PAD]", eos_token="[SEP]")
    config = {"model_type": "t5", "vocab_size": len(own), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1,
              "num_heads": 2, "eos_token_id": own.eos_token_id, "pad_token_id": own.pad_token_id,
              "decoder_start_token_id": own.pad_token_id, "task_specific_params": TASKS}  # fmt: skip
    jf.save(jf.load(config, head="seq2seq-lm", seed=3), folder, tokenizer=own)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return jf.load(folder, head="seq2seq-lm")


@pytest.fixture(scope="module")
def own(folder):
    return load_tokenizer(folder)


def written(model, own, text, **options):
    """What the pipeline must say of one text."""
    ids = np.array([own(text)["input_ids"]])
    return own.decode(jf.generate(model, ids, **options).sequences[0], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("task", "key", "prefix", "options"),
    [
        ("text2text-generation", "generated_text", "", GREEDY),
        ("summarization", "summary_text", "the very ", {"num_beams": 1, "max_new_tokens": 4}),
        ("translation_en_to_de", "translation_text", "old ", {"num_beams": 1, "max_new_tokens": 6}),
        ("translation", "translation_text", "old ", {"num_beams": 1, "max_new_tokens": 6}),
    ],
)
def test_a_task_is_its_prefix_and_options_and_a_key(model, own, task, key, prefix, options):
    pipe = jf.pipeline(task, model, tokenizer=own)
    given = GREEDY if not prefix else {}
    texts = ["a small cat sees the tree", "a dog"]
    expected = [{key: written(model, own, prefix + text, **options)} for text in texts]
    assert pipe(texts, **given) == expected
    assert pipe(texts[0], **given) == expected[:1]
    assert json.loads(json.dumps(expected)) == expected


def test_beams_are_the_default_and_several_results_are_lists(model, own):
    pipe = jf.pipeline("text2text-generation", model, tokenizer=own)
    text, most = "a small cat", {"max_new_tokens": 5}
    assert pipe(text, **most) == [{"generated_text": written(model, own, text, num_beams=4, **most)}]
    two = pipe([text], num_return_sequences=2, **most)
    assert [[list(record) for record in records] for records in two] == [[["generated_text"]] * 2]
    assert two[0][0] == pipe(text, **most)[0]
    ids = pipe(text, return_tensors=True, **most)[0]["generated_token_ids"]
    assert ids[0] == own.pad_token_id
    assert own.decode(ids, skip_special_tokens=True) == two[0][0]["generated_text"]


def test_three_stages_are_the_call(model, own):
    pipe = jf.pipeline("summarization", model, tokenizer=own)
    texts = ["a small cat", "the old dog likes the tree", "a tree"]
    assert pipe.postprocess(pipe.forward(pipe.preprocess(texts))) == pipe(texts)


def test_a_head_picks_the_task(folder):
    assert list(jf.pipeline(model=folder)("a cat", **GREEDY)[0]) == ["generated_text"]


@pytest.fixture(scope="module")
def polyglot(model):
    """A tokenizer that names languages as NLLB's does, as large as the model's vocabulary."""
    words = ["<pad>", "</s>", "<unk>", "eng_Latn", "fra_Latn", "a", "small", "cat"]
    words += [f"w{n}" for n in range(model.config.vocab_size - len(words))]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    backend.add_special_tokens([*special.values(), "eng_Latn", "fra_Latn"])
    return Tokenizer(
        backend, tokenizer_class="NllbTokenizer", special_tokens=special, extra_special_tokens=("eng_Latn", "fra_Latn")
    )


def test_languages_are_read_and_written(model, polyglot):
    raw = {key: value for key, value in json.loads(model.config.raw).items() if key != "task_specific_params"}
    model = dataclasses.replace(model, config=model.config.replace(raw=json.dumps(raw)))
    pipe = jf.pipeline("translation", model, tokenizer=polyglot)
    codes = {"src_lang": "eng_Latn", "tgt_lang": "fra_Latn"}
    batch = pipe.with_options(**codes).preprocess("a small cat")
    assert batch["input_ids"][0][:5].tolist() == [3, 5, 6, 7, 1]
    ids = pipe("a small cat", **codes, **GREEDY, return_tensors=True)[0]["translation_token_ids"]
    assert ids[1] == 4
    with pytest.raises(InputError, match="needs src_lang and tgt_lang: give src_lang"):
        pipe("a small cat", tgt_lang="fra_Latn")
    with pytest.raises(InputError, match="has no language 'fra_latn'; did you mean 'fra_Latn'"):
        pipe("a small cat", src_lang="eng_Latn", tgt_lang="fra_latn")


def test_what_is_refused(model, own):
    with pytest.raises(InputError, match="translation needs a model with the head 'seq2seq-lm'"):
        jf.pipeline("translation_en_to_fr", jf.load(model.config, head=None), tokenizer=own)
    with pytest.raises(InputError, match="input 1 must be a str"):
        jf.pipeline("summarization", model, tokenizer=own)(["a cat", 3])
    with pytest.raises(InputError, match="did you mean 'num_beams'"):
        jf.pipeline("summarization", model, tokenizer=own)("a cat", num_beam=3)
