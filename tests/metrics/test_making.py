"""Metrics of what is made, against plain references."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dougong.metrics.intervals import Accumulator
from dougong.metrics.making import Coverage, Found, FrechetDistance, MakingLoss, Precision, Recognised, frechet, inside


def sides(rows: int = 300, size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    made = random.normal(size=(rows, size)) @ random.normal(size=(size, size)) + 0.3
    return made, random.normal(size=(rows, size)) @ random.normal(size=(size, size))


def reference(made: np.ndarray, real: np.ndarray) -> float:
    """With the root of the product of both covariances, by its own eigenvalues, as Heusel et al. write it."""
    first, second = np.cov(made, rowvar=False), np.cov(real, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).sum().real
    return float(((made.mean(0) - real.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * root)


def measured(metric, prediction, target, pieces: int = 3, replicates: int = 0):
    accumulator = Accumulator([metric], replicates=replicates)
    rows = len(next(iter(prediction.values())))
    for part in np.array_split(np.arange(rows), pieces):
        accumulator.update(part, *({key: value[part] for key, value in side.items()} for side in (prediction, target)))
    return accumulator.results()[metric.name]


def test_the_frechet_distance_of_streamed_sums_is_that_of_the_reference() -> None:
    made, real = sides()
    found = measured(FrechetDistance(), {"features": made}, {"features": real}, replicates=40)
    assert found.value == pytest.approx(reference(made, real), rel=1e-6)
    assert found.low <= found.value <= found.high
    assert measured(FrechetDistance(), {"features": real}, {"features": real}).value == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_of_known_normal_distributions() -> None:
    assert frechet(np.zeros(2), np.eye(2), np.array([3.0, 4.0]), np.eye(2)) == pytest.approx(25)
    assert frechet(np.zeros(1), np.array([[4.0]]), np.zeros(1), np.array([[9.0]])) == pytest.approx(1)
    flat = np.zeros((2, 2))  # of pictures that are all alike
    assert frechet(np.zeros(2), flat, np.zeros(2), np.eye(2)) == pytest.approx(2)


def test_a_single_row_has_no_frechet_distance() -> None:
    row = {"features": np.ones((1, 3))}
    assert math.isnan(measured(FrechetDistance(), row, row, pieces=1).value)


def test_precision_and_recall_are_those_of_brute_force() -> None:
    made, real = sides(80, 3)
    for metric, (asked, within) in ((Precision(), (made, real)), (Coverage(), (real, made))):
        lies = []
        for row in asked:
            reach = [np.sort(np.linalg.norm(within - each, axis=1))[3] for each in within]
            lies.append(any(np.linalg.norm(row - each) <= radius for each, radius in zip(within, reach, strict=True)))
        found = measured(metric, {"features": made}, {"features": real}, replicates=50)
        assert found.value == pytest.approx(np.mean(lies))
        assert found.low <= found.value <= found.high


def test_what_is_the_same_lies_within_and_what_is_far_does_not() -> None:
    made, real = sides(50, 4)
    assert inside(real, real).all()
    assert not inside(made + 1000, real).any()
    assert inside(real[:2], real[:2]).all()  # fewer rows than neighbours


def test_recognised_is_of_the_pictures_whose_class_the_judge_knows() -> None:
    prediction = {"told": np.array([0, 1, 1, 2])}
    target = {"told": np.array([0, 1, 2, 2]), "asked": np.array([0, 1, 2, -1])}
    assert measured(Recognised(), prediction, target).value == pytest.approx(2 / 3)
    assert measured(Recognised(real=True), prediction, target).value == 1.0


def test_found_is_the_share_of_ranks_up_to_k() -> None:
    prediction, target = {"rank": np.array([1, 10, 11, 40])}, {"rank": np.array([1, 1, 2, 1])}
    assert measured(Found(10), prediction, target).value == 0.5
    assert measured(Found(1, real=True), prediction, target).value == 0.75
    assert [Found(1).name, Found(10, real=True).name] == ["recall_1", "recall_10_real"]


def test_the_loss_is_a_mean_over_rows_that_have_a_picture() -> None:
    found = measured(MakingLoss(), {"loss": np.array([1.0, 3.0, 9.0])}, {"known": np.array([1, 1, 0])})
    assert found.value == 2.0
