"""The growth benchmark: what is made larger, and the exponents that come of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import growth, table
from dougong import recipe


def answer(seconds: float, memory: float) -> dict[str, Any]:
    return {"seconds": seconds, "memory": memory, "peak_memory": memory, "versions": {"torch": "2.13.0"}}


def test_an_exponent_is_the_slope_of_the_logarithms() -> None:
    assert growth.exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2)
    assert growth.exponent([1, 10, 100], [5.0, 5.0, 5.0]) == pytest.approx(0)
    assert growth.exponent([1], [5.0]) is None
    assert growth.exponent([1, 2], [0.0, 1.0]) is None


@pytest.mark.parametrize("place", [place for place in growth.places(list(growth.KEYS)) if place[1] > 1])
def test_what_grows_is_what_the_recipe_calls_so(place: tuple[str, int]) -> None:
    axis, times = place
    job = json.loads(growth.contestant(axis, times, 3, 1).arguments[0])
    base, larger = recipe.load(growth.RECIPE), recipe.load(growth.RECIPE, job["overrides"])
    changed = recipe.differences(base.resolved(), larger.resolved())
    assert list(changed) == [growth.KEYS[axis]]
    before, after = changed[growth.KEYS[axis]]
    assert after == times * before == growth.sizes(axis, 0)[times]


def test_an_axis_has_the_exponents_in_its_first_line_and_lacks_what_failed() -> None:
    answers = {("data", 1): [answer(1, 4e8)] * 2, ("data", 10): [answer(10, 4.4e8)], ("layers", 1): [answer(1, 1e8)]}
    results = growth.grown("data", growth.sizes("data", 2.0), answers)
    assert [result["size"] for result in results] == [2, 20]
    assert results[0]["time_exponent"] == pytest.approx(1)
    shared = {"machine": "a machine", "commit": "abc1234", "benchmark": "growth", "run": "2026-01-01"}
    text = table.tables([shared | result for result in results])
    assert "| data × 1 | 2 MB | 1.000 | 1.00 | 0.40 GB | 0.04 | 0.40 GB |" in text
    assert "| data × 10 | 20 MB | 10.000 |  | 0.44 GB |  | 0.44 GB |" in text
    assert growth.grown("width", growth.sizes("width", 0), answers) == []
