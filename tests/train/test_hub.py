"""Uploads, against a small server that speaks as much of the hub's API as an upload takes."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxformers.errors import InputError
from jaxformers.train import TrainingArguments
from jaxformers.train.hub import Hub

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from jaxformers.train import TrainingArguments
from jaxformers.train.hub import Hub
args = TrainingArguments(output_dir=sys.argv[1], push_to_hub=True, hub_token="hf_test", hub_strategy="checkpoint",
                         hub_model_id="someone/model", hub_private_repo=True, hub_always_push=True)
with Hub(args) as hub:
    hub.push("Training in progress, step 4", Path(sys.argv[1]) / "checkpoints" / "4")
    hub.push("End of training")
"""


def push(server, folder, **environment):
    env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], env=env, capture_output=True, text=True, check=False
    )


def test_a_run_is_uploaded_without_its_checkpoints_but_for_the_last(server, tmp_path):
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "checkpoints" / "4" / "state").write_bytes(b"state")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / ".lock").write_text("1")
    found = push(server, tmp_path)
    assert found.returncode == 0, found.stderr
    assert (server.created["organization"], server.created["name"]) == ("someone", "model")
    assert server.created.get("visibility") == "private" or server.created.get("private")
    pushed = {name: data for _, files in server.commits for name, data in files.items()}
    assert pushed == {"last-checkpoint/state": b"state", "config.json": b"{}"}
    assert {summary for summary, _ in server.commits} <= {"Training in progress, step 4", "End of training"}


def test_what_stands_in_the_way_is_one_sentence(monkeypatch, tmp_path, caplog):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    args = TrainingArguments(output_dir=str(tmp_path), push_to_hub=True)
    with pytest.raises(InputError, match="needs a token: set HF_TOKEN, or log in with `hf auth login`"):
        Hub(args)

    class Api:
        def __init__(self, token):
            pass

        def create_repo(self, name, **_):
            if name == "closed":
                raise OSError("403 Forbidden\nand more")
            return type("Url", (), {"repo_id": name})

        def upload_folder(self, **_):
            raise OSError("disk")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(InputError, match=re.escape("cannot push to the hub repository 'closed': 403 Forbidden") + "$"):
        Hub(args.replace(hub_token="x", hub_model_id="closed"))
    with caplog.at_level(logging.WARNING, "jaxformers"), Hub(args.replace(hub_token="x", hub_model_id="a/b")) as hub:
        hub.push("x")
    assert "could not push to a/b: disk" in caplog.text
