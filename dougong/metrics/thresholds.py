"""Thresholds: from which probability on a label, or an answer, is given, so that F1 is best on the rows that are looked at."""

# N rows, C labels, E edges that are tried, K columns: C, or 1 for all labels together

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dougong.data.columns import Columns

USUAL = np.float32(0.5)
MOST_EDGES, LEAST_EDGES = 2048, 128
CELLS = 1 << 21  # of the histograms, unless even LEAST_EDGES make more


def best_thresholds(
    rows: Iterable[tuple[Columns, Columns]], labels: int, *, each: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds (K,) float32, and how often the label was right (K,): for `each` label its own, or one for all.

    One pass that keeps no row: scores are counted between edges, which are the thresholds that are tried, and so F1 at each
    is exact. Edges are equal steps of log-odds, dense near 0 and 1: 0.016 apart for one label, 0.15 for ten thousand. Of
    equally good ones the nearest to 0.5 is taken. A label that is never right tells nothing: it stays at 0.5.
    """
    columns = labels if each else 1
    edges = _edges(columns)
    counts = np.zeros((2, columns, len(edges) + 1))  # wrong, right
    unseen = 0
    for prediction, target in rows:
        scores = np.asarray(prediction["probabilities"], dtype=np.float32)  # (N, C)
        right = np.asarray(target["indicators"]).astype(np.int64)
        place = np.searchsorted(edges, scores, side="right")  # edges[place - 1] <= score < edges[place]
        column = np.broadcast_to(np.arange(labels) if each else 0, scores.shape)
        cells = (right * columns + column) * (len(edges) + 1) + place
        counts += np.bincount(cells.ravel(), minlength=counts.size).reshape(counts.shape)
        unseen += int(np.asarray(target["unseen"]).sum())
    wrong_given, right_given = counts[..., ::-1].cumsum(axis=-1)[..., -2::-1]  # (K, E) each: at or above the edge
    actual = counts[1].sum(axis=-1, keepdims=True)  # (K, 1)
    missed = 0 if each else unseen  # labels that training never saw are never given
    scores = 2 * right_given / np.maximum(right_given + wrong_given + actual + missed, 1)  # F1 at each edge
    order = np.argsort(np.abs(_log_odds(edges)), kind="stable")  # the nearest to 0.5 first
    best = edges[order[scores[:, order].argmax(axis=1)]]
    return np.where(actual[:, 0] > 0, best, USUAL), actual[:, 0].astype(np.int64)


def best_refusal(rows: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    """The margin from which on answers are given, so that the mean score is best: log-odds between -16 and 16.

    Of some rows at a time: their margins, what each is worth where its answer is given, and where it is not (N,). One pass
    that keeps no row, as above; of equally good margins the nearest to 0 is taken.
    """
    edges = np.linspace(-16, 16, MOST_EDGES + 1)  # 0 is one of them
    worth = np.zeros((2, len(edges) + 1))  # given, refused
    for margin, *scores in rows:
        place = np.searchsorted(edges, margin, side="right")  # edges[place - 1] <= margin < edges[place]
        worth += [np.bincount(place, score, minlength=worth.shape[1]) for score in scores]
    above = worth[0, ::-1].cumsum()[-2::-1]  # (E,) of the rows at or above each edge
    total = above + worth[1].cumsum()[:-1]
    order = np.argsort(np.abs(edges), kind="stable")
    return float(edges[order[total[order].argmax()]])


def _edges(columns: int) -> np.ndarray:
    """(E,) float32, increasing; 0.5 is one of them, so that what is chosen is never worse than that on the same rows."""
    count = int(np.clip(CELLS // columns, LEAST_EDGES, MOST_EDGES))
    shares = 1 / (1 + np.exp(-np.linspace(-16, 16, count)))
    return np.unique(np.append(shares, USUAL).astype(np.float32))


def _log_odds(edges: np.ndarray) -> np.ndarray:
    wide = edges.astype(np.float64)
    return np.log(wide) - np.log1p(-wide)
