"""Opening the weights of a folder: which file, what is wrong with a safetensors file, shards."""

import hashlib
import json
import struct
import tracemalloc
from pathlib import Path

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxformers.checkpoints.readers import open_weights, read_safetensors
from jaxformers.errors import CheckpointError

A = np.arange(6, dtype="f4").reshape(2, 3)
KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ml_dtypes.bfloat16)


def safe(tensors):
    return safetensors.numpy.save(tensors)


def raw(header, payload=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def refused(folder):
    with pytest.raises(CheckpointError) as caught, open_weights(folder):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def folder_of(tmp_path, **files):
    for name, content in files.items():
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        (tmp_path / name.replace("__", ".")).write_bytes(content)
    return tmp_path


def test_reads_every_type(tmp_path):
    tensors = {f"t{n}": A.astype(kind) for n, kind in enumerate(KINDS)} | {"empty": A[:0], "scalar": np.array(1.5)}
    with open_weights(folder_of(tmp_path, model__safetensors=safe(tensors))) as weights:
        assert weights.source == "model.safetensors"
        assert weights.shapes() == {name: (array.shape, array.dtype) for name, array in tensors.items()}
        for name, array in tensors.items():
            read = weights.read(name)
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array)
            assert read.flags.c_contiguous
            assert read.flags.writeable
    assert weights.shapes() == {}


def test_a_name_that_is_not_there(tmp_path):
    with (
        open_weights(folder_of(tmp_path, model__safetensors=safe({"bert.pooler.weight": A}))) as weights,
        pytest.raises(CheckpointError, match=r"no tensor 'bert.poler.weight'; the nearest is 'bert.pooler.weight'"),
    ):
        weights.read("bert.poler.weight")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory of files is told by Linux alone")
@pytest.mark.parametrize("kind", ["safetensors", "msgpack"])
def test_what_was_read_is_not_held_by_the_file_too(tmp_path, kind):
    tensors = {f"layer{n}": np.full((1_000, 2_000), n, np.float32) for n in range(4)}
    if kind == "safetensors":
        safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    else:
        (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(tensors))

    def of_files():
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    with open_weights(tmp_path) as weights:
        before, found = of_files(), [weights.read(name) for name in sorted(weights.shapes())]
        assert [array[-1, -1] for array in found] == [0, 1, 2, 3]
        assert of_files() - before < found[0].nbytes


def test_payloads_stay_in_the_file(tmp_path):
    big = np.ones((1_000, 1_000), "f4")
    folder_of(tmp_path, model__safetensors=safe({"a": big, "b": big}))
    tracemalloc.start()
    with open_weights(tmp_path) as weights:
        array = weights.read("b")
        assert tracemalloc.get_traced_memory()[1] < 1.2 * big.nbytes
    tracemalloc.stop()
    (tmp_path / "model.safetensors").write_bytes(b"gone")  # the array is its own
    np.testing.assert_array_equal(array, big)


