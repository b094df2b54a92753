"""Overlaps of boxes by hand, and suppression that equals the one written down box by box."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.layers.boxes import area, giou, iou, suppressed

UNIT = torch.tensor([0.0, 0.0, 2.0, 2.0])


def test_overlaps_by_hand() -> None:
    others = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [2.0, 0.0, 4.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    assert area(others).tolist() == [4, 4, 4, 4]
    assert iou(UNIT[None], others)[0].tolist() == pytest.approx([1, 1 / 3, 0, 0])
    # the hull of the last two is twice and three times as wide as a box: no part, and a third of it is empty
    assert giou(UNIT, others).tolist() == pytest.approx([1, 1 / 3, 0, -1 / 3])


def test_a_box_without_inside_overlaps_with_nothing_and_has_a_gradient() -> None:
    flat = torch.tensor([1.0, 1.0, 1.0, 1.0], requires_grad=True)
    assert iou(flat[None], flat[None]).item() == 0.0
    loss = 1 - giou(flat, UNIT)
    loss.backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def one_by_one(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, most: float) -> set[int]:
    """Suppression as it is told."""
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda index: (-scores[index], index)):
        same = [other for other in kept if labels[other] == labels[index]]
        if all(plain_iou(boxes[other], boxes[index]) <= most for other in same):
            kept.append(index)
    return set(kept)


def plain_iou(first: np.ndarray, second: np.ndarray) -> float:
    wide, high = (min(first[i + 2], second[i + 2]) - max(first[i], second[i]) for i in (0, 1))
    inside = max(wide, 0) * max(high, 0)
    whole = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - inside
    return float(inside / whole)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.integers(0, 2**32 - 1),
)
def test_suppression_is_that_of_one_box_after_the_other(
    count: int, pictures: int, classes: int, most: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    low = random.integers(0, 12, (pictures, count, 2)).astype(np.float64)
    boxes = np.concatenate([low, low + random.integers(1, 9, low.shape)], axis=2)
    scores = random.integers(0, 10, (pictures, count)) / 10  # with ties
    labels = random.integers(0, classes, (pictures, count))
    kept = suppressed(*(torch.from_numpy(part) for part in (boxes, scores, labels)), most)
    for picture in range(pictures):
        wanted = one_by_one(boxes[picture], scores[picture], labels[picture], most)
        assert set(kept[picture].nonzero().flatten().tolist()) == wanted
