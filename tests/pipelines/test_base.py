import dataclasses

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.pipelines.base import HOST, Pipeline, Preprocess, fetch, rows_for


def lengths(batch_size=4):
    """Lengths of texts, each stage a plain function."""
    return jf.compose(
        lambda texts, strip=False: [text.strip() if strip else text for text in texts],
        lambda texts: [len(text) for text in texts],
        lambda sizes, scale=1: [size * scale for size in sizes],
        batch_size=batch_size,
    )


def doubling(seen, multiple=1, batch_size=4):
    """Sums of lists of numbers, through rows of several lengths; `seen` collects the shapes that were computed."""

    def encode(items, times=1):
        return [{"numbers": item * times} for item in items], {}

    def collate(rows):
        longest = max((len(row["numbers"]) for row in rows), default=1)
        return {"numbers": np.array([row["numbers"] + [0] * (longest - len(row["numbers"])) for row in rows])}

    def forward(batch):
        seen.append(batch["numbers"].shape)
        rest = {HOST: batch[HOST]} if HOST in batch else {}
        return {"sum": batch["numbers"].sum(1), **rest}

    def postprocess(outputs):
        columns, host = fetch(outputs)
        sums = [int(total) for total in columns["sum"]]
        return sums if host["given"] == "many" else sums[0]

    preprocess = Preprocess(lambda value, where: value, encode, collate, multiple)
    return Pipeline(preprocess, forward, postprocess, batch_size)


def test_a_call_is_the_composition_of_the_stages():
    pipe = lengths()
    assert pipe(["a", "bb"]) == pipe.postprocess(pipe.forward(pipe.preprocess(["a", "bb"]))) == [1, 2]


def test_own_functions_get_at_most_a_batch_at_a_time_and_order_is_kept():
    parts = []
    pipe = dataclasses.replace(lengths(), preprocess=lambda texts: parts.append(len(texts)) or texts)
    assert pipe(["a" * n for n in range(10)]) == list(range(10))
    assert parts == [4, 4, 2]
    assert pipe(["a"] * 3, batch_size=2) == [1, 1, 1]
    assert parts[3:] == [2, 1]


def test_options_reach_their_stage():
    pipe = lengths()
    assert pipe([" a "], scale=10, strip=True) == [10]
    bound = pipe.with_options(scale=10)
    assert bound(["abc"]) == [30]
    assert bound(["abc"], scale=2) == [6]
    assert pipe(["abc"]) == [3]


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"no option 'scales' \(did you mean 'scale'\?\); it has scale, strip"):
        lengths()(["a"], scales=2)


def test_a_result_for_each_input_is_demanded():
    pipe = jf.compose(list, list, lambda values: values[:1])
    with pytest.raises(InputError, match="a result for each of 2 inputs, found 1 results"):
        pipe(["a", "b"])


def test_stages_must_be_functions():
    with pytest.raises(InputError, match="forward must be a function, found int"):
        jf.compose(list, 3, list)


@pytest.mark.parametrize("size", [0, -1, 2.5, "8"])
def test_a_batch_size_that_is_none_is_refused(size):
    with pytest.raises(InputError, match="batch_size must be a positive int"):
        lengths()(["a"], batch_size=size)


def test_rows_are_sorted_filled_and_put_back():
    seen = []
    pipe = doubling(seen)
    items = [[1] * n for n in (3, 9, 1, 7, 2, 8)]
    assert pipe(items) == [3, 9, 1, 7, 2, 8]
    assert seen == [(4, 9), (4, 2)]  # longest first; two rows left are filled up to four
    assert pipe([[5, 6]]) == [11]
    assert seen[2:] == [(1, 2)]


def test_rows_come_in_multiples_for_the_devices():
    seen = []
    assert doubling(seen, multiple=3)([[1], [2]]) == [1, 2]
    assert seen == [(6, 1)]


def test_options_of_a_preprocess_in_parts():
    assert doubling([])([[1, 2]], times=3) == [9]


@pytest.mark.parametrize("make", [lengths, lambda batch_size: doubling([], batch_size=batch_size)])
def test_a_generator_is_read_a_growing_window_ahead(make):
    taken = []
    one = "x" if make is lengths else [1]

    def source():
        for n in range(1000):
            taken.append(n)
            yield one

    results = make(batch_size=4)(source())
    assert not taken  # nothing is read before it is asked for
    assert next(results) == 1
    assert len(taken) == 4
    assert [next(results) for _ in range(4)] == [1] * 4
    assert len(taken) == 4 + 8
    assert sum(results) == 995
    assert len(taken) == 1000


def test_an_option_is_checked_before_a_stream_is_read():
    with pytest.raises(InputError, match="no option"):
        lengths()(iter(["a"]), scales=2)


class Rows:
    """A dataset in the manner of PyTorch: a length and rows by number, and no end to its numbers."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return "a" * index


def test_datasets_stream():
    assert list(lengths()(Rows())) == [0, 1, 2, 3, 4]
    assert list(lengths()(np.array(["a", "bb"]))) == [1, 2]
    assert lengths()(("a", "bb")) == [1, 2]


@pytest.mark.parametrize("empty", [[], ()])
def test_nothing_gives_nothing(empty):
    assert lengths()(empty) == []
    assert doubling([])(empty) == []


def test_no_bar_where_nobody_watches(capsys):
    lengths()(["a"] * 100)
    assert capsys.readouterr() == ("", "")


def test_a_bar_where_somebody_watches_and_it_takes_long(monkeypatch, capsys):
    import time

    import tqdm

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shown = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: shown(**{**options, "delay": 0.01, "mininterval": 0}))
    slow = dataclasses.replace(lengths(), forward=lambda texts: time.sleep(0.02) or [len(text) for text in texts])
    assert slow(["a"] * 8) == [1] * 8
    assert "8/8" in capsys.readouterr().err


def test_fixed_row_counts():
    assert {rows_for(count, 32) for count in range(1, 33)} == {1, 4, 16, 32}
    assert [rows_for(count, 10) for count in (0, 3, 9, 10, 11)] == [0, 4, 10, 10, 16]
