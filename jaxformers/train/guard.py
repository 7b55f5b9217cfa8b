"""What keeps a run from harm: one run a folder, an orderly end when it is asked to stop, and no chance where none is wanted."""

import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxformers.core.messages import set_verbosity
from jaxformers.errors import InputError
from jaxformers.train.arguments import TrainingArguments


def settle_process(args: TrainingArguments) -> None:
    """What arguments ask of the process: how much is logged, and whether results must repeat to the bit.

    Raises:
      InputError: `full_determinism` on a GPU whose kernels may add in any order.
    """
    if args.log_level != "passive":
        set_verbosity(args.log_level)
    kernels = "--xla_gpu_deterministic_ops=true"
    if args.full_determinism and jax.default_backend() == "gpu" and kernels not in os.environ.get("XLA_FLAGS", ""):
        raise InputError(f"full_determinism on a GPU needs XLA_FLAGS={kernels} set before the program starts")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One run at a time in `directory`; the lock goes with its process, however that ends."""
    if jax.process_index() != 0:
        yield
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"cannot write to output_dir {directory}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 100).decode(errors="replace").strip()
            raise InputError(f"another run is at work in {directory} (process {holder or 'unknown'})") from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} on {os.uname().nodename}\n".encode())
        yield
    finally:
        os.close(handle)


class Asked:
    """Whether, and by which signal, the run was asked to end."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def reached(self, step: int) -> bool:
        """Whether to save and end after this step; of several processes, one of which was asked: the same step on all."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.signal = self.signal or signal.SIGTERM
            return True
        return bool(self) and jax.process_count() == 1

    def farewell(self, step: int) -> int:
        assert self.signal is not None
        name = signal.Signals(self.signal).name
        print(f"{name}: saved step {step}. Rerun the same command to continue.", flush=True)
        return 128 + self.signal


@contextlib.contextmanager
def interruptions() -> Iterator[Asked]:
    """SIGTERM and Ctrl-C ask the loop to save and end; a second one does what it did before: it ends at once.

    Of several processes JAX itself hears SIGTERM and finds a step that none has gone beyond; Ctrl-C is passed on to it.
    """
    asked = Asked()
    alone = jax.process_count() == 1
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, _: Any) -> None:
        if asked:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
        asked.signal = number
        if not alone:
            signal.raise_signal(signal.SIGTERM)

    heard = (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,)
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
