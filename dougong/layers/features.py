"""Features: the one thing that flows between fields and backbones."""

# B batch, T positions, D width

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Features:
    """Values (B, T, D), the positions that are real (B, T), and the grid that T unrolls, if any.

    `auxiliary` is a loss that a backbone adds for its own balance (mixture of experts), already a mean over positions.
    `segments` says which of several sequences in one row a position belongs to, if they must not see one another.
    `finer` are the features of a backbone's earlier stages, of higher resolution and of widths of their own, finest first.
    `source` comes with what is written by an output that copies: the features of the input that it copies from.
    """

    values: Tensor  # (B, T, D) float
    mask: Tensor  # (B, T) bool: True where a position is real, False where it pads
    grid: tuple[int, ...] | None = None  # (H, W) with H * W == T for images; None for sequences and sets
    auxiliary: Tensor | None = None
    places: Tensor | None = None  # (B, W) int64: the position of each word or token that an output names, -1: not read
    segments: Tensor | None = None  # (B, T) int64, the same number for what lies together
    finer: tuple[Features, ...] = ()
    source: Features | None = None  # of what is written: the features of the input that it may copy from

    def mean(self) -> Tensor:
        """The mean over real positions, (B, D)."""
        weight = self.mask.unsqueeze(-1).to(self.values.dtype)  # (B, T, 1)
        return (self.values * weight).sum(1) / weight.sum(1).clamp(min=1)


def length_mask(lengths: Tensor, positions: int) -> Tensor:
    """(B,) lengths -> (B, T) bool mask, True for the first `length` positions of each row."""
    return torch.arange(positions, device=lengths.device)[None, :] < lengths[:, None]


def stacked(parts: Sequence[Features]) -> Features:
    """The rows of several, below each other, as long as the longest: (B, T, D) each -> (n * B, T, D)."""
    longest = max(part.mask.shape[1] for part in parts)
    gaps = [longest - part.mask.shape[1] for part in parts]
    values = [functional.pad(part.values, (0, 0, 0, gap)) for part, gap in zip(parts, gaps, strict=True)]
    masks = [functional.pad(part.mask, (0, gap)) for part, gap in zip(parts, gaps, strict=True)]
    own = [part.auxiliary for part in parts if part.auxiliary is not None]
    return Features(torch.cat(values), torch.cat(masks), None, torch.stack(own).sum() if own else None)


def chosen(x: Features | None, rows: Tensor) -> Features | None:
    """Some rows (B',) of features, which may repeat."""
    return None if x is None else replace(x, values=x.values[rows], mask=x.mask[rows])
