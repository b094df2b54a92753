"""Temperature: one number that the log-odds of a classifier are divided by, so that its confidence is what it says.

Fitted on rows that it was not trained on (Guo et al. 2017, arXiv:1706.04599). The most probable class stays the same.
"""

# N rows, C classes, G temperatures

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dougong.data.columns import Columns
from dougong.metrics.metric import Metric

COLDEST, HOTTEST = 0.05, 20.0
TRIED = 65  # temperatures between them, 10 % apart


def fit_temperature(rows: Iterable[tuple[Columns, Columns]]) -> float | None:
    """The temperature at which the log loss of the rows is lowest; None where there is none between COLDEST and HOTTEST.

    One pass that keeps no row. The loss is convex in 1 / temperature: its slope and curvature are summed at each of TRIED
    places, and between the two where the slope changes its sign the zero is that of a cubic (within 1e-4 of the best one).
    """
    inverse = np.geomspace(1 / HOTTEST, 1 / COLDEST, TRIED)  # (G,)
    slopes, curves, count = np.zeros(TRIED), np.zeros(TRIED), 0
    for prediction, target in rows:
        index = np.asarray(target["index"])
        logs = _logs(prediction["probabilities"])[index >= 0]  # (N, C)
        own = logs[np.arange(len(logs)), index[index >= 0]]  # (N,)
        count += len(logs)
        for place, scale in enumerate(inverse):
            shares = _softmax(scale * logs)
            mean = (shares * logs).sum(axis=1)
            slopes[place] += (mean - own).sum()
            curves[place] += (shares * np.square(logs - mean[:, None])).sum()
    rising = np.flatnonzero(slopes > 1e-9 * count)  # more than rounding
    if (
        not len(rising) or rising[0] == 0
    ):  # all rows are right, so that colder is ever better; or it knows less than nothing
        return None
    ends = slice(rising[0] - 1, rising[0] + 1)
    return 1 / _zero(inverse[ends], slopes[ends], curves[ends])


def _zero(ends: np.ndarray, slopes: np.ndarray, curves: np.ndarray) -> float:
    """Where the cubic through two slopes, with the curvatures given as its own slopes, is 0 between its ends."""
    width = float(ends[1] - ends[0])
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        rest = 1 - middle
        value = rest * rest * ((1 + 2 * middle) * slopes[0] + middle * width * curves[0])
        value += middle * middle * ((3 - 2 * middle) * slopes[1] - rest * width * curves[1])
        low, high = (middle, high) if value < 0 else (low, middle)
    return float(ends[0]) + width * low


class Uncalibrated(Metric):
    """Another metric, of the probabilities as they were before they were divided by their temperature."""

    def __init__(self, metric: Metric):
        self.metric = metric
        self.name = f"{metric.name}_uncalibrated"
        self.higher_is_better, self.share = metric.higher_is_better, metric.share

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        return self.metric.statistics(uncalibrated(prediction), target)

    def accumulate(
        self, prediction: Columns, target: Columns, weights: np.ndarray, sums: np.ndarray | None = None
    ) -> np.ndarray:
        return self.metric.accumulate(uncalibrated(prediction), target, weights, sums)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return self.metric.value(sums)

    def counted(self, sums: np.ndarray, rows: int) -> int:
        return self.metric.counted(sums, rows)


def uncalibrated(prediction: Columns) -> Columns:
    """{"probabilities": (N, C), "temperature": (N,)} -> the probabilities at temperature 1."""
    given = np.asarray(prediction["probabilities"])
    heat = np.asarray(prediction["temperature"], dtype=np.float64)[:, None]  # (N, 1)
    return {**prediction, "probabilities": _softmax(heat * _logs(given)).astype(given.dtype)}


def _logs(probabilities: object) -> np.ndarray:
    """(N, C) float64. A probability that float32 has as 0 may be anything below: it is taken as the least above 0."""
    given = np.asarray(probabilities)
    return np.log(np.maximum(given, np.finfo(given.dtype).smallest_subnormal).astype(np.float64))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)
