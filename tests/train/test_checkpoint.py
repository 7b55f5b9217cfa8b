"""Checkpoints: resumed on another mesh, written while steps go on, kept in a bucket."""

import importlib.machinery
import json
import sys
import threading
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxformers.checkpoints import load
from jaxformers.data import Table
from jaxformers.errors import CheckpointError, InputError
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.train import Callback, fit
from jaxformers.train.report import finished
from tests.train.conftest import TINY

NO_NOISE = 1e-4  # of Adam: a key's bias has no gradient but rounding, which a smaller epsilon would blow up


@pytest.fixture(scope="module")
def flat():
    """A model of one layer, and examples of one length: one program a mesh."""
    draw = np.random.default_rng(0)
    texts = draw.integers(5, 30, (40, 8)).tolist()
    labels = [int(7 in text) for text in texts]
    model = load({**TINY, "num_hidden_layers": 1}, "sequence-classification")
    return model, Table({"input_ids": texts, "labels": labels}, "flat")


class StopAfter(Callback):
    """Ends a run early."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, progress):
        progress.stop = progress.step >= self.step


def losses(folder):
    return [json.loads(line)["loss"] for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_on_another_mesh_with_the_same_data(flat, quiet, tmp_path, caplog):
    model, data = flat
    args = quiet.replace(max_steps=6, save_steps=100, logging_steps=1, learning_rate=1e-2, adam_epsilon=NO_NOISE)
    one = make_mesh(devices=jax.devices()[:1])
    all_at_once = args.replace(output_dir=str(tmp_path / "whole"), per_device_train_batch_size=8)
    whole, _ = fit(model, all_at_once, train=data, mesh=one)
    meshes = ((MeshConfig(fsdp=2), 2), (MeshConfig(data=2, tensor=2), 4))
    for number, (config, devices) in enumerate(meshes, 1):
        mesh = make_mesh(config, jax.devices()[:devices])
        members = mesh.shape["data"] * mesh.shape["fsdp"]
        parted, _ = fit(
            model,
            args.replace(per_device_train_batch_size=8 // members),
            train=data,
            mesh=mesh,
            callbacks=[StopAfter(3 * number)],
        )
    assert caplog.text.count("resumed from") == 1
    np.testing.assert_allclose(losses(args.output_dir), losses(tmp_path / "whole"), rtol=1e-5)
    for left, right in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parted.params), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_smaller_batches_accumulated_go_on_where_larger_ones_ended(flat, quiet):
    model, data = flat
    args = quiet.replace(max_steps=4, save_steps=2, per_device_train_batch_size=1)
    fit(model, args, train=data, mesh=make_mesh(), callbacks=[StopAfter(2)])
    less = args.replace(gradient_accumulation_steps=4)
    assert fit(model, less, train=data, mesh=make_mesh(devices=jax.devices()[:2]))[1].global_step == 4


def test_steps_go_on_while_a_checkpoint_is_written(flat, quiet, monkeypatch):
    import orbax.checkpoint as ocp

    model, data = flat
    steps_done, in_time = threading.Event(), []
    finalize = ocp.StandardCheckpointHandler.finalize

    def slow(self, directory):
        """A writer that is done only when two more steps are: if these waited for it, none would be."""
        in_time.append(steps_done.wait(120))
        return finalize(self, directory)

    class Watching(Callback):
        def on_step_end(self, progress):
            if progress.step == 4:  # after which the next save waits for this one
                assert not in_time
                steps_done.set()

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "finalize", slow)
    args = quiet.replace(save_steps=2, max_steps=5)
    fit(model, args, train=data, mesh=make_mesh(devices=jax.devices()[:1]), callbacks=[Watching()])
    assert in_time[0] is True


# -- buckets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """`gs://` paths as folders under `tmp_path / "cloud"`, for `epath` and for what Orbax writes arrays with."""
    from etils.epath import backend
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem
    from orbax.checkpoint._src.path import gcs_utils

    root = tmp_path / "cloud"
    root.mkdir()

    class Cloud(DirFileSystem):
        def _join(self, path):
            path = path.removeprefix("gs://").strip("/") if isinstance(path, str) else path
            return super()._join(path)

    cloud = Cloud(str(root), LocalFileSystem(auto_mkdir=True))
    package = types.ModuleType("gcsfs")
    package.__spec__ = importlib.machinery.ModuleSpec("gcsfs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", package)
    monkeypatch.setattr(type(backend.fsspec_backend), "_get_filesystem", lambda self, name: cloud)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    monkeypatch.setattr(
        gcs_utils,
        "get_kvstore_for_gcs",
        lambda path: {"driver": "file", "path": f"{root}/{path.removeprefix('gs://')}"},
    )
    monkeypatch.setenv("JAXFORMERS_CACHE", str(tmp_path / "cache"))
    return root


def test_a_run_in_a_bucket(flat, quiet, bucket, tmp_path, monkeypatch, caplog):
    model, data = flat
    monkeypatch.chdir(tmp_path)
    one = make_mesh(devices=jax.devices()[:1])
    local = quiet.replace(save_steps=2, logging_steps=1, save_total_limit=2)
    args = local.replace(output_dir="gs://bucket/my run")
    whole, _ = fit(model, local, train=data, mesh=one)
    assert finished(args.output_dir) is None
    fit(model, args, train=data, mesh=one, callbacks=[StopAfter(3)])
    there = bucket / "bucket" / "my run"
    assert sorted(path.name for path in (there / "checkpoints").iterdir()) == ["2", "3"]
    monkeypatch.setenv("JAXFORMERS_CACHE", str(tmp_path / "another machine"))
    parted, _ = fit(model, args, train=data, mesh=one)
    assert "resumed from gs://bucket/my run/checkpoints/3" in caplog.text
    for left, right in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parted.params), strict=True):
        np.testing.assert_array_equal(left, right)
    assert (there / "metrics.jsonl").read_bytes() == (Path(local.output_dir) / "metrics.jsonl").read_bytes()
    assert (there / "model.safetensors").read_bytes() == (Path(local.output_dir) / "model.safetensors").read_bytes()
    assert sorted(path.name for path in (there / "checkpoints").iterdir()) == ["4", "6"]
    assert finished(args.output_dir)["global_step"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another machine", "cache", "cloud", "out"]  # no "gs:"

    loaded = load(args.output_dir, "sequence-classification")
    for left, right in zip(jax.tree.leaves(whole.params), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_array_equal(left, right)
    fit(model, args.replace(overwrite_output_dir=True, max_steps=1), train=data, mesh=one)
    assert finished(args.output_dir)["global_step"] == 1
    newer = load(args.output_dir, "sequence-classification")
    assert not np.array_equal(newer.params["classifier"]["bias"], loaded.params["classifier"]["bias"])
    with pytest.raises(CheckpointError, match=r"there is no folder gs://bucket/nothing"):
        load("gs://bucket/nothing")
    (bucket / "bucket" / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"gs://bucket/empty holds no config.json"):
        load("gs://bucket/empty")


def test_a_bucket_that_cannot_be_reached_is_named(flat, quiet):
    model, data = flat
    with pytest.raises(InputError, match=r"output_dir gs://bucket/run needs the package gcsfs: pip install"):
        fit(model, quiet.replace(output_dir="gs://bucket/run"), train=data)
    with pytest.raises(InputError, match=r"must be a local folder or gs://BUCKET/…, found 's3://bucket/run'"):
        fit(model, quiet.replace(output_dir="s3://bucket/run"), train=data)
