"""Ctrl-C in an experiment, before it trains and a second time: one line, status 130. The first one: train/test_kill.py."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxformers.train.guard import interruptions

ROOT = Path(__file__).resolve().parents[2]
LINE = "error: interrupted; what was saved is kept, rerun the same command to continue"
# What `python -m experiments.NAME` is while its imports run, one of which swallows an exception.
IMPORTS = """
import os, signal, sys, time
sys.argv[0] = "-m"
import experiments
{first}
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)
except BaseException:
    pass
"""
TRAINING = """
from jaxformers.train.guard import interruptions
asked = interruptions()
assert asked.__enter__().signal is None
signal.raise_signal(signal.SIGINT)
"""


def interrupted(first):
    settings = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}  # not started anew
    script = IMPORTS.format(first=first)
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )


def test_while_it_starts():
    done = interrupted("")
    assert (done.returncode, done.stderr.strip()) == (130, LINE)


def test_a_second_time_in_training():
    done = interrupted(TRAINING)
    assert (done.returncode, done.stderr.strip()) == (130, LINE)


@pytest.fixture
def pythons():
    """Python's own handler of Ctrl-C, which a job in the background may be started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_in_code_of_ones_own_a_second_one_is_pythons(pythons):
    with interruptions() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is pythons
