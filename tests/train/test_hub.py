"""Uploads, against a small server that speaks as much of the hub's API as an upload takes."""

import base64
import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
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


class Server(http.server.BaseHTTPRequestHandler):
    """Creates repositories, takes every file as a regular one, and keeps commits."""

    def answer(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if "/tree/" in self.path:
            return self.answer([])
        return self.answer({"sha": "0" * 40, "id": "someone/model", "siblings": [], "modelId": "someone/model"})

    def do_POST(self):
        length = self.headers.get("Content-Length")
        if length is None:  # chunks
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(length))
        token = self.headers.get("Authorization")
        self.server.calls.append((self.path, token))
        if token != "Bearer hf_test":
            self.answer({"error": "no such token"}, 401)
        elif self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.answer({"url": f"{self.server.url}/someone/model", "id": "someone/model"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            rows = [json.loads(line) for line in body.splitlines()]
            summary = next(row["value"]["summary"] for row in rows if row["key"] == "header")
            files = {
                row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in rows if row["key"] == "file"
            }
            self.server.commits.append((summary, files))
            self.answer(
                {
                    "commitUrl": f"{self.server.url}/someone/model/commit/1",
                    "commitOid": "1" * 40,
                    "pullRequestUrl": None,
                }
            )
        else:
            self.answer({})

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.calls, server.commits, server.created = [], [], None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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
