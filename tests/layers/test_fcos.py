"""Which places answer for which box, and that the head learns to tell it."""

from __future__ import annotations

import torch

from dougong.layers.fcos import Fcos, FcosHead, _places, answering, centredness
from dougong.layers.features import Features
from dougong.layers.losses import sigmoid_focal_sum
from dougong.model import initialize


def test_places_near_the_middle_answer_and_the_smaller_of_two_boxes_has_the_say() -> None:
    places = _places((8, 8), 0, 1, torch.device("cpu"))
    large, small = [0.0, 0.0, 0.875, 0.875], [0.25, 0.25, 0.5, 0.5]  # of 7 x 7 and of 2 x 2 cells
    boxes = torch.tensor([[large, small, [0.9, 0.9, 1.0, 1.0]]])
    owner, there = answering(places, boxes, torch.tensor([[True, True, False]]))
    wanted = torch.full((8, 8), -1)
    wanted[2:5, 2:5] = 0
    wanted[2:4, 2:4] = 1
    assert torch.equal(torch.where(there, owner, -1).reshape(8, 8), wanted)


def test_a_box_belongs_to_the_level_of_its_size() -> None:
    box = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]])
    known = torch.tensor([[True]])
    sizes = []
    for level, grid in enumerate(((32, 32), (16, 16), (8, 8))):
        _, there = answering(_places(grid, level, 3, torch.device("cpu")), box, known)
        sizes.append(int(there.sum()))
    assert sizes[0] == 0  # eight cells from its middle to its side
    assert max(sizes[1:]) > 0


def test_centredness_is_one_in_the_middle_and_falls_to_the_rim() -> None:
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4)
    near = centredness(torch.tensor([[0.5, 0.5], [0.25, 0.5], [0.0, 0.5]]), box)
    assert torch.allclose(near, torch.tensor([1.0, 3**-0.5, 1e-3]), atol=1e-6)


def test_focal_loss_without_focus_is_half_of_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50), torch.randint(0, 2, (50,)).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    assert torch.allclose(sigmoid_focal_sum(logits, targets, alpha=0.5, gamma=0.0), plain / 2)
    likely = torch.where(targets > 0, logits, -logits).sigmoid()
    weight = torch.where(targets > 0, 0.25, 0.75)
    assert torch.allclose(sigmoid_focal_sum(logits, targets), (-weight * (1 - likely) ** 2 * likely.log()).sum())


def test_a_box_whose_label_is_unknown_is_neither_something_nor_nothing() -> None:
    torch.manual_seed(0)
    head = FcosHead(Fcos(width=8), [8], classes=2, most=5)
    initialize(head, 0)
    x = Features(torch.randn(1, 64, 8), torch.ones(1, 64, dtype=torch.bool), (8, 8))
    boxes = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]])
    nothing = head.loss(x, boxes, torch.tensor([[0]]), torch.tensor([[False]]))
    unknown = head.loss(x, boxes, torch.tensor([[-1]]), torch.tensor([[True]]))
    known = head.loss(x, boxes, torch.tensor([[0]]), torch.tensor([[True]]))
    assert unknown < nothing < known


def test_places_that_pad_tell_nothing() -> None:
    head = FcosHead(Fcos(width=8), [8], classes=2, most=5)
    initialize(head, 0)
    mask = torch.zeros(1, 64, dtype=torch.bool)
    assert head.predict(Features(torch.randn(1, 64, 8), mask, (8, 8)))[3].tolist() == [0]
