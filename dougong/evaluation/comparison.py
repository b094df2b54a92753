"""Several runs on the same rows: which is better, by how much, and could it be chance?

A paired bootstrap: every run is measured under the same random weights of the rows (metrics.intervals), so what makes
a row easy or hard for both drops out of their difference. p-values of many pairs are corrected by Holm's method (1979).
"""

# R replicates

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from dougong.core.artefacts import verify_folder
from dougong.core.errors import ArtefactError, DataError, bad_field, nearest
from dougong.data.columns import Column, Columns, Ragged
from dougong.data.splitting import SPLITS
from dougong.evaluation import judging
from dougong.evaluation.measure import KIND, read_predictions
from dougong.fields import Field
from dougong.metrics.intervals import SUMS_BYTES, Accumulator, Estimate, estimate, interval
from dougong.metrics.metric import Metric, RankMetric
from dougong.run import Run

Batch = tuple[np.ndarray, Columns, Columns]
"""Row ids (N,) int64, predictions and targets of N rows."""
REPLICATES = 5000  # the smallest p that can be told is 2 / 5001
PASSES = 25  # over the predictions, each for as many replicates as fit into memory: an hour for a p-value helps nobody
ALPHA = 0.05


@dataclass(frozen=True)
class Pair:
    """`second` measured against `first`: difference = value of second - value of first."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float  # two-sided; nan where the metric says nothing on these rows
    p_corrected: float  # by Holm's method over all pairs of the comparison
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """All runs and all pairs of them, under one metric."""

    metric: str
    higher_is_better: bool
    estimates: dict[str, Estimate]  # by run
    pairs: tuple[Pair, ...]

    def text(self) -> str:
        """A table of the runs, best first, and a sentence for each pair."""
        width = max(len(name) for name in self.estimates)
        ranked = sorted(self.estimates.items(), key=lambda item: _rank(item[1].value, self.higher_is_better))
        lines = [f"{self.metric} ({'higher' if self.higher_is_better else 'lower'} is better)"]
        for name, found in ranked:
            span = f"95 % interval {found.low:.4f} to {found.high:.4f}"
            lines.append(f"  {name:<{width}}  {found.value:.4f}  {span}, {found.rows:,} rows")
        return "\n".join([*lines, *(pair.verdict for pair in self.pairs)])

    def to_json(self) -> dict[str, Any]:
        """Plain values; null where a number is not defined."""
        pairs = [{name: _plain(value) for name, value in vars(pair).items()} for pair in self.pairs]
        runs = {name: estimate.to_json() for name, estimate in self.estimates.items()}
        return {"metric": self.metric, "higher_is_better": self.higher_is_better, "runs": runs, "pairs": pairs}


def compare_estimates(
    runs: Mapping[str, Iterable[Batch]], metric: Metric, *, replicates: int = REPLICATES, seed: int = 0
) -> Comparison:
    """Measure every run on the same rows and compare each pair of them.

        compare_estimates({"a": batches_of_a, "b": batches_of_b}, Accuracy()).text()

    Batches may differ in size and order between runs, but the row ids must be the same; else DataError. Not for models
    evaluated on different rows: their intervals can be laid side by side, but nothing is paired.
    """
    if len(runs) < 2:
        raise bad_field("runs", list(runs), "at least two runs", "name another run to compare with")
    measured = {name: _measure(name, batches, metric, replicates, seed) for name, batches in runs.items()}
    _require_same_rows({name: each.ids for name, each in measured.items()})
    estimates = {name: estimate(metric, each.values, each.counted) for name, each in measured.items()}
    kept = min(len(each.values) for each in measured.values())
    values = {name: each.values[:kept] for name, each in measured.items()}  # (1 + R,) each
    names = list(combinations(runs, 2))
    differences = [values[second] - values[first] for first, second in names]
    chances = [_two_sided(float(difference[0]), difference[1:]) for difference in differences]
    pairs = []
    for (first, second), difference, p, corrected in zip(names, differences, chances, holm(chances), strict=True):
        low, high = interval(float(difference[0]), difference[1:])
        rows = min(estimates[first].rows, estimates[second].rows)
        span, resamples = (float(difference[0]), low, high), int((~np.isnan(difference[1:])).sum())
        verdict = _verdict(metric, first, second, span, corrected, rows, len(names), resamples)
        pairs.append(Pair(first, second, float(difference[0]), low, high, p, corrected, verdict))
    return Comparison(metric.name, metric.higher_is_better, estimates, tuple(pairs))


def compare_runs(runs: Sequence[Run], split: str, metric: str | None = None) -> list[Comparison]:
    """Runs that were evaluated on a split, under each metric of the first one's outputs (or `output.metric` alone)."""
    folders = {run.folder.name: run.folder / "evaluations" / split for run in runs}
    if len(folders) < len(runs):
        raise bad_field("runs", list(folders), "runs with different names", "name each run once")
    wanted = {
        f"{output.name}.{each.name}": (output, each)
        for output in runs[0].outputs
        for each in judging.all_metrics(output, runs[0].inputs, answers=True)
    }
    if metric is not None and metric not in wanted:
        raise bad_field(
            "metric",
            metric,
            f"one of {', '.join(wanted)}",
            f"write {nearest(metric, list(wanted)) or next(iter(wanted))!r}",
        )
    if metric is not None:
        wanted = {metric: wanted[metric]}
    for output in {output.name: output for output, _ in wanted.values()}.values():
        _require_same_output(runs, output)
    sources = {_require_own_evaluation(run, split) for run in runs}
    if split not in SPLITS and len(sources) > 1:
        raise DataError(
            f"evaluations {split}: made of different files. Fix: dougong evaluate RUN --data FILE, for each run."
        )
    results = []
    for name, (output, each) in wanted.items():
        batches = {run: read_predictions(folder, output) for run, folder in folders.items()}
        _require_same_targets(batches)
        results.append(replace(compare_estimates(batches, each), metric=name))
    return results


