"""A row's split depends on its inputs, on nothing else (D5); or, if the recipe says so, on its time and that of the others."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.data.duplicates import row_hashes
from dougong.data.splitting import SPLITS, borders, by_time, split_of, when

HASHES = row_hashes({"x": [float(row) for row in range(20_000)]})


def test_shares_are_those_asked_for() -> None:
    counts = np.bincount(split_of(HASHES, {"validation": 0.1, "test": 0.2}))
    assert abs(counts[SPLITS.index("validation")] - 2_000) < 200
    assert abs(counts[SPLITS.index("test")] - 4_000) < 300


@given(st.floats(0, 0.4), st.floats(0, 0.4))
def test_D5_the_order_of_the_recipe_does_not_matter(first: float, second: float) -> None:
    there = split_of(HASHES[:200], {"validation": first, "test": second})
    assert (there == split_of(HASHES[:200], {"test": second, "validation": first})).all()


def test_D5_a_larger_share_keeps_the_rows_of_the_smaller_one() -> None:
    small, large = (split_of(HASHES, {"test": share}) == SPLITS.index("test") for share in (0.1, 0.2))
    assert (large[small]).all()
    assert large.sum() > small.sum()


def test_D5_the_split_of_a_hash_stays_forever() -> None:
    split = split_of(np.arange(16, dtype=np.uint64), {"test": 0.5})
    assert "".join(SPLITS[index][1] for index in split) == "rreerrrrrrreeeer"  # second letters of test and train


def test_no_fractions_leave_all_to_train() -> None:
    assert not split_of(HASHES[:100], {}).any()


# ------------------------------------------------------------------------------------------------------------- by time


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (881250949, 881250949.0), ("881250949", 881250949.0), ("1970-01-02", 86400.0), ("1970-01-01T00:00:10+00:00", 10.0),
        ("1970-01-01 01:00:00+01:00", 0.0), (2.5, 2.5), (datetime(1970, 1, 1, 0, 1), 60.0),
    ],
)  # fmt: skip
def test_a_time_is_a_number_or_a_date_that_reads_in_one_way(value: object, number: float) -> None:
    assert when(value) == number


@pytest.mark.parametrize("value", [None, "", "soon", True, [1], float("nan"), float("inf"), "05/06/2024", "1e999"])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a"):
        when(value)


def test_the_newest_rows_are_held_out_whatever_their_order() -> None:
    times = np.random.default_rng(0).permutation(1000).astype(np.float64)
    split = by_time(times, borders(times, {"test": 0.2, "validation": 0.1}))
    assert np.bincount(split).tolist() == [700, 100, 200]
    assert times[split == 0].max() < times[split == 1].min()
    assert times[split == 1].max() < times[split == 2].min()


@given(st.lists(st.integers(0, 5), min_size=1), st.floats(0, 0.4), st.floats(0, 0.4))
def test_rows_of_one_time_stay_together(times: list[int], validation: float, test: float) -> None:
    array = np.array(times, dtype=np.float64)
    split = by_time(array, borders(array, {"validation": validation, "test": test}))
    assert all(len(set(split[array == time])) == 1 for time in times)
    assert (np.diff(split[np.argsort(array)].astype(int)) >= 0).all()
