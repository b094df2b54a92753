"""Positions: how a layer learns where a feature stands, and padding moved out of the way.

Rotary after Su et al. 2021 (arXiv:2104.09864), over the rows and columns of a grid as in Heo et al. 2024
(arXiv:2403.13298); sinusoidal after Vaswani et al. 2017 (arXiv:1706.03762).
"""

# B batch, T positions, D width, H heads, K head_dim, A axes (1 for a sequence, 2 for an image)

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from dougong.layers.features import Features

Rotary = tuple[Tensor, Tensor]  # cos and sin, each (1 or B, 1, T, K/2)


def rotary(places: Tensor, head_dim: int, base: float) -> Rotary:
    """The angles of every place, as cos and sin. places: (1, T, A) or, where the rows differ, (B, T, A).

    Computed anew in each forward pass, shared by its layers: that costs less than one head of one layer, needs no table
    of a fixed length, and stays in float32 whatever the model is cast to.
    """
    pairs, axes = head_dim // 2, places.shape[-1]
    index = torch.arange(pairs, device=places.device)
    frequency = torch.exp((index // axes).float() * (-math.log(base) / math.ceil(pairs / axes)))  # (K/2,)
    angles = places[..., index % axes].float() * frequency  # (1 or B, T, K/2): the axes take turns along the pairs
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, tables: Rotary) -> Tensor:
    """Turn each pair (i, i + K/2) of a query or key by the angle of its place: (B, H, T, K) -> the same."""
    cos, sin = (table.to(x.dtype) for table in tables)  # small; else float32 tables would lift all of x to float32
    first, second = x.chunk(2, dim=-1)  # (B, H, T, K/2) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def grid_places(grid: tuple[int, ...], device: torch.device) -> Tensor:
    """The coordinates of a grid's cells in the order that T unrolls them: (T, A)."""
    return torch.cartesian_prod(*(torch.arange(length, device=device) for length in grid)).view(-1, len(grid))


def sinusoidal(places: Tensor, width: int) -> Tensor:
    """Sines in the even columns, cosines in the odd: (..., T) -> (..., T, D)."""
    index = torch.arange(0, width, 2, device=places.device)
    angles = places[..., None].float() * torch.exp(index * (-math.log(10_000.0) / width))  # (..., T, D/2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


class LearnedPositions(nn.Module):
    """A learned vector for each place: (..., T) -> (..., T, D)."""

    def __init__(self, rows: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, places: Tensor) -> Tensor:
        return self.weight[places]


# Where several sequences of one row are joined, padding stands between them. A sequence model must not see how much.


def real_first(x: Features) -> tuple[Features, Tensor]:
    """Move the padding of each row to its end; also return the order (B, T) that `in_order` undoes."""
    order = torch.argsort((~x.mask).to(torch.uint8), dim=1, stable=True)  # (B, T)
    values = x.values.gather(1, order.unsqueeze(-1).expand_as(x.values))
    return replace(x, values=values, mask=x.mask.gather(1, order)), order


def in_order(values: Tensor, order: Tensor) -> Tensor:
    """Put what stands in the order of `real_first` back in its own: (B, T, D) -> (B, T, D)."""
    return torch.zeros_like(values).scatter(1, order.unsqueeze(-1).expand_as(values), values)
