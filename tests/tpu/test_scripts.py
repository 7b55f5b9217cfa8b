"""The scripts for pods: what they would run (goldens), what they refuse, and shellcheck. None of it was run on a TPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "tpu").glob("*.sh")), ROOT / "tpu" / "slurm.sbatch"]
GOLDENS = Path(__file__).parent / "goldens"

CALLS = {
    "create": ["create.sh"],
    "create-on-demand": ["create.sh", "--name=big", "--zone", "us-east5-a", "--project", "p", "--type", "v5p-128",
                         "--on-demand"],
    "setup": ["setup.sh"],
    "setup-bucket": ["setup.sh", "--bucket", "runs"],
    "run": ["run.sh", "--", "experiments.mrpc", "--bf16", "--output-dir", "a folder"],
    "run-detached": ["run.sh", "--detach", "--", "experiments.mrpc"],
    "babysit": ["babysit.sh", "--bucket", "runs", "--type", "v6e-8", "--", "experiments.mrpc", "--output-dir", "bucket/mrpc"],
    "status": ["status.sh", "--lines", "5"],
    "delete": ["delete.sh"],
    "xpk": ["xpk.sh", "--cluster", "c", "--image", "i", "--slices", "2", "--", "experiments.mrpc", "--bf16"],
}  # fmt: skip


def call(*words, path=None, scratch="/tmp", **options):
    env = {**os.environ, "TMPDIR": str(scratch), **({"PATH": path} if path else {})}
    return subprocess.run(
        ["bash", str(ROOT / "tpu" / words[0]), *words[1:]],
        capture_output=True,
        text=True,
        env=env,
        timeout=60,
        **options,
    )


@pytest.mark.parametrize("name", CALLS)
def test_what_a_script_would_run(name, tmp_path):
    script, *words = CALLS[name]
    done = call(script, "--dry-run", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stderr.replace(str(ROOT), "ROOT") + "--\n" + done.stdout
    golden = GOLDENS / f"{name}.txt"
    if os.environ.get("JAXFORMERS_WRITE_GOLDENS"):
        golden.write_text(said, encoding="utf-8")
    assert said == golden.read_text(encoding="utf-8")
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["create.sh", "--tpye", "v5e"], "unknown flag --tpye; known are --name --zone --project --type"),
        (["create.sh", "--type"], "--type needs a value"),
        (["run.sh", "--dry-run"], "say what to run after --"),
        (["babysit.sh", "--dry-run", "--", "experiments.mrpc"], "give --bucket"),
        (["babysit.sh", "--dry-run", "--bucket", "b", "--", "experiments.mrpc"], "let --output-dir lie in bucket/"),
        (["xpk.sh", "--dry-run", "--", "experiments.mrpc"], "give --cluster and --image"),
        (["worker.sh", "dance"], "worker.sh knows no dance"),
    ],
)
def test_what_is_refused(words, sentence):
    done = call(*words)
    assert done.returncode == 2
    assert f"error: {sentence}" in done.stderr or sentence in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    "script", [path.name for path in SCRIPTS if path.name not in ("common.sh", "worker.sh", "slurm.sbatch")]
)
def test_help_is_the_head_of_the_script(script):
    done = call(script, "--help")
    assert done.returncode == 0
    assert f"tpu/{script}" in done.stdout
    assert "source " not in done.stdout


def stand_in(folder, name, body):
    """A program of that name which comes first in PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_deleting_asks_for_the_name(tmp_path):
    path = stand_in(tmp_path / "bin", "gcloud", f'echo "$@" >> {tmp_path}/called')
    done = call("delete.sh", "--name", "mine", path=path, input="other\n")
    assert done.returncode == 2
    assert "nothing was deleted" in done.stderr
    assert not (tmp_path / "called").exists()
    assert call("delete.sh", "--name", "mine", path=path, input="mine\n").returncode == 0
    called = (tmp_path / "called").read_text().splitlines()
    assert called[0] == "compute tpus queued-resources delete mine --force --quiet --zone us-west4-a"
    assert [line.split(" --")[0] for line in called[1:]] == [
        "compute tpus queued-resources list",
        "compute tpus tpu-vm list",
        "compute disks list",
    ]


