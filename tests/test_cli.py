"""The command `jaxformers`: what it writes on stdout, its errors and statuses, and checkpoints carried from format to format."""

import dataclasses
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jaxformers as jf
from jaxformers.cli import main
from jaxformers.core.messages import LOG
from jaxformers.data import Batches, Table
from jaxformers.preprocess import train_wordpiece
from jaxformers.train import TrainingArguments, TrainState
from jaxformers.train.checkpoint import Checkpoints
from jaxformers.train.record import Record

ROOT = Path(__file__).resolve().parents[1]
SENTENCES = ("the small cat sees a dog", "a dog")


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([*SENTENCES, "a cat finds the small dog"], vocab_size=60)


@pytest.fixture(scope="module")
def model(tokenizer):
    return jf.load(
        {"model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 8, "num_hidden_layers": 2,
         "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32, "initializer_range": 0.2},
        head="sequence-classification", num_labels=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    jf.save(model, folder, tokenizer)
    return str(folder)


@pytest.fixture
def command(capsys):
    """Runs a command line; gives its status, the values of its lines and what it told beside them."""

    def run(*words):
        status = main(list(map(str, words)))
        said = capsys.readouterr()
        return status, [json.loads(line) for line in said.out.splitlines()], said.err

    return run


def test_a_task_over_texts_and_files_is_the_pipeline(command, folder, tmp_path, monkeypatch):
    expected = jf.pipeline("text-classification", folder)(list(SENTENCES), top_k=2)
    run = ("run", "text-classification", "--model", folder, "--top-k", "2")
    assert command(*run[:2], *SENTENCES, *run[2:]) == (0, expected, "")
    files = {
        "a.txt": "\n".join(SENTENCES) + "\n",
        "a.jsonl": "".join(json.dumps({"text": s}) + "\n" for s in SENTENCES),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert command(*run, "--file", tmp_path / name) == (0, expected, "")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{SENTENCES[0]}\n" + json.dumps({"text": SENTENCES[1]}) + "\n"))
    assert command(*run, "--file=-") == (0, expected, "")


def test_arrays_are_written_as_lists(command, folder):
    status, lines, _ = command("run", "feature-extraction", SENTENCES[1], "--model", folder, "--return-tensors")
    assert status == 0
    assert np.shape(lines[0]) == (1, 4, 8)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "text-clasification", "x"), "did you mean 'text-classification'?"),
        (("run", "ner"), "give either texts or --file; - is stdin"),
        (("run", "ner", "x", "--file", "y"), "give either texts or --file, not both"),
        (("run", "ner", "--file", "nowhere.jsonl"), "there is no file nowhere.jsonl"),
        (("run", "ner", "x", "--model", "./nowhere"), "nowhere"),
        (("convert", "FOLDER", "FOLDER"), "source and target are the same folder"),
        (("convert", "FOLDER", "x", "--to", "onnx"), "--to must be safetensors (which PyTorch opens, too) or orbax"),
        (("convert", "FOLDER", "x", "--head", "causal-lm"), "bert has no head 'causal-lm'"),
        (("run", "text-classification", "x", "--model", "FOLDER", "--topk", "2"), "did you mean 'top_k'?"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_status_2(command, folder, words, sentence):
    status, lines, told = command(*(folder if word == "FOLDER" else word for word in words))
    assert (status, lines) == (2, [])
    assert sentence in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_a_tokenizer_is_shown(command, folder, tokenizer):
    status, lines, _ = command("tokenize", folder, *SENTENCES)
    assert status == 0
    assert [line["input_ids"] for line in lines] == [tokenizer(text)["input_ids"] for text in SENTENCES]
    assert lines[1]["tokens"] == ["[CLS]", "a", "dog", "[SEP]"]
    _, lines, _ = command("tokenize", folder, SENTENCES[0], "--no-special-tokens", "--max-length", "2")
    assert lines[0]["tokens"] == ["the", "small"]


def same(params, others):
    assert jax.tree.structure(params) == jax.tree.structure(others)
    return jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), params, others))


