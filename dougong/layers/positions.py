"""Positions: how a layer learns where a feature stands, and padding moved out of the way.

Rotary after Su et al. 2021 (arXiv:2104.09864), over the rows and columns of a grid as in Heo et al. 2024
(arXiv:2403.13298); sinusoidal after Vaswani et al. 2017 (arXiv:1706.03762); buckets of distances after Raffel et al. 2020
(arXiv:1910.10683). Rotary stretched to longer sequences: linear
after Chen et al. 2023 (arXiv:2306.15595), NTK-aware after bloc97 2023, YaRN after Peng et al. 2023 (arXiv:2309.00071).
"""

# B batch, T positions, S keys, D width, H heads, K head_dim, A axes (1 for a sequence, 2 for an image)

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Count, config
from dougong.core.errors import bad_field
from dougong.layers.features import Features

Rotary = tuple[Tensor, Tensor]  # cos and sin, each (1 or B, 1, T, K/2)


@config
class RotaryScaling:
    """Rotary positions of a model that learnt `original` of them, stretched so that `factor` times as many are told apart."""

    kind: Literal["linear", "ntk", "yarn"]
    factor: Annotated[float, Field(gt=1)]
    original: Count  # positions that it was trained on

    @property
    def reach(self) -> int:
        """Positions that it has now."""
        return int(self.factor * self.original)

    def check(self, key: str, length: int) -> None:
        """Refuse a sequence that is longer than that."""
        if length > self.reach:
            expected = f"enough for {length:,} positions: {self.original:,} times it are {self.reach:,}"
            fix = f"use factor: {math.ceil(length / self.original)}, or shorter sequences"
            raise bad_field(f"{key}.rotary_scaling.factor", self.factor, expected, fix)


def rotary(places: Tensor, head_dim: int, base: float, scaling: RotaryScaling | None = None) -> Rotary:
    """The angles of every place, as cos and sin. places: (1, T, A) or, where the rows differ, (B, T, A).

    Computed anew in each forward pass, shared by its layers: that costs less than one head of one layer, needs no table
    of a fixed length, and stays in float32 whatever the model is cast to.
    """
    pairs, axes = head_dim // 2, places.shape[-1]
    index = torch.arange(pairs, device=places.device)
    frequency = frequencies(index // axes, math.ceil(pairs / axes), base, scaling)  # (K/2,)
    angles = places[..., index % axes].float() * frequency  # (1 or B, T, K/2): the axes take turns along the pairs
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    if scaling is None or scaling.kind != "yarn":
        return cos, sin
    temperature = (
        0.1 * math.log(scaling.factor) + 1.0
    )  # longer queries and keys: attention stays as sharp among more of them
    return cos * temperature, sin * temperature


FAST, SLOW = (
    32.0,
    1.0,
)  # YaRN: pairs that turn oftener in the original length stay as they are, rarer ones are stretched


def frequencies(index: Tensor, count: int, base: float, scaling: RotaryScaling | None) -> Tensor:
    """How far each pair turns from one place to the next, in radians; index: which of `count` pairs, fast to slow."""
    if scaling is not None and scaling.kind == "ntk":  # the slowest `factor` times as slow, the fastest as before
        base *= scaling.factor ** (count / (count - 1))
    frequency = torch.exp(index.float() * (-math.log(base) / count))
    if scaling is None or scaling.kind == "ntk":
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    # the pair that turns so many times within the original length
    turning = [count * math.log(scaling.original / (2 * math.pi * turns)) / math.log(base) for turns in (FAST, SLOW)]
    low, high = max(math.floor(turning[0]), 0), min(math.ceil(turning[1]), 2 * count - 1)
    stretched = ((index - low) / max(high - low, 1e-3)).clamp(0, 1)
    return frequency * (1 - stretched + stretched / scaling.factor)


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


class RelativeBuckets(nn.Module):
    """What each head adds to the score of a key by how far it stands from the query: one table for all layers."""

    BUCKETS: ClassVar[int] = 32  # of them half for single distances, the other half ever wider …
    FAR: ClassVar[int] = 128  # … up to this distance; what is further falls into the last

    def __init__(self, heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(self.BUCKETS, heads))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, ahead: Tensor, *, causal: bool) -> Tensor:
        """ahead, how many places a key stands after the query: (1 or B, T, S) -> (1 or B, H, T, S)."""
        return self.weight[self.buckets(ahead, causal)].permute(0, 3, 1, 2)

    def buckets(self, ahead: Tensor, causal: bool) -> Tensor:
        """A causal model needs none for what stands ahead, so that those behind are twice as many."""
        count = self.BUCKETS if causal else self.BUCKETS // 2
        distance = (-ahead).clamp(min=0) if causal else ahead.abs()
        single = count // 2
        widening = torch.log(distance.clamp(min=1).float() / single) / math.log(self.FAR / single) * (count - single)
        wide = (single + widening.to(torch.int64)).clamp(max=count - 1)
        found = torch.where(distance < single, distance, wide)
        return found if causal else found + count * (ahead > 0)


def places_within(segments: Tensor) -> Tensor:
    """The place of each position in its own segment, (B, T) -> (B, T): each begins at 0."""
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = segments != segments.roll(1, dims=1)
    begins[:, 0] = True
    return index - torch.where(begins, index, 0).cummax(1).values


# Where several sequences of one row are joined, padding stands between them. A sequence model must not see how much.


def real_first(x: Features) -> tuple[Features, Tensor]:
    """Move the padding of each row to its end; also return the order (B, T) that `in_order` undoes."""
    order = torch.argsort((~x.mask).to(torch.uint8), dim=1, stable=True)  # (B, T)
    values = x.values.gather(1, order.unsqueeze(-1).expand_as(x.values))
    segments = None if x.segments is None else x.segments.gather(1, order)
    return replace(x, values=values, mask=x.mask.gather(1, order), segments=segments), order


def in_order(values: Tensor, order: Tensor) -> Tensor:
    """Put what stands in the order of `real_first` back in its own: (B, T, D) -> (B, T, D)."""
    return torch.zeros_like(values).scatter(1, order.unsqueeze(-1).expand_as(values), values)
