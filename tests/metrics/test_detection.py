"""Mean average precision: a case by hand, faster-coco-eval's own figures, and intervals over pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dougong.data.columns import Columns, Ragged
from dougong.metrics.detection import MeanAveragePrecision
from dougong.metrics.intervals import Accumulator

Boxes = list[tuple[list[float], int, float]]


def told(rows: list[Boxes]) -> Columns:
    flat = [box for row in rows for box in row]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return {
        "boxes": Ragged(np.array([box for box, _, _ in flat], dtype=np.float32).reshape(-1, 4), offsets),
        "labels": Ragged(np.array([label for _, label, _ in flat], dtype=np.int64), offsets),
        "scores": Ragged(np.array([score for *_, score in flat], dtype=np.float32), offsets),
    }


def measured(prediction: list[Boxes], target: list[Boxes], classes: int, **options: Any) -> Accumulator:
    metrics = [MeanAveragePrecision(classes), MeanAveragePrecision(classes, 0.5)]
    accumulator = Accumulator(metrics, **options)
    for row in range(len(target)):  # one by one: what is kept of rows is of unlike width
        accumulator.update(np.array([row]), told(prediction[row : row + 1]), told(target[row : row + 1]))
    return accumulator


LEFT, RIGHT, FAR = [0.0, 0.0, 0.4, 0.4], [0.5, 0.0, 0.9, 0.4], [0.5, 0.6, 0.9, 1.0]


def test_average_precision_by_hand() -> None:
    """Two things of one class: the likeliest told is right, the second nothing, the third right again."""
    target: list[Boxes] = [[(LEFT, 0, 1.0)], [(RIGHT, 0, 1.0)]]
    prediction: list[Boxes] = [[(LEFT, 0, 0.9), (FAR, 0, 0.8)], [(RIGHT, 0, 0.7)]]
    # precision is 1 up to recall 0.5 (51 of the 101 points), 2/3 beyond (50 points), at any overlap
    wanted = (51 * 1.0 + 50 * 2 / 3) / 101
    results = measured(prediction, target, 1, replicates=0).results()
    assert results["map_50"].value == pytest.approx(wanted)
    assert results["map"].value == pytest.approx(wanted)


def test_a_box_that_is_a_little_off_counts_at_low_overlaps_only() -> None:
    shifted = [0.0, 0.0, 0.4, 0.3]  # three quarters of the true one: found at 0.50, 0.55 … 0.75, missed at 0.80 … 0.95
    results = measured([[(shifted, 0, 0.9)]], [[(LEFT, 0, 1.0)]], 1, replicates=0).results()
    assert results["map_50"].value == pytest.approx(1.0)
    assert results["map"].value == pytest.approx(0.6, abs=0.1 + 1e-9)  # 0.75 itself is a matter of rounding


def test_a_label_that_training_never_saw_is_a_class_of_which_nothing_is_found() -> None:
    results = measured([[(LEFT, 0, 0.9)]], [[(LEFT, 0, 1.0), (RIGHT, -1, 1.0)]], 1, replicates=0).results()
    assert results["map_50"].value == pytest.approx(0.5)


def test_pictures_without_true_boxes_have_no_figure_and_without_told_ones_the_worst() -> None:
    nothing: list[Boxes] = [[]]
    assert np.isnan(measured(nothing, nothing, 2, replicates=0).results()["map"].value)
    assert measured(nothing, [[(LEFT, 0, 1.0)]], 2, replicates=0).results()["map"].value == 0.0


def random_rows(count: int, seed: int) -> tuple[list[Boxes], list[Boxes]]:
    random = np.random.default_rng(seed)

    def box() -> list[float]:
        low, size = random.random(2) * 0.7, 0.05 + 0.25 * random.random(2)
        return [*low, *(low + size)]

    target = [[(box(), int(random.integers(3)), 1.0) for _ in range(random.integers(0, 5))] for _ in range(count)]
    prediction = []
    for row in target:
        near = [
            (list(np.array(b) + random.normal(size=4) * 0.01), label, float(random.random())) for b, label, _ in row
        ]
        prediction.append([*near, *((box(), int(random.integers(3)), float(random.random() / 2)) for _ in range(3))])
    return prediction, target


def test_the_figure_is_that_of_faster_coco_eval_and_lies_in_its_interval() -> None:
    prediction, target = random_rows(60, 1)
    accumulator = measured(prediction, target, 3, replicates=200)
    results = accumulator.results()
    for metric, place in ((MeanAveragePrecision(3), 0), (MeanAveragePrecision(3, 0.5), 0)):
        evaluator = metric.matched(metric.statistics(told(prediction), told(target)))
        evaluator.accumulate()
        evaluator.summarize()
        found = results[metric.name]
        assert found.value == pytest.approx(evaluator.stats[place])
        assert found.low < found.value < found.high
        assert found.rows == 60
    again = measured(prediction[::-1], target[::-1], 3, replicates=0).results()
    assert again["map"].value == pytest.approx(results["map"].value)


def test_without_the_package_the_metric_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    with pytest.raises(Exception, match=r"pip install 'dougong\[eval\]'"):
        MeanAveragePrecision(1)
