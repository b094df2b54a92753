"""Noise: what an output is made from, and the chances of a row that go with it in training."""

# B batch

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Of each row its noise, and two numbers in [0, 1): how noisy it is looked at, and whether its inputs are told."""

    noise: Tensor  # (B, …) standard normal
    time: Tensor  # (B,)
    told: Tensor  # (B,)


def drawn(rows: int, shape: Sequence[int], device: torch.device) -> Draws:
    """By torch's global generator, as training does: a resumed run repeats it."""
    chances = torch.rand(2, rows, device=device)
    return Draws(torch.randn(rows, *shape, device=device), chances[0], chances[1])


def repeated(seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> Draws:
    """Of each row by a generator of its own: the same beside any other rows, each time, on every device."""
    noise, chances = torch.empty(len(seeds), *shape), torch.empty(len(seeds), 2)
    for row, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        noise[row].normal_(generator=generator)
        chances[row].uniform_(generator=generator)
    return Draws(noise.to(device), chances[:, 0].to(device), chances[:, 1].to(device))
