"""Guidance without a classifier: what makes from noise learns to do without its inputs, too, and so can go beyond them.

Ho & Salimans 2022 (arXiv:2207.12598).
"""

# B batch, T positions of the inputs, D width

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dougong.layers.features import Features

GUIDANCE, DROPPED = 2.0, 0.1  # where there are inputs, and the recipe does not say


def sometimes_told(condition: Features, chances: Tensor, share: float | None) -> Features:
    """The inputs of training rows, those of a `share` of them not told; `chances` (B,) in [0, 1)."""
    share = DROPPED if share is None else share
    return replace(condition, mask=condition.mask & (chances >= share)[:, None])


def strength(condition: Features, guidance: float | None) -> float:
    """How far to go; 1, no further than the inputs ask for, where there are none."""
    return 1.0 if not condition.mask.shape[1] else GUIDANCE if guidance is None else guidance


def told_and_not(condition: Features) -> Features:
    """Below each other: the inputs of all rows (B, T, D), and the same not told, (2B, T, D)."""
    return Features(condition.values.repeat(2, 1, 1), torch.cat([condition.mask, torch.zeros_like(condition.mask)]))


def beyond(both: Tensor, guidance: float) -> Tensor:
    """Of what is said with the inputs and without, (2B, …): (1 - g) · without + g · with, (B, …)."""
    told, untold = both.chunk(2)
    return untold + guidance * (told - untold)
