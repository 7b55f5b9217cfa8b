"""What a run writes beside its model: to W&B, as curves, as a trace for the profiler, to the hub. One run shows it all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxformers.checkpoints import load
from jaxformers.checkpoints.push import push_to_hub
from jaxformers.errors import InputError
from jaxformers.preprocess import load_tokenizer, train_wordpiece
from tests.hub_server import serving
from tests.train.conftest import TINY

ROOT = Path(__file__).resolve().parents[2]
# W&B's package as the tracker uses it: what it is told is written down.
WANDB = """
import json
from pathlib import Path


class Run:
    def __init__(self, **told):
        folder = Path(told["dir"]) / "wandb"
        folder.mkdir()
        self.file = open(folder / "run.jsonl", "w")
        self.log({key: str(value) if key == "dir" else value for key, value in told.items()})

    def log(self, values):
        self.file.write(json.dumps(values) + "\\n")

    def finish(self):
        self.log("finished")
        self.file.close()


def init(**told):
    return Run(**told)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of the run, what it printed, and what the hub was sent."""
    folder = tmp_path_factory.mktemp("surface")
    (folder / "wandb.py").write_text(WANDB)
    with serving() as server:
        env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": f"{ROOT}:{folder}"}
        done = subprocess.run(
            [sys.executable, "-m", "tests.train.surface_run", str(folder / "out")],
            env=env, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return folder / "out", done.stdout, list(server.commits)


def test_wandb_hears_of_settings_losses_and_metrics(run):
    folder, _, _ = run
    settings, *logs, end = map(json.loads, (folder / "wandb" / "run.jsonl").read_text().splitlines())
    assert settings["name"] == "a look"
    assert settings["config"]["num_train_epochs"] == "2"
    assert "hub_token" not in settings["config"]
    assert end == "finished"
    losses = [log for log in logs if "train/loss" in log]
    assert [log["train/global_step"] for log in losses] == [2, 4, 6, 8, 10]
    assert [log["train/epoch"] for log in logs if "eval/loss" in log] == [1.0, 2.0]
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [log["train/loss"] for log in losses] == [line["loss"] for line in written if "loss" in line]


def test_the_curves_are_a_picture(run):
    from matplotlib.image import imread

    picture = imread(run[0] / "training.png")
    assert picture.shape[1] == 720
    colours = {tuple(np.round(pixel[:3] * 255).astype(int)) for pixel in picture.reshape(-1, picture.shape[-1])}
    assert {(31, 119, 180), (255, 127, 14)} <= colours, "the loss, and that of the evaluations, in their colours"


def test_the_steps_that_were_asked_for_are_traced(run):
    traces = [*run[0].glob("profile/plugins/profile/*/*.xplane.pb")]
    assert len(traces) == 1
    content = traces[0].read_bytes()
    assert b"jit_step" in content or b"PjitFunction" in content


def test_the_hub_has_model_tokenizer_config_and_card(run, tmp_path):
    folder, _, commits = run
    messages = [message for message, _ in commits]
    assert messages == ["Training in progress, step 5", "Training in progress, step 10", "End of training"]
    sent = {name: data for _, files in commits for name, data in files.items()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "all_results.json"} <= sent.keys()
    assert not [name for name in sent if name.startswith(("checkpoints", "profile", "wandb", "."))]
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(sent[name])
    ours, theirs = load(folder, "sequence-classification"), load(tmp_path, "sequence-classification")
    assert all(map(np.array_equal, *map(_leaves, (ours.params, theirs.params))))
    assert load_tokenizer(tmp_path)("a cat")["input_ids"] == load_tokenizer(folder)("a cat")["input_ids"]
    assert b"trained on random texts" in sent["README.md"]


def _leaves(tree):
    return [
        np.asarray(leaf) for value in tree.values() for leaf in (_leaves(value) if isinstance(value, dict) else [value])
    ]


def test_the_memory_of_a_step_is_told_beside_what_was_in_use(run):
    line = next(line for line in run[1].splitlines() if line.startswith("memory: "))
    assert " GiB of a device by the compiler's count; " in line
    assert line.endswith(" GiB at most of this process")


def test_a_model_is_pushed_by_itself(hub):
    model, tokenizer = load(TINY, "masked-lm"), train_wordpiece(["a cat"], vocab_size=30)
    address = push_to_hub(model, "someone/model", tokenizer, private=True, message="A model")
    assert address == f"{hub.url}/someone/model/commit/1"
    ((message, files),) = hub.commits
    assert message == "A model"
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= files.keys()
    assert b"jf.load(\"someone/model\", head='masked-lm')" in files["README.md"]
    with pytest.raises(InputError, match=r"cannot push to the hub repository 'someone/model': .*401"):
        push_to_hub(model, "someone/model", token="another")
