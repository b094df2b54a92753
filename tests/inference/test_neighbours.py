"""Exact search beside brute force, however it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from dougong.inference import neighbours


def vectors(rng: np.random.Generator, rows: int, dim: int = 6) -> np.ndarray:
    found = rng.normal(size=(rows, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def brute_rank(asking: np.ndarray, found: np.ndarray, hashes: np.ndarray, row: int) -> int:
    """As the docs have it, one row after the other."""
    right = {value for question, value in hashes if question == hashes[row, 0]}
    pool = {value: found[index] for index, value in reversed(list(enumerate(hashes[:, 1])))}
    scores = {value: float(asking[row] @ vector) for value, vector in pool.items()}
    best = max(scores[value] for value in right)
    return 1 + sum(score >= best for value, score in scores.items() if value not in right)


@pytest.mark.parametrize("at_once", [1, 100, 1 << 23])
@pytest.mark.parametrize("seed", range(4))
def test_ranks_equal_brute_force_with_repeated_questions_and_answers(
    seed: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "SCORES", at_once)
    rng = np.random.default_rng(seed)
    hashes = rng.integers(-(2**63), 2**63 - 1, size=(30, 2))[rng.integers(0, 30, 60)]  # whole rows repeat, and
    hashes[:20, 0] = hashes[rng.integers(0, 60, 20), 0]  # so do questions with other answers
    hashes[20:40, 1] = hashes[rng.integers(0, 60, 20), 1]
    by_value = {value: vector for value, vector in zip(hashes[:, 1], vectors(rng, 60), strict=True)}  # noqa: C416
    asking, found = vectors(rng, 60), np.stack([by_value[value] for value in hashes[:, 1]])
    expected = [brute_rank(asking, found, hashes, row) for row in range(60)]
    assert len(set(expected)) > 5
    assert neighbours.ranks(asking, found, hashes).tolist() == expected


def test_who_gives_all_the_same_vector_has_found_nothing() -> None:
    same = np.tile(vectors(np.random.default_rng(0), 1), (8, 1))
    hashes = np.arange(16).reshape(8, 2)
    assert neighbours.ranks(same, same, hashes).tolist() == [8] * 8


def test_no_rows_have_no_ranks() -> None:
    assert len(neighbours.ranks(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 2), dtype=np.int64))) == 0


@pytest.mark.parametrize("at_once", [1, 64, 1 << 23])
@pytest.mark.parametrize("top", [1, 5, 40, 99])
def test_the_nearest_equal_a_full_sort_and_equals_come_in_the_order_of_the_corpus(
    top: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "SCORES", at_once)
    rng = np.random.default_rng(0)
    asking, corpus = vectors(rng, 9), vectors(rng, 20)[rng.integers(0, 20, 40)]  # many stand there twice
    rows, scores = neighbours.nearest(asking, corpus, top)
    for row, product in enumerate(asking @ corpus.T):
        expected = sorted(range(40), key=lambda index: (-product[index], index))[:top]
        assert rows[row].tolist() == expected
        np.testing.assert_allclose(scores[row], product[expected], rtol=1e-6)


def bags(rng: np.random.Generator, rows: int, longest: int) -> np.ndarray:
    """(n, T, E) of a few different vectors, zeros where a row has fewer; some rows have none."""
    table = vectors(rng, 9)
    found = table[rng.integers(0, 9, (rows, longest))]
    found[np.arange(longest) >= rng.integers(0, longest + 1, rows)[:, None]] = 0
    return found


@pytest.mark.parametrize("at_once", [1, 200, 1 << 23])
@pytest.mark.parametrize("seed", range(3))
def test_bags_of_vectors_are_searched_as_by_brute_force(
    seed: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "SCORES", at_once)
    rng = np.random.default_rng(seed)
    asking, found = bags(rng, 12, 4) * rng.random((12, 4, 1), dtype=np.float32), bags(rng, 30, 6)
    counts = np.maximum(np.linalg.norm(asking, axis=2).sum(1), 1e-12)
    expected = np.maximum(np.einsum("nqe,pte->nqpt", asking, found).max(3), 0).sum(1) / counts[:, None]
    halves = neighbours.together([found[:11], np.pad(found[11:], [(0, 0), (0, 3), (0, 0)])])
    assert isinstance(halves, neighbours.Bags)
    assert len(halves.vectors) <= 9  # each different one once
    rows, scores = neighbours.nearest(neighbours.together([asking]), halves, 5)
    np.testing.assert_allclose(scores, np.sort(expected, axis=1)[:, ::-1][:, :5], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, axis=1), scores, atol=1e-6)
    hashes = np.arange(24).reshape(12, 2)
    pool = neighbours.together([found[:12]])
    own = expected[:, :12].diagonal()
    place = [1 + int((np.delete(row[:12], index) >= own[index] - 1e-7).sum()) for index, row in enumerate(expected)]
    assert neighbours.ranks(neighbours.together([asking]), pool, hashes).tolist() == place


def test_bags_without_any_vector_match_nothing() -> None:
    empty = neighbours.together([np.zeros((3, 2, 4), dtype=np.float32)])
    assert neighbours.nearest(empty, empty, 2)[1].tolist() == [[0, 0]] * 3
    assert len(neighbours.together([])) == 0
