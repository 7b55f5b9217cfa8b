from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxformers.data import bucket_for, choose_buckets
from jaxformers.errors import DataError, InputError


def padded(lengths, buckets):
    return sum(bucket_for(length, buckets) for length in lengths)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    count=st.integers(1, 4),
    multiple=st.sampled_from([1, 4, 8]),
)
def test_no_set_of_buckets_pads_less(lengths, count, multiple):
    buckets = choose_buckets(lengths, count=count, multiple=multiple)
    assert len(buckets) <= count
    assert list(buckets) == sorted(set(buckets))
    assert all(bucket % multiple == 0 for bucket in buckets)
    assert max(lengths) <= buckets[-1] < max(lengths) + multiple
    candidates = sorted({-(-length // multiple) * multiple for length in lengths})
    best = min(
        padded(lengths, (*chosen, candidates[-1]))
        for size in range(count)
        for chosen in combinations(candidates[:-1], size)
    )
    assert padded(lengths, buckets) == best


def test_maximum_caps_the_last_bucket():
    assert choose_buckets([10, 509], count=2, maximum=509) == (16, 509)
    assert choose_buckets([10, 500], count=2, maximum=512) == (16, 504)
    with pytest.raises(DataError, match="an example has 600 tokens, more than the maximum of 512"):
        choose_buckets([10, 600], maximum=512)


def test_nothing_to_choose_from():
    with pytest.raises(DataError, match="no lengths"):
        choose_buckets([])
    with pytest.raises(InputError, match="count=0"):
        choose_buckets([3], count=0)


def test_bucket_for():
    assert [bucket_for(length, (8, 24)) for length in (0, 1, 8, 9, 24)] == [8, 8, 8, 24, 24]
    with pytest.raises(DataError, match="an example has 25 tokens, the longest bucket is 24"):
        bucket_for(25, (8, 24))
