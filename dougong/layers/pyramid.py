"""Feature pyramid: grids of one width at several resolutions, each knowing what the coarser ones have seen.

Lin et al. 2017, arXiv:1612.03144, without the convolution that smooths each level: the convolutions of a head follow.
"""

# B batch, T positions of a level, C channels, D width, h, w of its grid

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dougong.layers.features import Features
from dougong.layers.feedforward import Linear
from dougong.layers.norms import make_norm


class Pyramid(nn.Module):
    """Features of several stages, finest first, of `widths` channels -> as many grids (B, D, h, w)."""

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        self.norms = nn.ModuleList(make_norm("layer", channels) for channels in widths)
        self.maps = nn.ModuleList(Linear(channels, width) for channels in widths)

    def forward(self, stages: Sequence[Features]) -> list[Tensor]:
        grids: list[Tensor] = []
        for stage, norm, change in reversed(list(zip(stages, self.norms, self.maps, strict=True))):
            grid = change(F.relu(norm(stage.values))).transpose(1, 2).unflatten(2, grid_of(stage))  # (B, D, h, w)
            if grids:
                grid = grid + F.interpolate(grids[-1], size=grid_of(stage), mode="nearest")
            grids.append(grid)
        return grids[::-1]


def grid_of(x: Features) -> tuple[int, int]:
    """Height and width of a grid; features without one are a single row."""
    if x.grid is None:
        return 1, x.mask.shape[1]
    height, width = x.grid
    return height, width


def stages_of(x: Features, count: int) -> list[Features]:
    """The last `count` stages that features come with, finest first, their own last."""
    return [*x.finer, x][-count:]
