"""Intervals: independent of batches and order, near the known ones, in bounded memory."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import kstest, poisson

from dougong.core.errors import FieldError
from dougong.data.columns import Ragged
from dougong.metrics.classification import AUC, F1, Accuracy, CalibrationError, Confusion, LogLoss
from dougong.metrics.intervals import SUMS_BYTES, Accumulator, Estimate, interval, poisson_weights
from dougong.metrics.language import BitsPerByte, Perplexity, TokenLoss
from dougong.metrics.metric import Metric
from dougong.metrics.regression import MAE, MSE, R2, RMSE


def example(rows: int = 500, classes: int = 4, seed: int = 0, accuracy: float = 0.8):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, classes, rows)
    chosen = np.where(rng.random(rows) < accuracy, index, (index + 1) % classes)
    probabilities = rng.random((rows, classes)) + 2 * np.eye(classes)[chosen]
    return {"probabilities": probabilities / probabilities.sum(axis=1, keepdims=True)}, {"index": index}


def accumulate(metrics, prediction, target, order=None, size=64, **options) -> Accumulator:
    rows = len(next(iter(target.values())))
    order = np.arange(rows) if order is None else order
    accumulator = Accumulator(metrics, **options)
    for start in range(0, rows, size):
        part = order[start : start + size]
        accumulator.update(part, {k: v[part] for k, v in prediction.items()}, {k: v[part] for k, v in target.items()})
    return accumulator


CLASSIFICATION = [Accuracy(), F1(), F1("weighted"), LogLoss(), AUC(4), CalibrationError(), Confusion()]


@pytest.mark.parametrize("size", [1, 7, 500])
def test_results_depend_neither_on_batch_sizes_nor_on_order(size):
    prediction, target = example(rows=150)
    expected = accumulate(CLASSIFICATION, prediction, target, replicates=60).results()
    order = np.random.default_rng(1).permutation(150)
    got = accumulate(CLASSIFICATION, prediction, target, order, size, replicates=60).results()
    for name, estimate in expected.items():
        assert (got[name].value, got[name].low, got[name].high) == pytest.approx(
            (estimate.value, estimate.low, estimate.high), rel=1e-9
        ), name


def test_regression_and_language_results_do_not_depend_on_batches():
    rng = np.random.default_rng(0)
    values = {"value": rng.normal(5, 1, 97)}, {"value": rng.normal(5, 1, 97)}
    texts = {"nats": rng.random(97) * 90}, {"tokens": rng.integers(1, 60, 97), "bytes": rng.integers(1, 200, 97)}
    for metrics, columns in (
        ([MSE(), RMSE(), MAE(), R2(5.0)], values),
        ([TokenLoss(), Perplexity(), BitsPerByte()], texts),
    ):
        whole = accumulate(metrics, *columns, size=97, replicates=50).results()
        parts = accumulate(metrics, *columns, size=10, replicates=50).results()
        for name, estimate in whole.items():
            assert parts[name].low == pytest.approx(estimate.low, rel=1e-9)
            assert parts[name].value == pytest.approx(estimate.value, rel=1e-9)


def test_merged_parts_equal_the_whole():
    prediction, target = example(rows=200)
    whole = accumulate(CLASSIFICATION, prediction, target, replicates=50)
    parts = [Accumulator(CLASSIFICATION, replicates=50) for _ in range(3)]
    for rank, rows in enumerate([np.arange(0, 120), np.arange(120, 200), np.arange(0)]):
        if len(rows):
            parts[rank].update(
                rows, {"probabilities": prediction["probabilities"][rows]}, {"index": target["index"][rows]}
            )
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    for name, estimate in whole.results().items():
        assert parts[2].results()[name].low == pytest.approx(estimate.low, rel=1e-9)
        assert parts[2].results()[name].rows == 200


def test_merging_accumulators_of_another_seed_is_refused():
    with pytest.raises(FieldError, match="expected the same metrics, replicates and seed"):
        Accumulator([Accuracy()]).merge(Accumulator([Accuracy()], seed=1))


def test_weights_are_poisson_and_a_function_of_seed_row_and_replicate():
    rows = np.arange(4000)
    weights = poisson_weights(rows, 101, seed=5)
    assert weights.shape == (4000, 101)
    assert np.array_equal(weights, poisson_weights(rows, 101, seed=5))
    assert np.array_equal(weights[:, :40], poisson_weights(rows, 40, seed=5))
    assert np.array_equal(weights[37:38], poisson_weights(rows[37:38], 101, seed=5))
    for first, count in ((0, 7), (4, 9), (6, 1), (93, 8)):  # in blocks they are the same
        assert np.array_equal(weights[:, first : first + count], poisson_weights(rows, count, seed=5, first=first))
    assert not np.array_equal(weights, poisson_weights(rows, 101, seed=6))
    assert np.bincount(weights.ravel(), minlength=10)[:7] / weights.size == pytest.approx(
        poisson.pmf(np.arange(7), 1), abs=2e-3
    )
    centred = weights - 1.0
    between_replicates = centred.T @ centred / len(rows) - np.eye(101)  # noise of 1/sqrt(4000) = 0.016
    assert np.abs(between_replicates).max() < 0.1
    assert kstest((centred.sum(axis=1) / math.sqrt(101)), "norm").statistic < 0.05


def test_row_ids_may_be_any_int64():
    ids = np.array([-1, 0, 2**63 - 1, -(2**63)], dtype=np.int64)
    assert len({row.tobytes() for row in poisson_weights(ids, 64, seed=-3)}) == 4


@pytest.mark.parametrize("accuracy", [0.6, 0.9])
def test_the_interval_of_accuracy_is_near_the_binomial_one(accuracy):
    estimate = accumulate([Accuracy()], *example(rows=1000, accuracy=accuracy)).results()["accuracy"]
    half = 1.96 * math.sqrt(estimate.value * (1 - estimate.value) / 1000)
    assert (estimate.low, estimate.high) == pytest.approx(
        (estimate.value - half, estimate.value + half), abs=0.15 * half
    )


def test_95_in_100_intervals_hold_the_true_accuracy():
    held = 0
    for seed in range(200):
        estimate = accumulate(
            [Accuracy()], *example(rows=200, seed=seed), size=200, replicates=300, seed=seed
        ).results()
        held += estimate["accuracy"].low <= 0.8 <= estimate["accuracy"].high
    assert 180 <= held <= 199  # 190 expected, standard deviation 3


def test_the_interval_of_20_right_rows_is_not_empty():
    prediction = {"probabilities": np.eye(2)[np.zeros(20, dtype=int)]}
    right = accumulate([Accuracy()], prediction, {"index": np.zeros(20, dtype=np.int64)}).results()["accuracy"]
    wrong = accumulate([Accuracy()], prediction, {"index": np.ones(20, dtype=np.int64)}).results()["accuracy"]
    assert (right.value, right.low, right.high) == (1.0, pytest.approx(0.8316, abs=1e-4), 1.0)  # Clopper-Pearson
    assert (wrong.value, wrong.low, wrong.high) == (0.0, 0.0, pytest.approx(0.1684, abs=1e-4))


def test_the_value_always_lies_within_its_interval():
    for estimate in accumulate(CLASSIFICATION, *example(rows=60)).results().values():
        assert estimate.low <= estimate.value <= estimate.high


def test_few_replicates_give_a_normal_interval_and_very_few_none():
    values = np.random.default_rng(0).normal(10, 1, 5000)
    assert interval(10.0, values) == pytest.approx((8.04, 11.96), abs=0.15)
    assert interval(10.0, values[:100]) == pytest.approx((8.04, 11.96), abs=0.5)
    assert all(math.isnan(bound) for bound in interval(10.0, values[:19]))


def test_sums_stay_within_their_memory_however_many_the_statistics():
    class Wide(Metric):
        name = "wide"

        def statistics(self, prediction, target):
            return np.ones((len(target["index"]), 50_000))

        def value(self, sums):
            return sums.mean(axis=-1)

    accumulator = accumulate([Wide(), Accuracy()], *example(rows=8))
    assert accumulator.sums["wide"].nbytes <= SUMS_BYTES
    assert len(accumulator.sums["accuracy"]) == 1001


def test_without_replicates_there_is_a_value_and_no_interval():
    accumulator = accumulate([Confusion()], *example(), replicates=0)
    estimate = accumulator.results()["balanced_accuracy"]
    assert math.isfinite(estimate.value)
    assert math.isnan(estimate.low)
    assert accumulator.sums["balanced_accuracy"].shape == (1, 20)


def test_rows_that_a_metric_leaves_out_are_not_counted_in_its_estimate():
    prediction, target = example(rows=100)
    target["index"][:30] = -1
    results = accumulate([Accuracy(), LogLoss()], prediction, target).results()
    assert (results["accuracy"].rows, results["loss"].rows) == (100, 70)


def test_no_rows_give_nan_and_null_in_json():
    estimate = Accumulator([Accuracy()]).results()["accuracy"]
    assert json.dumps(estimate.to_json()) == '{"value": null, "low": null, "high": null, "rows": 0}'
    assert Estimate(0.5, 0.4, 0.6, 9).to_json() == {"value": 0.5, "low": 0.4, "high": 0.6, "rows": 9}


def test_ragged_columns_are_cut_row_by_row():
    class MeanLength(Metric):
        name = "length"

        def statistics(self, prediction, target):
            return np.stack([target["tokens"].lengths, np.ones(len(target["tokens"]))], axis=1)

        def value(self, sums):
            return sums[..., 0] / np.maximum(sums[..., 1], 1)

    tokens = Ragged.of([np.arange(length) for length in range(3000)], np.int64)
    accumulator = Accumulator([MeanLength()])
    accumulator.update(np.arange(3000), {}, {"tokens": tokens})
    assert accumulator.results()["length"].value == 1499.5


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(FieldError, match="each name once"):
        Accumulator([Accuracy(), Accuracy()])
