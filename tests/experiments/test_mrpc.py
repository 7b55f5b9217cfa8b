"""`python -m experiments.mrpc` as people start it: small runs end to end, its fallback, its refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import finetune, mrpc
from experiments.launch import parse
from jaxformers.data import load_dataset
from jaxformers.errors import DataError, InputError
from jaxformers.train.report import finished

ROOT = Path(__file__).resolve().parents[2]


def start(*flags, **environment):
    command = [sys.executable, "-m", "experiments.mrpc", *flags]
    settings = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)


def config(*flags):
    return parse(mrpc.Config, flags, "", "mrpc")


def test_a_tiny_run_ends_well_says_what_it_ran_on_and_is_not_run_twice(tmp_path):
    out = tmp_path / "a folder with spaces"
    first = start("--tiny", "--output-dir", str(out), "--disable-tqdm")
    assert first.returncode == 0, first.stderr
    results = json.loads((out / "all_results.json").read_text())
    assert "not MRPC" in results["dataset"]
    assert {"eval_accuracy", "eval_f1", "train_loss", "compile_seconds", "compilations"} <= set(results)
    assert list((out / "runs").iterdir())
    second = start("--tiny", "--output-dir", str(out))
    assert second.returncode == 0
    assert "holds a finished run" in second.stdout


def test_prediction_without_training(tmp_path):
    """A model folder, a test split without labels: one line a row."""
    from jaxformers.checkpoints import load, save
    from jaxformers.preprocess import train_wordpiece

    tokenizer = train_wordpiece(["a b c"], vocab_size=20)
    save(load({**finetune.SMALL, "vocab_size": 30}, "sequence-classification"), tmp_path / "model", tokenizer)
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\t1\nb\tc\t0\n")
    (tmp_path / "test.tsv").write_text("sentence1\tsentence2\na\tb\nb\tc\nc\ta\n")
    metrics = mrpc.run(
        config("--model", str(tmp_path / "model"), "--data", str(tmp_path), "--output-dir", str(tmp_path / "out"),
               "--no-do-train", "--do-predict", "--per-device-eval-batch-size", "1")
    )  # fmt: skip
    assert 0 <= metrics["eval_accuracy"] <= 1
    assert len((tmp_path / "out" / "predict_results_mrpc.txt").read_text().splitlines()) == 4


def test_with_no_source_and_no_hub_it_falls_back_and_says_so(capsys):
    chosen, source, _ = finetune.choose(config(), mrpc.RECIPE)
    assert source == "bundled"
    assert "NOT MRPC" in capsys.readouterr().out
    assert chosen.learning_rate == finetune.SETTINGS["learning_rate"]
    kept, *_ = finetune.choose(config("--learning-rate", "0.5", "--num-train-epochs", "1"), mrpc.RECIPE)
    assert (kept.learning_rate, kept.num_train_epochs) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--data", "tfds:glue/mrpc", "--model", "MODEL"], "glue/mrpc"),
        (["--model", "bert-base-uncased", "--data", "bundled"], "bert-base-uncased"),
        (["--model", "no such folder", "--data", "bundled"], "no such folder"),
        (["--model", "MODEL", "--data", "missing/folder"], "missing/folder"),
        (["--learnin-rate", "1"], "--learning-rate"),
        (["--per-device-train-batch-size", "0"], "per_device_train_batch_size must be at least 1"),
        (["--mesh.fsdp", "3"], "needs 3 devices"),
    ],
)
def test_a_source_that_was_asked_for_never_falls_back(tmp_path, flags, sentence):
    """One sentence, status 2, nothing left behind."""
    from jaxformers.checkpoints import load, save
    from jaxformers.preprocess import train_wordpiece

    if "MODEL" in flags:
        tokenizer = train_wordpiece(["a b c"], vocab_size=20)
        save(load({**finetune.SMALL, "vocab_size": 30}, "sequence-classification"), tmp_path / "model", tokenizer)
        flags = [str(tmp_path / "model") if flag == "MODEL" else flag for flag in flags]
    if flags == ["--mesh.fsdp", "3"]:
        flags = [*flags, "--tiny"]
    done = start(*flags, "--output-dir", str(tmp_path / "out"))
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_flags_in_every_spelling():
    assert config("--num_train_epochs", "2").num_train_epochs == 2
    assert config("--model_name_or_path", "a", "--dataset_name", "b", "--max_seq_length", "9").max_length == 9
    assert [config(*flags).bf16 for flags in (["--bf16"], ["--no-bf16"], ["--bf16", "True"], ["--bf16=false"])] == [
        True, False, True, False,
    ]  # fmt: skip
    assert config("--mesh.data", "2", "--mesh.tensor", "4").mesh.tensor == 4


def test_flags_of_the_scripts(tmp_path, caplog):
    for name, count in (("a", 6), ("b", 4)):
        (tmp_path / f"{name}.csv").write_text("sentence1,sentence2,label\n" + "x,y,1\n" * count)
    known = config(
        "--dataset_name", "cnn_dailymail", "--dataset_config_name", "3.0.0", "--overwrite_cache", "--streaming=no"
    )
    assert known.data == "hf:cnn_dailymail/3.0.0"
    assert [record.getMessage()[:32] for record in caplog.records] == ["--overwrite-cache has no effect:"]
    assert config("--dataset_name", str(tmp_path)).data == str(tmp_path)
    files = config(
        "--train_file", f"{tmp_path}/a.csv", "--validation_file", f"{tmp_path}/b.csv", "--max_eval_samples", "3"
    )
    splits = finetune.read(files, files.data, mrpc.RECIPE)
    assert {name: len(table) for name, table in splits.items()} == {"train": 6, "validation": 3}
    for flags, message in (
        (["--trust_remote_code", "true"], "no code from a checkpoint or a dataset is run"),
        (["--dataset_config_name", "mrpc"], "needs --dataset-name"),
        (["--dataset_name", "glue", "--train_file", "x"], "exclude each other"),
    ):
        with pytest.raises(InputError, match=message):
            config(*flags)
    for name in ("glue/mrpc", "yelp_review_full", "rotten_tomatoes", "food101", "minds14"):
        with pytest.raises(DataError, match=f"'{name}'.*a data set of that name would be tfds:{name} or hf:{name}"):
            load_dataset(name)


def test_glue_files_as_they_are(shared_data, tmp_path):
    splits = finetune.read(
        config("--data", str(shared_data / "glue" / "MRPC")), str(shared_data / "glue" / "MRPC"), mrpc.RECIPE
    )
    assert {name: len(table) for name, table in splits.items()} == {"train": 3668, "validation": 408}
    assert sum(splits["validation"]["label"]) == 279


def test_a_label_outside_the_classes_is_named(tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("sentence1\tsentence2\tlabel\na\tb\t1\nc\td\t7\n")
    with pytest.raises(ValueError, match=r"label 7 at record 1 .*model has 2 classes"):
        finetune.read(config("--data", str(tmp_path)), str(tmp_path), mrpc.RECIPE)


def test_nothing_counts_as_finished_before_its_results_are_there(tmp_path):
    assert finished(tmp_path) is None
