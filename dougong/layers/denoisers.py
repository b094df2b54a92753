"""Networks that see a noisy picture, the time and what the inputs say: a U-Net and a transformer of patches.

U-Net after Ho et al. 2020 (arXiv:2006.11239), its norms set by time and inputs as in Dhariwal & Nichol 2021
(arXiv:2105.05233); DiT with adaLN-zero after Peebles & Xie 2023 (arXiv:2212.09748). Inputs of many positions are attended to
beside the picture's own places, as in Saharia et al. 2022 (arXiv:2205.11487).
"""

# B batch, C channels, H height, W width, P patch, T places of the picture, S positions of the inputs, D width

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.layers.attention import Attention
from dougong.layers.features import Features
from dougong.layers.feedforward import FeedForward, Linear

FREQUENCIES = 128  # of the time
GROUPS = 8  # channels are normed in so many groups


@dataclass(frozen=True)
class Said:
    """What the inputs say, as one vector a row and, where they have many positions, as a sequence."""

    vector: Tensor  # (B, D)
    sequence: Features | None = None  # (B, 1 + S, D)


class Told(nn.Module):
    """Features of the inputs -> what they say; where nothing of them is told, a learnt vector stands for them.

    `positions`: 0 without inputs; 1: the vector says it all; None or more: the sequence is given, too.
    """

    def __init__(self, width: int, positions: int | None):
        super().__init__()
        self.sequence = positions is None or positions > 1
        self.nothing = nn.Parameter(torch.empty(width))
        self.linear = Linear(width, width) if positions != 0 else None

    def reset_parameters(self) -> None:
        nn.init.normal_(self.nothing)

    def forward(self, condition: Features) -> Said:
        mask, nothing = condition.mask, self.nothing.to(condition.values.dtype)
        if self.linear is None:
            return Said(nothing.expand(len(mask), -1))
        vector = torch.where(mask.any(1, keepdim=True), self.linear(condition.mean()).to(nothing.dtype), nothing)
        if not self.sequence:
            return Said(vector)
        first = nothing.expand(len(mask), 1, -1)  # so that there always is something to attend to
        values = torch.cat([first, self.linear(condition.values).to(nothing.dtype)], dim=1)
        return Said(vector, Features(values, torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)))


class Moment(nn.Module):
    """Time (B,) in 0 … 1 and what the inputs say -> one vector (B, D) that sets the norms of all layers."""

    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = Linear(2 * FREQUENCIES, width), Linear(width, width)

    def forward(self, time: Tensor, said: Said) -> Tensor:
        rates = torch.exp(torch.arange(FREQUENCIES, device=time.device) * (-math.log(10_000) / FREQUENCIES))
        angles = 1000 * time[:, None].float() * rates  # (B, F)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(said.vector.dtype)
        return F.silu(self.down(F.silu(self.up(waves))) + said.vector)


class Beside(nn.Module):
    """Attention of the picture's places (B, T, D) over themselves and what the inputs say."""

    def __init__(self, width: int, said_width: int, heads: int, *, sequence: bool, gain: float = 1.0):
        super().__init__()
        self.attention = Attention(width, heads, heads, gain=gain)
        self.said = Linear(said_width, width) if sequence else None

    def forward(self, x: Tensor, said: Said) -> Tensor:
        if self.said is None or said.sequence is None:
            return self.attention(x, *self.attention.keys_values(x))
        sequence = self.said(said.sequence.values).to(x.dtype)  # (B, 1 + S, D)
        around = torch.cat([x, sequence], dim=1)
        seen = torch.cat([said.sequence.mask.new_ones(x.shape[:2]), said.sequence.mask], dim=1)
        return self.attention(x, *self.attention.keys_values(around), seen=seen[:, None, None])


# ---------------------------------------------------------------------------------------------------------------- DiT


