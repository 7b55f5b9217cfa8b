"""Loading and saving whole models: what is loaded, new, dropped or refused; every format; where it lands; what a failure leaves.

The readers of the formats have their own tests beside this file; that PyTorch agrees is in tests/families/test_parity.py.
"""

import dataclasses
import errno
import gc
import importlib
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxformers as jf
from jaxformers.checkpoints import readers
from jaxformers.checkpoints.mapping import expected, file_shape, from_file, to_file
from jaxformers.core.params import leaves, shardings
from jaxformers.errors import CheckpointError, ConfigError, InputError
from jaxformers.parallel import MeshConfig, make_mesh
from tests.families.table import BERT, GPT_NEOX, strong

loading, saving = (importlib.import_module(f"jaxformers.checkpoints.{name}") for name in ("load", "save"))
WORD = "bert.embeddings.word_embeddings.weight"
DENSE = "bert.encoder.layer.1.output.dense.weight"


def stored(head=None):
    """The tensors of a strong model's file, under full names."""
    return {name: np.array(array) for name, array in saving.tensors(strong(BERT, head))}


def write(folder: Path, tensors, config=BERT.config) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, ours), (_, theirs) in zip(leaves(found), leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype, path
        assert np.array_equal(ours, theirs), path


def refused(folder, head=None, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        jf.load(folder, head, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is loaded, new, dropped --------------------------------------------------------------------------------------


def test_a_new_head_is_drawn_and_named(tmp_path, caplog):
    folder = write(tmp_path, stored("masked-lm"))
    model = jf.load(folder, "sequence-classification", num_labels=3)
    assert caplog.messages == [
        f"{folder}: newly initialised: classifier.{{bias,weight}}, bert.pooler.dense.{{bias,weight}}; "
        "in the file but not used: cls.predictions.transform.LayerNorm.{bias,weight}, "
        "cls.predictions.transform.dense.{bias,weight}, cls.predictions.bias"
    ]
    assert model.params["classifier"]["kernel"].shape == (32, 3)
    assert not model.params["classifier"]["bias"].any()
    assert 0.01 < model.params["classifier"]["kernel"].std() < 0.04
    same_bits(model.params["layers"], strong(BERT, "masked-lm").params["layers"])
    again = jf.load(folder, "sequence-classification", num_labels=3)
    same_bits(again.params, model.params)
    other = jf.load(folder, "sequence-classification", num_labels=3, seed=1)
    assert not np.array_equal(other.params["classifier"]["kernel"], model.params["classifier"]["kernel"])
    bare = jf.load(BERT.config, "sequence-classification", num_labels=3)
    for drawn in ("kernel", "bias"):  # by its own name, whatever else is there; one rounding apart, for one is compiled
        np.testing.assert_allclose(bare.params["classifier"][drawn], model.params["classifier"][drawn], rtol=1e-6)


def test_a_head_that_is_there_says_nothing(tmp_path, caplog):
    jf.load(write(tmp_path, stored("masked-lm")), "masked-lm")
    assert not caplog.messages


def test_buffers_are_dropped_and_named(tmp_path, caplog):
    ids = {"bert.embeddings.position_ids": np.arange(24)[None], "bert.embeddings.token_type_ids": np.zeros((1, 24))}
    model = jf.load(write(tmp_path, stored("masked-lm") | ids), "masked-lm")
    same_bits(model.params, strong(BERT, "masked-lm").params)
    assert "in the file but not used: bert.embeddings.{position_ids,token_type_ids}" in caplog.text


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_with_and_without_the_prefix(prefix, tmp_path):
    tensors = {prefix + name.removeprefix("bert."): array for name, array in stored().items()}
    folder = write(tmp_path, tensors)
    same_bits(jf.load(folder).params, strong(BERT, None).params)
    same_bits(jf.load(folder, "next-sentence-prediction").params["layers"], strong(BERT, None).params["layers"])


def test_the_older_name_of_a_table(tmp_path):
    model = strong(GPT_NEOX, "causal-lm")
    old = {name.replace("lm_head", "embed_out"): np.array(array) for name, array in saving.tensors(model)}
    folder = write(tmp_path, old, GPT_NEOX.config)
    same_bits(jf.load(folder, "causal-lm").params, model.params)
    assert "embed_out.weight" in old


def test_gamma_and_beta_of_early_files(tmp_path):
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in stored("pretraining").items()
    }
    assert any(name.endswith("gamma") for name in old)
    same_bits(jf.load(write(tmp_path, old), "pretraining").params, strong(BERT, "pretraining").params)


def test_a_tensor_under_two_names_is_refused(tmp_path):
    both = stored() | {"bert.embeddings.word_embeddings.weight": np.zeros((64, 32), np.float32)}
    message = refused(write(tmp_path, both))
    assert "model.safetensors holds bert.embeddings.word_embeddings.weight twice" in message


COPIES = {
    "both": ("cls.predictions.bias", "cls.predictions.decoder.bias", WORD, "cls.predictions.decoder.weight"),
    "only the originals": ("cls.predictions.bias", WORD),
    "only the copies": ("cls.predictions.decoder.bias", "cls.predictions.decoder.weight"),
}


@pytest.mark.parametrize("kept", COPIES)
def test_tied_copies(kept, tmp_path, caplog):
    tensors = stored("masked-lm")
    tensors["cls.predictions.decoder.weight"] = tensors[WORD]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    for name in {*COPIES["both"]} - {*COPIES[kept]}:
        del tensors[name]
    same_bits(jf.load(write(tmp_path, tensors), "masked-lm").params, strong(BERT, "masked-lm").params)
    assert not caplog.messages


def test_untied_tables_are_two_and_the_decoders_bias_is_the_one_that_counts(tmp_path):
    tensors = stored("masked-lm")
    tensors["cls.predictions.decoder.weight"] = tensors[WORD] + 1
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"] + 1
    untied = BERT.config | {"tie_word_embeddings": False}
    head = jf.load(write(tmp_path / "a", tensors, untied), "masked-lm").params["masked_lm"]
    assert np.array_equal(head["decoder"], tensors["cls.predictions.decoder.weight"])
    assert np.array_equal(head["bias"], tensors["cls.predictions.decoder.bias"])
    del tensors["cls.predictions.decoder.bias"]  # files of the time when it was always a copy
    head = jf.load(write(tmp_path / "b", tensors, untied), "masked-lm").params["masked_lm"]
    assert np.array_equal(head["bias"], tensors["cls.predictions.bias"])


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_in_one_error(tmp_path):
    tensors = stored("sequence-classification")
    del tensors[WORD], tensors[DENSE]
    tensors["bert.encoder.layer.2.output.dense.weight"] = np.zeros((32, 48), np.float32)
    tensors["surprise"] = np.zeros((3,), np.float32)
    tensors["bert.pooler.dense.weight"] = np.zeros((32, 16), np.float32)
    tensors["classifier.weight"] = np.zeros((2, 32), np.float32)
    message = refused(write(tmp_path, tensors), "sequence-classification", num_labels=3)
    start, listed = message.split(": ", 1)
    assert start == "model.safetensors does not fit bert with head 'sequence-classification'"
    assert sorted(listed.split("; ")) == [
        "bert.pooler.dense.weight: file (32, 16), model (32, 32)",
        "classifier.weight: file (2, 32), model (3, 32)",
        f"missing {WORD} (64, 32)",
        f"missing {DENSE} (32, 48)",
        "unexpected bert.encoder.layer.2.output.dense.weight (32, 48)",
        "unexpected surprise (3,)",
    ]


def test_a_head_of_another_size_needs_to_be_asked_for(tmp_path, caplog):
    folder = write(tmp_path, stored("sequence-classification"))
    assert "classifier.bias: file (3,), model (2,)" in refused(folder, "sequence-classification")
    with caplog.at_level("WARNING"):
        other = jf.load(folder, "sequence-classification", num_labels=5, ignore_mismatched_sizes=True)
    assert other.params["classifier"]["kernel"].shape[-1] == 5
    assert "newly initialised: classifier" in caplog.text


def test_a_part_of_a_trunk_is_no_trunk(tmp_path):
    tensors = {name: array for name, array in stored().items() if "layer.1." not in name}
    message = refused(write(tmp_path, tensors))
    assert message.count("missing bert.encoder.layer.1.") == 16


def test_an_unknown_dtype_is_refused_before_anything_is_read(tmp_path):
    for dtype in ("int4", "float33", "half precision", int):
        with pytest.raises(InputError, match="dtype must be a floating type such as 'float32' or 'bfloat16', found"):
            jf.load(tmp_path / "nothing", dtype=dtype)


# -- formats -----------------------------------------------------------------------------------------------------------


def flax_tree(tensors):
    """PyTorch's names and layouts to those of the Flax models transformers had, by hand."""
    tree = {}
    for name, array in tensors.items():
        *path, last = name.split(".")
        if last == "weight" and "embeddings" in path[-1]:
            last = "embedding"
        elif last == "weight" and path[-1] == "LayerNorm":
            last = "scale"
        elif last == "weight":
            last, array = "kernel", np.ascontiguousarray(array.T)
        tree[(*path, last)] = array
    return flax.traverse_util.unflatten_dict(tree)


@pytest.mark.parametrize("head", BERT.heads)
def test_flax_weights(head, tmp_path, caplog):
    (tmp_path / "config.json").write_text(json.dumps(BERT.config_for(head)))
    tensors = {name.removeprefix("bert." if head is None else ""): array for name, array in stored(head).items()}
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.msgpack_serialize(flax_tree(tensors)))
    same_bits(jf.load(tmp_path, head).params, strong(BERT, head).params)
    assert not caplog.messages


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("head", [None, "pretraining"])
def test_pytorch_weights(head, zipped, tmp_path, caplog):
    torch = pytest.importorskip("torch")
    (tmp_path / "config.json").write_text(json.dumps(BERT.config))
    state = {name: torch.from_numpy(array) for name, array in stored(head).items()}
    if head is not None:  # tied in memory, they share one storage in the file
        state["cls.predictions.decoder.weight"] = state[WORD]
        state["bert.embeddings.position_ids"] = torch.arange(24)[None]
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    same_bits(jf.load(tmp_path, head).params, strong(BERT, head).params)
    assert len(caplog.messages) == (head is not None)


def test_shards_of_an_index(tmp_path):
    tensors = stored("masked-lm")
    (tmp_path / "config.json").write_text(json.dumps(BERT.config))
    owner = {name: f"model-0000{1 + i % 3}-of-00003.safetensors" for i, name in enumerate(tensors)}
    for file in set(owner.values()):
        save_file({name: tensors[name] for name in tensors if owner[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": owner}))
    same_bits(jf.load(tmp_path, "masked-lm").params, strong(BERT, "masked-lm").params)


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, "float16"])
def test_parameters_are_stored_as_asked_whatever_the_file_holds(dtype, tmp_path):
    folder = write(tmp_path / "a", stored())
    model = jf.load(folder, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype(dtype)}
    same_bits(model.params, jax.tree.map(lambda leaf: leaf.astype(dtype), strong(BERT, None).params))
    jf.save(model, tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == jnp.dtype(dtype).name
    same_bits(jf.load(tmp_path / "b", dtype=dtype).params, model.params)
    wide = jf.load(tmp_path / "b")
    assert {leaf.dtype for leaf in jax.tree.leaves(wide.params)} == {jnp.dtype("float32")}
    same_bits(jax.tree.map(lambda leaf: leaf.astype(dtype), wide.params), model.params)


# -- where it lands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "config"])
def test_on_a_mesh_every_device_holds_its_piece(source, tmp_path):
    mesh = make_mesh(MeshConfig(fsdp=8))
    where = write(tmp_path, stored("masked-lm")) if source == "file" else BERT.config
    model = jf.load(where, "pretraining", mesh=mesh)
    cut = []
    for (path, leaf), (_, place) in zip(leaves(model.params), leaves(shardings(model.declare(), mesh)), strict=True):
        assert leaf.sharding == place, path
        assert {piece.data.shape for piece in leaf.addressable_shards} == {place.shard_shape(leaf.shape)}, path
        cut.append(leaf.addressable_shards[0].data.size * 8 == leaf.size)
    assert sum(cut) > len(cut) / 2
    if source == "file":
        alone = jf.load(where, "pretraining")
        same_bits(jax.device_get(model.params), jax.device_get(alone.params))


def test_a_model_on_a_mesh_is_saved_whole(tmp_path):
    model = jf.load(write(tmp_path / "a", stored()), mesh=make_mesh(MeshConfig(fsdp=2, tensor=2)))
    jf.save(model, tmp_path / "b")
    same_bits(jf.load(tmp_path / "b").params, strong(BERT, None).params)


def test_loading_holds_no_more_than_one_parameter_beside_the_model(tmp_path, monkeypatch):
    alive: dict[int, int] = {}
    most = 0
    read = readers.Weights.read

    class Counted(np.ndarray):
        """Owns its memory, so that it lives as long as any view of it."""

    def counting(self, name):
        nonlocal most
        array = read(self, name)
        # Not on the 64-byte boundary at which JAX on a CPU would take the array itself for the parameter.
        room = Counted((array.nbytes + 128,), np.uint8)
        start = -room.ctypes.data % 64 + 4
        owner = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        owner[...] = array
        alive[id(room)] = array.nbytes
        weakref.finalize(room, alive.pop, id(room))
        most = max(most, sum(alive.values()))
        return owner

    monkeypatch.setattr(readers.Weights, "read", counting)
    model = jf.load(write(tmp_path, stored()))
    largest = max(np.prod(shape) * 4 for _, _, shape in expected(model.declare()))
    assert 0 < most <= 2 * largest  # the one just read, and the one before it that is being let go
    same_bits(model.params, strong(BERT, None).params)


def test_a_hub_id_goes_through_locate(tmp_path, monkeypatch):
    folder = write(tmp_path, stored())
    asked = []

    def locate(source, revision=None):
        asked.append((source, revision))
        return folder

    monkeypatch.setattr(loading, "locate", locate)
    model = jf.load("some-org/some-model", revision="v2")
    assert asked == [("some-org/some-model", "v2")]
    same_bits(model.params, strong(BERT, None).params)


def test_overrides(tmp_path):
    folder = write(tmp_path, stored("masked-lm"))
    model = jf.load(folder, "token-classification", id2label={0: "O", 1: "B", 2: "I"}, hidden_dropout_prob=0.3)
    assert model.config.labels == ("O", "B", "I")
    assert model.config.hidden_dropout_prob == 0.3
    with pytest.raises(ConfigError, match="unknown override 'hidden_dropout'; did you mean 'hidden_dropout_prob'"):
        jf.load(folder, hidden_dropout=0.3)
    assert "bert.embeddings.position_embeddings.weight: file (24, 32), model (12, 32)" in refused(
        folder, max_position_embeddings=12
    )


def test_a_model_from_a_config_alone():
    model = jf.load(BERT.config, "masked-lm", num_hidden_layers=3)
    assert model.config.num_hidden_layers == 3
    layers = model.params["layers"]
    first, second = layers["up"]["kernel"][:2]
    assert not np.array_equal(first, second)
    assert 0.018 < layers["up"]["kernel"].std() < 0.022
    assert (layers["output_norm"]["scale"] == 1).all()
    assert not layers["attention"]["query"]["bias"].any()
    again = jf.load(model.config, "masked-lm", hidden_act="relu")
    assert again.config == model.config.replace(hidden_act="relu")
    same_bits(again.params, model.params)


# -- saving ------------------------------------------------------------------------------------------------------------


def test_a_bare_model_is_saved_under_its_own_names(tmp_path):
    jf.save(strong(BERT, None), tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {"embeddings.word_embeddings.weight", "pooler.dense.weight"} <= names
    assert not any(name.startswith("bert.") for name in names)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("head", BERT.heads)
def test_the_file_holds_exactly_what_is_declared(head, tmp_path):
    jf.save(strong(BERT, head), tmp_path)
    prefix = "bert." if head is None else ""
    declared = {n.removeprefix(prefix): shape for n, _, shape in expected(strong(BERT, head).declare())}
    assert {name: array.shape for name, array in load_file(tmp_path / "model.safetensors").items()} == declared
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == [strong(BERT, head).family.architectures[head]]


def test_changed_parameters_are_what_is_saved(tmp_path):
    model = strong(BERT, None)
    jf.save(dataclasses.replace(model, params=jax.tree.map(jnp.zeros_like, model.params)), tmp_path)
    assert not any(array.any() for array in load_file(tmp_path / "model.safetensors").values())


def test_plain_numpy_parameters_are_saved_too(tmp_path):
    model = strong(BERT, "masked-lm")
    jf.save(dataclasses.replace(model, params=jax.tree.map(np.asarray, model.params)), tmp_path)
    same_bits(jf.load(tmp_path, "masked-lm").params, model.params)


def test_a_tokenizer_is_saved_beside_it(tmp_path):
    class Tokenizer:
        def save(self, folder):
            (Path(folder) / "tokenizer.json").write_text("{}")

    jf.save(strong(BERT, None), tmp_path / "new" / "folder", tokenizer=Tokenizer())
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["config.json", "model.safetensors", "tokenizer.json"]


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_load_back(tmp_path):
    jf.save(strong(BERT, "pretraining"), tmp_path, max_shard_size="20KB")
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert files == [f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)]
    assert all(sum(array.nbytes for array in load_file(tmp_path / file).values()) <= 20_000 for file in files)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in stored("pretraining").values())
    same_bits(jf.load(tmp_path, "pretraining").params, strong(BERT, "pretraining").params)


@pytest.mark.parity
def test_shards_load_in_pytorch(tmp_path):
    transformers = pytest.importorskip("transformers")
    jf.save(strong(BERT, "pretraining"), tmp_path, max_shard_size=20_000)
    theirs, report = transformers.BertForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    for name, array in stored("pretraining").items():
        assert np.array_equal(theirs.state_dict()[name].numpy(), array), name


@pytest.mark.parametrize("size", [0, "0.5", "5 PB", "many", "-1GB"])
def test_a_shard_size_that_is_none_is_refused(size, tmp_path):
    with pytest.raises(InputError, match="max_shard_size must be a number of bytes or such as '5GB', found"):
        jf.save(strong(BERT, None), tmp_path, max_shard_size=size)
    assert not list(tmp_path.iterdir())


def test_the_host_holds_one_shard_at_a_time(tmp_path, monkeypatch):
    held, most, real = [], [], saving.save_file

    class Held(np.ndarray):
        """An array that can be counted."""

    def counted(stream):
        for name, array in stream:
            array = array.view(Held)
            held.append(weakref.ref(array))
            yield name, array
            del array

    def save_file(content, *args, **options):
        gc.collect()
        most.append(sum(array.nbytes for ref in held if (array := ref()) is not None))
        real({name: np.asarray(array) for name, array in content.items()}, *args, **options)

    tensors = saving.tensors
    monkeypatch.setattr(saving, "tensors", lambda model: counted(tensors(model)))
    monkeypatch.setattr(saving, "save_file", save_file)
    jf.save(strong(BERT, "pretraining"), tmp_path, max_shard_size=20_000)
    assert len(most) > 3
    assert max(most) <= 20_000


def test_a_save_leaves_no_weights_of_the_one_before(tmp_path):
    model = strong(BERT, None)
    halved = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf / 2, model.params))
    for limit, saved in ((20_000, model), (30_000, halved), (10**9, model), (20_000, halved)):
        jf.save(saved, tmp_path, max_shard_size=limit)
        same_bits(jf.load(tmp_path).params, saved.params)
        index = tmp_path / "model.safetensors.index.json"
        used = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        assert {path.name for path in tmp_path.glob("*.safetensors")} == used
        assert index.exists() == (limit < 10**9)


