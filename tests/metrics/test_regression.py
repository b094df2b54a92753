"""Every regression metric equals scikit-learn, or scipy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from dougong.metrics import intervals
from dougong.metrics.intervals import Accumulator, poisson_weights
from dougong.metrics.metric import Metric
from dougong.metrics.regression import MAE, MSE, R2, RMSE, Coverage, CoverageError, Pearson, PinballLoss, Spearman

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


# ----------------------------------------------------------------------------------------------------------- correlation


CORRELATIONS = {Pearson(): stats.pearsonr, Spearman(): stats.spearmanr}


def measured(metric, predicted, actual, replicates=0, size=97) -> Accumulator:
    accumulator = Accumulator([metric], replicates=replicates)
    for start in range(0, len(actual), size):
        rows = slice(start, start + size)
        accumulator.update(
            np.arange(len(actual))[rows], {"value": predicted[rows]}, {"value": np.asarray(actual, dtype=float)[rows]}
        )
    return accumulator


def correlation(metric, predicted, actual) -> float:
    return measured(metric, predicted, actual).results()[metric.name].value


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("metric", CORRELATIONS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("ties", [None, 1, 0])  # decimals that are left
def test_correlations_equal_scipy(metric, seed, ties):
    rng = np.random.default_rng(seed)
    actual = rng.normal(3, 2, 501)
    predicted = actual + rng.normal(0, 2, 501)
    if ties is not None:
        actual, predicted = actual.round(ties), np.maximum(predicted.round(ties), 2.0)
        assert len(np.unique(actual)) < 501
        assert len(np.unique(predicted)) < 501
    expected = CORRELATIONS[metric](predicted, actual).statistic
    assert correlation(metric, predicted, actual) == pytest.approx(expected, abs=1e-12)
    assert correlation(metric, -predicted, actual) == pytest.approx(-expected, abs=1e-12)


@pytest.mark.parametrize("metric", CORRELATIONS, ids=lambda metric: metric.name)
@pytest.mark.parametrize(
    ("predicted", "actual"),
    [([0.1] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]), ([1.0, 2.0, 3.0, 4.0, 5.0], [7.1] * 5), ([0.1] * 3, [7.1] * 3),
     ([1.0], [2.0]), ([1.0, np.nan, 3.0], [1.0, 2.0, 3.0])],
)  # fmt: skip
def test_a_correlation_of_a_constant_one_row_or_nan_is_nan_as_in_scipy(metric, predicted, actual):
    assert np.isnan(correlation(metric, np.array(predicted), np.array(actual)))
    if len(actual) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            assert np.isnan(CORRELATIONS[metric](predicted, actual).statistic)


@pytest.mark.parametrize("metric", CORRELATIONS, ids=lambda metric: metric.name)
def test_a_correlation_leaves_rows_without_a_target_out_and_counts_the_others(metric):
    rng = np.random.default_rng(0)
    actual, predicted = rng.normal(size=50), rng.normal(size=50)
    actual[::5] = np.nan
    known = ~np.isnan(actual)
    found = measured(metric, predicted, actual).results()[metric.name]
    assert found.value == pytest.approx(CORRELATIONS[metric](predicted[known], actual[known]).statistic)
    assert found.rows == 40
    nothing = measured(metric, predicted, np.full(50, np.nan)).results()[metric.name]
    assert np.isnan(nothing.value)
    assert nothing.rows == 0


def test_pearson_keeps_its_digits_when_the_mean_is_large_and_the_shift_is_given():
    rng = np.random.default_rng(0)
    actual = 1e9 + rng.normal(size=2000)
    predicted = actual + rng.normal(0, 0.5, 2000)
    expected = stats.pearsonr(predicted - 1e9, actual - 1e9).statistic
    assert correlation(Pearson(shift=1e9), predicted, actual) == pytest.approx(expected, abs=1e-9)


def test_replicates_of_spearman_are_those_of_the_resampled_rows():
    rng = np.random.default_rng(0)
    actual = rng.integers(0, 9, 60).astype(float)
    predicted = actual + rng.integers(-3, 4, 60)
    values = measured(Spearman(), predicted, actual, replicates=40).values("spearman")
    counts = poisson_weights(np.arange(60), 40, seed=0)  # (60, 40)
    for replicate in range(40):
        rows = np.repeat(np.arange(60), counts[:, replicate])
        assert values[1 + replicate] == pytest.approx(stats.spearmanr(predicted[rows], actual[rows]).statistic)


def test_spearman_of_too_many_rows_is_that_of_as_many_as_are_kept_whatever_their_order(monkeypatch):
    monkeypatch.setattr(intervals, "MOST_RANKED", 2000)
    rng = np.random.default_rng(0)
    actual = rng.normal(size=20_000)
    predicted = actual + rng.normal(size=20_000)
    whole = measured(Spearman(), predicted, actual, replicates=20)
    assert len(whole.kept["spearman"][0]) <= 4000 + 97  # memory does not grow with the rows
    found = whole.results()["spearman"]
    assert found.rows == 2000
    assert found.value == pytest.approx(stats.spearmanr(predicted, actual).statistic, abs=0.05)
    first, second = Accumulator([Spearman()], replicates=20), Accumulator([Spearman()], replicates=20)
    order = rng.permutation(20_000)
    for part, accumulator in ((order[:7000], first), (order[7000:], second)):
        accumulator.update(part, {"value": predicted[part]}, {"value": actual[part]})
    second.merge(first)
    assert second.results()["spearman"] == found


def test_spearman_says_that_it_has_no_value_from_sums():
    with pytest.raises(
        TypeError, match=r"spearman: sums over rows know nothing of ranks; call values\(rows, weights\)"
    ):
        Spearman().value(np.zeros(2))


def test_pinball_loss_and_coverage_equal_scikit_learn_and_a_count() -> None:
    rng = np.random.default_rng(0)
    actual = rng.normal(size=500)
    quantiles = np.sort(rng.normal(size=(500, 3)), axis=1)
    prediction, target = {"value": quantiles[:, 1], "quantiles": quantiles}, {"value": actual}
    levels = [0.1, 0.5, 0.8]
    wanted = np.mean([sk.mean_pinball_loss(actual, quantiles[:, i], alpha=level) for i, level in enumerate(levels)])
    assert value_with(PinballLoss(levels), prediction, target) == pytest.approx(wanted)
    inside = ((quantiles[:, 0] <= actual) & (actual <= quantiles[:, 2])).mean()
    assert value_with(Coverage(), prediction, target) == pytest.approx(inside)
    assert value_with(CoverageError(0.7), prediction, target) == pytest.approx(abs(inside - 0.7))


def test_a_missing_target_has_no_part_in_the_metrics_of_quantiles() -> None:
    prediction = {"value": np.array([1.0, 2.0]), "quantiles": np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])}
    target = {"value": np.array([1.5, np.nan])}
    for metric, wanted in ((PinballLoss([0.1, 0.5, 0.9]), (0.15 + 0.25 + 0.05) / 3), (Coverage(), 1.0)):
        assert value_with(metric, prediction, target) == pytest.approx(wanted)
        assert metric.counted(metric.statistics(prediction, target).sum(axis=0), 2) == 1


def value_with(metric: Metric, prediction: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> float:
    return float(metric.value(metric.statistics(prediction, target).sum(axis=0)))
