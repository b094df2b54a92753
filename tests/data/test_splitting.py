"""A row's split depends on its inputs, on nothing else (D5)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dougong.data.duplicates import row_hashes
from dougong.data.splitting import SPLITS, split_of

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