class DiT(nn.Module):
    """Patches of the noisy picture (B, C, H, W) through a transformer, back to (B, C, H, W)."""

    def __init__(self, config: Any, shape: tuple[int, int, int], *, sequence: bool):
        super().__init__()
        channels, self.size, self.side = shape[0], shape[1:], config.patch
        self.grid = (math.ceil(shape[1] / self.side), math.ceil(shape[2] / self.side))
        self.moment = Moment(config.width)
        self.enter = Linear(channels * self.side**2, config.width)
        self.blocks = nn.ModuleList(
            DiTBlock(config.width, config.heads, sequence=sequence) for _ in range(config.layers)
        )
        self.set = Linear(config.width, 2 * config.width, gain=0.0)
        self.leave = Linear(config.width, channels * self.side**2, gain=0.0)
        self.places: Tensor
        self.register_buffer("places", torch.empty(math.prod(self.grid), config.width), persistent=False)

    def reset_parameters(self) -> None:
        self.places.copy_(sinusoids(self.grid, self.places.shape[1]))

    def forward(self, x: Tensor, time: Tensor, said: Said) -> Tensor:
        moment = self.moment(time, said)  # (B, D)
        patches = unshuffled(x, self.side, self.grid)  # (B, C · P · P, h, w)
        h = self.enter(patches.flatten(2).transpose(1, 2))  # (B, T, D)
        h = h + self.places.to(h.dtype)
        for block in self.blocks:
            h = block(h, moment, said)
        shift, scale = self.set(moment)[:, None].chunk(2, dim=-1)
        h = self.leave(F.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift)
        return shuffled(h.transpose(1, 2).unflatten(2, self.grid), self.side, self.size)


class DiTBlock(nn.Module):
    """Attention and feed-forward; the moment says how each is scaled, shifted, and how much of it is added: at birth none."""

    pure = True

    def __init__(self, width: int, heads: int, *, sequence: bool):
        super().__init__()
        self.set = Linear(width, 6 * width, gain=0.0)
        self.attention = Beside(width, width, heads, sequence=sequence)
        self.feedforward = FeedForward(width, 4 * width, "gelu_tanh")

    def forward(self, x: Tensor, moment: Tensor, said: Said) -> Tensor:  # (B, T, D)
        shift1, scale1, gate1, shift2, scale2, gate2 = self.set(moment)[:, None].chunk(6, dim=-1)
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(h, said)
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale2) + shift2
        return x + gate2 * self.feedforward(h)


def sinusoids(grid: tuple[int, int], width: int) -> Tensor:
    """(T, D): sine and cosine of each place's row, and of its column (Vaswani et al. 2017, one half each)."""
    count = math.ceil(width / 4)
    rates = torch.exp(torch.arange(count) * (-math.log(10_000) / count))
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = torch.cat([rows.reshape(-1, 1) * rates, columns.reshape(-1, 1) * rates], dim=1)  # (T, 2 · count)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]


