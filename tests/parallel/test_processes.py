"""Several real processes on this machine, connected by gloo: they learn what one learns, agree or refuse, and end together.

The plain suite takes one of these; `JAXFORMERS_KILLS` (see tests/train/test_kill.py) all.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.parallel import together

SCRIPT = Path(__file__).with_name("together.py")
PATIENCE = 580  # seconds for what takes ten on a quiet machine
heavy = pytest.mark.skipif("JAXFORMERS_KILLS" not in os.environ, reason="JAXFORMERS_KILLS asks for the long ones")
NO_NOISE = 1e-4  # of Adam: a key's bias has no gradient but rounding, which a smaller epsilon would blow up
LEARN = {
    "max_steps": 6,
    "logging_steps": 1,
    "save_steps": 3,
    "per_device_train_batch_size": 2,
    "adam_epsilon": NO_NOISE,
}


class Run:
    """Processes of one run, started; what each wrote is in files.

    Args:
      folder: for the files, and `out` as output_dir.
      count: of processes.
      devices: of each.
      each: flags of one process alone, by its number.
      script: what is run.
      **flags: of all.
    """

    def __init__(self, folder, count, devices=1, each=None, script=(str(SCRIPT),), **flags):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = {"output_dir": folder / "out", "distributed.coordinator_address": address, **flags}
        flags["distributed.num_processes"] = count
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_DEFAULT_MATMUL_PRECISION": "highest",
                       "JAXFORMERS_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}  # fmt: skip
        self.files = [folder / f"process {number}.txt" for number in range(count)]
        self.processes = []
        for number, file in enumerate(self.files):
            own = {**flags, "distributed.process_id": number, **(each or {}).get(number, {})}
            words = [word for name, value in own.items() for word in (f"--{name}", str(value))]
            with open(file, "w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *script, *words], env=environment, stdout=output, stderr=subprocess.STDOUT,
                        cwd=SCRIPT.parents[2],
                    )
                )  # fmt: skip

    def until(self, word):
        """Waits until the first process has written it."""
        while word not in self.files[0].read_text():
            assert self.processes[0].poll() is None, self.files[0].read_text()
            time.sleep(0.02)

    def end(self):
        """Each process's status and what it wrote."""
        try:
            statuses = [process.wait(PATIENCE) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return statuses, [file.read_text() for file in self.files]

    def complete(self):
        """Waits for a run that is to go well; what the first process wrote."""
        statuses, texts = self.end()
        assert statuses == [0] * len(statuses), "\n".join(texts)
        return texts[0]


def alone(folder, **flags):
    """The same run by this process, on four devices."""
    together.run(together.Config(output_dir=str(folder / "alone"), devices=4, **flags))
    return folder / "alone"


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(left, right, tolerance=1e-5):
    """Whether two runs logged the same and ended with the same parameters: sums over devices have no fixed order."""
    assert len(rows(left)) == len(rows(right))
    for one, other in zip(rows(left), rows(right), strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
    one, other = (load_file(folder / "model.safetensors") for folder in (left, right))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


def found(folder, number):
    content = json.loads((folder / f"found-{number}.json").read_text())
    timed = ("_runtime", "_per_second", "_seconds", "compilations")
    return {key: value for key, value in content["metrics"].items() if not key.endswith(timed)}, content


def test_two_processes_learn_what_one_does(tmp_path):
    run = Run(tmp_path, 2, devices=2, **LEARN, **{"mesh.fsdp": 4})
    lone = alone(tmp_path, **LEARN)
    text = run.complete()
    out = tmp_path / "out"
    same(out, lone)
    (first, content), (second, other) = found(out, 0), found(out, 1)
    assert content["processes"] == 2
    assert first == second == pytest.approx(found(lone, 0)[0], rel=1e-5)
    assert content["said"] == other["said"]
    np.testing.assert_allclose(content["said"], found(lone, 0)[1]["said"], atol=1e-5)
    assert text.count("Running training") == 1
    assert "Running" not in run.files[1].read_text()
    assert "done" not in run.files[1].read_text()


@heavy
def test_a_dead_process_ends_the_others(tmp_path):
    run = Run(tmp_path, 2, max_steps=10_000, save_steps=2, wait=0.1, per_device_train_batch_size=2)
    run.until("step 4\n")
    run.processes[1].send_signal(signal.SIGKILL)
    died = time.monotonic()
    run.processes[0].wait(PATIENCE)
    assert time.monotonic() - died < 60  # two seconds and a bit, on a quiet machine
    statuses, texts = run.end()
    assert statuses == [1, -signal.SIGKILL]
    line = next(line for line in texts[0].splitlines() if line.startswith("error: "))
    assert line.startswith(
        "error: process 1 has died; rerun every process to go on from the last checkpoint, this one with"
    )
    assert "together.py --output_dir" in line
    assert "Traceback" not in texts[0]


@heavy
def test_processes_that_do_not_agree_say_in_what(tmp_path):
    run = Run(tmp_path, 2, each={1: {"seed": 7}}, **LEARN)
    statuses, texts = run.end()
    assert statuses == [2, 2]
    for text in texts:
        assert (
            "error: process 1 differs from process 0 in seed: 7 there, 42 on process 0; start all processes with"
            in text
        )
        assert "Traceback" not in text


# -- the long ones -----------------------------------------------------------------------------------------------------


@heavy
def test_saved_by_four_processes_and_resumed_by_two(tmp_path):
    flags = {**LEARN, "max_steps": 40, "save_steps": 1000}
    lone = alone(tmp_path, **flags)
    mesh = {"mesh.fsdp": 2, "mesh.tensor": 2, "per_device_train_batch_size": 4}
    run = Run(tmp_path, 4, **{**flags, **mesh, "wait": 0.3})
    run.until("step 5\n")
    run.processes[2].send_signal(signal.SIGTERM)  # one is asked, all save the same step and end
    statuses, texts = run.end()
    assert statuses == [143] * 4, "\n".join(texts)
    assert "Rerun the same command to continue." in texts[0]
    run = Run(tmp_path, 2, devices=2, **flags)
    assert "resumed from" in run.complete()
    same(tmp_path / "out", lone, 1e-4)


@heavy
def test_killed_and_resumed(tmp_path):
    flags = {**LEARN, "max_steps": 40, "save_steps": 3}
    lone = alone(tmp_path, **flags)
    run = Run(tmp_path, 4, **flags, wait=0.3)
    run.until("step 8\n")
    run.processes[0].send_signal(signal.SIGKILL)
    statuses, texts = run.end()
    assert all(status not in (0, None) for status in statuses)
    for text in texts[1:]:
        assert "error: process 0 has died; rerun every process" in text
        assert "Traceback" not in text
    assert "resumed from" in Run(tmp_path, 4, **flags).complete()
    same(tmp_path / "out", lone, 1e-4)


@heavy
@pytest.mark.parametrize("beams", [1, 2])
def test_generated_texts_are_scored_alike(beams, tmp_path):
    flags = {**LEARN, "task": "texts", "predict_with_generate": True, "generation_max_length": 6,
             "generation_num_beams": beams}  # fmt: skip
    run = Run(tmp_path, 2, devices=2, **flags)
    lone = alone(tmp_path, **flags)
    run.complete()
    same(tmp_path / "out", lone)
    assert found(tmp_path / "out", 0)[1]["said"] == found(tmp_path / "out", 1)[1]["said"] == found(lone, 0)[1]["said"]


@heavy
def test_what_goes_wrong_in_one_is_told_by_all(tmp_path):
    run = Run(tmp_path, 3, each={1: {"fails": True}}, **LEARN)
    statuses, texts = run.end()
    assert statuses == [1, 2, 1]
    assert "error: this process has no data\n" in texts[1]
    for text in (texts[0], texts[2]):
        assert "error: process 1 could not go on: this process has no data; rerun every process" in text


@heavy
def test_other_data_is_noticed(tmp_path):
    statuses, texts = Run(tmp_path, 2, each={1: {"rows_seed": 3}}, **LEARN).end()
    assert statuses == [2, 2]
    assert all("error: process 1 differs from process 0 in " in text for text in texts)
    assert all("of the training examples (checksum)" in text for text in texts)


@heavy
def test_a_checkpoint_that_one_process_does_not_see_is_noticed(tmp_path):
    Run(tmp_path, 2, **{**LEARN, "max_steps": 3}).complete()
    statuses, texts = Run(tmp_path, 2, each={1: {"output_dir": tmp_path / "elsewhere"}}, **LEARN).end()
    assert statuses == [2, 2]
    assert all("error: process 1 differs from process 0 in output_dir: " in text for text in texts)


@heavy
def test_a_coordinator_that_is_not_there(tmp_path):
    run = Run(tmp_path, 1, each={0: {"distributed.num_processes": 2, "distributed.process_id": 1,
                                     "distributed.initialization_timeout": 3}}, **LEARN)  # fmt: skip
    statuses, texts = run.end()
    assert statuses == [2]
    assert "error: no process 0 at distributed.coordinator_address 127.0.0.1:" in texts[0]
    assert "Traceback" not in texts[0]


@heavy
def test_the_sample_of_a_language_model(tmp_path):
    run = Run(tmp_path, 2, script=("-m", "experiments.clm", "--tiny"), report_to="none")
    assert "***** Sample *****" in run.complete()
    assert (tmp_path / "out" / "sample.txt").read_text().strip()
    assert "Sample" not in run.files[1].read_text()
