"""Several processes as one run: started, made sure to agree, watched so that none waits for a dead one, ended together.

JAX starts and connects them (`jax.distributed`). What it lacks is a fast and readable end: a process whose peer is gone waits in
a collective until a heartbeat is missed, and is then aborted with a page of C++. So each process keeps a connection to process
0, which the kernel closes when either of them dies, and the others are told why in one sentence.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

import jax
import numpy as np

from jaxformers.errors import InputError

BYE, DIED = "bye", "has died"
# Process 0 outlives what it told the others by so many seconds: JAX's coordinator is in it, and its end is their abortion.
LINGER = 2.0
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a host that fell silent is given up after 25 s


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """How several processes find each other. Nothing set means what JAX detects: a TPU pod, GKE, SLURM, Open MPI.

    Args:
      coordinator_address: HOST:PORT of process 0; else JAX_COORDINATOR_ADDRESS.
      num_processes: how many there are; else JAX_NUM_PROCESSES. 1 runs alone, whatever is detected.
      process_id: which one this is, from 0; else JAX_PROCESS_ID.
      initialization_timeout: seconds in which all have to be there.
      heartbeat_timeout: seconds after which one that is there but does nothing (a frozen machine) is given up; one that has
        died is noticed at once.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    initialization_timeout: int = 300
    heartbeat_timeout: int = 100


def start(config: DistributedConfig = DistributedConfig()) -> None:
    """Joins the other processes of the run, if there are any; before anything else touches a device.

    Raises:
      InputError: too little was said of where the others are, or they cannot be reached.
    """
    address = config.coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = config.num_processes if config.num_processes is not None else _given("JAX_NUM_PROCESSES")
    which = config.process_id if config.process_id is not None else _given("JAX_PROCESS_ID")
    if count == 1 or jax.distributed.is_initialized():
        return
    if address and which:
        _reach(address, config.initialization_timeout)
    said = {"coordinator_address": address, "num_processes": count, "process_id": which}
    try:
        jax.distributed.initialize(
            **said,  # type: ignore[arg-type]
            initialization_timeout=config.initialization_timeout,
            heartbeat_timeout_seconds=config.heartbeat_timeout,
            shutdown_timeout_seconds=3600,  # the others wait at the end while process 0 writes the model
        )
    except Exception as error:  # what a cluster's detection meets may be anything
        if set(said.values()) == {None} and isinstance(error, ValueError):
            return  # nothing said and nothing detected: a run of one process
        told = ", ".join(f"distributed.{name} {value}" for name, value in said.items() if value is not None)
        raise InputError(
            f"the processes of this run do not come together ({told or 'as detected'}): {str(error).splitlines()[0]}; "
            "say distributed.coordinator_address HOST:PORT, num_processes and process_id, or num_processes 1 to run alone"
        ) from None
    if _state().num_processes > 1:
        _watches.append(_Watch())


def _reach(address: str, seconds: float) -> None:
    """Waits until process 0 answers: where it never does, JAX would abort."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), 5).close()
        except (OSError, ValueError) as error:
            if time.monotonic() > until or isinstance(error, ValueError):
                raise InputError(
                    f"no process 0 at distributed.coordinator_address {address} within {seconds} s ({error}): start it too"
                ) from None
            time.sleep(0.2)


def number() -> int:
    """Which process this is, from 0; known before any device is."""
    return int(_state().process_id)


def finish() -> None:
    """Ends a run that went well, when all its processes have come here."""
    if _watches:
        jax.distributed.shutdown()
        _watches.pop().close()


def fail(error: str, status: int, told: str) -> None:
    """Ends a run that cannot go on with a status, telling the others why; returns only where there are no others.

    Args:
      error: what went wrong.
      status: of this process.
      told: what this process writes to stderr.
    """
    if _watches:
        _watches[0].failing = True
        time.sleep(LINGER)  # if it is another's death that shows as an error here, that is what will be told
        _watches[0].end(f"process {number()} could not go on: {error}", status, told)


def agree(facts: Mapping[str, Any]) -> None:
    """Makes sure that all processes have the same facts (plain JSON); also a place where all wait for each other.

    Raises:
      InputError: they have not, on all processes alike: which process differs from process 0, and in what.
    """
    if jax.process_count() == 1:
        return
    everyone = [json.loads(text) for text in _everyone(json.dumps(dict(facts), sort_keys=True, default=str))]
    for number, theirs in enumerate(everyone):
        for key in sorted(everyone[0].keys() | theirs.keys()):
            if theirs.get(key) != everyone[0].get(key):
                raise InputError(
                    f"process {number} differs from process 0 in {key}: {theirs.get(key)!r} there, "
                    f"{everyone[0].get(key)!r} on process 0; start all processes with the same command, data and output_dir"
                )


def fetch(array: Any) -> np.ndarray:
    """An array on the host, also where other processes hold parts of it: then all have to ask for it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable and not array.is_fully_replicated:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def _everyone(text: str) -> list[str]:
    """Each process's text."""
    from jax.experimental import multihost_utils

    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(mine)))
    rows = multihost_utils.process_allgather(np.pad(mine, (0, int(lengths.max()) - len(mine))))
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


