"""The temperature is the one that lowers the log loss most, found in one pass."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from dougong.metrics.calibration import Uncalibrated, fit_temperature, uncalibrated
from dougong.metrics.classification import CalibrationError, LogLoss


def overconfident(seed: int, factor: float, rows: int = 2000, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds (N, C) that are `factor` times too large, and classes drawn from the honest ones."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, (rows, classes))
    index = (softmax(honest, axis=1).cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(0, classes - 1)
    return factor * honest, index


def batches(logits: np.ndarray, index: np.ndarray, size: int = 300):
    probabilities = softmax(logits, axis=1).astype(np.float32)
    for start in range(0, len(index), size):
        rows = slice(start, start + size)
        yield {"probabilities": probabilities[rows]}, {"index": index[rows]}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 1.6, 3.0, 8.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_temperature_is_that_of_an_optimizer(seed, factor, classes):
    logits, index = overconfident(seed, factor, classes=classes)

    def loss(inverse: float) -> float:
        return float(-log_softmax(inverse * logits, axis=1)[np.arange(len(index)), index].mean())

    expected = 1 / minimize_scalar(loss, bounds=(0.01, 30), method="bounded", options={"xatol": 1e-9}).x
    found = fit_temperature(batches(logits, index))
    assert found == pytest.approx(expected, rel=3e-4)
    assert found == pytest.approx(factor, rel=0.15)  # the classes were drawn so


def test_rows_of_unseen_classes_and_the_size_of_batches_do_not_matter():
    logits, index = overconfident(0, 2.0)
    more = np.concatenate([logits, np.full((50, 5), 3.0)]), np.concatenate([index, np.full(50, -1)])
    assert fit_temperature(batches(*more, size=71)) == pytest.approx(fit_temperature(batches(logits, index)), rel=1e-9)


def test_where_no_temperature_is_best_there_is_none():
    logits, _ = overconfident(0, 2.0, rows=100)
    assert fit_temperature(batches(logits, logits.argmax(axis=1))) is None  # ever colder would be better
    assert fit_temperature(batches(logits, logits.argmin(axis=1))) is None  # ever hotter
    assert fit_temperature(batches(logits, np.full(100, -1))) is None
    assert fit_temperature(iter(())) is None


def test_what_probabilities_were_before_is_told_from_them_and_their_temperature():
    logits, index = overconfident(0, 3.0)
    before, after = (softmax(logits / heat, axis=1).astype(np.float32) for heat in (1.0, 2.5))
    prediction = {"probabilities": after, "temperature": np.full(len(index), 2.5, dtype=np.float32)}
    assert np.allclose(uncalibrated(prediction)["probabilities"], before, atol=1e-6)
    target = {"index": index}
    for metric in (LogLoss(), CalibrationError()):
        wrapped = Uncalibrated(metric)
        weights = np.random.default_rng(0).poisson(1, size=(4, len(index))).astype(np.float64)
        ours = wrapped.value(wrapped.accumulate(prediction, target, weights))
        theirs = metric.value(metric.accumulate({"probabilities": before}, target, weights))
        assert np.allclose(ours, theirs, rtol=1e-3)
        assert (theirs > metric.value(metric.accumulate(prediction, target, weights)) * 1.1).all()
        assert wrapped.name == f"{metric.name}_uncalibrated"
        sums = wrapped.statistics(prediction, target).sum(axis=0)
        assert wrapped.counted(sums, len(index)) == len(index)
