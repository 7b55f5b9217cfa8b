import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxformers.data import load_dataset
from jaxformers.data import tfds_source as tfds_module
from jaxformers.data.tfds_source import MODULES
from jaxformers.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
BUILD = """
import sys
import tensorflow_datasets as tfds

class Reviews(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        labels = tfds.features.ClassLabel(names=["bad", "good"])
        features = {"text": tfds.features.Text(), "label": labels, "tags": tfds.features.Sequence(tfds.features.Text())}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))
    def _split_generators(self, manager):
        return {"train": self._generate_examples(200), "test": self._generate_examples(5)}
    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"text": f"r\\u00e9view {i}", "label": i % 2, "tags": ["a", "b"][: i % 3]}

Reviews(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
assert "tensorflow" not in sys.modules
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A really prepared dataset on disk, made by a program that then is gone."""
    folder = tmp_path_factory.mktemp("tfds")
    subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def data_dir(monkeypatch):
    def use(folder):
        from tensorflow_datasets.core import constants

        monkeypatch.setattr(constants, "DATA_DIR", str(folder))

    return use


def test_a_prepared_dataset_in_a_process_of_its_own(prepared):
    code = (
        "import sys; from jaxformers.data import load_dataset; splits = load_dataset('tfds:reviews');"
        "assert {k: len(v) for k, v in splits.items()} == {'train': 200, 'test': 5}, splits;"
        "rows = sorted(splits['train'], key=lambda row: int(row['text'].split()[1]));"
        "assert rows[5] == {'text': 'réview 5', 'label': 1, 'tags': ['a', 'b']}, rows[5];"
        "assert type(rows[5]['label']) is int;"
        "assert len(load_dataset('tfds:reviews', split='train[5:10]')) == 5;"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)"
    )
    environment = {**os.environ, "TFDS_DATA_DIR": str(prepared)}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert run.returncode == 0, run.stderr


def damaged(prepared, tmp_path, change):
    """A copy of the prepared dataset whose train file was changed."""
    folder = tmp_path / "reviews" / "1.0.0"
    folder.mkdir(parents=True)
    for file in (prepared / "reviews" / "1.0.0").iterdir():
        content = bytearray(file.read_bytes())
        (folder / file.name).write_bytes(change(content) if "train" in file.name else content)
    return tmp_path


def flip(content):
    content[200] ^= 1
    return content


def test_a_damaged_record_is_named(prepared, tmp_path, data_dir):
    data_dir(damaged(prepared, tmp_path, flip))
    assert len(load_dataset("tfds:reviews", split="test")) == 5
    message = r"reviews train record \d+ unreadable in .*reviews-train\.array_record-00000-of-00001: .*(hash|Corrupted)"
    with pytest.raises(DataError, match=message):
        list(load_dataset("tfds:reviews", split="train"))


def test_a_truncated_file_is_found_at_the_start(prepared, tmp_path, data_dir):
    data_dir(damaged(prepared, tmp_path, lambda content: content[: len(content) // 2]))
    with pytest.raises(DataError, match=r"reviews train record 199 unreadable in .*reviews-train\.array_record"):
        load_dataset("tfds:reviews")


def test_glue_without_its_data(tmp_path, data_dir, monkeypatch):
    data_dir(tmp_path)
    monkeypatch.setattr(tfds_module, "reachable", lambda url: False)
    begin = time.perf_counter()
    with pytest.raises(
        DataError, match=r"tfds:glue/mrpc is not prepared in .*mrpc.* and \S+ cannot be reached to download"
    ):
        load_dataset("tfds:glue/mrpc")
    assert time.perf_counter() - begin < 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gleu/mrpc",
            r"tfds:gleu/mrpc is not there: TensorFlow Datasets has no dataset 'gleu' \(did you mean 'glue'\?\)",
        ),
        ("glue/mrcp", r"glue has no config 'mrcp' \(did you mean 'mrpc'\?\); it has cola, sst2, mrpc"),
        ("imdb_review", r"did you mean 'imdb_reviews'\?"),
        ("", "tfds: cannot be opened"),
    ],
)
def test_unknown_names_never_reach_the_network(name, message, tmp_path, data_dir, monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("reached for the network")

    data_dir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(DataError, match=message):
        load_dataset(f"tfds:{name}")


@pytest.fixture
def mocked_glue(tmp_path):
    """tfds.testing.mock_data with the metadata it needs to know the splits: random records, no files, no network."""
    import tensorflow_datasets as tfds

    info = tmp_path / "glue" / "mrpc" / "2.0.0" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    shard = {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": ["5"],
        "numBytes": "9",
    }
    splits = [{"name": name, **shard} for name in ("train", "validation", "test")]
    fields = {"name": "glue", "configName": "mrpc", "version": "2.0.0", "fileFormat": "array_record", "splits": splits}
    info.write_text(json.dumps(fields))
    with tfds.testing.mock_data(num_examples=5, data_dir=str(tmp_path)):
        yield


def test_mocked_glue(mocked_glue):
    splits = load_dataset("tfds:glue/mrpc")
    assert {name: len(table) for name, table in splits.items()} == {"train": 5, "validation": 5, "test": 5}
    assert splits["train"].column_names == ("idx", "label", "sentence1", "sentence2")
    assert isinstance(splits["train"][0]["sentence1"], str)
    assert splits["train"][4]["label"] in (0, 1)
    assert splits["train"]["label"].class_names == ("not_equivalent", "equivalent")
    assert splits["train"].name == "glue/mrpc train"
    assert len(load_dataset("tfds:glue/mrpc", split="train[1:3]")) == 2


def test_every_listed_module_defines_its_dataset():
    code = (
        "import importlib, json, sys, tensorflow_datasets as tfds; modules = json.loads(sys.argv[1]);"
        "before = set(tfds.list_builders(with_community_datasets=False));"
        "[importlib.import_module('tensorflow_datasets.' + module) for module in modules.values()];"
        "after = set(tfds.list_builders(with_community_datasets=False));"
        "print(sorted(set(modules) - after), sorted(set(modules) & before), 'tensorflow' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(MODULES)], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[] [] False\n"
