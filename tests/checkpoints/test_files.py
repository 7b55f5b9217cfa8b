"""Finding a model's folder, here or on the hub (played by stand-ins: no test reaches the network), and strict JSON."""

import contextlib
import http.server
import json
import logging
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from hypothesis import given
from hypothesis import strategies as st

from jaxformers.checkpoints.files import hub_reachable, locate, read_json
from jaxformers.errors import CheckpointError, ConfigError, InputError


def refused(*args, **kwargs):
    with pytest.raises(CheckpointError) as caught:
        locate(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that answers with what a test puts here: `files`, or `error` for the list, `broken` for the download."""
    cache = tmp_path / "cache"
    cache.mkdir()
    stage = SimpleNamespace(
        files=["config.json", "model.safetensors"], error=None, broken=None, cache=cache, asked=None
    )

    def list_repo_files(repo, *, revision=None):
        if stage.error:
            raise stage.error
        return stage.files

    def snapshot_download(repo, *, revision, allow_patterns, local_files_only):
        if stage.broken:
            raise stage.broken
        stage.asked = (repo, revision, set(allow_patterns), local_files_only)
        if not local_files_only:
            for name in allow_patterns:
                (cache / name).write_text("{}")
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return stage


def answer(kind, status, text="an answer\nof two lines"):
    return kind(text, response=SimpleNamespace(status_code=status, headers={}, request=None))


class TestLocal:
    def test_a_folder_is_returned_as_it_is(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        assert locate(tmp_path) == tmp_path
        assert locate(str(tmp_path)) == tmp_path

    def test_a_folder_wins_over_a_hub_id(self, tmp_path, monkeypatch, hub):
        (tmp_path / "gpt2").mkdir()
        (tmp_path / "gpt2" / "config.json").write_text("{}")
        monkeypatch.chdir(tmp_path)
        assert locate("gpt2").resolve() == (tmp_path / "gpt2").resolve()
        assert hub.asked is None

    def test_a_folder_without_config(self, tmp_path):
        assert "holds no config.json, which a model folder needs; it is empty" in refused(tmp_path)
        for n in range(15):
            (tmp_path / f"f{n:02}").touch()
        assert "it holds f00, f01" in refused(tmp_path)
        assert "... (3 more)" in refused(tmp_path)
        assert locate(tmp_path, weights=False) == tmp_path  # a tokenizer alone

    def test_a_file(self, tmp_path):
        path = tmp_path / "model.safetensors"
        path.touch()
        assert "is a file, expected the folder that holds it" in refused(path)

    def test_a_folder_has_no_revision(self, tmp_path):
        with pytest.raises(InputError, match="local folder, which has no revision 'v2'"):
            locate(tmp_path, revision="v2")

    @pytest.mark.parametrize("text", ["./out", "../out", "/no/out", "~/no-out", "a/b/c", "out/", "model.safetensors"])
    def test_a_path_that_is_not_there_is_not_asked_of_the_hub(self, text, hub, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert f"there is no folder {text}" in refused(text)
        assert hub.asked is None

    def test_a_path_object_is_never_a_hub_id(self, tmp_path, hub):
        (tmp_path / "output").mkdir()
        assert f"did you mean {tmp_path / 'output'}?" in refused(tmp_path / "outptu")
        assert refused(Path("gpt2")) == "there is no folder gpt2"
        assert hub.asked is None

    @pytest.mark.parametrize(
        "text",
        ["bert base", "a b/c", "org/..", "a..b", "x--y", "-x", "name.git", "", "a" * 97, "a" * 5000, "a\0b", "é"],
    )
    def test_what_cannot_be_a_hub_id_is_not_asked_of_the_hub(self, text, hub):
        assert "is neither a folder here nor a hub id" in refused(text)
        assert hub.asked is None


class TestHub:
    @pytest.mark.parametrize("name", ["gpt2", "org/name", "a/b.c_d-e1", "x"])
    def test_small_files_and_one_weight_format(self, hub, name):
        small = {"config.json", "tokenizer.json", "vocab.txt", "spiece.model", "source.spm", "chat_template.jinja"}
        large = [
            "tf_model.h5",
            "pytorch_model.bin",
            "flax_model.msgpack",
            "model.safetensors",
            "model.fp16.safetensors",
        ]
        hub.files = ["README.md", *small, "onnx/model.onnx", "onnx/config.json", *large]
        assert locate(name, revision="main") == hub.cache
        assert hub.asked == (name, "main", small | {"model.safetensors"}, False)
        locate(name, weights=False)
        assert hub.asked == (name, None, small, False)
        hub.files.remove("model.safetensors")
        locate(name)
        assert hub.asked[2] == small | {"flax_model.msgpack"}
        hub.files.remove("flax_model.msgpack")
        locate(name)
        assert hub.asked[2] == small | {"pytorch_model.bin"}

    def test_shards(self, hub):
        shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
        index = "model.safetensors.index.json"
        hub.files = ["config.json", index, *shards, "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
        locate("gpt2")
        assert hub.asked[2] == {"config.json", index, "pytorch_model.bin.index.json"} | shards

    def test_a_repository_without_what_is_needed(self, hub):
        hub.files = ["config.json", "tf_model.h5", "rust_model.ot"]
        assert "holds no weights that can be read; its weight files: tf_model.h5, rust_model.ot" in refused("gpt2")
        hub.files = ["model.safetensors"]
        assert "gpt2 on the hub holds no config.json" in refused("gpt2")

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (
                answer(errors.RepositoryNotFoundError, 404),
                "gpt3 at revision 'v1'|gpt3 is neither a folder here nor a model",
            ),
            (answer(errors.GatedRepoError, 403), "gpt3 is gated: accept its terms at https://.*/gpt3"),
            (answer(errors.RevisionNotFoundError, 404), "gpt3 at revision 'v1' does not exist"),
            (answer(errors.HfHubHTTPError, 429), "the hub refuses gpt3 at revision 'v1' .HfHubHTTPError: an answer."),
            (errors.EntryNotFoundError("x"), "lost a file"),
        ],
    )
    def test_refusals_are_one_sentence(self, hub, error, words):
        hub.error = error
        with pytest.raises(CheckpointError, match=words):
            locate("gpt3", revision="v1")
        hub.error, hub.broken = None, error
        with pytest.raises(CheckpointError, match=words):
            locate("gpt3", revision="v1")

    def test_a_download_that_breaks_off(self, hub):
        hub.broken = ConnectionResetError("reset by peer")
        assert "broke off (ConnectionResetError: reset by peer): run again to resume it" in refused("gpt2")

    @pytest.mark.parametrize("error", [ConnectionError("no route"), answer(errors.HfHubHTTPError, 503)])
    def test_out_of_reach_uses_the_cache_and_says_so(self, hub, error, caplog):
        hub.error = error
        (hub.cache / "config.json").write_text("{}")
        with caplog.at_level(logging.WARNING, "jaxformers"):
            assert locate("gpt2") == hub.cache
        assert hub.asked[3] is True
        assert "cannot be reached" in caplog.text
        assert "using the cached copy of gpt2" in caplog.text

    def test_out_of_reach_and_not_in_the_cache(self, hub):
        hub.error, hub.broken = ConnectionError(), errors.LocalEntryNotFoundError("x")
        assert "gpt2 cannot be loaded, the hub cannot be reached and it is not in the cache" in refused("gpt2")

    def test_offline(self, hub, monkeypatch):
        monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
        hub.error = AssertionError("asked the network")
        (hub.cache / "config.json").write_text("{}")
        assert locate("gpt2") == hub.cache
        assert hub.asked == ("gpt2", None, set(), True)  # of what is cached, no file is demanded
        hub.broken = errors.LocalEntryNotFoundError("x")
        assert "HF_HUB_OFFLINE is set and it is not in the cache" in refused("gpt2")

    def test_the_cache_of_the_real_library(self, monkeypatch, tmp_path):
        monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        assert "is not in the cache" in refused("org/name")
        model = tmp_path / "models--org--name"
        folder = model / "snapshots" / ("0" * 40)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("0" * 40)
        assert locate("org/name") == folder
        assert "is not in the cache" in refused("org/name", revision="other")


class TestReachable:
    @pytest.fixture
    def online(self, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(("status", "expected"), [(200, True), (401, True), (404, True), (502, False)])
    def test_any_answer_of_a_hub_counts(self, online, monkeypatch, status, expected):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            assert hub_reachable() is expected
            server.shutdown()

    def test_nobody_listens(self, online, monkeypatch):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
            assert not hub_reachable()

    def test_silence_takes_no_longer_than_the_timeout(self, online, monkeypatch):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            start = time.perf_counter()
            assert not hub_reachable(0.3)
            assert time.perf_counter() - start < 1.8

    def test_slow_name_lookup_takes_no_longer_than_the_timeout(self, online, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://somewhere.invalid")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(2) or [])
        start = time.perf_counter()
        assert not hub_reachable(0.3)
        assert time.perf_counter() - start < 1.8

    @pytest.mark.parametrize("endpoint", ["file:///etc/passwd", "ftp://x", ""])
    def test_only_web_addresses(self, online, monkeypatch, endpoint):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert not hub_reachable()

    def test_offline_is_no_at_once(self, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(socket, "getaddrinfo", None)
        assert not hub_reachable()


class TestJson:
    def read(self, tmp_path, content):
        path = tmp_path / "config.json"
        path.write_bytes(content)
        return read_json(path)

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_reads_an_object(self, tmp_path, mark):
        value = {"a": 1, "b": [1.5, None, True], "c": {"é": "ü"}}
        assert self.read(tmp_path, mark + json.dumps(value, ensure_ascii=False).encode()) == value

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "line 1 is not JSON .*: nothing"),
            (b'{"a": 1,\n "b": }\n', 'line 2 is not JSON .Expecting value.:  "b": }'),
            (b'{"a": 1}\n\n{}', "line 3 is not JSON"),
            (b"version https://git-lfs", "line 1 is not JSON"),
            (b'{"a": "\xff"}', "is not UTF-8 .byte 0xff at 7."),
            (b"[]", r"holds a list, expected an object \{...\}"),
            (b"1", "holds a int"),
            (b"null", "holds a NoneType"),
            (b'{"a": NaN}', "holds the number NaN, expected finite"),
            (b'{"a": -Infinity}', "holds the number -Infinity"),
            (b'{"a": 1e999}', "holds the number 1e999"),
            (b'{"a": ' + b"9" * 5000 + b"}", "a number that is too long"),
            (b'{"a": 1, "b": 2, "a": 3}', "holds the key 'a' twice"),
            (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64"),
            (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than 64"),
        ],
    )
    def test_refuses_the_rest(self, tmp_path, content, words):
        with pytest.raises(ConfigError, match=f"^config.json .*{words}"):
            self.read(tmp_path, content)

    def test_depth_that_is_allowed(self, tmp_path):
        assert self.read(tmp_path, b'{"a":' * 64 + b"1" + b"}" * 64)

    def test_missing_a_folder_and_too_large(self, tmp_path):
        with pytest.raises(ConfigError, match=r"there is no config.json in "):
            read_json(tmp_path / "config.json")
        (tmp_path / "config.json").mkdir()
        with pytest.raises(ConfigError, match=r"config.json cannot be read: Is a directory"):
            read_json(tmp_path / "config.json")
        with open(tmp_path / "large.json", "wb") as file:
            file.truncate((64 << 20) + 1)
        with pytest.raises(ConfigError, match=r"large.json is 67108865 bytes, expected at most 67108864"):
            read_json(tmp_path / "large.json")

    @given(
        content=st.binary(max_size=200) | st.text(alphabet='{}[]":,0129.eE-ntrufalsN\\ ', max_size=60).map(str.encode)
    )
    def test_anything_is_an_object_or_a_sentence(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / "config.json"
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            assert isinstance(read_json(path), dict)
