"""Classification: one class a row (category), or several labels a row (labels).

One class: prediction {"probabilities": (N, C)}, target {"index": (N,)}. Index -1 is a class that training never saw.
Such a row is always wrong: accuracy, top-k, F1 and calibration count it so (for F1 it is a false alarm of the class
that was predicted). It has no probability and no rank, so log loss and AUC leave it out; `Estimate.rows` then says how
many rows remained, and `Confusion` counts it in a row of its own.

Several labels: prediction {"probabilities": (N, C), "threshold": (N, 1 or C)}, target {"indicators": (N, C), "unseen": (N,)};
a label is predicted where its probability reaches the threshold. `unseen` counts the row's labels that training never saw,
which nothing can predict: they are missed in the F1 of all pairs, and the row is never an exact match.
"""

# N rows, C classes or labels, K statistics, B bins

from __future__ import annotations

from math import isqrt
from typing import Literal

import numpy as np

from dougong.core.errors import Diverged, bad_field
from dougong.data.columns import Columns
from dougong.metrics.metric import CellMetric, Metric, mean_of_defined, ratio

MAX_CONFUSION_CLASSES = 2000  # C² float64 sums: 32 MB


class Accuracy(Metric):
    """Share of rows whose most probable class is the right one."""

    name = "accuracy"
    share = True

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        right = _probabilities(prediction).argmax(axis=1) == _index(target)
        return np.stack([right, np.ones(len(right))], axis=1)  # (N, 2)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class TopKAccuracy(Metric):
    """Share of rows whose class is among the k most probable; on equal probabilities the lower index comes first."""

    share = True

    def __init__(self, k: int = 5):
        self.k = k
        self.name = f"top_{k}_accuracy"

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        probabilities, index = _probabilities(prediction), _index(target)
        own = np.take_along_axis(probabilities, np.maximum(index, 0)[:, None], axis=1)  # (N, 1)
        before = np.arange(probabilities.shape[1]) < index[:, None]
        ahead = ((probabilities > own) | ((probabilities == own) & before)).sum(
            axis=1
        )  # classes ranked before the right one
        return np.stack([(ahead < self.k) & (index >= 0), np.ones(len(index))], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class F1(CellMetric):
    """F1 averaged over classes: alike (macro) or by their number of rows (weighted).

    As in scikit-learn, the average is over the classes that stand in the targets or in the predictions.
    """

    share = True

    def __init__(self, average: Literal["macro", "weighted"] = "macro"):
        if average not in ("macro", "weighted"):
            raise bad_field("average", average, "macro or weighted", "write 'macro'")
        self.average = average
        self.name = f"f1_{average}"

    def cells(self, prediction: Columns, target: Columns) -> tuple[int, np.ndarray, np.ndarray]:
        probabilities, index = _probabilities(prediction), _index(target)
        classes, chosen, known = probabilities.shape[1], probabilities.argmax(axis=1), index >= 0
        actual = np.maximum(index, 0)
        cells = np.stack([chosen, classes + chosen, 2 * classes + actual], axis=1)  # hits, predicted, actual
        return 3 * classes, cells, np.stack([chosen == index, np.ones(len(index)), known], axis=1).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, predicted, actual = np.split(sums, 3, axis=-1)  # (..., C) each
        each = ratio(2 * hits, predicted + actual)
        if self.average == "weighted":
            return ratio((np.nan_to_num(each) * actual).sum(axis=-1), actual.sum(axis=-1))
        return mean_of_defined(each)

    def by_class(self, sums: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
        """`scores` of every class, and how many rows are of a class that training never saw."""
        hits, predicted, actual = np.split(sums, 3)
        return scores(hits, predicted, actual), int(predicted.sum() - actual.sum())


class LogLoss(Metric):
    """Mean -log probability of the right class (nats), probabilities clipped at the epsilon of their type."""

    name = "loss"
    higher_is_better = False

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        probabilities, index = _probabilities(prediction), _index(target)
        known = index >= 0
        own = np.take_along_axis(probabilities, np.maximum(index, 0)[:, None], axis=1)[:, 0]  # (N,)
        epsilon = float(np.finfo(probabilities.dtype).eps)
        nats = -np.log(np.clip(own.astype(np.float64), epsilon, 1 - epsilon))
        return np.stack([nats * known, known], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])

    def counted(self, sums: np.ndarray, rows: int) -> int:
        return int(sums[1])


class CalibrationError(CellMetric):
    """Expected calibration error: |confidence - accuracy| of 15 equal bins, weighted by rows (Guo et al., 2017).

    Noise alone makes it positive: on few rows it is an over-estimate.
    """

    name = "calibration_error"
    higher_is_better = False
    share = True

    def __init__(self, bins: int = 15):
        self.bins = bins

    def cells(self, prediction: Columns, target: Columns) -> tuple[int, np.ndarray, np.ndarray]:
        probabilities = _probabilities(prediction)
        confidence = probabilities.max(axis=1).astype(np.float64)
        right = probabilities.argmax(axis=1) == _index(target)
        bins = np.clip((confidence * self.bins).astype(np.int64), 0, self.bins - 1)
        cells = bins[:, None] + self.bins * np.arange(3)  # rows, confidence, right
        return 3 * self.bins, cells, np.stack([np.ones(len(bins)), confidence, right], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        rows, confidence, right = np.split(sums, 3, axis=-1)  # (..., B) each
        return ratio(np.abs(confidence - right).sum(axis=-1), rows.sum(axis=-1))

    def curve(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean confidence, accuracy and rows of the bins that are not empty."""
        rows, confidence, right = np.split(sums, 3)
        filled = rows > 0
        return (confidence / rows.clip(1))[filled], (right / rows.clip(1))[filled], rows[filled].astype(np.int64)


class Confusion(CellMetric):
    """The sums are the confusion matrix; the value read from it is balanced accuracy, the mean recall of the classes.

    C² statistics: accumulate it without replicates where there are many classes.
    """

    name = "balanced_accuracy"
    share = True

    def cells(self, prediction: Columns, target: Columns) -> tuple[int, np.ndarray, np.ndarray]:
        probabilities, index = _probabilities(prediction), _index(target)
        classes = probabilities.shape[1]
        if classes > MAX_CONFUSION_CLASSES:
            fix = "leave the confusion matrix out"
            raise bad_field("classes", classes, f"at most {MAX_CONFUSION_CLASSES:,} for a confusion matrix", fix)
        actual = np.where(index >= 0, index, classes)  # the last row of the matrix: classes never seen in training
        cells = actual * classes + probabilities.argmax(axis=1)
        return (classes + 1) * classes, cells[:, None], np.ones((len(index), 1))

    def matrix(self, sums: np.ndarray) -> np.ndarray:
        """(..., C + 1, C): rows are actual classes, the last one all that training never saw; columns predicted."""
        classes = (isqrt(4 * sums.shape[-1] + 1) - 1) // 2
        return sums.reshape(*sums.shape[:-1], classes + 1, classes)

    def value(self, sums: np.ndarray) -> np.ndarray:
        known = self.matrix(sums)[..., :-1, :]  # (..., C, C)
        return mean_of_defined(ratio(np.diagonal(known, axis1=-2, axis2=-1), known.sum(axis=-1)))


class _HistogramAUC(CellMetric):
    """Area under the ROC curve from two histograms of the score, so that it is a sum over rows.

    Bins are equal steps of log-odds between ±16 (probabilities of 1e-7 and 1 - 1e-7), so they are dense near 0 and 1:
    a step is 0.016 for up to two columns (2,048 bins), 0.06 up to sixteen (512), 0.12 for more (256). Scores in one bin
    count as ties: the error is at most half the share of (positive, negative) pairs that fall into one bin together, in
    practice below 1e-3. Scores that all differ by less than a step cannot be ranked: the result is then 0.5.
    """

    name = "auc"
    share = True

    def __init__(self, columns: int):
        self.columns = columns
        self.bins = 2048 if columns <= 2 else 512 if columns <= 16 else 256

    def histogram(
        self, scores: np.ndarray, positive: np.ndarray, used: np.ndarray
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """Cells of scores (N, columns): for each column B bins of negatives, then B of positives."""
        scores = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
        odds = np.log(scores) - np.log1p(-scores)  # (N, columns)
        bins = np.clip(((odds + 16) * (self.bins / 32)).astype(np.int64), 0, self.bins - 1)
        columns = np.arange(self.columns)
        cells = (columns * 2 + positive) * self.bins + bins
        return 2 * self.columns * self.bins, cells, np.broadcast_to(used[:, None], cells.shape).astype(np.float64)

    def value(self, sums: np.ndarray) -> np.ndarray:
        pairs = sums.reshape(*sums.shape[:-1], self.columns, 2, self.bins)
        negative, positive = pairs[..., 0, :], pairs[..., 1, :]  # (..., columns, B) each
        below = np.cumsum(negative, axis=-1) - negative / 2  # negatives ranked lower; a tie is half
        return mean_of_defined(ratio((positive * below).sum(axis=-1), positive.sum(axis=-1) * negative.sum(axis=-1)))


class AUC(_HistogramAUC):
    """Area under the ROC curve: of the second class if there are two, else the mean of one class against the rest.

    A class with no rows, or with all of them, has no curve and is left out of the mean.
    """

    def __init__(self, classes: int):
        super().__init__(1 if classes == 2 else classes)

    def cells(self, prediction: Columns, target: Columns) -> tuple[int, np.ndarray, np.ndarray]:
        probabilities, index = _probabilities(prediction), _index(target)
        first = 1 if self.columns == 1 else 0
        positive = index[:, None] == np.arange(first, first + self.columns)  # (N, columns)
        return self.histogram(probabilities[:, first:], positive, index >= 0)

    def counted(self, sums: np.ndarray, rows: int) -> int:
        return int(sums[: 2 * self.bins].sum())


class AveragePrecision(AUC):
    """Area under the precision-recall curve, in steps: of the second class if there are two, else the mean over classes.

    Where a class is rare it says more than the ROC curve, which counts the many negatives as successes: by chance it is
    the share of the class, not a half. Scores in one bin count as if they were evenly mixed.
    """

    name = "average_precision"

    def value(self, sums: np.ndarray) -> np.ndarray:
        pairs = sums.reshape(*sums.shape[:-1], self.columns, 2, self.bins)[..., ::-1]  # the highest scores first
        negative, positive = pairs[..., 0, :], pairs[..., 1, :]  # (..., columns, B) each
        hits, alarms = (np.cumsum(part, axis=-1) - part / 2 for part in (positive, negative))
        precision = np.nan_to_num(ratio(hits, hits + alarms))
        return mean_of_defined(ratio((positive * precision).sum(axis=-1), positive.sum(axis=-1)))


class LabelsAUC(_HistogramAUC):
    """Mean area under the ROC curve over labels; a label that all rows or none have is left out."""

    def cells(self, prediction: Columns, target: Columns) -> tuple[int, np.ndarray, np.ndarray]:
        probabilities, indicators = _probabilities(prediction), _indicators(target)
        return self.histogram(probabilities, indicators, np.ones(len(indicators)))


class LabelsF1(Metric):
    """F1 over all (row, label) pairs together (micro), or the mean F1 of the labels (macro).

    A label that stands neither in the targets nor in the predictions says nothing and is left out of the mean.
    """

    share = True

    def __init__(self, average: Literal["micro", "macro"] = "micro"):
        if average not in ("micro", "macro"):
            raise bad_field("average", average, "micro or macro", "write 'micro'")
        self.average = average
        self.name = f"f1_{average}"

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        chosen, actual, unseen = _chosen(prediction), _indicators(target), _unseen(target)
        groups = [chosen & actual, chosen, actual]  # hits, predicted, actual
        if self.average == "micro":
            hits, predicted, right = (group.sum(axis=1) for group in groups)
            return np.stack([hits, predicted, right + unseen], axis=1).astype(np.float64)  # (N, 3)
        return np.concatenate([*groups, unseen[:, None]], axis=1).astype(np.float64)  # (N, 3C + 1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, predicted, actual = np.split(sums[..., : sums.shape[-1] // 3 * 3], 3, axis=-1)
        return mean_of_defined(ratio(2 * hits, predicted + actual))

    def by_class(self, sums: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
        """Of the macro sums: `scores` of every label, and how many labels of rows training never saw."""
        return scores(*np.split(sums[:-1], 3)), int(sums[-1])


class LabelsAccuracy(Metric):
    """Share of rows whose labels are all right, none missing and none too many (subset accuracy)."""

    name = "exact_match"
    share = True

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        right = (_chosen(prediction) == _indicators(target)).all(axis=1) & (_unseen(target) == 0)
        return np.stack([right, np.ones(len(right))], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


def _probabilities(prediction: Columns) -> np.ndarray:
    probabilities = np.asarray(prediction["probabilities"])  # (N, C)
    damaged = int(np.isnan(probabilities).any(axis=1).sum())
    if damaged:  # argmax over nan would pick a class, and a diverged model would get a score
        raise Diverged(
            f"probabilities = nan in {damaged:,} of {len(probabilities):,} rows: expected numbers between 0 and 1. "
            "Fix: the weights are damaged or have diverged; evaluate an earlier checkpoint."
        )
    return probabilities


def scores(hits: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of classes, (C,) each, nan where there is nothing to be right about; and their rows."""
    f1 = ratio(2 * hits, predicted + actual)
    return {"precision": ratio(hits, predicted), "recall": ratio(hits, actual), "f1": f1, "support": actual}


def _index(target: Columns) -> np.ndarray:
    return np.asarray(target["index"], dtype=np.int64)  # (N,)


def _indicators(target: Columns) -> np.ndarray:
    return np.asarray(target["indicators"]).astype(bool)  # (N, C)


def _unseen(target: Columns) -> np.ndarray:
    return np.asarray(target["unseen"], dtype=np.int64)  # (N,)


def _chosen(prediction: Columns) -> np.ndarray:
    return _probabilities(prediction) >= np.asarray(prediction["threshold"])  # (N, C)
