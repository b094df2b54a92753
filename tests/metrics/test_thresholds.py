"""Thresholds are the best of all that could be chosen, but for the width of a step."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_curve

from dougong.metrics import thresholds
from dougong.metrics.thresholds import best_thresholds

LABELS = 4
ONE_ROW = 0.01  # what one row more or less makes of the F1 of the rarest label: two may lie within one step


def example(seed: int, rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) that are too low for the rare labels, and which labels are right."""
    rng = np.random.default_rng(seed)
    right = rng.random((rows, LABELS)) < np.array([0.5, 0.3, 0.1, 0.05])
    odds = rng.normal(size=(rows, LABELS)) + 2 * right - np.array([1.0, 2.0, 3.0, 4.0])
    return (1 / (1 + np.exp(-odds))).astype(np.float32), right


def batches(probabilities: np.ndarray, right: np.ndarray, unseen: int = 0, size: int = 101):
    for start in range(0, len(right), size):
        rows = slice(start, start + size)
        counts = np.zeros(len(right[rows]), dtype=np.int32)
        counts[: unseen if start == 0 else 0] = 1
        yield {"probabilities": probabilities[rows]}, {"indicators": right[rows].astype(np.uint8), "unseen": counts}


def best_f1(right: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(right.ravel(), scores.ravel())
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_f1_of_what_is_chosen_is_the_best_there_is(seed):
    probabilities, right = example(seed)
    (one,), (count,) = best_thresholds(batches(probabilities, right), LABELS, each=False)
    assert f1_score(right, probabilities >= one, average="micro") == pytest.approx(
        best_f1(right, probabilities), abs=5e-3
    )
    assert count == right.sum()
    each, counts = best_thresholds(batches(probabilities, right), LABELS, each=True)
    assert counts.tolist() == right.sum(axis=0).tolist()
    for label in range(LABELS):
        found = f1_score(right[:, label], probabilities[:, label] >= each[label])
        assert found == pytest.approx(best_f1(right[:, label], probabilities[:, label]), abs=ONE_ROW)
        assert found >= f1_score(right[:, label], probabilities[:, label] >= 0.5)
    usual = f1_score(right, probabilities >= 0.5, average="macro")
    assert f1_score(right, probabilities >= each, average="macro") > usual + 0.05  # or the test would show nothing


def test_the_size_of_batches_does_not_matter():
    probabilities, right = example(0)
    whole, parts = (
        best_thresholds(batches(probabilities, right, size=size), LABELS, each=True)[0] for size in (600, 7)
    )
    assert whole.tolist() == parts.tolist()


def test_a_label_that_is_never_right_and_scores_that_part_at_half_stay_at_half():
    probabilities, right = example(0)
    right[:, 3] = False
    each, counts = best_thresholds(batches(probabilities, right), LABELS, each=True)
    assert each[3] == 0.5
    assert counts[3] == 0
    parted = np.where(right, 0.9, 0.1).astype(np.float32)
    assert best_thresholds(batches(parted, right), LABELS, each=True)[0].tolist() == [0.5] * LABELS


def test_labels_never_seen_count_as_missed_in_the_f1_of_all():
    """The more is missed whatever one does, the less a false alarm weighs."""
    probabilities, right = example(0, rows=300)
    unseen = 280
    (one,), _ = best_thresholds(batches(probabilities, right, unseen, size=300), LABELS, each=False)

    def f1(threshold: float) -> float:
        given = probabilities >= threshold
        return 2 * (given & right).sum() / (given.sum() + right.sum() + unseen)

    assert f1(one) == pytest.approx(max(f1(score) for score in np.unique(probabilities)), abs=5e-3)
    (without,), _ = best_thresholds(batches(probabilities, right, size=300), LABELS, each=False)
    assert one < without


def test_many_labels_have_wider_steps_and_bounded_memory(monkeypatch):
    probabilities, right = example(0)
    monkeypatch.setattr(thresholds, "CELLS", 4 * 200)
    each, _ = best_thresholds(batches(probabilities, right), LABELS, each=True)
    for label in range(LABELS):
        found = f1_score(right[:, label], probabilities[:, label] >= each[label])
        assert found == pytest.approx(best_f1(right[:, label], probabilities[:, label]), abs=0.02)
