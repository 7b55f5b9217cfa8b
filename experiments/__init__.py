"""Experiments: one file a result. `python -m experiments.NAME --help` says what each takes."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

HUGE_PAGES = "glibc.malloc.hugetlb"


def _with_huge_pages() -> None:
    """Starts the process anew with the C library asking for huge pages, which it reads only at the start.

    XLA's CPU backend takes and returns its working memory with every step; in small pages a fifth of a train step went into
    mapping them. Only on Linux where the kernel leaves the choice to the program, and where nobody has chosen yet.
    """
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if HUGE_PAGES in tunables or not setting.is_file() or "[madvise]" not in setting.read_text():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{HUGE_PAGES}=1")))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _leave(*_: Any) -> None:
    """Ctrl-C where there is nothing to save: before training (which takes the first one itself) and a second time in it.

    At once and not by an exception: some libraries swallow one while they are imported, others log it with its traceback.
    Every file is written beside its place and moved over it, so none is left by half.
    """
    os.write(2, b"\nerror: interrupted; what was saved is kept, rerun the same command to continue\n")
    os._exit(130)


if sys.argv[:1] == ["-m"]:  # what it is while `python -m experiments.NAME` looks for its module, and at no other time
    _with_huge_pages()
    signal.signal(signal.SIGINT, _leave)
