"""Pooling: features of many positions -> one vector a row, and from it the scores of a head."""

# B batch, T positions, D width, C scores

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.layers.dropout import Dropout
from dougong.layers.features import Features

PoolKind = Literal["mean", "max", "first", "last", "attention"]


class Pool(nn.Module):
    """Mean, maximum, first or last real position, or a learned weighted mean (one query; Lin et al. 2017).

    Padding may stand anywhere. A row with nothing real gives zeros.
    """

    def __init__(self, kind: PoolKind, width: int):
        super().__init__()
        self.kind = kind
        self.query = nn.Linear(width, 1, bias=False) if kind == "attention" else None

    def reset_parameters(self) -> None:
        if self.query is not None:
            nn.init.zeros_(self.query.weight)  # begins as the mean

    def forward(self, x: Features) -> Tensor:  # (B, T, D) -> (B, D)
        if self.kind == "mean":
            return x.mean()
        return self.pooled(x).masked_fill(~x.mask.any(1, keepdim=True), 0.0)

    def pooled(self, x: Features) -> Tensor:
        """Of rows in which something is real: (B, T, D) -> (B, D)."""
        if self.kind == "max":
            return x.values.masked_fill(~x.mask.unsqueeze(-1), torch.finfo(x.values.dtype).min).amax(1)
        if self.query is not None:
            scores = self.query(x.values).squeeze(-1).float()  # (B, T)
            scores = scores.masked_fill(~x.mask, -1e30)  # not -inf: a row with nothing real would be NaN
            return torch.einsum("bt,btd->bd", scores.softmax(-1).to(x.values.dtype), x.values)
        places = torch.arange(x.mask.shape[1], device=x.mask.device)  # (T,)
        if self.kind == "first":
            chosen = places.where(x.mask, len(places) - 1).amin(1)  # (B,)
        else:
            chosen = places.where(x.mask, 0).amax(1)
        return x.values[torch.arange(len(chosen), device=chosen.device), chosen]


def cells(x: Features, side: int) -> Tensor:  # (B, T, D) -> (B, side² · D)
    """Means over side × side parts of an image's grid, one beside the other, so that it is still told what stood where.

    Without a grid they are of as many parts of the sequence. No row may have padding.
    """
    planes = x.values.transpose(1, 2)  # (B, D, T)
    if x.grid is None:
        return F.adaptive_avg_pool1d(planes, side * side).flatten(1)
    return F.adaptive_avg_pool2d(planes.unflatten(2, x.grid), side).flatten(1)


class Readout(nn.Module):
    """Features -> C scores a row, all zero at first: a head begins by saying what it knows, nothing."""

    def __init__(self, kind: PoolKind, width: int, scores: int, dropout: float):
        super().__init__()
        self.pool = Pool(kind, width)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(width, scores)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Features) -> Tensor:  # (B, T, D) -> (B, C)
        return self.linear(self.dropout(self.pool(x)))
