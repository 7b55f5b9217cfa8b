import gc
import logging
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.data import Batches, Table, as_table, iterate, load_dataset
from jaxformers.data.files import read_file
from jaxformers.data.store import stored
from jaxformers.data.table import LazyColumn
from jaxformers.errors import DataError, InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFORMERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


whole = st.integers(-(2**70), 2**70)
cells = st.one_of(
    st.none(),
    st.booleans(),
    whole,
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.lists(st.integers(-(2**31), 2**31 - 1)),
    st.lists(whole),
    st.lists(st.floats(allow_nan=False)),
    st.lists(st.lists(st.integers(0, 9))),
    st.lists(st.one_of(st.integers(0, 1), st.booleans())),
    st.dictionaries(st.text(), st.text()),
)


@settings(max_examples=80, deadline=None)
@given(cell=cells)
def test_a_cell_comes_back_as_it_went(cell, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFORMERS_CACHE", str(tmp_path_factory.mktemp("cells")))
        back = stored("0", lambda: [{"x": cell}])[0]["x"]
    assert back == cell
    assert repr(back) == repr(cell)  # True is not 1, and 1 not 1.0


def test_arrays_keep_their_kind():
    for array in (np.ones((2, 3), np.float32), np.arange(4, dtype=np.int64), np.zeros((0, 2), np.uint8)):
        back = stored(str(array.dtype), lambda array=array: [{"x": array}])[0]["x"]
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    with pytest.raises(DataError, match=r"column 'x' holds <object object .*, which cannot be kept on disk"):
        stored("other", lambda: [{"x": object()}])


def test_rows_with_other_keys_and_a_damaged_one(cache):
    rows = [{"a": 1}, {"b": "x", "a": 2}, {"b": "y"}]
    store = stored("k", lambda: rows)
    assert list(as_table(store)) == [{"a": 1, "b": None}, {"a": 2, "b": "x"}, {"a": None, "b": "y"}]
    assert stored("k", lambda: pytest.fail("made twice")).fingerprint() == store.fingerprint()
    path = cache / "k" / "rows.bin"
    path.write_bytes(path.read_bytes().replace(b"x", b"z"))
    assert store[2] == {"a": None, "b": "y"}
    with pytest.raises(DataError, match=r"row 1 of .*/data/k is damaged: delete that folder"):
        store[1]


FILES = {
    "x.csv": 'text,n,price,id\n"a\nb",1,0.5,007\n\nc,2,1,8\n',
    "x.tsv": 'text\tn\tprice\n"a\t1\t0.5\nc\t2\t1\n',
    "x.jsonl": '{"text": "a"}\n{"text": "b", "more": [1, 2]}\n',
    "x.json": '[{"text": "a"}, {"text": "b"}]',
    "x.txt": "one\n\nthree\u2028still\n",
    "x.conll": "Anna B-PER\nsings O\n\nOslo B-LOC\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_on_disk_holds_what_it_holds_in_memory(tmp_path, name):
    path = tmp_path / name
    path.write_text(FILES[name])
    here, there = read_file(path), read_file(path, on_disk=True)
    assert not here.on_disk
    assert there.on_disk
    assert repr(list(there)) == repr(list(here))
    assert there.column_names == here.column_names


def test_a_large_file_is_kept_on_disk_and_a_changed_one_is_read_anew(tmp_path, monkeypatch, cache):
    monkeypatch.setattr("jaxformers.data.files.LARGE", 10)
    path = tmp_path / "train.txt"
    path.write_text("one\ntwo\nthree\n")
    table = load_dataset(path, split="train[1:]")
    assert isinstance(table["text"], LazyColumn)
    assert [row["text"] for row in table] == ["two", "three"]
    load_dataset(path)
    assert len(list(cache.iterdir())) == 1
    path.write_text("four\nfive\nsix\n")
    assert load_dataset(path)["train"][0] == {"text": "four"}
    assert len(list(cache.iterdir())) == 2


def test_shuffled_batches_of_rows_on_disk_are_those_of_rows_in_memory():
    rows = [{"input_ids": [row, *range(1, row % 7 + 1)], "labels": row % 2} for row in range(60)]
    there = as_table(stored("b", lambda: rows)).shuffle(1)
    plan = {"batch_size": 8, "shuffle": True, "group_by_length": True, "num_epochs": 2}
    expected = list(Batches(Table({key: [row[key] for row in rows] for key in rows[0]}).shuffle(1), **plan))
    with iterate(Batches(there, **plan), num_threads=4, prefetch=8) as stream:
        for batch, other in zip(stream, expected, strict=True):
            assert all(np.array_equal(batch[key], other[key]) for key in other)


def test_reading_holds_no_rows():
    """The most that Python held while a file became a store, was mapped, and was read: for ten times the rows hardly more."""

    def most(count):
        def rows():
            return ({"text": f"{row:06} " + "word " * 40, "label": row % 2} for row in range(count))

        gc.collect()
        tracemalloc.start()
        table = as_table(stored(f"r{count}", rows))
        made = table.map(
            lambda part: {"n": [[len(text)] * 50 for text in part["text"]]}, batch_size=50, remove_columns=["text"]
        )
        assert sum(len(row["n"]) for row in made.shuffle(0)) == 50 * count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(10)
    assert most(5_000) < 1.5 * most(500)


BAD = {
    "x.jsonl": (b'{"t": "a"}\n{"t": \n[1]\n{"t": "b\xff"}\n{"t": "c"}\n', ["2 is not valid JSON", "3 must be", "4 is not UTF-8"]),
    "x.csv": (b't,n\na,1\nb\n"c"d,2\nc,3\n', ["3 has 1 fields, the header has 2", "4 is not valid csv"]),
    "x.txt": (b"a\nb\x00\nc\n", ["2 holds a NUL byte"]),
    "x.conll": (b"a O\n\nb O\nx\n\nc\xff O\nd O\n\nc O\n", ["4 has a token and no tag", "6 is not UTF-8"]),
}  # fmt: skip


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_records_are_left_out_counted_and_named(tmp_path, caplog, name, on_disk):
    content, messages = BAD[name]
    path, report = tmp_path / name, tmp_path / "out" / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name} line {messages[0]}"):
        load_dataset(path, on_disk=on_disk)
    for _ in range(2):  # a store that is there says so again, and nothing is written twice
        with caplog.at_level(logging.WARNING, "jaxformers"):
            table = load_dataset(path, on_disk=on_disk, on_bad_record="skip", bad_records=report)["train"]
        first = table[table.column_names[0]]
        assert [cell[0] for cell in first] == ["a", "c"]
        lines = report.read_text().splitlines()
        assert len(lines) == len(messages)
        assert all(line.startswith(f"{name} line {message}") for line, message in zip(lines, messages, strict=True))
    assert f"{len(messages)} bad records of {name} are left out, the first: {name} line {messages[0]}" in caplog.text


def test_bad_records_of_a_source_that_reads_rows_when_they_are_used(tmp_path):
    class Source:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 2:
                raise DataError("reviews record 2 unreadable in f.array_record: hash mismatch")
            return {"n": index}

    table = load_dataset(Source(), on_bad_record="skip", bad_records=tmp_path / "bad.txt")["train"]
    assert [row["n"] for row in table] == [0, 1, 3]
    assert (tmp_path / "bad.txt").read_text() == "reviews record 2 unreadable in f.array_record: hash mismatch\n"
    with pytest.raises(InputError, match="on_bad_record must be raise or skip, found 'drop'"):
        load_dataset(Source(), on_bad_record="drop")
