"""Positions: rows of a table, in order, as asked or past padding; fixed sines; rotations; distances in buckets."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core.positions import after_padding, learned, log_buckets, rotary_angles, rotate, sinusoids
from jaxformers.errors import InputError

TABLE = jnp.arange(12.0).reshape(6, 2)


def test_positions_count_from_zero():
    np.testing.assert_array_equal(learned(TABLE, 4), TABLE[None, :4])
    np.testing.assert_array_equal(learned(TABLE, 6), TABLE[None])


def test_positions_as_asked():
    ids = jnp.array([[5, 0, 0], [1, 2, 3]])
    np.testing.assert_array_equal(learned(TABLE, 3, ids), TABLE[ids])
    assert learned(TABLE, 3, ids[:1]).shape == (1, 3, 2)


def test_a_text_longer_than_the_table_is_refused():
    with pytest.raises(InputError, match="the input is 7 tokens long, this model has positions for 6"):
        learned(TABLE, 7)


def test_positions_count_on_from_the_padding_token():
    ids = jnp.array([[1, 1, 7, 8, 1], [5, 6, 1, 7, 8]])
    np.testing.assert_array_equal(after_padding(ids, 1), [[1, 1, 2, 3, 1], [2, 3, 1, 4, 5]])


def test_sines_in_even_columns_and_cosines_in_odd_ones():
    table = sinusoids(5, 6)
    np.testing.assert_allclose(table[3], [f(3 / 10000 ** (2 * n / 6)) for n in range(3) for f in (np.sin, np.cos)])


def test_what_two_rotated_vectors_say_depends_on_their_distance_alone():
    q, k = (jnp.asarray(np.random.default_rng(n).normal(size=(1, 1, 1, 8)), jnp.float32) for n in range(2))

    def product(here, there):
        turned = (rotate(x, *rotary_angles(jnp.array([[at]]), 8, 100.0)) for x, at in ((q, here), (k, there)))
        return float(jnp.vdot(*turned))

    assert product(3, 5) == pytest.approx(product(13, 15), abs=1e-5)
    assert abs(product(3, 5) - product(5, 3)) > 0.01
    assert product(4, 4) == pytest.approx(float(jnp.vdot(q, k)), abs=1e-5)


def test_near_distances_count_each_and_far_ones_share():
    rows = log_buckets(24, 8, 24)
    np.testing.assert_array_equal(rows, -rows.T)
    assert rows[:, 0].tolist() == [0, 1, 2, 3, 4, *[5] * 3, *[6] * 5, *[7] * 11]
    np.testing.assert_array_equal(log_buckets(5, -1, 24)[:, 1], [-1, 0, 1, 2, 3])
