"""The order of rows: a permutation for any size and key, of which any slice can be computed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.data.ordering import key_of, mixed, permuted


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=150)
def test_permuted_sends_every_index_to_another_place(size: int, key: int) -> None:
    result = permuted(np.arange(size), size, key)
    assert result.dtype == np.int64
    assert np.array_equal(np.sort(result), np.arange(size))


@given(size=st.integers(1, 2**40), key=st.integers(0, 2**64 - 1), start=st.integers(0, 2**40))
@settings(max_examples=100)
def test_any_slice_of_any_size_can_be_computed_alone(size: int, key: int, start: int) -> None:
    index = np.arange(start % size, min(start % size + 50, size))
    together = permuted(index, size, key)
    assert ((together >= 0) & (together < size)).all()
    assert len(np.unique(together)) == len(index)
    assert [int(permuted(index[i : i + 1], size, key)[0]) for i in range(len(index))] == together.tolist()


def test_every_index_is_sent_everywhere_about_as_often() -> None:
    size = 8
    counts = np.zeros((size, size), dtype=int)
    for key in range(4000):
        counts[np.arange(size), permuted(np.arange(size), size, key_of(key, 1))] += 1
    expected = 4000 / size
    assert ((counts - expected) ** 2 / expected).sum() < 110  # chi-square with 49 degrees of freedom: 1e-6


def test_neighbours_do_not_stay_neighbours() -> None:
    order = permuted(np.arange(10_000), 10_000, key_of(0, 0))
    assert (np.abs(np.diff(order)) == 1).mean() < 0.002
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.05


@pytest.mark.parametrize("other", [(0, 1, 2), (1, 0, 2), (0, 0), (0, 0, 0, 0), (2, 0, 0)])
def test_keys_of_different_numbers_differ(other: tuple[int, ...]) -> None:
    assert key_of(0, 0, 2) != key_of(*other)


def test_order_and_keys_never_change_between_versions() -> None:
    """A run that is resumed by a newer version must read the same rows."""
    assert key_of(0, 0, 1) == GOLDEN_KEY
    assert permuted(np.arange(10), 10, GOLDEN_KEY).tolist() == GOLDEN_ORDER
    assert mixed(np.arange(2, dtype=np.uint64), 0).tolist() == GOLDEN_MIXED


GOLDEN_KEY = 8382680761984908030
GOLDEN_ORDER = [2, 3, 1, 7, 4, 9, 8, 5, 0, 6]
GOLDEN_MIXED = [7905728728188956330, 8037428539430452699]


def test_many_keys_at_once_are_each_by_itself() -> None:
    keys = np.array([0, 1, 7, 2**64 - 1], dtype=np.uint64)
    index = np.arange(20)
    together = permuted(np.tile(index, len(keys)), 20, np.repeat(keys, 20)).reshape(len(keys), 20)
    for key, row in zip(keys.tolist(), together, strict=True):
        assert row.tolist() == permuted(index, 20, key).tolist()
    assert (
        mixed(index.astype(np.uint64), np.full(20, 5, np.uint64)).tolist() == mixed(index.astype(np.uint64), 5).tolist()
    )