def _require_same_output(runs: Sequence[Run], output: Field) -> None:
    """A metric of two runs is one thing only where both tell the same classes of the same type."""
    first = runs[0].folder.name
    for run in runs[1:]:
        mine = next((each for each in run.outputs if each.name == output.name), None)
        if mine is None:
            has = ", ".join(each.name for each in run.outputs)
            raise DataError(
                f"run {run.folder.name!r} has no output {output.name!r} as {first!r} has; it has {has}. "
                "Fix: compare runs that have the same outputs."
            )
        if mine.config.type != output.config.type:
            raise DataError(
                f"output {output.name!r} is a {output.config.type} in run {first!r} and a {mine.config.type} in "
                f"{run.folder.name!r}. Fix: compare runs that have the same outputs."
            )
        theirs, ours = (getattr(each.codec, "classes", []) for each in (output, mine))
        if theirs != ours:
            unlike = sorted({*theirs} ^ {*ours}) or ["their order"]
            raise DataError(
                f"output {output.name!r} has other classes in run {first!r} ({len(theirs):,}) than in "
                f"{run.folder.name!r} ({len(ours):,}): {', '.join(unlike[:5])}. Fix: list the same classes in both recipes."
            )


def _require_own_evaluation(run: Run, split: str) -> str | None:
    """Every byte of what was kept is checked, and that it speaks of the run's own data and weights; of what files it is."""
    folder = run.folder / "evaluations" / split
    meta = verify_folder(folder, KIND).meta
    if "weights" not in meta:  # of an earlier dougong, which also kept other columns for some types
        fault = "it does not say which weights it measured: an earlier dougong made it"
    elif meta["weights"] != run.weights:
        fault = "made with other weights than those of the run"
    elif split in SPLITS and meta.get("data") != run.receipt["data"]["key"]:
        fault = "made with other data than that of the run"
    else:
        sources: str | None = meta.get("sources")
        return sources
    again = f"--split {split}" if split in SPLITS else "--data FILE"
    raise ArtefactError(f"{folder}: {fault}. Fix: dougong evaluate {run.folder} {again}.")


def _require_same_targets(batches: Mapping[str, Sequence[Batch]]) -> None:
    """Row ids are places in a split: equal ids mean equal rows only where what is right is equal too."""
    (first, expected), *others = [(name, _targets(group)) for name, group in batches.items()]
    for name, got in others:
        for key in expected.keys() & got.keys():
            if not np.array_equal(expected[key], got[key], equal_nan=expected[key].dtype.kind == "f"):
                raise DataError(
                    f"runs {first!r} and {name!r} were evaluated on different rows ({key} differs). "
                    "Fix: evaluate both on the same data."
                )


def _targets(batches: Sequence[Batch]) -> dict[str, np.ndarray]:
    """The targets in the order of the row ids; tokens are left out, they depend on the tokenizer."""
    order = np.argsort(np.concatenate([rows for rows, _, _ in batches]))
    keys = [key for key in batches[0][2] if not key.startswith("tokens") and key != "normalized"]
    return {key: np.concatenate([_comparable(target[key]) for _, _, target in batches])[order] for key in keys}


def _comparable(column: Column) -> np.ndarray:  # -> (N, ...)
    if not isinstance(column, Ragged):
        return np.asarray(column)
    return np.array([column.row(index).tobytes() for index in range(len(column))], dtype=object)


