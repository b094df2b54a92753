"""The cheapest assignment, equal in cost to scipy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from dougong.layers.assignment import assign


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 2**32 - 1), st.booleans())
def test_the_sum_is_that_of_scipy(rows: int, more: int, seed: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    shape = (rows, max(rows + more, 1))
    costs = random.integers(-3, 4, shape).astype(float) if ties else random.normal(size=shape)
    chosen = assign(costs)
    assert len(set(chosen.tolist())) == rows
    assert np.isclose(costs[np.arange(rows), chosen].sum(), costs[linear_sum_assignment(costs)].sum())


def test_a_row_gives_way_where_that_is_cheaper_for_both() -> None:
    assert assign(np.array([[1.0, 2.0], [1.0, 9.0]])).tolist() == [1, 0]
