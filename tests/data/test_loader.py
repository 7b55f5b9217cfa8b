import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.data import Batches, Table, as_table, choose_buckets, iterate
from jaxformers.errors import DataError, InputError


def examples(count, seed=0, longest=40):
    """Rows whose first token is their own number."""
    sizes = np.random.default_rng(seed).integers(1, longest, count)
    return Table(
        {
            "input_ids": [[row, *range(1, size)] for row, size in enumerate(sizes)],
            "labels": [row % 2 for row in range(count)],
        },
        name="toy",
    )


plans = st.fixed_dictionaries(
    {
        "batch_size": st.sampled_from([1, 2, 4, 8]),
        "num_epochs": st.integers(1, 3),
        "seed": st.integers(0, 5),
        "shuffle": st.booleans(),
        "group_by_length": st.booleans(),
        "window": st.integers(1, 4),
        "padding_side": st.sampled_from(["left", "right"]),
    }
)


def equal(left, right):
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype and np.array_equal(left[key], right[key]) for key in left
    )


@settings(max_examples=60, deadline=None)
@given(plan=plans, count=st.integers(1, 50))
def test_each_epoch_visits_each_example_once_and_unharmed(plan, count):
    table = examples(count)
    batches = Batches(table, **plan)
    assert len(batches) == batches.steps_per_epoch * plan["num_epochs"]
    for epoch in range(plan["num_epochs"]):
        seen = []
        for number in range(batches.steps_per_epoch):
            batch = batches[epoch * batches.steps_per_epoch + number]
            assert batch["input_ids"].shape[0] == plan["batch_size"]
            assert batch["input_ids"].shape[1] in batches.buckets
            for place, row in enumerate(batch["example_index"]):
                ids = batch["input_ids"][place][batch["attention_mask"][place] == 1]
                shown = table[int(ids[0])]  # fill repeats a real row
                assert ids.tolist() == shown["input_ids"]
                assert batch["labels"][place] == shown["labels"]
                assert batch["input_ids"][place].sum() == ids.sum()
                assert batch["example_weight"][place] == (row >= 0)
                if row >= 0:
                    assert ids[0] == row
                    seen.append(row)
        assert sorted(seen) == list(range(count))


@settings(max_examples=40, deadline=None)
@given(plan=plans, count=st.integers(1, 50))
def test_processes_together_see_what_one_process_sees(plan, count):
    table = examples(count)
    whole = Batches(table, **plan)
    for processes in (size for size in (2, 4) if plan["batch_size"] % size == 0):
        parts = [Batches(table, process_index=p, process_count=processes, **plan) for p in range(processes)]
        for step in range(len(whole)):
            batch = [part[step] for part in parts]
            joined = {key: np.concatenate([part[key] for part in batch]) for key in batch[0]}
            assert equal(joined, whole[step])
        size = plan["batch_size"]
        parts = [
            Batches(table, places=range(p, size, processes), **plan) for p in range(processes)
        ]  # every second, say
        for step in range(len(whole)):
            batch = [part[step] for part in parts]
            joined = {
                key: np.stack([part[key] for part in batch], 1).reshape(whole[step][key].shape) for key in batch[0]
            }
            assert equal(joined, whole[step])


@settings(max_examples=20, deadline=None)
@given(plan=plans, count=st.integers(1, 30), data=st.data())
def test_resuming_anywhere_equals_never_stopping(plan, count, data):
    batches = list(Batches(examples(count), **plan))
    position = data.draw(st.integers(0, len(batches)))
    with iterate(Batches(examples(count), **plan)) as stream:
        for step in range(position):
            assert equal(next(stream), batches[step])
        assert stream.position == position  # what was handed out, not what was read ahead
        state = json.loads(json.dumps(stream.get_state()))
    assert state == {"next_index": position}
    with iterate(Batches(examples(count), **plan), start=position) as stream:
        rest = list(stream)
    assert len(rest) == len(batches) - position
    assert all(map(equal, rest, batches[position:]))
    with iterate(Batches(examples(count), **plan), num_threads=2, prefetch=4) as stream:
        list(stream)
        stream.set_state(state)
        assert all(map(equal, stream, batches[position:]))


