"""Each true box is matched with one query; more boxes than queries leave some without."""

from __future__ import annotations

import pytest
import torch

from dougong.core.errors import FieldError
from dougong.layers.detr import Detr, DetrHead, as_corners, as_middles, matched
from dougong.layers.features import Features
from dougong.model import initialize


def test_corners_and_middles_are_two_forms_of_one_box() -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.8]])
    assert torch.allclose(as_middles(boxes), torch.tensor([[0.3, 0.5, 0.4, 0.6]]))
    assert torch.allclose(as_corners(as_middles(boxes)), boxes)


def test_a_box_is_matched_with_the_query_that_tells_it_best() -> None:
    told = as_middles(torch.tensor([[[0.0, 0.0, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.9, 0.9]]]))
    classes = torch.tensor([[[0.0, 0.0], [3.0, -3.0], [-3.0, 3.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.9, 0.9], [0.0, 0.0, 0.25, 0.2], [0.0, 0.0, 0.0, 0.0]]])
    found = matched(classes, told, boxes, torch.tensor([[1, 0, 0]]), torch.tensor([[True, True, False]]))
    assert [part.tolist() for part in found] == [[0, 0], [2, 0], [0, 1]]


def test_of_more_boxes_than_queries_some_are_left() -> None:
    told = as_middles(torch.tensor([[[0.0, 0.0, 0.2, 0.2]]]))
    boxes = torch.tensor([[[0.5, 0.5, 0.9, 0.9], [0.0, 0.0, 0.25, 0.2]]])
    found = matched(torch.zeros(1, 1, 1), told, boxes, torch.zeros(1, 2).long(), torch.ones(1, 2).bool())
    assert [part.tolist() for part in found] == [[0], [0], [1]]


def test_no_box_in_a_batch_still_has_a_loss_and_gradients() -> None:
    head = DetrHead(Detr(width=16, queries=3, layers=2), [8], classes=2, most=5)
    initialize(head, 0)
    x = Features(torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool), (2, 2))
    none = torch.zeros(2, 1, dtype=torch.bool)
    loss = head.loss(x, torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.long), none)
    loss.backward()
    assert loss > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(FieldError, match=r"head\.width = 20: expected a multiple of 4 · heads \(16\)"):
        Detr(width=20)
