import dataclasses
import json
import logging

import pytest

import jaxformers as jf
from jaxformers import pipelines
from jaxformers.errors import CheckpointError, InputError


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(pipelines, "_registered", {})


def test_an_unknown_task_names_the_nearest_and_all():
    with pytest.raises(
        InputError, match=r"'text-clasification' \(did you mean 'text-classification'\?\); known: .*sentiment"
    ):
        jf.pipeline("text-clasification")


def test_the_alias_and_the_task_decided_by_the_model(folder, clf):
    expected = clf("a cat")
    assert jf.pipeline("sentiment-analysis", folder)("a cat") == expected
    assert jf.pipeline(model=folder)("a cat") == expected
    assert jf.pipeline(model=str(folder), tokenizer=str(folder))("a cat") == expected


def test_the_task_decided_by_a_bare_model(config, tokenizer):
    assert len(jf.pipeline(model=jf.load(config), tokenizer=tokenizer)("a cat")[0]) == 4


def test_what_decides_nothing_is_refused(config, tokenizer, folder, tmp_path):
    with pytest.raises(InputError, match="needs a task, a model, or both"):
        jf.pipeline()
    with pytest.raises(InputError, match="'pretraining', for which there is no pipeline yet"):
        jf.pipeline(model=jf.load(config, head="pretraining"), tokenizer=tokenizer)
    raw = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMagic"]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"BertForMagic.*name the task"):
        jf.pipeline(model=tmp_path)


def test_a_model_handed_over_must_fit(model, config, tokenizer):
    with pytest.raises(InputError, match="give tokenizer="):
        jf.pipeline("text-classification", model)
    with pytest.raises(InputError, match="needs a model with the head 'sequence-classification', found 'masked-lm'"):
        jf.pipeline("text-classification", jf.load(config, head="masked-lm"), tokenizer=tokenizer)
    with pytest.raises(InputError, match="is loaded already"):
        jf.pipeline("text-classification", model, tokenizer=tokenizer, dtype="bfloat16")


def test_a_new_head_is_told(config, tokenizer, tmp_path, caplog):
    jf.save(jf.load(config), tmp_path, tokenizer=tokenizer)
    with caplog.at_level(logging.WARNING):
        clf = jf.pipeline("text-classification", tmp_path)
    assert "newly initialised: classifier" in caplog.text
    assert clf("a cat")[0]["label"] in ("bad", "fair", "good")


def test_without_a_model_the_default_is_asked_of_the_hub(monkeypatch, caplog):
    def locate(source, revision):
        raise CheckpointError(f"{source} at {revision} cannot be loaded")

    monkeypatch.setattr(pipelines, "locate", locate)
    with pytest.raises(
        CheckpointError, match="distilbert-base-uncased-finetuned-sst-2-english at 714eb0f cannot be loaded"
    ):
        jf.pipeline("sentiment-analysis")
    assert "no model was given" in caplog.text


def test_options_of_the_task_and_of_its_stages(model, tokenizer):
    clf = jf.pipeline("text-classification", model, tokenizer=tokenizer, top_k=2, max_length=8, batch_size=2)
    assert clf.batch_size == 2
    assert clf.preprocess("a cat and a dog " * 9)["attention_mask"].sum() == 8
    assert len(clf(["a"])[0]) == 2
    with pytest.raises(InputError, match=r"'topk' \(did you mean 'top_k'\?\)"):
        jf.pipeline("text-classification", model, tokenizer=tokenizer, topk=2)


def test_the_compile_cache_is_switched_on(model, tokenizer, monkeypatch):
    called = []
    monkeypatch.setattr(pipelines, "enable_cache", lambda: called.append(1))
    jf.pipeline("text-classification", model, tokenizer=tokenizer)
    assert called


def test_a_registered_pipeline(clf):
    def factory(model=None, factor=1):
        return dataclasses.replace(clf, postprocess=lambda outputs: (model, factor, clf.batch_size))

    jf.register_pipeline("mine", factory)
    assert jf.pipeline("mine", "a-path", factor=3)("a cat") == ("a-path", 3, 32)
    assert jf.pipeline("mine", batch_size=5).batch_size == 5
    with pytest.raises(InputError, match=r"known: .*mine"):
        jf.pipeline("min")


def test_what_cannot_be_registered():
    for name in ("text-classification", "sentiment-analysis"):
        with pytest.raises(InputError, match="is a built-in task"):
            jf.register_pipeline(name, lambda: None)
    with pytest.raises(InputError, match="must be a function, found int"):
        jf.register_pipeline("mine", 3)
    jf.register_pipeline("mine", lambda: 3)
    with pytest.raises(InputError, match="'mine' must return a Pipeline, found int"):
        jf.pipeline("mine")