def test_order_is_a_function_of_seed_and_epoch_alone():
    def order(**arguments):
        return np.concatenate(Batches(examples(40), batch_size=4, shuffle=True, **arguments).plan(1)).tolist()

    assert order(seed=3) == order(seed=3, num_epochs=7) == order(seed=3, process_count=2, process_index=1)
    assert order(seed=3) != order(seed=4)
    batches = Batches(examples(40), batch_size=4, shuffle=True, num_epochs=3)
    assert len({tuple(np.concatenate(batches.plan(epoch))) for epoch in range(3)}) == 3
    again = batches[15]
    batches[0]  # another epoch in between
    assert equal(batches[15], again)
    assert [rows.tolist() for rows in Batches(examples(5), batch_size=2).plan(0)] == [[0, 1], [2, 3], [4]]


def test_grouping_by_length_saves_padding_and_stays_random():
    table = examples(800, longest=200)

    def padding(**arguments):
        batches = Batches(table, batch_size=8, seed=1, **arguments)
        return sum(batch["input_ids"].size for batch in batches) / batches.lengths.sum()

    plain, grouped = padding(shuffle=True), padding(shuffle=True, group_by_length=True)
    evaluation = padding(group_by_length=True)
    assert plain > 1.4
    assert grouped < 1.2
    assert evaluation < grouped
    means = [
        table.select(rows)["input_ids"]
        for rows in Batches(table, batch_size=8, shuffle=True, group_by_length=True).plan(0)
    ]
    means = [np.mean([len(ids) for ids in rows]) for rows in means]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3  # neither short nor long first


def test_windows_hold_what_the_random_order_put_there():
    batches = Batches(examples(64), batch_size=4, window=2, shuffle=True, group_by_length=True, seed=5)
    plain = Batches(examples(64), batch_size=4, shuffle=True, seed=5)
    windows = {frozenset(np.concatenate(plain.plan(0)[place : place + 2]).tolist()) for place in range(0, 16, 2)}
    plan = [set(rows.tolist()) for rows in batches.plan(0)]
    for window in windows:
        assert sum(rows <= window for rows in plan) == 2


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_longest_batch_comes_first(shuffle):
    batches = Batches(examples(200), batch_size=8, window=3, shuffle=shuffle, group_by_length=True, num_epochs=3)
    for epoch in range(3):
        assert batches.lengths[batches.plan(epoch)[0]].max() == batches.lengths.max()


def test_few_shapes():
    batches = Batches(examples(500, longest=300), batch_size=4, shuffle=True, group_by_length=True, num_epochs=2)
    assert len({batch["input_ids"].shape for batch in batches}) <= len(batches.buckets) <= 6
    fixed = Batches(examples(50), batch_size=4, buckets=(64,))
    assert {batch["input_ids"].shape for batch in fixed} == {(4, 64)}
    assert Batches(examples(50), batch_size=4, buckets=[32, 16, 64, 16]).buckets == (16, 32, 64)


