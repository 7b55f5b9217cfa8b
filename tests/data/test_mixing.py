import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.data import Batches, Table, as_table, iterate, mix
from jaxformers.errors import DataError, InputError


def tables(*sizes):
    return [
        Table({"input_ids": [[number, row] for row in range(size)]}, f"t{number}") for number, size in enumerate(sizes)
    ]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    data=st.data(),
    seed=st.integers(0, 3),
)
def test_shares_are_met_and_no_row_is_preferred(sizes, data, seed):
    weights = [data.draw(st.integers(1, 5)) for _ in sizes]
    size = data.draw(st.integers(1, 60))
    mixture = mix(tables(*sizes), weights, seed=seed, size=size)
    assert len(mixture) == size
    seen = collections.Counter(tuple(row["input_ids"]) for row in mixture)
    for number, (rows, weight) in enumerate(zip(sizes, weights, strict=True)):
        times = [seen[number, row] for row in range(rows)]
        assert abs(sum(times) - size * weight / sum(weights)) < 1
        assert max(times) - min(times) <= 1
    whole = mix(tables(*sizes), weights, seed=seed)
    assert len({tuple(row["input_ids"]) for row in whole}) == sum(sizes)


def test_the_order_is_the_seeds_and_every_part_has_the_shares():
    parts = tables(500, 1500)
    first, again, other = (mix(parts, [1, 1], seed=seed) for seed in (1, 1, 2))
    assert list(first) == list(again) != list(other)
    for start in range(0, len(first), 500):
        share = sum(row["input_ids"][0] for row in first[start : start + 500]) / 500
        assert 0.4 < share < 0.6


def test_a_mixture_goes_on_exactly_where_it_stood():
    class Lazy:
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return {"input_ids": [2, index]}

    def batches():
        mixture = mix([*tables(7, 30), as_table(Lazy(), "t2")], [3, 1, 2], seed=5, size=64)
        return Batches(mixture, batch_size=4, shuffle=True, num_epochs=2, seed=1)

    expected = [batch["input_ids"].tolist() for batch in batches()]
    with iterate(batches()) as stream:
        for _ in range(19):
            next(stream)
        state = stream.get_state()
    with iterate(batches(), start=state["next_index"]) as stream:
        assert [batch["input_ids"].tolist() for batch in stream] == expected[19:]


def test_what_cannot_be_mixed():
    parts = tables(2, 3)
    with pytest.raises(InputError, match="tables and a weight for each, found 2 and 1"):
        mix(parts, [1])
    for weights in ([0, 0], [1, -1], [1, float("nan")]):
        with pytest.raises(InputError, match="weights must be positive numbers"):
            mix(parts, weights)
    with pytest.raises(DataError, match="t9 is empty"):
        mix([parts[0], Table({"input_ids": []}, "t9")], [1, 1])
    with pytest.raises(DataError, match="only equal columns can be joined"):
        mix([parts[0], Table({"labels": [1]}, "t9")], [1, 1])
    assert len(mix([parts[0], Table({"labels": []})], [1, 0])) == 2
