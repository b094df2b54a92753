"""Recommendation: prediction {"rank", "rank_of_100": (N,)}, the place of the item that was chosen, from 1, NEVER without one.

`rank` is the place among all items of the catalogue that the history does not hold; `rank_of_100` that among 100 of these,
drawn evenly, and the right one. The second is what older papers report; it flatters, and orders models otherwise than the
first now and then (Krichene and Rendle 2020, doi:10.1145/3394486.3403226).
"""

# N rows

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from dougong.data.columns import Columns
from dougong.metrics.metric import Metric, ratio

NEVER = 1 << 40  # the place of an item that is not among those that can be found
SAMPLED = 100  # others that the right one is ranked among


class _MeanOverRows(Metric):
    """The mean of what each place is worth; nothing, where the right item cannot be found at all."""

    def __init__(self, name: str, among: int | None):
        self.key = "rank" if among is None else f"rank_of_{among}"
        self.name = name if among is None else f"{name}_of_{among}"

    @abstractmethod
    def worth(self, rank: np.ndarray) -> np.ndarray: ...

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        rank = np.asarray(prediction[self.key])  # (N,)
        worth = np.where(rank < NEVER, self.worth(rank), 0.0)
        return np.stack([worth, np.ones(len(worth))], axis=1)  # (N, 2)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class HitRate(_MeanOverRows):
    """Share of the rows whose item is among the first k."""

    share = True

    def __init__(self, k: int, among: int | None = None):
        super().__init__(f"hit_rate_{k}", among)
        self.k = k

    def worth(self, rank: np.ndarray) -> np.ndarray:
        return (rank <= self.k).astype(np.float64)


class NDCG(_MeanOverRows):
    """Normalized discounted cumulative gain of the first k: with one right item 1 / log2(1 + rank) (Järvelin, Kekäläinen 2002)."""

    def __init__(self, k: int, among: int | None = None):
        super().__init__(f"ndcg_{k}", among)
        self.k = k

    def worth(self, rank: np.ndarray) -> np.ndarray:
        return np.where(rank <= self.k, 1 / np.log2(1.0 + rank), 0.0)


class MeanReciprocalRank(_MeanOverRows):
    """Mean of 1 / rank (Voorhees 1999)."""

    def __init__(self) -> None:
        super().__init__("mrr", None)

    def worth(self, rank: np.ndarray) -> np.ndarray:
        return 1.0 / rank