def test_short_batches_repeat_real_rows_with_weight_zero():
    batch = Batches(examples(3), batch_size=8)[0]
    assert batch["example_index"].tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
    assert batch["example_weight"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert batch["input_ids"][:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert batch["attention_mask"].sum(axis=1).min() > 0
    assert (batch["example_weight"].dtype, batch["example_index"].dtype) == (np.float32, np.int32)


def test_drop_last_leaves_out_rows_whatever_their_length():
    arguments = {"batch_size": 8, "shuffle": True, "group_by_length": True, "drop_last": True, "num_epochs": 20}
    batches = Batches(examples(30), **arguments)
    assert batches.steps_per_epoch == 3
    left_out = [set(range(30)) - set(np.concatenate(batches.plan(epoch)).tolist()) for epoch in range(20)]
    assert {len(rows) for rows in left_out} == {6}
    assert len(set().union(*left_out)) > 25


def test_padding():
    rows = [
        {"input_ids": [5, 6], "token_type_ids": [1, 1], "special_tokens_mask": [0, 0], "labels": [1, 2]},
        {"input_ids": [7], "token_type_ids": [0], "special_tokens_mask": [0], "labels": [3]},
    ]
    batch = Batches(rows, batch_size=2, buckets=(3,), pad_values={"input_ids": 9})[0]
    expected = {
        "input_ids": [[5, 6, 9], [7, 9, 9]],
        "token_type_ids": [[1, 1, 0], [0, 0, 0]],
        "special_tokens_mask": [[0, 0, 1], [0, 1, 1]],
        "labels": [[1, 2, -100], [3, -100, -100]],
        "attention_mask": [[1, 1, 0], [1, 0, 0]],
    }
    for key, value in expected.items():
        assert batch[key].tolist() == value
        assert batch[key].dtype == np.int32
    left = Batches(rows, batch_size=2, buckets=(3,), padding_side="left")[0]
    assert left["input_ids"].tolist() == [[0, 5, 6], [0, 0, 7]]
    assert left["attention_mask"].tolist() == [[0, 1, 1], [0, 0, 1]]
    own = [{**row, "attention_mask": [0] * len(row["input_ids"])} for row in rows]
    assert Batches(own, batch_size=2)[0]["attention_mask"].sum() == 0  # what the examples say is kept


def test_kinds_of_columns():
    def row(first, **rest):
        return {"input_ids": np.arange(first, 3), "image": np.full((2, 2), first, np.uint8), **rest}

    rows = [
        row(0, labels=1, score=5, hot=True, box=[0.5, 1]),
        row(1, labels=0, score=3.8, hot=False, box=[0, 2]),
    ]
    batch = Batches(as_table(rows), batch_size=2)[0]
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "input_ids": ("int32", (2, 8)),
        "labels": ("int32", (2,)),
        "score": ("float32", (2,)),  # 5 in the first row is no reason to cut 3.8 to 3 in the next
        "hot": ("int32", (2,)),
        "image": ("uint8", (2, 2, 2)),
        "box": ("float32", (2, 2)),
        "attention_mask": ("int32", (2, 8)),
        "example_weight": ("float32", (2,)),
        "example_index": ("int32", (2,)),
    }
    assert batch["score"].tolist() == [5.0, np.float32(3.8)]


def test_multiple_choice():
    rows = [{"input_ids": [[1, 2, 3], [4]], "labels": 1}, {"input_ids": [[5], [6, 7]], "labels": 0}]
    batch = Batches(rows, batch_size=2, buckets=(4,))[0]
    assert batch["input_ids"].tolist() == [[[1, 2, 3, 0], [4, 0, 0, 0]], [[5, 0, 0, 0], [6, 7, 0, 0]]]
    assert batch["attention_mask"].tolist() == [[[1, 1, 1, 0], [1, 0, 0, 0]], [[1, 0, 0, 0], [1, 1, 0, 0]]]
    assert Batches(rows, batch_size=2).lengths.tolist() == [3, 2]
    with pytest.raises(DataError, match="input_ids of row 1 of data has 1 choices, row 0 has 2"):
        Batches([rows[0], {"input_ids": [[5]], "labels": 0}], batch_size=2)


def test_targets_with_lengths_of_their_own():
    rows = [{"input_ids": list(range(1, 30)), "labels": [1, 2]}, {"input_ids": [3], "labels": []}]
    with pytest.raises(
        DataError, match="row 0 of data has 29 input_ids and 2 labels; a column with lengths of its own"
    ):
        Batches(rows, batch_size=2)
    batches = Batches(rows, batch_size=2, buckets={"input_ids": (16, 32), "labels": (4, 8)})
    assert batches[0]["input_ids"].shape == (2, 32)
    assert batches[0]["labels"].tolist() == [[1, 2, *[-100] * 6], [-100] * 8]  # the second place of both
    assert Batches(rows, batch_size=2, buckets={"labels": (4,)}).buckets == (8, 32)
    one_by_one = Batches(rows, batch_size=1, buckets={"input_ids": (16, 32), "labels": (2, 8)})
    assert [one_by_one[n]["labels"].shape[1] for n in range(2)] == [8, 2]  # the place of the longer column is both's
    with pytest.raises(InputError, match="labels must have as many buckets as input_ids, 3, or one"):
        Batches(rows, batch_size=2, buckets={"input_ids": (8, 16, 32), "labels": (4, 8)})


def test_images_have_no_lengths_and_are_read_only_when_used():
    class Images:
        name = "pictures"
        reads = 0

        def __len__(self):
            return 10

        def __getitem__(self, index):
            self.reads += 1
            return {"pixel_values": np.full((4, 4, 3), index, np.float64), "labels": index}

    images = Images()
    batches = Batches(images, batch_size=4, shuffle=True)
    assert images.reads == 1
    assert batches.buckets == ()
    batch = batches[1]
    assert set(batch) == {"pixel_values", "labels", "example_weight", "example_index"}
    assert batch["pixel_values"].dtype == np.float32
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == batch["labels"].tolist() == batch["example_index"].tolist()
    grouped = Batches(images, batch_size=4, shuffle=True, group_by_length=True)  # all are alike
    assert [rows.tolist() for rows in grouped.plan(0)] == [rows.tolist() for rows in batches.plan(0)]


def test_rows_are_drawn_for_the_seed_the_epoch_and_their_number():
    class Drawn:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return {"pixel_values": np.zeros((2, 2, 1), np.float32), "labels": index}

        def draw(self, index, generator):
            return {"pixel_values": generator.random((2, 2, 1), np.float32), "labels": index}

    def seen(start=0, **options):
        batches = Batches(Drawn(), shuffle=True, num_epochs=2, **options)
        return {
            (step // batches.steps_per_epoch, int(label)): pixels.tobytes()
            for step in range(start, len(batches))
            for label, pixels in zip(batches[step]["labels"], batches[step]["pixel_values"], strict=True)
        }

    whole = seen(batch_size=2)
    assert len(set(whole.values())) == 12  # another one each epoch
    assert seen(batch_size=3) == whole
    halves = [seen(batch_size=2, process_index=part, process_count=2) for part in (0, 1)]
    assert halves[0] | halves[1] == whole
    assert seen(start=4, batch_size=2).items() <= whole.items()
    assert not set(seen(batch_size=2, seed=1).values()) & set(whole.values())


@pytest.mark.parametrize("key", ["signal", "input_values"])
def test_numbers_are_padded_where_it_is_said_and_waves_always(key):
    rows = [{key: [0.5, 0.25, 1.0]}, {key: [1.0]}]
    said = {} if key == "input_values" else {key: 0}
    if said:
        with pytest.raises(
            DataError, match=r"signal of row 1 of data has shape \(1,\), of row 0 \(3,\); .* pad_values"
        ):
            Batches(rows, batch_size=2)[0]
    batch = Batches(rows, batch_size=2, buckets=(4,), pad_values=said)[0]
    assert batch[key].tolist() == [[0.5, 0.25, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


GOOD = {"input_ids": [1, 2], "labels": 0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "dataset 'data' has 0 examples"),
        ([3], "examples of data must be dicts, row 0 is int"),
        ([{**GOOD, "text": "hello"}], "column 'text' of data holds 'hello', not numbers"),
        ([{**GOOD, "labels": None}], "column 'labels' of data holds None, not numbers"),
        ([{**GOOD, "example_weight": 1.0}], "column 'example_weight', a name that batches use"),
        ([GOOD, {"labels": 0}], "row 1 of data has no sequence 'input_ids' as row 0 has"),
        ([GOOD, {"input_ids": 3, "labels": 0}], "row 1 of data has no sequence 'input_ids' as row 0 has"),
        ([GOOD, {"input_ids": [], "labels": 0}], "row 1 of data has no tokens"),
        ([GOOD, {"input_ids": [1, 2]}], "row 1 of data has no 'labels', row 0 has"),
        ([GOOD, {**GOOD, "labels": 0.5}], "labels of row 1 of data must be int32 as in row 0, it is 0.5"),
        ([GOOD, {**GOOD, "labels": None}], "labels of row 1 of data must be int32 as in row 0, it is None"),
        ([GOOD, {**GOOD, "labels": 2**40}], "labels of row 1 of data must be int32 as in row 0, it is 1099511627776"),
        ([GOOD, {**GOOD, "labels": [1, 2]}], r"labels of row 1 of data has shape \(2,\), of row 0 \(\)"),
        (
            [GOOD, {**GOOD, "input_ids": [1, 2.5]}],
            r"input_ids of row 1 of data must be int32 as in row 0, it is \[1, 2\.5\]",
        ),
        ([GOOD, {**GOOD, "input_ids": [1, 2**31]}], r"input_ids of row 1 of data must be int32"),
        ([GOOD, {**GOOD, "input_ids": [1, "a"]}], r"input_ids of row 1 of data must be int32"),
        ([{**GOOD, "token_type_ids": [0]}], "row 0 of data has 2 input_ids and 1 token_type_ids"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(DataError, match=message):
        list(Batches(rows, batch_size=2))


def test_a_text_in_a_later_row_of_a_table_is_named():
    with pytest.raises(DataError, match="column 'labels' of x holds None"):
        Batches(Table({"input_ids": [[1], [2]], "labels": [0, None]}, name="x"), batch_size=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2, "seed": -1}, "seed must be at least 0"),
        ({"batch_size": 6, "process_count": 4}, "batch size 6 cannot be shared equally by 4 processes"),
        ({"batch_size": 2, "process_count": 2, "process_index": 2}, r"process_index must be in 0\.\.1, got 2"),
        ({"batch_size": 2, "places": [1, 2]}, r"places must be in 0\.\.1, got \[1, 2\]"),
        ({"batch_size": 2, "padding_side": "top"}, "padding_side must be 'right' or 'left', got 'top'"),
        ({"batch_size": 8, "drop_last": True}, "0 batches: 5 examples < batch 8"),
        ({"batch_size": 2, "buckets": (8,)}, r"row \d of toy has \d+ input_ids, the longest bucket is 8: truncate it"),
        (
            {"batch_size": 2, "buckets": {"lables": (8,)}},
            "buckets are given for 'lables', which is no column of sequences",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        Batches(examples(5), **arguments)


def test_positions_outside_the_data_are_refused():
    batches = Batches(examples(5), batch_size=2)
    with pytest.raises(IndexError):
        batches[3]
    with pytest.raises(InputError, match="cannot go on at batch 4: there are 3 batches"):
        iterate(batches, start=4)
    with iterate(batches, start=3) as stream:
        assert list(stream) == []


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


def wait_for_threads(count):
    deadline = time.monotonic() + 10
    while len(reading_threads()) > count and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(reading_threads()) <= count


def test_close_ends_the_threads():
    before = len(reading_threads())
    stream = iterate(Batches(examples(50), batch_size=2), num_threads=2, prefetch=4)
    next(stream)
    assert len(reading_threads()) > before
    stream.close()
    stream.close()
    assert wait_for_threads(before)
    with iterate(Batches(examples(50), batch_size=2), prefetch=0) as stream:
        assert len(list(stream)) == 25


def test_an_error_keeps_its_kind_and_the_position():
    class Flaky:
        broken = True

        def __len__(self):
            return 8

        def __getitem__(self, index):
            if index == 5 and self.broken:
                raise DataError("record 5 is bad")
            return {"input_ids": [index + 1]}

    rows = Flaky()
    rows.broken = False
    batches = Batches(rows, batch_size=1)
    rows.broken = True
    with iterate(batches) as stream:
        for _ in range(5):
            next(stream)
        for _ in range(2):
            with pytest.raises(DataError, match="record 5 is bad"):
                next(stream)
            assert stream.position == 5
        rows.broken = False
        assert [int(batch["example_index"][0]) for batch in stream] == [5, 6, 7]


def test_leaving_with_a_live_iterator_is_clean():
    code = (
        "from jaxformers.data import Batches, iterate\n"
        "rows = [{'input_ids': [1, 2, 3]}] * 1000\n"
        "stream = iterate(Batches(rows, batch_size=2), num_threads=2, prefetch=8)\n"
        "next(stream)\n"
        "print(stream.position)\n"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=root, timeout=120
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "1\n", "")


def test_grain_agrees_that_its_state_is_enough():
    import grain

    dataset = grain.MapDataset.source(Batches(examples(20), batch_size=4, shuffle=True, num_epochs=2)).to_iter_dataset()
    grain.experimental.assert_equal_output_after_checkpoint(dataset)


def test_a_batch_is_made_quickly():
    sizes = np.random.default_rng(0).integers(20, 100, 800)
    columns = {key: [[1] * int(size) for size in sizes] for key in ("input_ids", "token_type_ids", "attention_mask")}
    batches = Batches(Table({**columns, "labels": [0] * 800}), batch_size=8, shuffle=True, group_by_length=True)

    def milliseconds():
        begin = time.perf_counter()
        for step in range(100):
            batches[step]
        return (time.perf_counter() - begin) * 10

    assert min(milliseconds() for _ in range(5)) < 1  # about 0.2 on a quiet machine


def test_real_mrpc_by_words(shared_data):
    from jaxformers.data import load_dataset

    table = load_dataset(shared_data / "glue" / "MRPC", split="train").rename({"Quality": "labels"})
    words: dict[str, int] = {}
    table = table.map(
        lambda row: {
            "input_ids": [
                words.setdefault(word, len(words) + 1) for word in (row["#1 String"] + " " + row["#2 String"]).split()
            ]
        },
        batched=False,
        remove_columns=[name for name in table.column_names if name != "labels"],
    )
    batches = Batches(table, batch_size=8, num_epochs=3, shuffle=True, group_by_length=True)
    assert len(batches) == 1377
    assert batches.buckets == choose_buckets(batches.lengths.tolist())
    seen = np.concatenate([batch["example_index"] for batch in batches])
    assert np.bincount(seen[seen >= 0]).tolist() == [3] * 3668
    assert sum(batch["input_ids"].size for batch in batches) < 1.2 * 3 * batches.lengths.sum()