def test_babysitting_makes_the_slice_anew_when_it_is_taken_away(tmp_path):
    """A cloud that gives a slice, takes it away while the run goes on, gives another, on which the run ends."""
    gcloud = f"""
echo "$@" >> {tmp_path}/called
cd {tmp_path}
case "$*" in
  *"queued-resources create"*) echo ACTIVE > state; echo run >> slices ;;
  *"queued-resources delete"*) rm state ;;
  *"queued-resources describe"*) cat state ;;
  *"worker.sh progress"*)
    if [[ $(wc -l < slices) == 1 ]]; then echo SUSPENDED > state; echo running; else echo "ended 0"; fi ;;
esac
"""
    path = stand_in(tmp_path / "bin", "gcloud", gcloud)
    stand_in(tmp_path / "bin", "sleep", ":")
    words = ["babysit.sh", "--bucket", "b", "--every", "1", "--", "experiments.mrpc", "--output-dir", "bucket/x"]
    done = call(*words, path=path, scratch=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The run has ended" in done.stdout
    called = (tmp_path / "called").read_text()
    assert called.count("queued-resources create") == 2
    assert called.count("queued-resources delete") == 1
    starts = [line for line in called.splitlines() if "tmux new-session" in line]
    assert len(starts) == 2
    assert starts[0] == starts[1], "the same command, which resumes the run"


@pytest.mark.parametrize(("status", "starts"), [(2, 1), (1, 3)])
def test_babysitting_gives_up_on_wrong_flags_at_once_and_on_failures_in_the_end(tmp_path, status, starts):
    gcloud = f"""
echo "$@" >> {tmp_path}/called
case "$*" in
  *"queued-resources describe"*) echo ACTIVE ;;
  *"worker.sh progress"*) echo "ended {status}" ;;
esac
"""
    path = stand_in(tmp_path / "bin", "gcloud", gcloud)
    stand_in(tmp_path / "bin", "sleep", ":")
    words = ["--bucket", "b", "--retries", "2", "--", "experiments.mrpc", "--output-dir=bucket/x"]
    done = call("babysit.sh", *words, path=path, scratch=tmp_path)
    assert done.returncode == status
    assert (tmp_path / "called").read_text().count("tmux new-session") == starts


def test_a_slice_that_is_never_there(tmp_path):
    path = stand_in(tmp_path / "bin", "gcloud", 'case "$*" in *describe*) echo FAILED ;; esac')
    done = call("create.sh", path=path)
    assert done.returncode == 1
    assert "jaxformers is FAILED" in done.stderr


def test_a_run_on_a_worker_leaves_its_status(tmp_path):
    """worker.sh itself, with a home, a tree and an environment of its own."""
    tree = tmp_path / "jaxformers"
    (tree / "tpu").mkdir(parents=True)
    (tree / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "tpu" / "worker.sh", tree / "tpu")
    (tree / ".venv" / "bin" / "activate").write_text(f'python() {{ {sys.executable} "$@"; }}\n')
    (tree / "fails.py").write_text("import sys\nprint('words', sys.argv[1:])\nsys.exit(3)\n")
    env = {**os.environ, "HOME": str(tmp_path)}

    def worker(*words):
        command = ["bash", "jaxformers/tpu/worker.sh", *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)

    assert worker("progress").stdout == "nothing runs\n"
    assert worker("run", "fails", "--output-dir", "a folder").returncode == 0
    assert worker("progress").stdout == "ended 3\n"
    assert "words ['--output-dir', 'a folder']" in (tmp_path / "run.log").read_text()
    followed = worker("follow")
    assert followed.returncode == 3
    assert "words" in followed.stdout


def test_shellcheck_finds_nothing():
    done = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", "-x", *SCRIPTS],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_manifest_is_one_multi_host_slice():
    jobset = yaml.safe_load((ROOT / "tpu" / "jobset.yaml").read_text(encoding="utf-8"))
    assert jobset["kind"] == "JobSet"
    (job,) = jobset["spec"]["replicatedJobs"]
    workers = job["template"]["spec"]
    pod = workers["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert workers["completions"] == workers["parallelism"]
    assert chips * workers["completions"] == rows * columns
    assert container["resources"]["requests"]["google.com/tpu"] == chips
    assert container["command"][:3] == ["python", "-m", "experiments.mrpc"]


def test_the_image_holds_what_its_lines_copy():
    lines = (ROOT / "tpu" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert {"jaxformers", "experiments", "tpu", "pyproject.toml"} <= {*copied}
    assert all((ROOT / name).exists() for name in copied)
