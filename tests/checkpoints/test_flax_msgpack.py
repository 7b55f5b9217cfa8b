"""flax_model.msgpack: what Flax writes arrives under PyTorch's names and layouts; damage is one sentence."""

import random
import tracemalloc

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxformers.checkpoints.flax_msgpack import parse_flax_msgpack, read_flax_msgpack
from jaxformers.errors import CheckpointError

NAME = "flax_model.msgpack"


def numbers(*shape, dtype="f4"):
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


def parse(data):
    return parse_flax_msgpack(memoryview(data), NAME)


def written(tree):
    return flax.serialization.msgpack_serialize(tree)


def split(shape, *chunks):
    """An array as flax splits it."""
    parts = {str(n): part for n, part in enumerate(chunks)}
    return written({"a": {"__msgpack_chunked_array__": True, "shape": {"0": shape}, "chunks": parts}})


def refused(data):
    with pytest.raises(CheckpointError) as caught:
        parse(data)
    assert NAME in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TREE = {
    "bert": {
        "embeddings": {
            "word_embeddings": {"embedding": numbers(7, 4)},
            "LayerNorm": {"scale": numbers(4), "bias": numbers(4)},
        },
        "encoder": {"layer": {"0": {"attention": {"self": {"query": {"kernel": numbers(4, 3), "bias": numbers(3)}}}}}},
    },
    "conv": {"kernel": numbers(2, 3, 4, 5)},
    "conv1d": {"kernel": numbers(2, 3, 4)},
    "weight_norm": {"weight_v": numbers(4, 3, 2)},
    "final_logits_bias": numbers(1, 5),
}

EXPECTED = {
    "bert.embeddings.word_embeddings.weight": numbers(7, 4),
    "bert.embeddings.LayerNorm.weight": numbers(4),
    "bert.embeddings.LayerNorm.bias": numbers(4),
    "bert.encoder.layer.0.attention.self.query.weight": numbers(4, 3).T,
    "bert.encoder.layer.0.attention.self.query.bias": numbers(3),
    "conv.weight": np.einsum("hwio->oihw", numbers(2, 3, 4, 5)),
    "conv1d.weight": np.einsum("wio->oiw", numbers(2, 3, 4)),
    "weight_norm.weight_v": numbers(4, 3, 2),
    "final_logits_bias": numbers(1, 5),
}


def same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        read = found[name].read()
        assert (read.shape, read.dtype) == (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        np.testing.assert_array_equal(read, array, err_msg=name)
        assert read.flags.c_contiguous
        assert read.flags.writeable


@pytest.mark.parametrize("wrap", [False, True])
def test_names_and_layouts_of_pytorch(wrap):
    same(parse(written({"params": TREE} if wrap else TREE)), EXPECTED)


def test_batch_statistics():
    tree = {
        "params": {"bn": {"scale": numbers(3), "bias": numbers(3)}},
        "batch_stats": {"bn": {"mean": numbers(3), "var": numbers(3)}},
    }
    names = ("weight", "bias", "running_mean", "running_var")
    same(parse(written(tree)), {f"bn.{name}": numbers(3) for name in names})


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "?", ml_dtypes.bfloat16])
def test_types(dtype):
    same(parse(written({"a": {"kernel": numbers(2, 3, dtype=dtype)}})), {"a.weight": numbers(2, 3, dtype=dtype).T})


def test_arrays_of_jax_scalars_and_empty_ones():
    tree = {
        "a": jnp.ones((2, 2), jnp.bfloat16),
        "s": np.float32(3),
        "z": np.zeros((0, 3), "f4"),
        "big": numbers(300, 300),
    }
    same(parse(written(tree)), {name: np.asarray(value) for name, value in tree.items()})


