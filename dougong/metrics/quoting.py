"""Quoted answers beside the right ones, of which there may be several, or none.

As the evaluations of SQuAD 1.1 and 2.0 have it (Rajpurkar et al. 2016, 2018): a row is worth what the best of its right
answers gives it, and one without any is worth 1 where nothing was answered, else 0. A prediction is {"text": N rows of
UTF-8, "margin": (N,), "threshold": (N,)}, a target {"gold": N rows of a JSON list of texts}.
"""

# N rows

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from dougong.data.columns import Columns, Ragged
from dougong.metrics.writing import RowMean, normalized, texts


def given(prediction: Columns) -> np.ndarray:  # (N,) bool
    """Which of the best answers are given: those likely enough against none. An empty one says that there is none."""
    column = prediction["text"]
    assert isinstance(column, Ragged)
    return (np.asarray(prediction["margin"]) >= np.asarray(prediction["threshold"])) & (column.lengths > 0)


def golds(columns: Columns) -> list[list[str]]:
    """All right answers of each row."""
    return [json.loads(text) for text in texts({"text": columns["gold"]})]


class BestOf(RowMean):
    """A score of texts, with the right answer that gives the most."""

    def __init__(self, metric: RowMean):
        self.metric, self.name = metric, metric.name

    def score(self, written: str, right: str) -> float:
        return self.metric.score(written, right)

    def scores(self, written: Sequence[str], right: Sequence[Sequence[str]]) -> np.ndarray:  # (N,)
        """Each row's best. An answer of articles and marks alone is none, as in the evaluation of SQuAD 2.0."""
        best = [
            max(self.score(text, gold) for gold in [each for each in among if normalized(each)] or [""])
            for text, among in zip(written, right, strict=True)
        ]
        return np.array(best, dtype=np.float64)

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        written = [
            text if answered else "" for text, answered in zip(texts(prediction), given(prediction), strict=True)
        ]
        scores = self.scores(written, golds(target))
        return np.stack([scores, np.ones(len(scores))], axis=1)  # (N, 2)
