"""Pictures as codes: small networks between squares of pixels and numbers, and the rounding in between.

Finite scalar quantization: Mentzer et al. 2023 (arXiv:2309.15505). A code is a few numbers, each of which has a few levels: no
codebook that has to be learnt, and none of which only a part comes to be used, as in van den Oord et al. 2017 (arXiv:1711.00937).
"""

# B batch, C channels, H height, W width of a picture in pixels, P patch, T = h · w codes of a picture, K numbers of a code

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.layers.denoisers import GROUPS, fill, shuffled, unshuffled


class PictureCodes(nn.Module):
    """(B, C, H, W) of about -1 to 1 <-> codes (B, T), whole numbers below `count`; one for each square of P x P pixels.

    A code says more than its own square: the networks see those around it.
    """

    def __init__(self, shape: tuple[int, int, int], side: int, width: int, levels: Sequence[int]):
        super().__init__()
        channels, self.size, self.side = shape[0], shape[1:], side
        self.grid = (math.ceil(shape[1] / side), math.ceil(shape[2] / side))  # (h, w)
        self.rounding = Levels(levels)
        width = math.ceil(width / GROUPS) * GROUPS
        self.enter = nn.Conv2d(channels * side**2, width, 3, padding=1)
        self.reads = Residual(width)
        self.tell = nn.Conv2d(width, len(levels), 1)
        self.hear = nn.Conv2d(len(levels), width, 3, padding=1)
        self.draws = Residual(width)
        self.leave = nn.Conv2d(width, channels * side**2, 3, padding=1)

    def reset_parameters(self) -> None:
        for conv in (self.enter, self.tell, self.hear):
            fill(conv)
        fill(self.leave, gain=0.0)  # the first picture is grey

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """What becomes of pictures (B, C, H, W), and their codes (B, T)."""
        rounded = self.rounding(self.tell(self.reads(self.enter(unshuffled(values, self.side, self.grid)))))
        return self.drawn(rounded), self.rounding.codes(rounded.detach()).flatten(1)

    def pictures(self, codes: Tensor) -> Tensor:
        """Codes (B, T) -> (B, C, H, W)."""
        return self.drawn(self.rounding.numbers(codes.unflatten(1, self.grid)))

    def drawn(self, rounded: Tensor) -> Tensor:  # (B, K, h, w) -> (B, C, H, W)
        h = self.leave(F.silu(self.draws(self.hear(rounded))))
        return shuffled(h, self.side, self.size).float()


class Levels(nn.Module):
    """Numbers rounded to one of so many levels from -1 to 1 each; the gradient goes through as if they were not."""

    steps: Tensor
    bases: Tensor

    def __init__(self, levels: Sequence[int]):
        super().__init__()
        self.levels, self.count = tuple(levels), math.prod(levels)
        self.register_buffer(
            "steps", torch.empty(len(levels), 1, 1), persistent=False
        )  # between the lowest and the highest
        self.register_buffer("bases", torch.empty(len(levels), 1, 1, dtype=torch.int64), persistent=False)

    def reset_parameters(self) -> None:
        below = [math.prod(self.levels[:place]) for place in range(len(self.levels))]
        self.steps.copy_(torch.tensor(self.levels)[:, None, None] - 1)
        self.bases.copy_(torch.tensor(below)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, h, w) of any size -> the same, on levels."""
        x = x.float().tanh()
        nearest = ((x + 1) / 2 * self.steps).round() / self.steps * 2 - 1
        return x + (nearest - x).detach()

    def codes(self, rounded: Tensor) -> Tensor:
        """(B, K, h, w) on levels -> (B, h, w) int64."""
        return (((rounded + 1) / 2 * self.steps).round().long() * self.bases).sum(1)

    def numbers(self, codes: Tensor) -> Tensor:
        """Back again: (B, h, w) -> (B, K, h, w)."""
        return (codes[:, None] // self.bases % (self.steps.long() + 1)) / self.steps * 2 - 1


class Residual(nn.Module):
    """Norm, activation, convolution, twice, added to what came in."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def reset_parameters(self) -> None:
        fill(self.conv1)
        fill(self.conv2, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:  # (B, width, h, w)
        h = self.conv1(F.silu(F.group_norm(x, GROUPS)))
        return x + self.conv2(F.silu(F.group_norm(h, GROUPS)))
