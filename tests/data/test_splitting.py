"""A row's split depends on its content and the seed, on nothing else (D5)."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dougong.data.duplicates import row_hash
from dougong.data.splitting import split_of

HASHES = [row_hash({"x": i}, ["x"]) for i in range(20_000)]


def test_shares_are_those_asked_for() -> None:
    counts = Counter(split_of(number, {"validation": 0.1, "test": 0.2}, 0) for number in HASHES)
    assert abs(counts["validation"] - 2_000) < 200
    assert abs(counts["test"] - 4_000) < 300
    assert counts.total() == 20_000


@given(st.integers(0, 2**64 - 1), st.floats(0, 0.4), st.floats(0, 0.4), st.integers())
def test_D5_the_order_of_the_recipe_does_not_matter(number: int, first: float, second: float, seed: int) -> None:
    there = split_of(number, {"validation": first, "test": second}, seed)
    assert there == split_of(number, {"test": second, "validation": first}, seed)
    assert there in ("train", "validation", "test")


def test_D5_a_larger_share_keeps_the_rows_of_the_smaller_one() -> None:
    small = {number for number in HASHES if split_of(number, {"test": 0.1}, 3) == "test"}
    large = {number for number in HASHES if split_of(number, {"test": 0.2}, 3) == "test"}
    assert small < large


def test_another_seed_is_another_split_and_these_stay_forever() -> None:
    draws = [[split_of(number, {"test": 0.5}, seed) for number in HASHES[:1000]] for seed in (0, 1)]
    same = sum(a == b for a, b in zip(*draws, strict=True))
    assert 400 < same < 600
    pinned = "errrrrrrrrreerre"  # second letters of test and train
    assert "".join(split_of(number, {"test": 0.5}, 0)[1] for number in range(16)) == pinned


def test_no_fractions_leave_all_to_train() -> None:
    assert {split_of(number, {}, 0) for number in HASHES[:100]} == {"train"}
