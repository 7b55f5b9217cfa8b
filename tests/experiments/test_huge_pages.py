"""How an experiment asks the C library for huge pages: by starting itself anew, once, where that can help."""

import os
import sys
from types import SimpleNamespace

import pytest

import experiments


@pytest.fixture
def started(monkeypatch):
    """The commands the process would have been replaced by."""
    commands = []
    monkeypatch.setattr(experiments.os, "execv", lambda program, arguments: commands.append(arguments))
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    return commands


def kernel(monkeypatch, says):
    setting = SimpleNamespace(is_file=lambda: says is not None, read_text=lambda: says)
    monkeypatch.setattr(experiments, "Path", lambda name: setting)


def test_the_process_is_started_anew_once_with_its_own_arguments(started, monkeypatch):
    kernel(monkeypatch, "always [madvise] never")
    experiments._with_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert started == [[sys.executable, *sys.orig_argv[1:]]]
    experiments._with_huge_pages()
    assert len(started) == 1


def test_other_tunables_are_kept_and_a_choice_is_respected(started, monkeypatch):
    kernel(monkeypatch, "always [madvise] never")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    experiments._with_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    experiments._with_huge_pages()
    assert len(started) == 1


@pytest.mark.parametrize("says", ["[always] madvise never", "always madvise [never]", None])
def test_where_it_cannot_help_nothing_happens(started, monkeypatch, says):
    kernel(monkeypatch, says)
    experiments._with_huge_pages()
    assert started == []
