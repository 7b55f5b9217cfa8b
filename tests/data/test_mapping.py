import functools
import re
import threading

import numpy as np
import pytest

from jaxformers.data import Table, as_table
from jaxformers.data.fingerprint import fingerprint
from jaxformers.data.store import stored
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess import train_wordpiece

CALLS = []


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFORMERS_CACHE", str(tmp_path / "cache"))
    CALLS.clear()
    return tmp_path / "cache" / "data"


@pytest.fixture
def table():
    return Table({"text": ["a", "b", "c", "d", "e"], "label": [0, 1, 0, 1, 1]}, name="reviews")


def doubled(times):
    def double(rows):
        CALLS.append(len(rows["text"]))
        return {"twice": [text * times for text in rows["text"]]}

    return double


def test_a_map_is_done_once_for_one_content_and_one_function(table):
    def run(table, function, **options):
        CALLS.clear()
        made = table.map(function, batch_size=2, on_disk=True, key="double", **options)
        return made["twice"][len(made) - 1], len(CALLS)

    assert run(table, doubled(2)) == ("ee", 3)
    assert run(table, doubled(2)) == ("ee", 0)
    assert run(Table({"label": table["label"], "text": table["text"]}, "other name"), doubled(2)) == (
        "ee",
        3,
    )  # its columns
    assert run(table.select(range(4)), doubled(2)) == ("dd", 2)
    assert run(table.with_column("label", [0, 1, 0, 1, 0]), doubled(2)) == ("ee", 3)


def test_what_a_function_refers_to_is_part_of_its_key():
    def scaled(values):
        return lambda row: {"x": row["n"] * values[0]}

    same = fingerprint(scaled([2])), fingerprint(scaled([2]))
    assert same[0] == same[1] != fingerprint(scaled([3]))
    one, two = (types_of(source) for source in ("def f(r): return g(r)\ndef g(r): return 1",) * 2)
    other = types_of("def f(r): return g(r)\ndef g(r): return 2")
    assert fingerprint(one["f"]) == fingerprint(two["f"]) != fingerprint(other["f"])
    assert fingerprint(functools.partial(one["f"], a=1)) != fingerprint(functools.partial(one["f"], a=2))
    assert fingerprint(np.arange(3)) != fingerprint(np.arange(3.0)) != fingerprint([0.0, 1.0, 2.0])
    assert fingerprint([1, [2]]) != fingerprint([[1], 2])
    assert fingerprint("1") != fingerprint(1) != fingerprint(True)
    tokenizers = [train_wordpiece([text], vocab_size=30) for text in ("a b", "a b", "c d")]
    keys = [fingerprint(functools.partial(one["f"], tokenizer=tokenizer)) for tokenizer in tokenizers]
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(InputError, match=re.escape("what a _thread.lock holds cannot be told")):
        fingerprint(functools.partial(one["f"], threading.Lock()))


def types_of(source):
    """The names that a module of this source defines."""
    names = {"__name__": "some.module"}
    exec(compile(source, "some", "exec"), names)
    return names


def test_what_is_on_disk_stays_there(table):
    there = as_table(stored("t", lambda: list(table)), "reviews")
    made = there.map(lambda rows: {"n": [len(text) for text in rows["text"]]})
    assert made.on_disk
    assert made.drop(["text", "label"]).on_disk
    assert not table.map(lambda rows: {"n": [1] * len(rows["text"])}).on_disk
    assert made.shuffle(3)[2] == {**table.shuffle(3)[2], "n": 1}
    joined = made.concat(made)
    assert joined.on_disk
    assert joined[7] == {"text": "c", "label": 0, "n": 1}
    assert joined.fingerprint() == made.concat(made).fingerprint() != made.fingerprint()
    assert made.shuffle(1).fingerprint() != made.shuffle(2).fingerprint()


def test_unequal_columns_are_named(table):
    def unequal(rows):
        return {"a": rows["text"], "b": [text for text in rows["text"] if text != "d"]}

    with pytest.raises(DataError, match="unequal length for rows 2 to 3: a 2, b 1"):
        table.map(unequal, batch_size=2)


def test_several_processes_make_what_one_makes(table):
    long = table.select([0, 1, 2, 3, 4] * 5)
    assert list(long.map(dict, batch_size=2, num_proc=2)) == list(long)
    assert list(long.map(dict, batched=False, num_proc=2, on_disk=True)) == list(long)
    with pytest.raises(InputError, match=r"cannot be sent to 2 processes .* define it at the top of a module"):
        table.map(doubled(2), num_proc=2)
    with pytest.raises(InputError, match="num_proc must be at least 1, found -1"):
        table.map(dict, num_proc=-1)