class _Watch:
    """A connection between process 0 and each other, that says when one has died, and why one ends."""

    def __init__(self) -> None:
        state = _state()
        self._number, self._ending, self._lock = state.process_id, False, threading.Lock()
        self.failing = False  # it has a reason of its own to end, which it will tell, unless that is another's death
        self._others: list[socket.socket] = []
        if self._number == 0:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            door = socket.create_server(("", 0), family=family, backlog=state.num_processes, dualstack_ipv6=both)
            word = secrets.token_hex()
            state.client.key_value_set("jaxformers/watch", f"{door.getsockname()[1]} {word}")
            _thread(self._receive, door, {f"{word} {number}\n": number for number in range(1, state.num_processes)})
        else:
            port, word = state.client.blocking_key_value_get("jaxformers/watch", 300_000).split()
            other = socket.create_connection((state.coordinator_address.rpartition(":")[0].strip("[]"), port), 60)
            other.sendall(f"{word} {self._number}\n".encode())
            self._keep(other, other.makefile(encoding="utf-8"), 0)

    def _receive(self, door: socket.socket, expected: dict[str, int]) -> None:
        with door:
            while expected:
                other, _ = door.accept()
                other.settimeout(10)
                line, lines = "", other.makefile(encoding="utf-8")
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    line = lines.readline(200)
                if line in expected:  # anybody can knock
                    self._keep(other, lines, expected.pop(line))

    def _keep(self, other: socket.socket, lines: TextIO, number: int) -> None:
        other.settimeout(None)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # not everywhere
                other.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._others.append(other)
        _thread(self._follow, lines, number)

    def _follow(self, lines: TextIO, number: int) -> None:
        line = ""
        with contextlib.suppress(OSError):
            line = lines.readline()
        reason = line.strip() or f"process {number} {DIED}"
        if reason != BYE and (reason.endswith(DIED) or not self.failing):
            self.end(reason, 1)

    def end(self, sentence: str, status: int, told: str | None = None) -> None:
        """Says why, tells the others, and is gone: nothing that waits for another process is waited for."""
        with self._lock:  # the first reason is the reason; who comes second waits here for the end
            if self._ending:
                return
            for other in self._others:
                with contextlib.suppress(OSError):
                    other.sendall(f"{' '.join(sentence.split())}\n".encode())
            command = shlex.join(["python", *sys.orig_argv[1:]])
            again = f"rerun every process to go on from the last checkpoint, this one with: {command}"
            os.write(2, (told or f"error: {sentence}; {again}\n").encode())
            sys.stdout.flush()
            if self._number == 0:
                time.sleep(LINGER)
            os._exit(status)

    def close(self) -> None:
        """When all have come to the end."""
        with self._lock:
            self._ending = True
        for other in self._others:
            with contextlib.suppress(OSError):
                other.sendall(f"{BYE}\n".encode())
                other.close()


_watches: list[_Watch] = []  # one, in a run of several processes


def _state() -> Any:
    """JAX's record of the run: it tells where the coordinator is in no public way."""
    from jax._src import distributed

    return distributed.global_state


def _thread(function: Any, *args: Any) -> None:
    threading.Thread(target=function, args=args, daemon=True).start()


def _given(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdigit():
        raise InputError(f"{name} must be a number, found {text!r}")
    return None if text is None else int(text)
