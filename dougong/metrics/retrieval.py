"""Retrieval: prediction {"rank": (N, R)}, the place at which each of R searches found what is right, from 1.

R is 1 where one side asks, 2 where each side looks for the other: a row then counts as the mean of both.
"""

# N rows, R searches of a row

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from dougong.data.columns import Columns
from dougong.metrics.metric import Metric, ratio


class _MeanOverSearches(Metric):
    """The mean of what each rank is worth."""

    @abstractmethod
    def worth(self, rank: np.ndarray) -> np.ndarray: ...

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        worth = self.worth(np.asarray(prediction["rank"])).mean(axis=1)  # (N,)
        return np.stack([worth, np.ones(len(worth))], axis=1)  # (N, 2)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class Recall(_MeanOverSearches):
    """Share of the searches that found what is right among the first k."""

    share = True

    def __init__(self, k: int):
        self.k, self.name = k, f"recall_{k}"

    def worth(self, rank: np.ndarray) -> np.ndarray:
        return (rank <= self.k).astype(np.float64)


class MeanReciprocalRank(_MeanOverSearches):
    """Mean of 1 / rank (Voorhees 1999)."""

    name = "mrr"

    def worth(self, rank: np.ndarray) -> np.ndarray:
        return 1.0 / rank
