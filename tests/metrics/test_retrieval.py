"""What ranks are worth: each row the mean of its searches."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, top_k_accuracy_score

from dougong.metrics.metric import Metric
from dougong.metrics.retrieval import MeanReciprocalRank, Recall


def value_of(metric: Metric, rank: np.ndarray) -> float:
    return float(metric.value(metric.statistics({"rank": rank}, {}).sum(axis=0)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_equal_scikit_learn(seed: int) -> None:
    """Where one of C is right, the average precision is the reciprocal rank, and recall is accuracy among the top k."""
    rng = np.random.default_rng(seed)
    scores, right = rng.normal(size=(200, 25)), rng.integers(0, 25, 200)
    rank = 1 + (scores > scores[np.arange(200), right][:, None]).sum(1)[:, None]
    for k in (1, 10):
        expected = top_k_accuracy_score(right, scores, k=k, labels=np.arange(25))
        assert value_of(Recall(k), rank) == pytest.approx(expected)
    expected = label_ranking_average_precision_score(np.eye(25)[right], scores)
    assert value_of(MeanReciprocalRank(), rank) == pytest.approx(expected)


def test_a_row_that_searches_both_ways_counts_as_their_mean() -> None:
    rank = np.array([[1, 4], [2, 20]])
    assert value_of(Recall(1), rank) == pytest.approx(1 / 4)
    assert value_of(Recall(10), rank) == pytest.approx(3 / 4)
    assert value_of(MeanReciprocalRank(), rank) == pytest.approx((1 + 1 / 4 + 1 / 2 + 1 / 20) / 4)


def test_no_rows_say_nothing() -> None:
    assert np.isnan(value_of(Recall(1), np.zeros((0, 1), dtype=np.int64)))
