"""The ceilings of a machine, on sizes that take no time."""

from __future__ import annotations

from benchmarks import ceilings


def test_ceilings_are_rates_of_products_in_both_precisions_and_of_a_copy() -> None:
    found = ceilings.measure(size=16, copied=1 << 12, seconds=0.0)
    assert set(found) == {"bf16", "fp32", "copy"}
    assert min(found.values()) > 0


def test_the_best_of_at_least_three_turns_counts() -> None:
    turns: list[int] = []
    assert ceilings.best(lambda: turns.append(1), "cpu", 0.0) < 1
    assert len(turns) == 3
