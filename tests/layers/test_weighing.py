"""Losses weighed by uncertainty: each ends with a weight of half its inverse, whatever its scale."""

from __future__ import annotations

import pytest
import torch

from dougong.layers.weighing import Uncertainty


def test_weights_begin_as_one_and_end_where_the_sum_is_least() -> None:
    weighing, losses = Uncertainty(3), torch.tensor([0.01, 1.0, 200.0])
    weighing.reset_parameters()
    assert weighing.weights == [1, 1, 1]
    assert torch.equal(weighing(losses), losses)
    optimizer = torch.optim.Adam(weighing.parameters(), 0.2)
    for _ in range(1000):
        optimizer.zero_grad()
        weighing(losses).sum().backward()
        optimizer.step()
    assert weighing.weights == pytest.approx([50, 0.5, 0.0025], rel=0.02)


def test_pieces_of_a_step_add_up_to_the_step() -> None:
    weighing, pieces = Uncertainty(2), torch.rand(4, 2)
    torch.nn.init.normal_(weighing.log_variances)
    whole = weighing(pieces.sum(0)).sum()
    assert torch.allclose(sum(weighing(piece, 0.25).sum() for piece in pieces), whole)  # type: ignore[arg-type]
