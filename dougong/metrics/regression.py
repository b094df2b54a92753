"""Regression: prediction {"value": (N,)}, target {"value": (N,)} in the units of the data.

Quantiles: prediction {"quantiles": (N, Q)} beside it, of levels that the metric knows.

Rows whose target is nan (missing) are left out; `Estimate.rows` says how many remained.
"""

# N rows, Q quantiles, R sets of weights, G groups of equal values

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dougong.data.columns import Columns
from dougong.metrics.metric import Metric, RankMetric, ratio


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


class PinballLoss(Metric):
    """Errors below and above each quantile weighed as its level says, mean over the levels (Koenker and Bassett 1978).

    In the units of the target; of the median alone it is half of `mae`.
    """

    name = "pinball_loss"
    higher_is_better = False

    def __init__(self, levels: Sequence[float]):
        self.levels = np.asarray(levels)

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        actual, known = _target(target)
        off = np.where(known, actual, 0.0)[:, None] - np.asarray(prediction["quantiles"], dtype=np.float64)  # (N, Q)
        loss = np.maximum(self.levels * off, (self.levels - 1) * off).mean(axis=1)
        return np.stack([np.where(known, loss, 0.0), known], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])

    def counted(self, sums: np.ndarray, rows: int) -> int:
        return int(sums[1])


class Coverage(Metric):
    """Share of targets from the lowest to the highest quantile; of levels 0.1 and 0.9 it should be 0.8, not more."""

    name = "coverage"
    share = True

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        actual, known = _target(target)
        quantiles = np.asarray(prediction["quantiles"], dtype=np.float64)
        inside = (quantiles[:, 0] <= actual) & (actual <= quantiles[:, -1])
        return np.stack([inside & known, known], axis=1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])

    def counted(self, sums: np.ndarray, rows: int) -> int:
        return int(sums[1])


class CoverageError(Coverage):
    """How far the share lies from the one that the levels promise, either way: what `compare` can tell better from worse by."""

    name = "coverage_error"
    higher_is_better = False

    def __init__(self, promised: float):
        self.promised = promised

    def value(self, sums: np.ndarray) -> np.ndarray:
        return np.abs(super().value(sums) - self.promised)


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
        return np.where(rows > 1, 1 - ratio(error, _spread(squares, total, rows)), np.nan)

    def counted(self, sums: np.ndarray, rows: int) -> int:
        return int(sums[3])


class Pearson(Metric):
    """Correlation of predictions and targets (Pearson 1895); nan for fewer than two rows, or where either is constant.

    `shift`: a constant near the mean of the target, as `R2` takes it, and for its reason.
    """

    name = "pearson"

    def __init__(self, shift: float = 0.0):
        self.shift = shift

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        actual, known = _target(target)
        predicted = np.where(known, np.asarray(prediction["value"], dtype=np.float64) - self.shift, 0.0)
        actual = np.where(known, actual - self.shift, 0.0)
        squares = [np.square(predicted), np.square(actual), predicted * actual]
        return np.stack([predicted, actual, *squares, known], axis=1)  # (N, 6)

    def value(self, sums: np.ndarray) -> np.ndarray:
        predicted, actual, predicted_squares, actual_squares, products, rows = np.moveaxis(sums, -1, 0)
        together = products - predicted * ratio(actual, rows)
        spreads = _spread(predicted_squares, predicted, rows) * _spread(actual_squares, actual, rows)
        return ratio(together, np.sqrt(spreads)).clip(-1, 1)

    def counted(self, sums: np.ndarray, rows: int) -> int:
        return int(sums[5])


class Spearman(RankMetric):
    """Correlation of the ranks of predictions and targets (Spearman 1904); equal values share the mean of their ranks.

    nan for fewer than two rows, or where either is constant.
    """

    name = "spearman"

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        actual, known = _target(target)
        predicted = np.asarray(prediction["value"], dtype=np.float64)
        return np.stack([np.where(known, predicted, np.nan), actual], axis=1)  # (N, 2)

    def values(self, kept: np.ndarray, weights: Iterable[np.ndarray]) -> np.ndarray:
        if len(kept) < 2 or np.isnan(kept).any():
            return np.concatenate([np.full(len(block), np.nan) for block in weights])
        ranks = [_Ranks(column) for column in kept.T]
        return np.concatenate([_correlation(block, *(rank(block) for rank in ranks)) for block in weights])


class _Ranks:
    """Ranks of fixed values (N,) under changing weights: sorted once."""

    def __init__(self, values: np.ndarray):
        _, self.group = np.unique(values, return_inverse=True)  # (N,) which of the G distinct values
        self.order = np.argsort(self.group, kind="stable")
        ordered = self.group[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # (G,)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(R, N) weights -> (R, N) ranks, less their mean: a row of weight 2 stands there twice."""
        size = np.add.reduceat(weights[:, self.order], self.starts, axis=1)  # (R, G)
        middle = np.cumsum(size, axis=1) - size / 2
        return (middle - size.sum(axis=1, keepdims=True) / 2)[:, self.group]


def _correlation(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of values of weighted mean 0, (R, N) each -> (R,)."""
    weighted = weights * first
    spreads = (weighted * first).sum(axis=1) * (weights * second * second).sum(axis=1)
    return ratio((weighted * second).sum(axis=1), np.sqrt(spreads)).clip(-1, 1)


def _spread(squares: np.ndarray, total: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The sum of squares about the mean, from the plain one and the sum."""
    spread = squares - total * ratio(total, rows)
    return np.where(spread > 1e-12 * squares, spread, 0.0)  # 0: what rounding leaves of a constant


def _target(target: Columns) -> tuple[np.ndarray, np.ndarray]:
    """The targets as float64 (nan: missing), and which are known."""
    actual = np.asarray(target["value"], dtype=np.float64)
    return actual, ~np.isnan(actual)
