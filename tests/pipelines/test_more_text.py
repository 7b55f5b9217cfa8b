"""Token classification, question answering, fill-mask and the tasks over pairs: what they refuse, and what no other pipeline
could show. What they return is held against transformers in `test_goldens` and the parity tests."""

import copy
import dataclasses
import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.preprocess import Tokenizer

TEXT = "a small cat sees the old dog"
MASKED = "a small [MASK] sees the old dog"


@pytest.fixture(scope="module")
def make(config, tokenizer):
    def make(task, head, **overrides):
        return jf.pipeline(task, jf.load(config, head=head, **overrides), tokenizer=tokenizer)

    return make


@pytest.fixture(scope="module")
def ner(tagger, tokenizer):
    return jf.pipeline("ner", tagger, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def qa(make):
    return make("question-answering", "question-answering")


@pytest.fixture(scope="module")
def fill(make):
    return make("fill-mask", "masked-lm")


@pytest.fixture(scope="module")
def zero(make):
    labels = {"0": "contradiction", "1": "neutral", "2": "entailment"}
    return make("zero-shot-classification", "sequence-classification", id2label=labels)


@pytest.fixture(scope="module")
def following(make):
    return make("next-sentence-prediction", "next-sentence-prediction")


@pytest.fixture(scope="module")
def choose(make):
    return make("multiple-choice", "multiple-choice")


def refused(pipe, sentence, *arguments, **options):
    with pytest.raises(InputError, match=sentence):
        pipe(*arguments, **options)


# -- token classification ----------------------------------------------------------------------------------------------


def planted(pipe, tokenizer, tags):
    """The pipeline with a model that gives each token, wherever it stands, the label `tags` has for it, else the first."""
    labels = list(tags.values())
    ids = {tokenizer.convert_tokens_to_ids(token): 1 + labels.index(label) for token, label in tags.items()}

    def forward(batch):
        logits = np.zeros((*batch["input_ids"].shape, 1 + len(labels)), np.float32)
        logits[..., 0] = 1
        for i, label in ids.items():
            logits[batch["input_ids"] == i, label] = 3
        return {"logits": logits}

    return dataclasses.replace(pipe, forward=forward)


def test_offsets_reach_into_the_text_as_it_was_given(ner, tokenizer):
    found = planted(ner, tokenizer, {"cat": "B-PER", "dog": "I-PER"})
    text = "  The CÁT,\n\ta D\u00f6g \U0001f600 cat"
    entities = found(text, aggregation_strategy="simple", ignore_labels=[])
    assert [text[e["start"] : e["end"]] for e in entities if e["entity_group"] == "PER"] == ["CÁT", "D\u00f6g", "cat"]
    assert all(type(e["score"]) is float and type(e["start"]) is int for e in entities)
    words = found({"tokens": ["The", "CAT", "dog", "."]}, aggregation_strategy="simple")
    assert [(e["word"], e["start"], e["end"]) for e in words] == [("cat dog", 4, 11)]


def test_an_entity_in_two_parts_of_a_long_text_is_found_once(ner, tokenizer):
    found = planted(ner, tokenizer, {"cat": "B-PER", "dog": "I-PER"})
    text = " ".join(["the cat dog sees the tree"] * 40)
    entities = found(text, aggregation_strategy="simple", stride=20)
    assert [(e["start"], e["end"]) for e in entities] == [(26 * i + 4, 26 * i + 11) for i in range(40)]
    assert len(found(text, aggregation_strategy="simple")) == 11  # cut off at 64 tokens


def test_what_token_classification_refuses(ner):
    assert ner([]) == []
    assert ner("") == ner(" \n ") == []
    for wrong in (3, None, {"txt": TEXT}, {"tokens": TEXT}):
        refused(ner, "the input must", wrong)
    refused(ner, "input 1 must be a str, found int: 7", [TEXT, 7])
    refused(ner, "aggregation_strategy must be one of none, simple, first, average, max; found 'mean'", TEXT,
            aggregation_strategy="mean")  # fmt: skip
    refused(ner, "ignore_labels must be a list of labels, found the str 'O'", TEXT, ignore_labels="O")
    refused(ner, "with is_split_into_words a text is a list of words, found 'a", TEXT, is_split_into_words=True)
    refused(ner, "leaves room for 62 tokens .* expected at least 63", TEXT, stride=62)
    refused(
        ner, r"no option 'agregation_strategy' \(did you mean 'aggregation_strategy'", TEXT, agregation_strategy="max"
    )


def test_the_score_of_a_group_is_its_pieces_mean(ner):
    tokens = {e["index"]: e["score"] for e in ner(TEXT, ignore_labels=[])}
    assert sorted(tokens) == list(range(1, 8))
    groups = ner(TEXT, aggregation_strategy="simple", ignore_labels=[])
    lengths = [len(group["word"].split()) for group in groups]
    places = np.split(np.arange(1, 8), np.cumsum(lengths)[:-1])
    for group, of in zip(groups, places, strict=True):
        assert group["score"] == pytest.approx(np.mean([tokens[i] for i in of]), abs=1e-6)


# -- question answering ------------------------------------------------------------------------------------------------


def asked(pipe, tokenizer, first, last):
    """The pipeline with a model that lets answers start at the token `first` and end at `last`."""

    def logits(batch, token):
        return 20 * (batch["input_ids"] == tokenizer.convert_tokens_to_ids(token)).astype(np.float32)

    return dataclasses.replace(
        pipe, forward=lambda batch: {"start_logits": logits(batch, first), "end_logits": logits(batch, last)}
    )


def test_an_answer_is_found_wherever_it_stands_in_a_long_context(qa, tokenizer):
    find = asked(qa, tokenizer, "quick", "tree")
    filler = "the small cat sees a dog near the house and finds it. " * 12
    for before in (0, 1, 7, 12):
        context = filler[: 54 * before] + "A QUICK, gr\u00e9en  Tree \U0001f600 likes " + filler[54 * before :]
        answer = find(question="a quick tree", context=context)
        assert answer["answer"] == context[answer["start"] : answer["end"]] == "QUICK, gr\u00e9en  Tree"
        assert answer["start"] == 54 * before + 2
        for options in ({"max_seq_len": 20, "doc_stride": 9}, {"max_seq_len": 30, "doc_stride": 12}):
            assert find(question="a quick tree", context=context, **options)["answer"] == answer["answer"]
    assert find(question="a quick tree", context=context, max_answer_len=2)["score"] < 0.01 < 0.5 < answer["score"]


def test_a_question_is_cut_where_that_is_asked(qa, tokenizer):
    long = "the cat sees " * 30
    refused(
        qa, "has 90 tokens, which leaves none of 64 to its context; give max_question_len", question=long, context=TEXT
    )
    cut = qa(question=long, context=TEXT, max_question_len=3)
    assert cut == qa(question="the cat sees", context=TEXT)
    batch = qa.preprocess(question=long, context=TEXT, max_question_len=3)
    assert batch["attention_mask"].sum() == 3 + 7 + 3


def test_the_overlap_gives_way_to_long_questions_unless_it_is_asked_for(qa):
    question, context = (
        "the cat sees " * 14,
        f"{TEXT} " * 9,
    )  # 42 tokens, which leave 19 of 64; by default 32 would overlap
    assert qa(question=question, context=context)["answer"] in context
    refused(qa, "doc_stride=32 is too much: a question leaves 19 of 64 tokens to the context", question=question,
            context=context, doc_stride=32)  # fmt: skip
    assert qa(question=question, context=TEXT, doc_stride=32)["answer"] in TEXT  # nothing overlaps


def test_a_context_without_words_holds_no_answer(qa, config, tokenizer):
    nothing = {"score": 0.0, "start": 0, "end": 0, "answer": ""}
    assert qa(question="the cat", context=" \n") == nothing
    assert qa(question="the cat", context=" ", handle_impossible_answer=True) == nothing | {"score": 1.0}
    bare = copy.copy(tokenizer)
    bare.cls_token = None  # then no token at all may be an answer's
    model = jf.load(config, head="question-answering")
    assert jf.pipeline("question-answering", model, tokenizer=bare)(question="the cat", context=" ") == nothing


def test_the_forms_of_a_question(qa):
    one = qa(question="the cat", context=TEXT)
    assert sorted(one) == ["answer", "end", "score", "start"]
    row = {"question": "the cat", "context": TEXT, "id": 7, "answers": {"text": ["dog"], "answer_start": [25]}}
    assert qa(row) == qa([row]) == qa("the cat", TEXT) == qa({"question": ["the cat"], "context": TEXT}) == one
    assert qa(question=["the cat"] * 2, context=[TEXT, TEXT]) == [pytest.approx(one, abs=1e-6)] * 2
    assert list(qa(iter([row]))) == [one]
    assert qa([]) == []
    batch = qa.preprocess(question="the cat", context=TEXT)
    assert qa.postprocess(qa.forward(batch), top_k=1) == one
    json.dumps(qa(row, top_k=3, handle_impossible_answer=True))


def test_what_question_answering_refuses(qa):
    form = r"\{'question': str, 'context': str\}"
    refused(qa, f"the input must be a dict {form}, found 'what", "what?")
    refused(qa, f"must be a dict {form}, found the keys \\['context', 'query'\\]", {"query": "?", "context": TEXT})
    refused(qa, f"input 1 must be a dict {form}", [{"question": "?", "context": TEXT}, TEXT])
    refused(qa, "the context of the input is empty", question="the cat?", context="")
    refused(qa, "the question of input 1 is empty", question=["cat", ""], context=TEXT)
    refused(qa, "the context of the input must be a str, found int: 3", question="?", context=3)
    refused(qa, "give both question= and context=", question="?")
    refused(qa, "needs question= and context=")
    refused(qa, "one for each of 2 questions, found 1", question=["a", "b"], context=[TEXT])
    refused(qa, "one for each of 2 questions, found None", {"question": ["a", "b"]})
    for option in ("top_k", "max_answer_len", "max_seq_len", "max_question_len"):
        refused(qa, f"{option} must be a positive int, found 0", "the cat?", TEXT, **{option: 0})
    refused(qa, "max_seq_len must be at most the 64 tokens the model can take, found 65", "cat", TEXT, max_seq_len=65)
    for stride in (-1, 65, "8"):
        refused(qa, r"doc_stride must be from 0 to max_seq_len \(64\), found", "cat", TEXT, doc_stride=stride)


# -- fill-mask ---------------------------------------------------------------------------------------------------------


def test_what_fill_mask_refuses(fill, config, tokenizer, caplog):
    assert fill([]) == []
    for text in ("", " ", TEXT):
        refused(fill, r"the input holds no mask token \(\[MASK\]\): ", text)
    refused(fill, "input 1 holds no mask token", [MASKED, TEXT])
    refused(fill, r"no mask token \(\[MASK\]\) among its first 64 tokens", f"{TEXT} " * 12 + "[MASK]")
    refused(fill, "input 0 must be a str, found tuple", [(MASKED, TEXT), MASKED])
    refused(fill, "top_k must be a positive int, found 0", MASKED, top_k=0)
    refused(fill, "targets must be a str or a list of str, found 7", MASKED, targets=7)
    for targets in ([], "", [""]):
        refused(fill, "targets must hold at least one token of the vocabulary", MASKED, targets=targets)
    with caplog.at_level(logging.WARNING):
        assert fill(MASKED, targets="catdog")[0]["token_str"] == "cat"
    assert "the target 'catdog' is not in the vocabulary: its first token 'cat' stands for it" in caplog.text
    bare = Tokenizer(tokenizer.backend, special_tokens={"pad_token": "[PAD]"})
    with pytest.raises(InputError, match="needs a tokenizer with a mask token"):
        jf.pipeline("fill-mask", jf.load(config, head="masked-lm"), tokenizer=bare)


def test_fill_mask_beyond_the_vocabulary_and_the_maximum(fill, tokenizer):
    everything = fill(MASKED, top_k=10**6)
    assert len(everything) == len(tokenizer)
    assert sum(each["score"] for each in everything) == pytest.approx(1, abs=1e-5)
    assert [each["score"] for each in everything] == sorted((each["score"] for each in everything), reverse=True)
    long = fill(MASKED + f" {TEXT}" * 20)
    assert len(long) == 5
    assert fill(MASKED + f" {TEXT}" * 20, tokenizer_kwargs={"truncation": True, "max_length": 9}) == fill(
        MASKED, max_length=9
    )


def test_fill_mask_compiles_few_programs_and_keeps_order(make, sentences):
    fill = make("fill-mask", "masked-lm")
    texts = [text + " [MASK]" * (1 + i % 3) for i, text in enumerate(sentences(40, longest=20))]
    together = fill(texts, batch_size=8, top_k=2)
    assert fill.forward.compiled.compilations <= 10
    for text, results in list(zip(texts, together, strict=True))[::7]:
        alone = fill(text, top_k=2)
        first, other = (each if isinstance(each[0], dict) else each[0] for each in (results, alone))
        assert [each["sequence"] for each in first] == [each["sequence"] for each in other]
        assert len(alone) == (2 if text.count("[MASK]") == 1 else text.count("[MASK]"))


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_what_zero_shot_refuses(zero, make, caplog):
    assert zero([], candidate_labels="a") == []
    assert zero(" ", "a, b")["sequence"] == " "
    refused(zero, "needs candidate_labels=", TEXT)
    refused(zero, "candidate_labels must be a list of str with at least one label", TEXT, [])
    refused(zero, "candidate_labels must be a list of str with at least one label, found ' , '", TEXT, " , ")
    refused(zero, "candidate_labels must be a list of str", TEXT, ["a", 3])
    refused(zero, "the input is empty", "", ["a"])
    refused(zero, "input 1 is empty", [TEXT, ""], ["a"])
    refused(
        zero, r"hypothesis_template must have a \{\} in the place of the label", TEXT, "a", hypothesis_template="it"
    )
    refused(zero, r"hypothesis_template must be a str with one \{\}", TEXT, "a", hypothesis_template="{x} {}")
    refused(zero, "hypothesis_template must be a str", TEXT, "a", hypothesis_template=None)
    refused(zero, "does not fit what was asked", TEXT, ["cat " * 80])  # the hypothesis is never cut
    assert zero(f"{TEXT} " * 30, "cat")["labels"] == ["cat"]
    with caplog.at_level(logging.WARNING):
        make("zero-shot-classification", "sequence-classification")
    assert "none of the model's labels (bad, fair, good) begins with 'entail'" in caplog.text


def test_zero_shot_scores(zero):
    result = zero(TEXT, "cat, dog, tree")
    assert list(result) == ["sequence", "labels", "scores"]
    assert sum(result["scores"]) == pytest.approx(1, abs=1e-6)
    assert result["scores"] == sorted(result["scores"], reverse=True)
    apart = zero(TEXT, "cat, dog, tree", multi_label=True)
    for label, score in zip(apart["labels"], apart["scores"], strict=True):
        assert zero(TEXT, label)["scores"] == [pytest.approx(score, abs=1e-5)]
    json.dumps([result, zero([TEXT], "cat")])


def test_next_sentence_prediction(following, model, tokenizer):
    pair = {"text": TEXT, "text_pair": "the dog likes it"}
    result = following(pair)
    logits = following.forward(following.preprocess(pair))["logits"][0]
    p = float(1 / (1 + jnp.exp(logits[1] - logits[0])))
    assert result == {"label": "IsNext" if p > 0.5 else "NotNext", "score": pytest.approx(max(p, 1 - p), abs=1e-6)}
    assert following([pair, (TEXT, "the dog likes it")]) == [pytest.approx(result, abs=1e-6)] * 2
    json.dumps(following([pair]))
    assert following([]) == []
    for wrong in (TEXT, {"text": TEXT}, 3):
        refused(following, "the input must be", wrong)


def test_multiple_choice(choose, config, tokenizer):
    question = {"prompt": TEXT, "choices": ["the dog likes it", "a tree", "old", ""]}
    result = choose(question)
    assert list(result) == ["choice", "index", "score", "scores"]
    assert result["choice"] == question["choices"][result["index"]]
    assert result["score"] == max(result["scores"]) == result["scores"][result["index"]]
    batch = tokenizer([TEXT] * 4, question["choices"], padding=True, return_tensors="np")
    model = jf.load(config, head="multiple-choice")  # over [1, choices, L], as it is trained
    logits = np.ravel(model.apply(model.params, **{key: array[None] for key, array in batch.items()}).logits)
    np.testing.assert_allclose(result["scores"], np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
    two = {"prompt": "a cat", "choices": ["and a dog", "of"]}
    mixed = choose([two, question, two])
    assert mixed[1]["scores"] == pytest.approx(result["scores"], abs=1e-5)
    assert mixed[0] == mixed[2]
    json.dumps(mixed)
    assert choose([]) == []


def test_what_multiple_choice_refuses(choose):
    refused(choose, r"must be a dict \{'prompt': str, 'choices': \[str, ...\]\}, found 'a small", TEXT)
    refused(choose, r"found the keys \['choices'\]", {"choices": ["a"]})
    for choices in ([], "a"):
        refused(choose, "must have a list of at least one choice", {"prompt": TEXT, "choices": choices})
    refused(choose, "input 0 must be a str, found int: 3", [{"prompt": TEXT, "choices": ["a", 3]}])


def test_tasks_without_a_usual_model():
    for task in ("multiple-choice", "next-sentence-prediction"):
        with pytest.raises(InputError, match=f"{task} has no usual model: give model="):
            jf.pipeline(task)


def test_the_task_decided_by_the_head(ner, tagger, tokenizer, config):
    assert jf.pipeline(model=tagger, tokenizer=tokenizer)(TEXT) == ner(TEXT)
    fill = jf.pipeline(model=jf.load(config, head="masked-lm"), tokenizer=tokenizer)
    assert list(fill(MASKED)[0]) == ["score", "token", "token_str", "sequence"]


def test_results_do_not_depend_on_the_side_a_tokenizer_pads(config, tagger, tokenizer):
    left = copy.copy(tokenizer)
    left.padding_side = "left"
    for task, model in (("ner", tagger), ("fill-mask", jf.load(config, head="masked-lm"))):
        expected, found = (jf.pipeline(task, model, tokenizer=tok)([MASKED, "a [MASK]"]) for tok in (tokenizer, left))
        assert found == expected
    qa = jf.pipeline("question-answering", jf.load(config, head="question-answering"), tokenizer=left)
    batch = qa.preprocess(question="the cat", context=TEXT)
    assert left.decode(batch["input_ids"][0, :12]) == f"[CLS] {TEXT} [SEP] the cat [SEP]"
    answer = qa(question="the cat", context=TEXT)
    assert answer["answer"] == TEXT[answer["start"] : answer["end"]] != ""