GOOD = safe({"a": A})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty: delete it"),
        (b"abc", "is truncated: it has only 3 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a git-lfs pointer, not the file itself"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"<html>", "is a web page"),
        (b"PK\x03\x04\x00\x00\x08\x08" + bytes(40), "is a zip archive, as PyTorch writes"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "is a pickle"),
        (b"GGUF" + b"\x03" * 40, "is a GGUF file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "is an HDF5 file"),
        (b"x" * 40, "is not a safetensors file"),
        (struct.pack("<Q", 100_000_001) + b"{", "is not a safetensors file: its header would have 100000001 bytes"),
        (GOOD[:-1], f"is truncated: expected {len(GOOD)} bytes, have {len(GOOD) - 1}; delete it and download it again"),
        (GOOD[:20], "is truncated: expected more than"),
        (GOOD + b"xyz", f"has 3 bytes after its last tensor: expected {len(GOOD)} bytes, have {len(GOOD) + 3}"),
        (raw(b"{ not json }"), "its header does not describe tensors"),
        (raw(b"{" * 5000), "its header does not describe tensors"),
        (raw({"a": 1}), "its header does not describe tensors"),
        (raw({"a": {"dtype": "F32", "shape": [1]}}), "its header does not describe tensors"),
        (raw({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e400]}}), "its header does not describe"),
        (raw({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)), "is damaged"),
        (raw({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 8]}}, bytes(8)), "is damaged"),
        (raw({"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "is damaged"),
        (
            raw({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, bytes(8)),
            "'a' as F8_E4M3, which is not",
        ),
    ],
)
def test_what_is_wrong_with_a_safetensors_file(tmp_path, content, words):
    message = refused(folder_of(tmp_path, model__safetensors=content))
    assert words in message
    assert message.startswith("model.safetensors ")


def test_every_truncation(tmp_path):
    path = tmp_path / "model.safetensors"
    for length in range(len(GOOD)):
        path.write_bytes(GOOD[:length])
        with pytest.raises(CheckpointError, match=r"^model\.safetensors "):
            read_safetensors(path)


def test_which_file_is_read(tmp_path):
    flax_bytes = flax.serialization.msgpack_serialize({"a": {"kernel": A.T}})
    folder_of(
        tmp_path, pytorch_model__bin=b"", flax_model__msgpack=flax_bytes, model__safetensors=safe({"a.weight": A})
    )
    for source in ("model.safetensors", "flax_model.msgpack"):
        with open_weights(tmp_path) as weights:
            assert weights.source == source
            np.testing.assert_array_equal(weights.read("a.weight"), A)
        (tmp_path / source).unlink()
    assert refused(tmp_path).startswith("pytorch_model.bin is empty")


def test_no_weights(tmp_path):
    message = refused(folder_of(tmp_path, config__json=b"{}", tf_model__h5=b""))
    assert "looked for model.safetensors, model.safetensors.index.json, flax_model.msgpack" in message
    assert "it holds config.json, tf_model.h5" in message
    (tmp_path / "config.json").unlink()
    (tmp_path / "tf_model.h5").unlink()
    assert "it is empty" in refused(tmp_path)


class TestShards:
    def folder(self, tmp_path, weight_map=None):
        (tmp_path / "one.safetensors").write_bytes(safe({"a": A, "extra": A}))
        (tmp_path / "two.safetensors").write_bytes(safe({"b": A + 1, "a": A + 9}))
        listed = {"a": "one.safetensors", "b": "two.safetensors"} if weight_map is None else weight_map
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
        return tmp_path

    def test_are_one(self, tmp_path):
        with open_weights(self.folder(tmp_path)) as weights:
            assert weights.source == "model.safetensors.index.json"
            assert set(weights.shapes()) == {"a", "b", "extra"}
            np.testing.assert_array_equal(weights.read("a"), A)
            np.testing.assert_array_equal(weights.read("b"), A + 1)

    @pytest.mark.parametrize(
        "name",
        ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\b.safetensors", "..", "c:x.safetensors",
         "x.safetensors\0", "", "x.bin"],
    )  # fmt: skip
    def test_must_be_plain_names(self, tmp_path, name):
        assert "expected a plain .safetensors file" in refused(self.folder(tmp_path, {"a": name}))

    def test_that_are_missing(self, tmp_path):
        listed = {"a": "one.safetensors", "b": "three.safetensors"}
        assert "names three.safetensors, 1 of 2 that are not there" in refused(self.folder(tmp_path, listed))

    def test_that_lack_a_tensor(self, tmp_path):
        listed = {"a": "one.safetensors", "b": "one.safetensors"}
        assert "one.safetensors lacks 'b'" in refused(self.folder(tmp_path, listed))

    @pytest.mark.parametrize(
        "content", [b"{}", b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}', b'{"weight_map": []}']
    )
    def test_index_without_a_map(self, tmp_path, content):
        assert "holds no weight_map" in refused(folder_of(tmp_path, model__safetensors__index__json=content))

    def test_index_that_is_not_json(self, tmp_path):
        assert "is not JSON" in refused(folder_of(tmp_path, model__safetensors__index__json=b"{"))

    def test_of_flax_are_listed_by_path(self, tmp_path):
        (tmp_path / "flax_model-1.msgpack").write_bytes(
            flax.serialization.msgpack_serialize({"a": {"b": {"kernel": A}}})
        )
        index = {"weight_map": {"a/b/kernel": "flax_model-1.msgpack"}}
        with open_weights(folder_of(tmp_path, flax_model__msgpack__index__json=index)) as weights:
            np.testing.assert_array_equal(weights.read("a.b.weight"), A.T)


def test_a_flipped_bit_in_the_cache_of_the_hub_is_found_by_its_hash(tmp_path):
    blobs = tmp_path / "blobs"
    folder = tmp_path / "snapshots" / "1"
    blobs.mkdir()
    folder.mkdir(parents=True)
    blob = blobs / hashlib.sha256(GOOD).hexdigest()
    (folder / "model.safetensors").symlink_to(blob)
    blob.write_bytes(GOOD)
    with open_weights(folder) as weights:
        np.testing.assert_array_equal(weights.read("a"), A)
    blob.write_bytes(GOOD[:-1] + bytes([GOOD[-1] ^ 1]))
    with open_weights(folder) as weights:
        assert list(weights.shapes()) == ["a"]
        with pytest.raises(CheckpointError, match=r"model.safetensors is damaged: it does not match its hash"):
            weights.read("a")


def test_reads_a_real_model(shared_data):
    folder = shared_data / "weights" / "stories260K" / "hf"
    with open_weights(folder) as weights:
        shapes = weights.shapes()
        assert sum(int(np.prod(shape)) for shape, _ in shapes.values()) > 200_000
        for name, (shape, dtype) in shapes.items():
            array = weights.read(name)
            assert (array.shape, array.dtype) == (shape, dtype)
            assert np.isfinite(array).all()
