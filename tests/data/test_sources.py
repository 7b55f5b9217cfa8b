import json
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from jaxformers.data import Table, load_dataset
from jaxformers.data import sources as sources_module
from jaxformers.data.reach import reachable
from jaxformers.errors import DataError, InputError

COLUMNS = {"text": ["a", "b", "c", "d", "e"], "label": [0, 1, 0, 1, 0]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.tsv").write_text("text\tlabel\na\t0\nb\t1\n")
    (tmp_path / "dev.csv").write_text("text,label\nc,0\n")
    (tmp_path / "test.jsonl").write_text('{"text": "d"}\n')
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "labels.txt").write_text("no split")
    return tmp_path


def test_a_folder_gives_splits(folder):
    splits = load_dataset(folder)
    assert list(splits) == ["train", "validation", "test"]
    assert [len(table) for table in splits.values()] == [2, 1, 1]
    assert splits["validation"].name == f"{folder.name}/validation"
    assert list(load_dataset(str(folder))) == list(splits)


@pytest.mark.parametrize("name", ["valid", "val", "dev", "validation"])
def test_every_name_of_the_validation_split(tmp_path, name):
    (tmp_path / f"{name}.txt").write_text("x")
    assert list(load_dataset(tmp_path)) == ["validation"]
    assert list(load_dataset(tmp_path / f"{name}.txt")) == ["validation"]
    assert load_dataset(tmp_path, split=name)["text"] == ["x"]


def test_only_the_split_asked_for_is_read(folder):
    (folder / "test.jsonl").write_text("broken")
    assert len(load_dataset(folder, split="train")) == 2
    with pytest.raises(DataError, match=r"test\.jsonl line 1 is not valid JSON"):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train", "abcde"),
        ("train[:2]", "ab"),
        ("train[1:3]", "bc"),
        ("train[3:]", "de"),
        ("train[-2:]", "de"),
        ("train[:40%]", "ab"),
        ("train[40%:60%]", "c"),
        ("train[60%:]", "de"),
        ("train[:100]", "abcde"),
        ("train[:]", "abcde"),
        (" train [ 1 : 2 ]", "b"),
    ],
)
def test_slices_of_splits(split, rows):
    assert "".join(load_dataset(COLUMNS, split=split)["text"]) == rows


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("trian", r"data has no split 'trian' \(did you mean 'train'\?\); it has train"),
        ("validation", r"data has no split 'validation'; it has train"),
        ("train[1]", r"split 'train\[1\]' is not of the form"),
        ("train[:x]", "is not of the form"),
        ("", "is not of the form"),
        ("train[:200%]", "asks for 200%, more than 100%"),
    ],
)
def test_bad_splits(split, message):
    with pytest.raises(DataError, match=message):
        load_dataset(COLUMNS, split=split)


def test_what_is_in_memory(folder):
    pandas = pytest.importorskip("pandas")
    rows = [{"text": text, "label": label} for text, label in zip(*COLUMNS.values(), strict=True)]
    series = pandas.DataFrame(COLUMNS)
    for source in (
        COLUMNS,
        rows,
        series,
        Table(COLUMNS, name="mine"),
        {"text": series["text"], "label": series["label"]},
    ):
        splits = load_dataset(source)
        assert list(splits) == ["train"]
        assert list(splits["train"]) == rows
    assert load_dataset(Table(COLUMNS, name="mine"))["train"].name == "mine"
    splits = load_dataset(
        {"train": rows, "dev": series, "test": COLUMNS, "more": Table(COLUMNS), "file": folder / "dev.csv"}
    )
    assert {name: len(table) for name, table in splits.items()} == {
        "train": 5,
        "validation": 5,
        "test": 5,
        "more": 5,
        "file": 1,
    }
    assert splits["validation"].name == "data/validation"