def holm(chances: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's method; nan stays nan and does not count."""
    defined = [index for index, p in enumerate(chances) if not math.isnan(p)]
    corrected, largest = [math.nan] * len(chances), 0.0
    for rank, index in enumerate(sorted(defined, key=lambda index: chances[index])):
        largest = max(largest, min(1.0, (len(defined) - rank) * chances[index]))
        corrected[index] = largest
    return corrected


@dataclass(frozen=True)
class _Measured:
    """One run under one metric: its value and those of the replicates (1 + R,), how many rows they speak of, which."""

    values: np.ndarray
    counted: int
    ids: np.ndarray


def _measure(name: str, batches: Iterable[Batch], metric: Metric, replicates: int, seed: int) -> _Measured:
    """Replicates in blocks whose sums fit into memory; of each block only the values are kept."""
    groups = [batch for batch in batches if len(batch[0])]
    ids = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(rows) for rows, _, _ in groups)]))
    doubled = int((ids[1:] == ids[:-1]).sum())
    if len(ids) == 0 or doubled:
        fault = f"{doubled:,} of {len(ids):,} row ids stand twice" if doubled else "no rows"
        raise DataError(f"run {name!r}: {fault}; expected every row once. Fix: evaluate the run again on one split.")
    block = _block(metric, groups[0])
    replicates = min(replicates, PASSES * block)
    values, counted = [], 0
    for first in range(0, replicates, block):
        accumulator = Accumulator([metric], min(block, replicates - first), seed, first)
        for row_ids, prediction, target in groups:
            accumulator.update(row_ids, prediction, target)
        values.append(accumulator.values(metric.name)[1 if first else 0 :])
        counted = accumulator.counted(metric.name)
    return _Measured(np.concatenate(values), counted, ids)


def _block(metric: Metric, batch: Batch) -> int:
    """How many replicates' sums fit into memory beside the plain ones. A metric of ranks has none."""
    if isinstance(metric, RankMetric):
        return REPLICATES
    plain = Accumulator([metric], replicates=0)
    plain.update(*batch)
    return max(1, SUMS_BYTES // plain.sums[metric.name].nbytes - 1)


def _require_same_rows(ids: Mapping[str, np.ndarray]) -> None:
    (first, expected), *others = ids.items()
    for name, got in others:
        if not np.array_equal(expected, got):
            shared = len(np.intersect1d(expected, got, assume_unique=True))
            raise DataError(
                f"runs {first!r} ({len(expected):,} rows) and {name!r} ({len(got):,} rows) share {shared:,} rows: "
                "expected the same rows in both. Fix: evaluate both on the same split of the same data."
            )


def _two_sided(difference: float, replicates: np.ndarray) -> float:
    """Twice the share of replicates on the other side of 0: below 0.05 just where the 95 % interval leaves 0 out."""
    defined = replicates[~np.isnan(replicates)]
    if math.isnan(difference) or _smallest(len(defined)) >= ALPHA:
        return math.nan
    other_side = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, _smallest(len(defined)) * (other_side + 1))


def _smallest(resamples: int) -> float:
    """The smallest p-value that so many resamples can show."""
    return 2 / (resamples + 1)


def _verdict(
    metric: Metric,
    first: str,
    second: str,
    span: tuple[float, float, float],
    p: float,
    rows: int,
    pairs: int,
    resamples: int,
) -> str:
    """A sentence that a person can read; its numbers count in favour of the run that is ahead."""
    if math.isnan(span[0]):
        return f"{first} and {second} cannot be compared: {_spoken(metric)} is not defined on these {rows:,} rows."
    if not p < ALPHA and pairs * _smallest(resamples) >= ALPHA:  # whatever the difference: so few cannot show it
        few = f"{_spoken(metric)} could be computed in only {resamples:,} resamples of these {rows:,} rows"
        return f"Whether {first} or {second} is better cannot be told: {few}. Look at another metric."
    difference, low, high = span
    if difference < 0:
        difference, low, high = -difference, -high, -low
    second_leads = (span[0] > 0) == metric.higher_is_better
    better, worse = (second, first) if second_leads else (first, second)
    gain = f"{_amount(metric, difference)} (95 % interval {_number(metric, low)} to {_number(metric, high)})"
    chance = f"p = {p:.2g}" + (f", corrected for {pairs} comparisons" if pairs > 1 else "")
    if p < ALPHA:
        return f"{better} is better than {worse} by {gain}; on {rows:,} rows this is unlikely to be chance ({chance})."
    lead = f"{better} is ahead by {gain}" if difference else f"they have the same {_spoken(metric)}"
    return f"{first} and {second} cannot be told apart on {rows:,} rows: {lead}, which may well be chance ({chance})."


def _amount(metric: Metric, difference: float) -> str:
    if metric.share:
        return f"{_number(metric, difference)} points of {_spoken(metric)}"
    return f"{_number(metric, difference)} in {_spoken(metric)}"


def _number(metric: Metric, difference: float) -> str:
    return f"{100 * difference:.1f}" if metric.share else f"{difference:.3g}"


def _spoken(metric: Metric) -> str:
    return metric.name.replace("_", " ")


def _rank(value: float, higher_is_better: bool) -> float:
    return math.inf if math.isnan(value) else -value if higher_is_better else value


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
