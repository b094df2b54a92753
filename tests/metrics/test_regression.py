"""Every regression metric equals scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from dougong.metrics.regression import MAE, MSE, R2, RMSE

REFERENCES = {
    MSE(): sk.mean_squared_error,
    RMSE(): sk.root_mean_squared_error,
    MAE(): sk.mean_absolute_error,
    R2(): sk.r2_score,
}


def value_of(metric, predicted, actual):
    return float(metric.value(metric.statistics({"value": predicted}, {"value": actual}).sum(axis=0)))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("metric", REFERENCES, ids=lambda metric: metric.name)
def test_metrics_equal_scikit_learn(metric, seed):
    rng = np.random.default_rng(seed)
    actual = rng.normal(3, 2, 501)
    predicted = (actual + rng.normal(0, 1, 501)).astype(np.float32)
    assert value_of(metric, predicted, actual) == pytest.approx(REFERENCES[metric](actual, predicted), rel=1e-9)


@pytest.mark.parametrize("metric", REFERENCES, ids=lambda metric: metric.name)
def test_rows_without_a_target_are_left_out_and_counted(metric):
    rng = np.random.default_rng(0)
    actual, predicted = rng.normal(size=50), rng.normal(size=50)
    actual[::5] = np.nan
    known = ~np.isnan(actual)
    assert value_of(metric, predicted, actual) == pytest.approx(REFERENCES[metric](actual[known], predicted[known]))
    assert metric.counted(metric.statistics({"value": predicted}, {"value": actual}).sum(axis=0), 50) == 40


def test_r2_keeps_its_digits_when_the_mean_is_large_and_the_shift_is_given():
    rng = np.random.default_rng(0)
    actual = 1e9 + rng.normal(size=2000)
    predicted = actual + rng.normal(0, 0.5, 2000)
    assert value_of(R2(shift=1e9), predicted, actual) == pytest.approx(sk.r2_score(actual, predicted), rel=1e-9)


@pytest.mark.parametrize("actual", [[7.1, 7.1, 7.1], [7.1]])
def test_r2_of_a_constant_target_or_one_row_is_nan(actual):
    assert np.isnan(value_of(R2(), np.zeros(len(actual)), np.array(actual)))


def test_a_prediction_of_nan_shows_in_the_result():
    assert np.isnan(value_of(MSE(), np.array([1.0, np.nan]), np.array([1.0, 2.0])))