@pytest.mark.parametrize("limit", [20_000, 10**9], ids=["shards", "one file"])
@pytest.mark.parametrize("failing", ["first", "last", "config"])
def test_a_disk_that_fills_up_leaves_the_old_model_whole(failing, limit, tmp_path, monkeypatch):
    model = strong(BERT, None)
    jf.save(model, tmp_path, max_shard_size=limit)
    before = snapshot(tmp_path)
    files = len([name for name in before if name.endswith(".safetensors")])
    calls = []
    full = OSError(errno.ENOSPC, "No space left on device")

    def save_file_until_full(content, path, **options):
        calls.append(path)
        Path(path).write_bytes(b"half a file")
        if len(calls) == {"first": 1, "last": files}[failing]:
            raise full

    def write_nothing(self, *args, **options):
        raise full

    if failing == "config":
        monkeypatch.setattr(Path, "write_text", write_nothing)
    else:
        monkeypatch.setattr(saving, "save_file", save_file_until_full)
    changed = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf + 1, model.params))
    with pytest.raises(InputError, match=rf"cannot write {tmp_path}/\S+: No space left on device"):
        jf.save(changed, tmp_path, max_shard_size=limit)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == sorted(before)
    if failing != "config":
        assert snapshot(tmp_path) == before
        same_bits(jf.load(tmp_path).params, model.params)


