"""Boxes as tensors, (..., 4) of x_min, y_min, x_max, y_max: how far they overlap, and which of many tell of the same thing."""

# B pictures, N boxes, M others

from __future__ import annotations

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:  # (..., 4) -> (...)
    """Zero for what has no inside."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union of boxes of shapes that spread to each other: (..., 4) twice -> (...) twice."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    return inside, area(first) + area(second) - inside


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each with each: (..., N, 4), (..., M, 4) -> (..., N, M)."""
    inside, whole = overlap(first[..., :, None, :], second[..., None, :, :])
    return inside / whole.clamp(min=TINY)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Of shapes that spread to each other, from -1 to 1: intersection over union, less the share of the hull that neither fills.

    Rezatofighi et al. 2019, arXiv:1902.09630. Unlike the plain one it says how far boxes lie apart that do not touch.
    """
    inside, whole = overlap(first, second)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    return inside / whole.clamp(min=TINY) - (hull - whole) / hull.clamp(min=TINY)


TINY = 1e-12


def suppressed(boxes: Tensor, scores: Tensor, labels: Tensor, most: float) -> Tensor:
    """Non-maximum suppression: (B, N, 4), (B, N), (B, N) -> the boxes that are kept, (B, N) bool.

    From the highest score down each box is kept unless it overlaps by more than `most` (IoU) with one of its own label that
    was kept before; of equal scores the earlier goes first. All boxes of all pictures at once: who is kept if those before it
    are, asked again until the answer stays, is who is kept one by one (Zheng et al. 2021, arXiv:2005.03572).
    """
    order = scores.argsort(dim=1, descending=True, stable=True)  # (B, N)
    ranked, names = boxes.gather(1, order[..., None].expand_as(boxes)), labels.gather(1, order)
    covers = (iou(ranked, ranked) > most) & (names[:, :, None] == names[:, None, :])  # (B, N, N)
    covers = covers.triu(1)  # row: who covers, column: who comes after it and is covered
    kept = torch.ones_like(covers[:, 0])
    while True:
        after = ~(covers & kept[:, :, None]).any(1)
        if bool((after == kept).all()):
            break
        kept = after
    return torch.zeros_like(kept).scatter(1, order, kept)