def test_to_orbax_and_back(command, folder, model, tmp_path, caplog):
    assert command("convert", folder, tmp_path / "orbax", "--to", "orbax")[0] == 0
    assert not [*(tmp_path / "orbax").glob("*.safetensors")]
    status, _, told = command("convert", tmp_path / "orbax", tmp_path / "back")
    assert (status, told) == (0, f"BertForSequenceClassification, float32: {tmp_path / 'back'}\n")
    back = jf.load(tmp_path / "back", head="sequence-classification")
    assert back.config == model.config
    assert same(model.params, back.params)
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(os.listdir(folder))
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / "back" / name).unlink()
    assert command("convert", tmp_path / "back", tmp_path / "bare", "--dtype", "bfloat16")[0] == 0
    assert "no tokenizer is written: " in caplog.text
    assert json.loads((tmp_path / "bare" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_training_checkpoint_becomes_a_model(command, folder, model, tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path / "out"))
    batches = Batches(Table({"input_ids": [[2, 5, 3]] * 2, "labels": [0, 1]}), batch_size=2)
    state = TrainState(np.int32(4), model.params, optax.adamw(1e-3).init(model.params), jax.random.key(0))
    meta = dataclasses.asdict(Record.begin(model, args, batches, 4, 2))
    more = dataclasses.replace(state, params={**model.params, "adapter": np.zeros(2)})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(4, state, meta)
        checkpoints.save(5, more, meta)
    words = ("convert", tmp_path / "checkpoints" / "4", tmp_path / "model", "--tokenizer", folder)
    assert command(*words)[0] == 0
    assert (tmp_path / "model" / "tokenizer.json").is_file()
    found = jf.load(tmp_path / "model", head="sequence-classification")
    assert found.config == model.config
    assert same(model.params, found.params)
    assert "does not fit this model: missing params.masked_lm.bias" in command(*words, "--head", "masked-lm")[2]
    told = command("convert", tmp_path / "checkpoints" / "5", tmp_path / "more")[2]
    assert "does not fit this model: unexpected params.adapter (2,)" in told
    meta = tmp_path / "checkpoints" / "4" / "meta" / "metadata"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "config": {}}))
    assert "does not say what model it is of" in command(*words)[2]


def test_the_environment_as_a_program():
    settings = {**os.environ, "HF_TOKEN": "hf_secret", "PYTHONPATH": str(ROOT), "JAXFORMERS_VERBOSITY": "info"}
    done = subprocess.run(
        [sys.executable, "-m", "jaxformers", "env"], env=settings, capture_output=True, text=True, check=True
    )
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said["jax"] == jax.__version__
    assert said["devices"].startswith("cpu: ")
    assert said["token of the hub"] == "there is one"
    assert said["JAXFORMERS_VERBOSITY"] == "info"
    assert "hf_secret" not in done.stdout


def test_verbosity(capsys, monkeypatch):
    monkeypatch.setattr(LOG, "handlers", [])
    monkeypatch.setattr(LOG, "propagate", False)
    before = LOG.level
    try:
        jf.set_verbosity("info")
        LOG.info("heard")
        jf.set_verbosity("error")
        LOG.warning("not heard")
        assert capsys.readouterr().err == "info: heard\n"
        assert len(LOG.handlers) == 1
        with pytest.raises(jf.InputError, match=r"verbosity must be one of debug, info, .*, found 'loud'"):
            jf.set_verbosity("loud")
    finally:
        LOG.setLevel(before)


def test_a_program_with_its_own_handler_keeps_it(monkeypatch):
    own = logging.NullHandler()
    monkeypatch.setattr(LOG, "handlers", [own])
    before = LOG.level
    jf.set_verbosity("info")
    LOG.setLevel(before)
    assert LOG.handlers == [own]