def test_a_full_disk_as_safetensors_tells_it(tmp_path):
    """The library has an error of its own for what the system says; a limit on file sizes stands for the full disk."""
    code = """
import resource, signal, sys
import jaxformers as jf
model = jf.load({"model_type": "bert", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                 "intermediate_size": 8, "max_position_embeddings": 8})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
try:
    jf.save(model, sys.argv[1])
except jf.InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert f"cannot write {tmp_path}/model.safetensors: " in done.stdout, done
    assert "File too large" in done.stdout
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}/file/model: Not a directory"):
        jf.save(strong(BERT, None), tmp_path / "file" / "model")


# -- the mapping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("", (3, 5)),
        ("o i -> i o", (3, 5)),
        ("(h k) d -> d h k", (6, 2, 3)),
        ("d (h k) -> h k d", (2, 3, 6)),
        ("(a b) -> b a", (2, 3)),
    ],
)
def test_a_layout_reads_both_ways(layout, shape):
    ours = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    theirs = to_file(ours, layout)
    assert theirs.shape == file_shape(layout, shape)
    assert np.array_equal(from_file(theirs, layout, shape), ours)


def test_heads_lie_in_the_file_one_after_the_other():
    weight = np.arange(4 * 3).reshape(4, 3)  # [heads × size, width], as PyTorch has it
    ours = from_file(weight, "(h k) d -> d h k", (3, 2, 2))
    assert np.array_equal(ours[:, 0, 1], weight[1])
    assert np.array_equal(ours[:, 1, 0], weight[2])
