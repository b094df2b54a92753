"""Each level of a pyramid has its own resolution, and knows of the coarser ones."""

from __future__ import annotations

import torch

from dougong.layers.features import Features
from dougong.layers.pyramid import Pyramid, grid_of, stages_of
from dougong.model import initialize


def stage(height: int, width: int, channels: int) -> Features:
    values = torch.randn(2, height * width, channels, requires_grad=True)
    return Features(values, torch.ones(2, height * width, dtype=torch.bool), (height, width))


def test_levels_keep_their_grids_and_learn_from_coarser_ones() -> None:
    torch.manual_seed(0)
    stages = [stage(7, 5, 4), stage(4, 3, 8), stage(2, 2, 16)]
    pyramid = Pyramid([4, 8, 16], 12)
    initialize(pyramid, 0)
    levels = pyramid(stages)
    assert [tuple(level.shape) for level in levels] == [(2, 12, 7, 5), (2, 12, 4, 3), (2, 12, 2, 2)]
    levels[1].sum().backward()
    assert stages[0].values.grad is None
    assert stages[2].values.grad is not None


def test_the_coarsest_stages_are_those_that_are_read() -> None:
    fine, coarse = stage(4, 4, 4), stage(2, 2, 8)
    x = Features(coarse.values, coarse.mask, coarse.grid, finer=(fine,))
    assert [grid_of(each) for each in stages_of(x, 2)] == [(4, 4), (2, 2)]
    assert [grid_of(each) for each in stages_of(x, 1)] == [(2, 2)]
    assert grid_of(Features(coarse.values, coarse.mask)) == (1, 4)
