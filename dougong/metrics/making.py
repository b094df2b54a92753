"""Metrics of what is made from noise, by features of a judge: prediction and target {"features": (N, d)}, of as many made as
real ones, and {"told": (N,), "asked": (N,)}, what the judge tells each to be and what it was asked to be.

Fréchet distance: Heusel et al. 2017 (arXiv:1706.08500), there of features of Inception, which this is not: values of different
judges do not compare. Precision and recall: Kynkäänniemi et al. 2019 (arXiv:1904.06991).
"""

# N rows, K statistics, R sets of weights, d features

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import numpy as np

from dougong.data.columns import Columns
from dougong.metrics.metric import Metric, RankMetric, ratio

NEIGHBOURS = 3  # k of Kynkäänniemi et al.
BLOCK = 1 << 22  # distances held at once


class MakingLoss(Metric):
    """Mean loss of a row, as training counts it: prediction {"loss": (N,)}."""

    name = "loss"
    higher_is_better = False

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        known = np.asarray(target["known"], dtype=np.float64)
        return np.stack([np.asarray(prediction["loss"], dtype=np.float64) * known, known], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class Recognised(Metric):
    """Share of pictures that the judge takes for what was asked; `real`: of the real ones, which says how good a judge it is."""

    share = True

    def __init__(self, *, real: bool = False):
        self.real, self.name = real, "recognised_real" if real else "recognised"

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        told = np.asarray((target if self.real else prediction)["told"])
        asked = np.asarray(target["asked"])
        known = asked >= 0
        return np.stack([(told == asked) & known, known], axis=1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class Found(Metric):
    """Share of pictures for which the judge finds what was asked among its first k; `real`: of the real ones.

    prediction and target {"rank": (N,)}, from 1.
    """

    share = True

    def __init__(self, k: int, *, real: bool = False):
        self.k, self.real, self.name = k, real, f"recall_{k}_real" if real else f"recall_{k}"

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        rank = np.asarray((target if self.real else prediction)["rank"])
        return np.stack([rank <= self.k, np.ones(len(rank))], axis=1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class FrechetDistance(Metric):
    """Distance of two normal distributions with the means and covariances of both sides' features (Dowson & Landau 1982).

    Few rows make it larger: compare values of equally many. The resamples of its interval hold fewer different rows than
    there are, and so lie above the value.
    """

    name = "frechet_distance"
    higher_is_better = False

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        """(N, 2 · (1 + d + d · (d + 1) / 2)): of either side 1, the features, and their products."""
        return np.concatenate([_moments(prediction["features"]), _moments(target["features"])], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        flat = sums.reshape(-1, sums.shape[-1])
        found = [frechet(*_normal(made), *_normal(real)) for made, real in (np.split(row, 2) for row in flat)]
        return np.array(found).reshape(sums.shape[:-1])


def frechet(mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½), whose last trace is the sum of roots of eigenvalues."""
    if not all(np.isfinite(each).all() for each in (mean1, covariance1, mean2, covariance2)):
        return float("nan")
    values, vectors = np.linalg.eigh(covariance1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    both = np.linalg.eigvalsh(root @ covariance2 @ root)
    shared = np.sqrt(both.clip(min=0)).sum()
    apart = float(((mean1 - mean2) ** 2).sum())
    return max(0.0, apart + float(np.trace(covariance1) + np.trace(covariance2) - 2 * shared))


def _moments(features: object) -> np.ndarray:
    values = np.asarray(features, dtype=np.float64)  # (N, d)
    first, second = np.triu_indices(values.shape[1])
    return np.concatenate([np.ones((len(values), 1)), values, values[:, first] * values[:, second]], axis=1)


def _normal(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and unbiased covariance (d, d) of sums (1 + d + d · (d + 1) / 2,); nan of fewer than two rows."""
    size = int((np.sqrt(8 * (len(sums) - 1) + 9) - 3) / 2)  # d: its moments are d + d · (d + 1) / 2
    count, mean = sums[0], ratio(sums[1 : 1 + size], sums[0])
    second = np.zeros((size, size))
    upper = np.triu_indices(size)
    second[upper] = ratio(sums[1 + size :], sums[0])
    second = second + np.triu(second, 1).T
    return mean, (second - np.outer(mean, mean)) * float(ratio(count, count - 1))


class _Manifold(RankMetric):
    """Share of one side that lies within the other: nearer to a row of it than that row's third neighbour there."""

    share = True

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        """(N, 2 · d): what is asked whether it lies within, and what it shall lie within."""
        return np.concatenate([np.asarray(side, dtype=np.float64) for side in self.sides(prediction, target)], axis=1)

    @abstractmethod
    def sides(self, prediction: Columns, target: Columns) -> tuple[object, object]: ...

    def values(self, kept: np.ndarray, weights: Iterable[np.ndarray]) -> np.ndarray:
        asked, within = np.split(kept, 2, axis=1)  # (N, d) each
        lies = inside(asked, within).astype(np.float64)
        return np.concatenate([ratio(block @ lies, block.sum(1)) for block in weights])


class Precision(_Manifold):
    """Share of made pictures that lie among real ones: how good they are."""

    name = "precision"

    def sides(self, prediction: Columns, target: Columns) -> tuple[object, object]:
        return prediction["features"], target["features"]


class Coverage(_Manifold):
    """Share of real pictures that lie among made ones: how much of what there is is made. Kynkäänniemi et al. say recall."""

    name = "recall"

    def sides(self, prediction: Columns, target: Columns) -> tuple[object, object]:
        return target["features"], prediction["features"]


def inside(asked: np.ndarray, within: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """(N,) bool: which of `asked` (N, d) lie in a ball around one of `within` (M, d) that reaches its k-th neighbour."""
    radius = np.concatenate(  # the row itself is the nearest, at distance 0
        [np.partition(part, min(neighbours, len(within) - 1), axis=1)[:, min(neighbours, len(within) - 1)]
         for part in _distances(within, within)]
    )  # fmt: skip
    return np.concatenate([(part <= radius).any(1) for part in _distances(asked, within)])


def _distances(first: np.ndarray, second: np.ndarray) -> Iterable[np.ndarray]:
    """Squared distances (n, M), a block of rows at a time."""
    rows = max(1, BLOCK // max(1, len(second)))
    for start in range(0, len(first), rows):
        part = first[start : start + rows]
        yield ((part**2).sum(1)[:, None] + (second**2).sum(1) - 2 * part @ second.T).clip(min=0)
