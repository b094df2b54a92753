"""Duplicates are found exactly; near ones as often as the theory says; leaks from train to test are seen (D5)."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dougong.data import duplicates
from dougong.data.duplicates import find_duplicates, leaked, minhash, near_duplicates, row_hashes, value_hashes

WORDS = [f"word{i}" for i in range(500)]


def sentence(seed: int, words: int = 60) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def jaccard(a: str, b: str) -> float:
    first, second = ({" ".join(t.split())[i : i + 5] for i in range(len(t) - 4)} for t in (a, b))
    return len(first & second) / len(first | second)


def row_hash(values: dict[str, object], columns: list[str]) -> int:
    return int(row_hashes({column: [values.get(column)] for column in columns})[0])


def test_a_row_hash_depends_on_the_chosen_columns_only_and_never_changes() -> None:
    row: dict[str, object] = {"a": "x", "b": 1, "c": None}
    assert row_hash(row, ["a", "b"]) == row_hash({"b": 1, "a": "x", "other": 5}, ["b", "a"])
    assert row_hash(row, ["a"]) != row_hash(row, ["a", "c"])
    assert row_hash({"a": "x", "b": "y"}, ["a", "b"]) != row_hash({"a": "y", "b": "x"}, ["a", "b"])
    assert row_hash({"a": "1"}, ["a"]) != row_hash({"a": 1}, ["a"])
    assert row_hash({}, ["a"]) == row_hash({"a": None}, ["a"])
    assert row_hash({"a": b"x"}, ["a"]) != row_hash({"a": b"y"}, ["a"])
    assert row_hash({"a": np.float64(1)}, ["a"]) == row_hash({"a": 1.0}, ["a"])
    assert row_hash({"text": "床前明月光"}, ["text"]) == 18339426082551039380  # prepared data and splits hang on it


VALUE = st.one_of(st.none(), st.text(max_size=3), st.floats(), st.integers(), st.binary(max_size=3), st.booleans())


@given(st.lists(st.one_of(VALUE, st.lists(VALUE, max_size=2)), max_size=6))
def test_the_hash_of_a_value_does_not_depend_on_those_beside_it(values: list[object]) -> None:
    assert value_hashes(values).tolist() == [int(value_hashes([value])[0]) for value in values]


def test_D5_rows_that_differ_in_what_is_no_text_are_no_near_duplicates() -> None:
    signatures = np.stack([minhash("What does it cost?")] * 4)
    others = np.array([1, 2, 1, 2], dtype=np.uint64)
    assert near_duplicates(signatures, 0.8, others).tolist() == [False, False, True, True]


@given(hnp.arrays(np.uint64, st.integers(0, 60), elements=st.integers(0, 20)), st.integers(1, 9))
def test_D5_duplicates_are_all_rows_but_the_first_whatever_the_partitions(hashes: np.ndarray, partition: int) -> None:
    want = np.array([hashes[i] in hashes[:i] for i in range(len(hashes))], dtype=bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "PARTITION", partition)
        for cut in (0, 1, 9):
            assert (find_duplicates([hashes[:cut], hashes[cut:]]) == want).all()
        assert (leaked([hashes[:9], hashes[9:20]], hashes[20:]) == np.isin(hashes[20:], hashes[:20])).all()


def test_D5_duplicates_are_found_a_partition_of_the_hashes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "PARTITION", 1000)
    hashes = np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64)
    hashes[5_000:5_100] = hashes[:100]
    assert np.flatnonzero(find_duplicates(np.split(hashes, 20))).tolist() == list(range(5_000, 5_100))


@pytest.mark.parametrize("changed", [2, 6, 15, 30])
def test_signatures_estimate_the_jaccard_similarity(changed: int) -> None:
    errors = []
    for seed in range(30):
        words = sentence(seed)
        first = " ".join(words)
        words[:changed] = sentence(1000 + seed, changed)
        second = " ".join(words)
        errors.append((minhash(first) == minhash(second)).mean() - jaccard(first, second))
    assert abs(np.mean(errors)) < 0.03  # unbiased: its standard error is 0.04 / sqrt(30)
    assert np.abs(errors).max() < 0.2


def test_signatures_of_short_empty_and_long_texts() -> None:
    assert minhash("abc").shape == (128,)
    assert minhash("").dtype == np.uint32
    assert not (minhash("ab") == minhash("cd")).any()
    assert (minhash("A  B\nc") == minhash("a b c")).all()
    long = " ".join(sentence(1, 20_000))
    assert (minhash(long) == minhash(long + " the end")).mean() > 0.9


def test_D5_near_duplicates_are_found_and_others_are_not() -> None:
    texts, want = [], []
    for seed in range(150):
        words = sentence(seed)
        texts.append(" ".join(words))
        want.append(False)
        if seed % 3 == 0:
            copy = list(words)
            copy[5] = "changed"
            assert jaccard(texts[-1], " ".join(copy)) > 0.9
            texts.append(" ".join(copy))
            want.append(True)
    found = near_duplicates(np.stack([minhash(text) for text in texts]), 0.8)
    assert found.tolist() == want


def test_D5_a_row_is_only_left_out_for_one_that_is_kept() -> None:
    """a ~ b ~ c, but a and c differ: b goes because of a, and c must stay, or nothing would stand for it."""
    base = np.arange(128, dtype=np.uint32)
    b, c = base.copy(), base.copy()
    b[:20], c[:40] = 1_000_000, 1_000_000
    assert near_duplicates(np.stack([base, b, c]), 0.8).tolist() == [False, True, False]


def test_D5_many_copies_of_one_text_are_all_found() -> None:
    words = sentence(0, 200)
    texts = []
    for i in range(300):
        copy = list(words)
        copy[i % 200] = f"other{i}"
        texts.append(" ".join(copy))
    found = near_duplicates(np.stack([minhash(text) for text in texts]), 0.8)
    assert not found[0]
    assert found[1:].mean() > 0.98


def test_near_duplicates_of_nothing_and_of_one() -> None:
    assert near_duplicates(np.zeros((0, 128), dtype=np.uint32), 0.8).tolist() == []
    assert near_duplicates(np.zeros((1, 128), dtype=np.uint32), 0.8).tolist() == [False]
