"""Regression: prediction {"value": (N,)}, target {"value": (N,)} in the units of the data.

Rows whose target is nan (missing) are left out; `Estimate.rows` says how many remained.
"""

# N rows

from __future__ import annotations

import numpy as np

from dougong.data.columns import Columns
from dougong.metrics.metric import Metric, ratio


class _MeanOfErrors(Metric):
    """The mean of some function of the error."""

    higher_is_better = False

    def error(self, difference: np.ndarray) -> np.ndarray:
        return np.square(difference)

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        actual, known = _target(target)
        difference = np.where(known, np.asarray(prediction["value"], dtype=np.float64) - actual, 0.0)
        return np.stack([self.error(difference), known], axis=1)  # (N, 2)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])

    def counted(self, sums: np.ndarray, rows: int) -> int:
        return int(sums[1])


class MSE(_MeanOfErrors):
    """Mean squared error."""

    name = "mse"


class RMSE(_MeanOfErrors):
    """Root of the mean squared error: in the units of the target."""

    name = "rmse"

    def value(self, sums: np.ndarray) -> np.ndarray:
        return np.sqrt(super().value(sums))


class MAE(_MeanOfErrors):
    """Mean absolute error: in the units of the target."""

    name = "mae"

    def error(self, difference: np.ndarray) -> np.ndarray:
        return np.abs(difference)


class R2(Metric):
    """Share of the variance of the target that is explained; nan for fewer than two rows or a constant target.

    `shift`: a constant near the mean of the target (the codec's mean of the training rows). The variance is taken of
    target - shift, since the plain sum of squares of targets such as 1e9 ± 1 leaves no digit of it in float64.
    """

    name = "r2"

    def __init__(self, shift: float = 0.0):
        self.shift = shift

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        actual, known = _target(target)
        difference = np.where(known, np.asarray(prediction["value"], dtype=np.float64) - actual, 0.0)
        shifted = np.where(known, actual - self.shift, 0.0)
        return np.stack([np.square(difference), shifted, np.square(shifted), known], axis=1)  # (N, 4)

    def value(self, sums: np.ndarray) -> np.ndarray:
        error, total, squares, rows = np.moveaxis(sums, -1, 0)
        spread = squares - total * ratio(total, rows)
        spread = np.where(spread > 1e-12 * squares, spread, 0.0)  # what rounding leaves of a constant target
        return np.where(rows > 1, 1 - ratio(error, spread), np.nan)

    def counted(self, sums: np.ndarray, rows: int) -> int:
        return int(sums[3])


def _target(target: Columns) -> tuple[np.ndarray, np.ndarray]:
    """The targets as float64 (nan: missing), and which are known."""
    actual = np.asarray(target["value"], dtype=np.float64)
    return actual, ~np.isnan(actual)
