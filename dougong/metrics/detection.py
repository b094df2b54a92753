"""Detection: mean average precision as COCO defines it (Lin et al. 2014, arXiv:1405.0312), by faster-coco-eval.

The boxes of each picture, told and true, are kept: precision knows no sums over pictures. faster-coco-eval matches them
once; the replicates of an interval are its own accumulation over resampled pictures, each as often as its weight says.
"""

# N rows, R sets of weights, C classes

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from dougong.core.errors import missing_extra
from dougong.data.columns import Columns, Ragged
from dougong.metrics.metric import RankMetric

TOLD, TRUE = 6, 5  # numbers kept of a box: its sides, its label, and of one that was told its score
MOST = 100  # boxes told of a picture and class that are looked at, as in COCO
MOST_MATCHES = (
    2_000_000  # pairs of a picture and a class accumulated for one interval: five seconds. Of more, fewer replicates,
)
LEAST_REPLICATES = 100  # but as many as these


class MeanAveragePrecision(RankMetric):
    """The mean over classes, and over the overlaps (IoU) 0.50, 0.55 … 0.95 unless one is given, of average precision.

    prediction: {"boxes": ragged (K, 4), "labels", "scores"}; target: {"boxes", "labels"}, a label of -1 being of a class that
    training did not hold: it counts as one more class, of which nothing can be told.
    """

    share = True

    def __init__(self, classes: int, overlap: float | None = None):
        _coco()  # is missed now, and not after hours
        self.classes = classes
        self.overlaps = np.linspace(0.5, 0.95, 10) if overlap is None else np.array([overlap])
        self.name = "map" if overlap is None else f"map_{round(100 * overlap)}"

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        """(N, K): how many boxes were told and how many are true, then all of them, nan behind the last."""
        told, true = _parts(prediction, "scores"), _parts(target)
        rows = [np.concatenate([[len(a), len(b)], a.ravel(), b.ravel()]) for a, b in zip(told, true, strict=True)]
        kept = np.full((len(rows), max([2, *map(len, rows)])), np.nan)
        for row, numbers in enumerate(rows):
            kept[row, : len(numbers)] = numbers
        return kept

    def values(self, kept: np.ndarray, weights: Iterable[np.ndarray]) -> np.ndarray:
        evaluator = self.matched(kept)
        matches = np.array(evaluator._evalImgs_cpp, dtype=object).reshape(-1, max(len(kept), 1))  # (C, N)
        most = 1 + max(LEAST_REPLICATES, MOST_MATCHES // max(matches.size, 1))
        found: list[float] = []
        for block in weights:
            found += [self.precision(evaluator, matches, each) for each in block[: most - len(found)]]
        return np.array(found)

    def matched(self, kept: np.ndarray) -> Any:
        """The boxes of all pictures, each box that was told with the true one that it finds."""
        coco, evaluator = _coco()
        unseen = self.classes
        classes = [{"id": index, "name": str(index)} for index in range(unseen + 1)]
        told: list[dict[str, Any]] = []
        true: list[dict[str, Any]] = []
        for image, row in enumerate(kept):
            count, right = int(row[0]), int(row[1])
            numbers = row[2 : 2 + TOLD * count + TRUE * right]
            for x, y, right_x, right_y, label, score in numbers[: TOLD * count].reshape(-1, TOLD).tolist():
                sides = [x, y, right_x - x, right_y - y]
                told.append({"image_id": image, "category_id": int(label), "bbox": sides, "score": score})
            for x, y, right_x, right_y, label in numbers[TOLD * count :].reshape(-1, TRUE).tolist():
                sides = [x, y, right_x - x, right_y - y]
                category = int(label) if label >= 0 else unseen
                known = {"id": len(true) + 1, "iscrowd": 0, "area": sides[2] * sides[3]}
                true.append({"image_id": image, "category_id": category, "bbox": sides, **known})
        images = [{"id": image, "width": 1, "height": 1} for image in range(len(kept))]
        truth = coco({"images": images, "annotations": true, "categories": classes})
        result = evaluator(truth, truth.loadRes(told), iouType="bbox", separate_eval=True)
        result.params.iouThrs, result.params.maxDets = self.overlaps, [MOST]
        result.params.areaRng, result.params.areaRngLbl = [[0, 1e10]], ["all"]  # of any size
        result.evaluate()
        return result

    def precision(self, evaluator: Any, matches: np.ndarray, weights: np.ndarray) -> float:
        """The mean average precision of the pictures, each as often as its weight says."""
        often = np.repeat(np.arange(matches.shape[1]), weights.astype(np.int64))
        if not len(often):
            return float("nan")
        params = copy.copy(evaluator._paramsEval)
        params.imgIds = list(range(len(often)))
        found = _accumulate()(params, matches[:, often].ravel().tolist())
        precision = np.asarray(found["precision"])
        defined = precision[precision > -1]  # classes without any true box have none
        return float(defined.mean()) if len(defined) else float("nan")


def _parts(columns: Columns, *more: str) -> list[np.ndarray]:
    """Sides, label and more of the boxes of each row: (K, 5 + more) float64."""
    parts = [columns[key] for key in ("boxes", "labels", *more)]
    ragged = [part for part in parts if isinstance(part, Ragged)]
    assert len(ragged) == len(parts)
    flat = [(part.values if part.values.ndim > 1 else part.values[:, None]).astype(np.float64) for part in ragged]
    whole = Ragged(np.concatenate(flat, axis=1), ragged[0].offsets)
    return [whole.row(row) for row in range(len(whole))]


def _coco() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise missing_extra("faster-coco-eval", "eval", "the metrics map and map_50 of boxes") from None
    return COCO, COCOeval_faster


def _accumulate() -> Any:
    from faster_coco_eval.faster_eval_api_cpp import COCOevalAccumulate

    return COCOevalAccumulate
