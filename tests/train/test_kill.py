"""kill -9 at random moments: starting, compiling, training, saving, evaluating, exporting. Rerun, and nothing has changed.

`JAXFORMERS_KILLS` says how many (2 by default; .ci/run takes 20), `JAXFORMERS_KILL_SEED` which ones (0). With
`JAXFORMERS_KILL_MODEL` and `JAXFORMERS_KILL_DATA`, a BERT's folder and one with MRPC's files, that model is trained on 96 real
pairs, 12 steps with a save every 2, in place of a tiny one on random texts; 20 kills take about a quarter of an hour then:

    JAXFORMERS_KILLS=20 JAXFORMERS_KILL_MODEL=… JAXFORMERS_KILL_DATA=… pytest -n 0 -s tests/train/test_kill.py -k unbroken
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_run.py")


def start(out, cache):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAXFORMERS_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, str(SCRIPT), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def complete(out, cache):
    """The digest of a run left alone, and its seconds."""
    began = time.monotonic()
    run = start(out, cache)
    output, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    return output.splitlines()[-1], time.monotonic() - began


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The digest of a run left alone, its seconds without a cache, and the cache it leaves."""
    folder = tmp_path_factory.mktemp("unbroken")
    digest, cold = complete(folder / "whole", folder / "cache")
    assert digest.startswith("digest")
    return digest, cold, folder / "cache"


def test_a_killed_run_ends_as_an_unbroken_one(unbroken, tmp_path):
    expected, cold, cache = unbroken
    again, length = complete(tmp_path / "whole again, its programs from the cache", cache)
    assert again == expected

    draw, out, kills, through = random.Random(os.environ.get("JAXFORMERS_KILL_SEED", "0")), tmp_path / "killed", 0, 0
    wanted = int(os.environ.get("JAXFORMERS_KILLS", "2"))
    run = start(
        tmp_path / "compiling", tmp_path / "another cache"
    )  # the first one falls on compiling, before any checkpoint
    time.sleep(0.5 * cold)
    while True:
        run.send_signal(signal.SIGKILL)
        run.communicate()
        kills += 1
        if kills == wanted:
            break
        run = start(out, cache)
        try:
            run.communicate(timeout=draw.uniform(0.4, 1.0) * length)
        except subprocess.TimeoutExpired:
            continue
        # It came through before its moment: the next one starts from nothing.
        assert run.returncode == 0
        through += 1
        out = tmp_path / f"killed, part {through}"
        run = start(out, cache)
        time.sleep(draw.uniform(0.4, 1.0) * length)
    for folder in {out, tmp_path / "compiling"}:
        digest, _ = complete(folder, cache)
        assert digest == expected
    print(f"{kills} kills, {through} came too late: {digest}")


def test_a_run_that_is_asked_to_end_saves_first(unbroken, tmp_path):
    metrics, length = tmp_path / "out" / "metrics.jsonl", 0
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C, then a machine that is taken away
        run = start(tmp_path / "out", tmp_path / "cache")  # which compiles on the way: it is not over too soon
        while not (metrics.exists() and metrics.stat().st_size > length):  # until the next log: it is training
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(number)
        output, errors = run.communicate(timeout=600)
        assert run.returncode == 128 + number, errors
        assert output.splitlines()[-1].endswith(". Rerun the same command to continue.")
        assert "Traceback" not in errors
        length = metrics.stat().st_size
    digest, _ = complete(tmp_path / "out", tmp_path / "cache")
    assert digest == unbroken[0]