def test_a_column_of_dicts_is_a_column_unless_it_has_the_name_of_a_split():
    pairs = [{"en": "one", "de": "eins"}, {"en": "two", "de": "zwei"}]
    assert load_dataset({"translation": pairs})["train"].column_names == ("translation",)
    assert load_dataset({"train": pairs})["train"].column_names == ("en", "de")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tdfs:glue/mrpc", r"'tdfs:glue/mrpc' begins with 'tdfs:' \(did you mean 'tfds:'\?\); a source is"),
        ("s3://bucket/x.csv", "begins with 's3:'; a source is"),
        ({}, "data is empty"),
        ([], "data is empty"),
        ({"train": [], "test": COLUMNS}, "data/train is empty"),
        (3, "data must be a Table, a dict of columns"),
        ({"dev": COLUMNS, "val": COLUMNS}, "the dict of splits holds 'validation' under two names"),
    ],
)
def test_bad_sources(source, message):
    with pytest.raises(DataError, match=message):
        load_dataset(source)


def test_bad_paths(folder):
    with pytest.raises(DataError, match=r"there is no file or folder '.*trian\.tsv' \(did you mean 'train\.tsv'\?\)"):
        load_dataset(folder / "trian.tsv")
    with pytest.raises(DataError, match=r"there is no file or folder 'no/such/place'$"):
        load_dataset("no/such/place")
    with pytest.raises(DataError, match=r"README\.md is not a data file"):
        load_dataset(folder / "README.md")
    (folder / "train.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"two files for the split 'train': train\.csv and train\.tsv"):
        load_dataset(folder)
    (folder / "train.csv").unlink()
    with pytest.raises(DataError, match=r"stands for data/train, one split, but has train, validation"):
        load_dataset({"train": folder})


def test_a_folder_without_splits(tmp_path):
    with pytest.raises(DataError, match=r"has no file for a split: one of train, .* is expected$"):
        load_dataset(tmp_path)
    (tmp_path / "trein.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match=r"it holds trein\.csv \(did you mean 'train\.csv'\?\)"):
        load_dataset(tmp_path)


def test_encoding_reaches_every_file(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="is not UTF-8"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, encoding="latin-1")["train"]["text"] == ["café"]


def test_hub_datasets_need_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'hf:glue/mrpc needs the datasets package: pip install "jaxformers\[hf\]"'):
        load_dataset("hf:glue/mrpc")


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the datasets package: knows two datasets, and what it was asked."""
    known = {("glue", "mrpc"): {"train": COLUMNS}, ("owner/name", None): {"train": COLUMNS, "test": COLUMNS}}
    asked = []

    def load(path, config=None):
        asked.append((path, config))
        if (path, config) not in known:
            raise ValueError(f"Dataset '{path}' doesn't exist\nand much more")
        return {split: Table(columns) for split, columns in known[path, config].items()}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load, asked=asked))
    return asked


def test_hub_datasets(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert list(load_dataset("hf:owner/name")) == ["train", "test"]
    assert len(load_dataset("hf:glue/mrpc", split="train[:2]")) == 2
    assert hub == [("owner/name", None), ("glue/mrpc", None), ("glue", "mrpc")]
    with pytest.raises(DataError, match=r"^hf:a/b/c cannot be loaded: Dataset 'a/b' doesn't exist$"):
        load_dataset("hf:a/b/c")
    assert hub[3:] == [("a/b", "c")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources_module, "reachable", lambda url: False)
    with pytest.raises(DataError, match=r"cannot reach https://\S+ for hf:x; set HF_HUB_OFFLINE=1 to use the cache"):
        load_dataset("hf:x")
    assert len(hub) == 4


def test_reachable(monkeypatch):
    import socket

    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        door = f"127.0.0.1:{server.getsockname()[1]}"
        assert reachable(f"http://{door}/path")
        assert not reachable("http://127.0.0.1:1")
        monkeypatch.setenv("https_proxy", f"http://{door}")
        assert reachable("https://name.invalid/data.zip")  # the proxy answers for it
        monkeypatch.setenv("no_proxy", "name.invalid")
        assert not reachable("https://name.invalid/data.zip")

    def slow(*args, **kwargs):
        time.sleep(1)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", slow)
    begin = time.perf_counter()
    assert not reachable("http://10.0.0.1", seconds=0.2)
    assert time.perf_counter() - begin < 0.9


def test_importing_the_room_is_cheap():
    code = "import sys, jaxformers.data; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["grain", "tensorflow_datasets", "tensorflow", "pandas", "pyarrow", "jax", "datasets", "huggingface_hub"]
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout == "[]\n"


def test_real_mrpc(shared_data):
    splits = load_dataset(shared_data / "glue" / "MRPC")
    assert {name: len(table) for name, table in splits.items()} == {"train": 3668, "validation": 408, "test": 1725}
    columns = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    assert splits["train"].column_names == splits["validation"].column_names == columns  # dev.tsv begins with a mark
    assert sum(splits["validation"]["Quality"]) == 279
    assert splits["train"][0]["#1 String"].startswith('Amrozi accused his brother , whom he called " the witness "')
    assert (
        load_dataset(shared_data / "glue" / "MRPC", split="dev[:10%]")["Quality"]
        == splits["validation"]["Quality"][:41]
    )


def test_other_real_data(shared_data):
    assert len(load_dataset(shared_data / "glue" / "RTE")["train"]) == 2490
    assert load_dataset(shared_data / "glue" / "STS-B")["validation"]["score"][0] == 5.0
    assert load_dataset(shared_data / "glue" / "STS-B")["validation"]["old_index"][0] == "0000"
    with pytest.raises(DataError, match=r"no name for column 3 in its first line .* a header line is expected"):
        load_dataset(shared_data / "glue" / "CoLA")  # has no header
    samples = shared_data / "hf_fixtures" / "tests_samples"
    csv = load_dataset(samples / "MRPC" / "dev.csv")["validation"]
    tsv = load_dataset(samples / "MRPC" / "dev.tsv")["validation"]
    assert csv["sentence2"] == tsv["#2 String"]
    squad = load_dataset(samples / "SQUAD" / "sample.json")["train"]
    assert len(squad) == len(json.loads((samples / "SQUAD" / "sample.json").read_text())["data"])
    assert len(load_dataset(samples / "conll" / "sample.json", split="train")) == 10
    assert set(load_dataset(samples / "wmt_en_ro")) == {"train", "validation", "test"}


def test_real_latin_1(shared_data, tmp_path):
    real = (shared_data / "rotten_tomatoes" / "rt-polarity.pos").read_text(encoding="utf-8")
    (tmp_path / "train.txt").write_bytes(real.encode("latin-1", "replace"))
    with pytest.raises(DataError, match=r"^train\.txt line \d+ is not UTF-8 .* pass encoding='latin-1'"):
        load_dataset(tmp_path)
    assert len(load_dataset(tmp_path, split="train", encoding="latin-1")) == 5331


def test_a_word_in_a_files_name_names_its_split(tmp_path):
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (tmp_path / name).write_text('[{"a": 1}]')
    assert list(load_dataset(tmp_path)) == ["train", "validation"]
    (tmp_path / "train.json").write_text('[{"a": 2}]')  # the plain name wins
    assert load_dataset(tmp_path, split="train")["a"] == [2]
    assert list(load_dataset(tmp_path / "dev-v1.1.json")) == ["validation"]


def test_words_of_two_files_for_one_split(tmp_path):
    for name in ("a.train.csv", "b.train.csv"):
        (tmp_path / name).write_text("a\n1\n")
    with pytest.raises(DataError, match=r"two files for the split 'train': a\.train\.csv and b\.train\.csv"):
        load_dataset(tmp_path)


def test_mnli_has_two_validation_splits(tmp_path):
    for name in ("train", "dev_matched", "dev_mismatched"):
        (tmp_path / f"{name}.tsv").write_text("a\tb\n1\t2\n")
    assert list(load_dataset(tmp_path)) == ["train", "validation", "validation_mismatched"]


def test_real_names(shared_data):
    splits = load_dataset(shared_data / "wnut17")
    assert {name: len(table) for name, table in splits.items()} == {"train": 3394, "validation": 1009}
    assert splits["train"]["tokens"][0][:2] == ["@paulwalk", "It"]
