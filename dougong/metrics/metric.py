"""What a metric is: statistics of each row, and a value computed from their sums.

Everything follows from that one shape: streaming in constant memory (add the sums), 95 % intervals (sums under the
random weights of a Poisson bootstrap), paired comparison of two runs (the same weights for both), and merging over
ranks (add the sums once more). What no sum can tell (ranks) is computed from a bounded sample of rows: `RankMetric`.
"""

# N rows, K statistics, R sets of weights, J cells that one row adds to

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np

from dougong.data.columns import Columns

BLOCK = 1 << 21  # weighted entries held at once: 16 MB
MOST_RANKED = 100_000  # rows kept for a metric of ranks


class Metric(ABC):
    """`statistics` looks at rows, `value` at sums over rows; neither keeps any state."""

    name: str  # as it stands in results: accuracy, f1_macro, …
    higher_is_better: bool = True
    share: bool = False  # between 0 and 1, so that a difference is told in percentage points

    @abstractmethod
    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        """(N, K) float64: what each row adds to the sums.

        `prediction` is what the field's Head predicts for N rows (e.g. {"probabilities": (N, C)}), `target` the field's
        encoded columns of the same rows (e.g. {"index": (N,)}).
        """

    @abstractmethod
    def value(self, sums: np.ndarray) -> np.ndarray:
        """(..., K) sums -> (...) values; nan where the sums say nothing (no rows, one class only)."""

    def accumulate(
        self, prediction: Columns, target: Columns, weights: np.ndarray, sums: np.ndarray | None = None
    ) -> np.ndarray:
        """Sums of the rows under each of R sets of weights (R, N) -> (R, K); added into `sums` in place where given."""
        added = weights @ self.statistics(prediction, target)  # (R, K)
        if sums is None:
            return added
        sums += added
        return sums

    def counted(self, sums: np.ndarray, rows: int) -> int:
        """How many of the rows seen the value speaks about: fewer where some have no known target."""
        return rows


class CellMetric(Metric):
    """A metric whose rows each add to a few of many cells (histograms, matrices): it never builds the dense (N, K)."""

    @abstractmethod
    def cells(self, prediction: Columns, target: Columns) -> tuple[int, np.ndarray, np.ndarray]:
        """K, the cells that each row adds to (N, J) int64, and how much (N, J) float64."""

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        size, cells, amounts = self.cells(prediction, target)
        dense = np.zeros((len(cells), size))  # (N, K)
        np.add.at(dense, (np.arange(len(cells))[:, None], cells), amounts)
        return dense

    def accumulate(
        self, prediction: Columns, target: Columns, weights: np.ndarray, sums: np.ndarray | None = None
    ) -> np.ndarray:
        size, cells, amounts = self.cells(prediction, target)
        if sums is None:
            sums = np.zeros((len(weights), size))
        used = np.flatnonzero(amounts)
        entries = used[np.argsort(cells.ravel()[used], kind="stable")]  # grouped by cell
        block = max(1, BLOCK // len(weights))
        for order in (entries[start : start + block] for start in range(0, len(entries), block)):
            cell = cells.ravel()[order]
            starts = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
            weighted = weights[:, order // cells.shape[1]] * amounts.ravel()[order]  # (R, block)
            sums[:, cell[starts]] += np.add.reduceat(weighted, starts, axis=1)
        return sums


class RankMetric(Metric):
    """A metric that compares rows with each other: the statistics themselves are kept, and weighted at the end.

    Exact for up to MOST_RANKED rows. Of more, as many are kept, each as likely, and the value is that of these; `Estimate.rows`
    and the interval speak of them too. Which rows are kept is a hash of their ids: the same of two runs, in any order.
    """

    @abstractmethod
    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        """(N, K) float64: what is kept of each row; nan in all K where there is no target, and the row is left out.

        K may differ from call to call, where rows tell of unlike many things: what lacks is nan.
        """

    @abstractmethod
    def values(self, kept: np.ndarray, weights: Iterable[np.ndarray]) -> np.ndarray:
        """Statistics of the rows kept (N, K), and weights in blocks (R', N) each -> (R,) values of all blocks."""

    def value(self, sums: np.ndarray) -> np.ndarray:
        raise TypeError(f"{self.name}: sums over rows know nothing of ranks; call values(rows, weights)")


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """over / under, nan where under is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(under > 0, np.divide(over, under), np.nan)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """(..., C) -> (...): the mean of those that are not nan; nan if all are."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))
