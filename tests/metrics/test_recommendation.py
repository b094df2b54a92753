"""Places of items -> metrics, against the definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from dougong.metrics.metric import Metric
from dougong.metrics.recommendation import NDCG, NEVER, HitRate, MeanReciprocalRank

RANKS = np.array([1, 3, 10, 11, NEVER, 2])


def value(metric: Metric, ranks: np.ndarray) -> float:
    key = metric.key  # type: ignore[attr-defined]
    return float(metric.value(metric.statistics({key: ranks}, {}).sum(0)))


def test_metrics_are_the_means_of_what_each_place_is_worth() -> None:
    assert value(HitRate(10), RANKS) == 4 / 6
    gains = [1 / math.log2(1 + rank) for rank in (1, 3, 10, 2)]
    assert value(NDCG(10), RANKS) == pytest.approx(sum(gains) / 6)
    assert value(MeanReciprocalRank(), RANKS) == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11 + 1 / 2) / 6)


def test_ndcg_is_that_of_scikit_learn() -> None:
    scores = np.random.default_rng(0).normal(size=(40, 30))
    right = np.arange(40) % 30
    ranks = 1 + (scores > scores[np.arange(40), right][:, None]).sum(1)
    wanted = ndcg_score(np.eye(30)[right], scores, k=10)
    assert value(NDCG(10), ranks) == pytest.approx(wanted)


def test_an_item_that_cannot_be_found_is_a_miss_however_few_there_are() -> None:
    for metric in (HitRate(10), NDCG(10), MeanReciprocalRank()):
        assert value(metric, np.array([NEVER])) == 0.0


def test_sampled_metrics_look_at_the_sampled_places_and_say_so() -> None:
    metric = HitRate(10, among=100)
    assert metric.name == "hit_rate_10_of_100"
    assert metric.statistics({"rank": np.array([99]), "rank_of_100": np.array([1])}, {}).tolist() == [[1.0, 1.0]]


def test_no_rows_have_no_value() -> None:
    assert math.isnan(float(HitRate(10).value(np.zeros(2))))