def test_arrays_that_flax_split(monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 64)
    tree = {"a": {"kernel": numbers(9, 11)}, "b": numbers(5)}
    data = written(tree)
    assert b"__msgpack_chunked_array__" in data
    same(parse(data), {"a.weight": numbers(9, 11).T, "b": numbers(5)})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs", "git-lfs pointer"),
        (b"<html>", "is a web page"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"\x89HDF\r\n", "is an HDF5 file"),
        (b"hello", "is not a Flax weight file"),
        (b"\x93\x01\x02\x03", "is not a Flax weight file"),
        (b"\x81\xa1a\x01", "holds a int at a, expected arrays only"),
        (b"\x81\xa1a\x91\xc0", "holds a list at a"),
        (b"\x81\x01\xc0", "a key that is repeated or not a text"),
        (b"\x82\xa1a\xc0\xa1a\xc0", "a key that is repeated"),
        (b"\x81\xa1\xff\xc0", "not UTF-8"),
        (b"\x81\xa1a\xc1", "a byte that msgpack does not use"),
        (b"\x81\xa1a\xd4\x05x", "a value of type 5"),
        (b"\x81\xa1a\xd4\x01\xc0", "an array without shape, dtype and payload"),
        (b"\x82\xa1a\xd4\x01\x93\xa1b\xc0", "longer than its frame"),
        (b"\x81\xa1a\xc7\x16\x01\x93\x91\x02\xa7float32\xc4\x08" + bytes(9), "without shape, dtype and payload"),
        (split(3, numbers(2)), "a split array whose parts do not fit"),
        (split(1, numbers(1, 2)), "a split array whose parts do not fit"),
        (split(2, numbers(1), numbers(1, dtype="f8")), "a split array whose parts do not fit"),
        (split(0), "a split array without shape and parts"),
        (b"\xdf\xff\xff\xff\xff\xa1a\xc0", "truncated"),
        (b"\x81\xa1a\xdb\xff\xff\xff\xff", "truncated: expected at least 4294967303 bytes, have 8"),
        (b"\x81\xa1a" * 100 + b"\xc0", "deeper or larger"),
        (b"\x81\xa1a\xdd\x00\x0f\xff\xff" + b"\xc0" * 0x0FFFFF, "deeper or larger"),
        (written({"a": np.zeros(2, "c8")}), "an array of type 'complex64', which is not read"),
        (written({"a": 1j}), "a value of type 2"),
        (written({"a": numbers(2)}) + b"x", "goes on after its end"),
        (
            written({"a": numbers(2)}).replace(b"\x93\x91\x02", b"\x93\x91\x03"),
            "shape (3,) and type float32 in 8 bytes",
        ),
        (
            written({"a": {"kernel": numbers(2), "weight": numbers(2)}}),
            "two tensors that PyTorch both calls 'a.weight'",
        ),
    ],
)
def test_foreign_and_damaged_files(data, words):
    assert words in refused(data)


def test_every_truncation():
    data = written(TREE)
    for length in range(len(data)):
        message = refused(data[:length])
    assert "is truncated" in message


def test_damaged_files_give_one_sentence_or_load(monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 64)
    draw, refusals = random.Random(0), 0
    data = written({"a": {"kernel": numbers(9, 11)}, "b": {"c": numbers(2, 2), "s": np.float32(1)}})
    for _ in range(3_000):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            at = draw.randrange(len(changed))
            changed[at : at + draw.choice((0, 1, 1, 4))] = draw.randbytes(draw.choice((0, 1, 1, 4)))
        try:
            for tensor in parse(bytes(changed)).values():
                assert tensor.read().shape == tensor.shape
        except CheckpointError:
            refusals += 1
    assert 1_000 < refusals < 3_000


def test_payloads_stay_in_the_file(tmp_path):
    big = numbers(1_000, 1_000)
    path = tmp_path / NAME
    path.write_bytes(written({"a": {"embedding": big}, "b": {"embedding": big}}))
    tracemalloc.start()
    found = read_flax_msgpack(path)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    array = found["b.weight"].read()
    assert tracemalloc.get_traced_memory()[1] < 1.1 * big.nbytes
    tracemalloc.stop()
    np.testing.assert_array_equal(array, big)