def unshuffled(x: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C · P · P, h, w): each square of pixels as one place, the rim filled with zeros."""
    x = F.pad(x, (0, grid[1] * side - x.shape[3], 0, grid[0] * side - x.shape[2]))
    return F.pixel_unshuffle(x, side)


def shuffled(x: Tensor, side: int, size: tuple[int, ...]) -> Tensor:
    """Back again, without the rim: (B, C · P · P, h, w) -> (B, C, H, W)."""
    return F.pixel_shuffle(x, side)[:, :, : size[0], : size[1]]


# -------------------------------------------------------------------------------------------------------------- U-Net


class UNet(nn.Module):
    """Residual blocks down through smaller grids and up again, on the way up beside what was on the way down.

    The smallest grid has attention. (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, config: Any, shape: tuple[int, int, int], *, sequence: bool):
        super().__init__()
        channels, self.size, self.side = shape[0], shape[1:], config.patch
        steps = 2 ** (config.grids - 1)  # every grid has a whole number of places
        self.grid = (places(self.size[0], self.side, steps), places(self.size[1], self.side, steps))
        widths = [math.ceil(config.width / 2**above / GROUPS) * GROUPS for above in range(config.grids)][::-1]
        self.moment = Moment(config.width)
        self.enter = nn.Conv2d(channels * self.side**2, widths[0], 3, padding=1)
        down: list[Block] = []
        up: list[Block] = []
        before, last = widths[0], config.grids - 1
        for grid, width in enumerate(widths):
            for layer in range(config.layers):
                smaller = bool(grid and not layer)
                down.append(Block(config, before, width, attends=grid == last, sequence=sequence, halves=smaller))
                before = width
        for grid, width in reversed(list(enumerate(widths))):
            for layer in range(config.layers):
                larger = grid < last and not layer
                up.append(Block(config, before + width, width, attends=grid == last, sequence=sequence, doubles=larger))
                before = width
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.set = Linear(config.width, 2 * before, gain=0.0)
        self.leave = nn.Conv2d(before, channels * self.side**2, 3, padding=1)

    def reset_parameters(self) -> None:
        fill(self.enter)
        fill(self.leave, gain=0.0)

    def forward(self, x: Tensor, time: Tensor, said: Said) -> Tensor:
        moment = self.moment(time, said)  # (B, D)
        x = unshuffled(x, self.side, self.grid)  # (B, C · P · P, h, w)
        h = self.enter(x.contiguous(memory_format=torch.channels_last))
        kept = []
        for block in self.down:
            h = block(h, moment, said)
            kept.append(h)
        for block in self.up:
            if block.doubles:
                h = F.interpolate(h, scale_factor=2.0)
            h = block(torch.cat([h, kept.pop()], dim=1), moment, said)
        h = self.leave(F.silu(normed(h, self.set(moment))))
        return shuffled(h, self.side, self.size)


def places(length: int, side: int, steps: int) -> int:
    """How many squares of `side` pixels a length takes, a multiple of `steps`."""
    return math.ceil(length / (side * steps)) * steps


class Block(nn.Module):
    """Norm, activation, convolution, twice, and attention at the smallest grid; added to what came in."""

    def __init__(
        self,
        config: Any,
        before: int,
        after: int,
        *,
        attends: bool = False,
        sequence: bool = False,
        halves: bool = False,  # the grid, before all else
        doubles: bool = False,  # the same, by who calls: what it joins has that size already
    ):
        super().__init__()
        self.halves, self.doubles = halves, doubles
        self.set1 = Linear(config.width, 2 * before, gain=0.0)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.set2 = Linear(config.width, 2 * after, gain=0.0)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else None
        self.attention = Beside(after, config.width, config.heads, sequence=sequence, gain=0.0) if attends else None

    def reset_parameters(self) -> None:
        fill(self.conv1)
        fill(self.conv2, gain=0.0)  # the block begins as its shortcut
        if self.shortcut is not None:
            fill(self.shortcut)

    def forward(self, x: Tensor, moment: Tensor, said: Said) -> Tensor:  # (B, C, H, W)
        if self.halves:
            x = F.avg_pool2d(x, 2)
        h = self.conv1(F.silu(normed(x, self.set1(moment))))
        h = self.conv2(F.silu(normed(h, self.set2(moment))))
        x = h + (x if self.shortcut is None else self.shortcut(x))
        if self.attention is None:
            return x
        flat = F.group_norm(x, GROUPS).flatten(2).transpose(1, 2)  # (B, T, C)
        return x + self.attention(flat, said).transpose(1, 2).unflatten(2, x.shape[2:])


def normed(x: Tensor, settings: Tensor) -> Tensor:
    """The channels of (B, C, H, W) normed in groups, then scaled and shifted as the moment says, (B, 2 · C)."""
    shift, scale = settings[:, :, None, None].chunk(2, dim=1)
    return F.group_norm(x, GROUPS) * (1 + scale) + shift


def fill(conv: nn.Conv2d, gain: float = 1.0) -> None:
    """Weights of variance gain² / inputs, bias zero."""
    nn.init.normal_(conv.weight, std=gain * conv.weight[0].numel() ** -0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
