"""Metrics over a split, in one pass and constant memory, with 95 % intervals.

Poisson bootstrap: every row gets a Poisson(1) weight in each of R replicates, and the metric is computed from the sums
under those weights (Chamandy et al., "Estimating uncertainty for massive data streams", 2012). The weights are a hash
of (seed, row id, replicate), so an interval depends neither on batch sizes nor on the order of rows nor on the number
of processes, and two models evaluated on the same rows get the same weights (see evaluation.comparison).
"""

# N rows, R replicates, K statistics

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dougong.core.errors import bad_field
from dougong.data.columns import Columns, Ragged
from dougong.metrics.metric import MOST_RANKED, Metric, RankMetric

LEVEL = 0.95
SUMS_BYTES = 32 << 20  # most memory for the sums of one metric; replicates are fewer where its statistics are many
WEIGHTS = 1 << 20  # weights made at once
PERCENTILE_REPLICATES = 200  # fewer than that: the interval is value ± 1.96 standard deviations of the replicates
LEAST_REPLICATES = 20  # fewer than that: no interval


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and the number of rows that it speaks about. nan: the rows do not say."""

    value: float
    low: float
    high: float
    rows: int

    def to_json(self) -> dict[str, float | int | None]:
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: number if math.isfinite(number) else None for name, number in numbers.items()} | {
            "rows": self.rows
        }


class Accumulator:
    """Sums of the statistics of rows, plain and under R sets of bootstrap weights.

        accumulator = Accumulator([Accuracy(), LogLoss()])
        for row_ids, prediction, target in batches:        # each row once, row ids distinct
            accumulator.update(row_ids, prediction, target)
        accumulator.results()["accuracy"]                   # Estimate(value=0.88, low=0.86, high=0.90, rows=872)

    `replicates=0` gives values without intervals, at the cost of the plain sums. `first` is the number of the first
    replicate: who wants more than fit into memory makes them in blocks.
    """

    def __init__(self, metrics: Sequence[Metric], replicates: int = 1000, seed: int = 0, first: int = 0):
        self.metrics = {metric.name: metric for metric in metrics}
        if len(self.metrics) != len(metrics):
            raise bad_field("metrics", [metric.name for metric in metrics], "each name once", "remove one of the two")
        self.replicates, self.seed, self.first, self.rows = replicates, seed, first, 0
        self.sums: dict[str, np.ndarray] = {}  # (1 + R, K) of each metric; row 0 has weight 1 everywhere
        self.kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # of a metric of ranks: ids (M,), statistics (M, K)

    def update(self, row_ids: np.ndarray, prediction: Columns, target: Columns) -> None:
        """Add rows: their ids (N,) int64, what the model predicts for them, and what is right."""
        step = max(1, WEIGHTS // (1 + self.replicates))
        for start in range(0, len(row_ids), step):
            ids = np.asarray(row_ids[start : start + step], dtype=np.int64)
            self._add(ids, _rows(prediction, start, start + step), _rows(target, start, start + step))

    def _add(self, row_ids: np.ndarray, prediction: Columns, target: Columns) -> None:
        weights = np.ones((1 + self.replicates, len(row_ids)))  # (1 + R, N)
        weights[1:] = poisson_weights(row_ids, self.replicates, self.seed, self.first).T
        for name, metric in self.metrics.items():
            if isinstance(metric, RankMetric):
                self._keep(name, row_ids, metric.statistics(prediction, target))
                continue
            if name not in self.sums:
                size = metric.statistics(_rows(prediction, 0, 1), _rows(target, 0, 1)).shape[1]  # K
                kept = max(1, min(1 + self.replicates, SUMS_BYTES // (8 * size)))
                self.sums[name] = np.zeros((kept, size))
            metric.accumulate(prediction, target, weights[: len(self.sums[name])], self.sums[name])
        self.rows += len(row_ids)

    def _keep(self, name: str, row_ids: np.ndarray, statistics: np.ndarray) -> None:
        known = ~np.isnan(statistics).all(axis=1)
        ids, rows = row_ids[known], statistics[known]
        if name in self.kept:
            before, known_rows = self.kept[name]
            ids, rows = np.concatenate([before, ids]), _below(known_rows, rows)
        self.kept[name] = (ids, rows) if len(ids) <= 2 * MOST_RANKED else sample(ids, rows)

    def merge(self, other: Accumulator) -> None:
        """Add what another accumulator (of another process, say) has seen of other rows."""
        mine, theirs = (
            (sorted(self.metrics), self.replicates, self.seed, self.first),
            (sorted(other.metrics), other.replicates, other.seed, other.first),
        )
        if mine != theirs:
            raise bad_field("other", theirs, f"the same metrics, replicates and seed: {mine}", "make both alike")
        for name, sums in other.sums.items():
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums.copy()
        for name, (ids, rows) in other.kept.items():
            self._keep(name, ids, rows)
        self.rows += other.rows

    def results(self) -> dict[str, Estimate]:
        """The value of every metric with its interval; nan before the first row."""
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        return {
            name: estimate(metric, self.values(name), self.counted(name)) if self.rows else nothing
            for name, metric in self.metrics.items()
        }

    def values(self, name: str) -> np.ndarray:  # -> (1 + R,)
        """The value of a metric, and of each replicate: fewer than asked for where its sums are many."""
        metric = self.metrics[name]
        if isinstance(metric, RankMetric):
            ids, rows = sample(*self.kept[name])
            return metric.values(rows, self._weights(ids))
        return metric.value(self.sums[name])

    def counted(self, name: str) -> int:
        """How many rows the value of a metric speaks about."""
        metric = self.metrics[name]
        if isinstance(metric, RankMetric):
            return min(MOST_RANKED, len(self.kept[name][0]))
        return metric.counted(self.sums[name][0], self.rows)

    def _weights(self, row_ids: np.ndarray) -> Iterator[np.ndarray]:
        """Weights of the rows as `_add` gives them, a block of replicates (R', N) at a time."""
        yield np.ones((1, len(row_ids)))
        block = max(1, WEIGHTS // max(1, len(row_ids)))
        for start in range(0, self.replicates, block):
            count = min(block, self.replicates - start)
            yield poisson_weights(row_ids, count, self.seed, self.first + start).T.astype(np.float64)


def sample(row_ids: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_RANKED rows, those with the lowest hash of their id, in the order of the ids."""
    if len(row_ids) > MOST_RANKED:
        with np.errstate(over="ignore"):
            hashes = _mix(row_ids.astype(np.int64).view(np.uint64) * _GOLDEN)
        lowest = np.argpartition(hashes, MOST_RANKED)[:MOST_RANKED]
        row_ids, rows = row_ids[lowest], rows[lowest]
    order = np.argsort(row_ids)
    return row_ids[order], rows[order]


def estimate(metric: Metric, values: np.ndarray, rows: int) -> Estimate:
    """What values (1 + R,) of a metric say: the first is that of the rows themselves, the others of their resamples."""
    value = float(values[0])
    low, high = interval(value, values[1:])
    if metric.share and low == high and value in (0.0, 1.0):  # all rows right, or none: no resample can show doubt
        doubt = 1 - ((1 - LEVEL) / 2) ** (1 / rows)  # Clopper & Pearson (1934)
        low, high = (0.0, doubt) if value == 0.0 else (1 - doubt, 1.0)
    return Estimate(value, low, high, rows)


def interval(value: float, replicates: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a value from its bootstrap replicates (R,); nan where there are too few to say."""
    defined = replicates[np.isfinite(replicates)]
    if len(defined) < LEAST_REPLICATES or not math.isfinite(value):
        return math.nan, math.nan
    if len(defined) < PERCENTILE_REPLICATES:
        half = 1.96 * float(defined.std(ddof=1))
        return value - half, value + half
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return min(float(low), value), max(float(high), value)  # a biased metric may stand outside its own replicates


def poisson_weights(row_ids: np.ndarray, replicates: int, seed: int, first: int = 0) -> np.ndarray:
    """(N,) int64 -> (N, R) uint8: Poisson(1) counts, a pure function of (seed, row id, replicate)."""
    skipped = first % 4  # four replicates come of one number
    with np.errstate(over="ignore"):
        start = _mix(np.uint64(seed % 2**64) * _GOLDEN + np.uint64(1))
        rows = _mix(row_ids.astype(np.int64).view(np.uint64) * _GOLDEN ^ start)  # (N,)
        blocks = np.arange(first // 4, first // 4 - (-(skipped + replicates) // 4), dtype=np.uint64)
        counters = (blocks + np.uint64(1)) * _GOLDEN
        bits = _mix(rows[:, None] + counters)  # (N, R / 4)
    uniform = bits.astype("<u8").view("<u2")  # (N, R): 16 bits are enough, the mean weight is off by less than 1e-5
    return _POISSON[uniform[:, skipped : skipped + replicates]]


def _mix(bits: Any) -> Any:
    """The finalizer of SplitMix64 (Steele, Lea & Flood, 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _poisson_table() -> np.ndarray:
    """The Poisson(1) count for each of 65,536 equal parts of [0, 1)."""
    cumulative = np.cumsum([math.exp(-1) / math.factorial(count) for count in range(12)])
    return np.searchsorted(cumulative, (np.arange(1 << 16) + 0.5) / (1 << 16), side="right").astype(np.uint8)


def _below(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rows below others, as wide as the wider of both: what a row lacks is nan."""
    width = max(first.shape[1], second.shape[1])
    wide = [np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=np.nan) for rows in (first, second)]
    return np.concatenate(wide)


def _rows(columns: Columns, start: int, stop: int) -> Columns:
    """Rows [start, stop) of every column."""
    part: Columns = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            offsets = column.offsets[start : stop + 1]
            part[name] = Ragged(column.values[offsets[0] : offsets[-1]], offsets - offsets[0])
        else:
            part[name] = column[start:stop]
    return part


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_POISSON = _poisson_table()
