"""DETR: a set of learnt queries, each of which looks for one thing in the picture, or finds none. No suppression.

Carion et al. 2020, arXiv:2005.12872: a decoder whose queries see each other and attend to the features of the picture; each
true box is matched with the one query whose answer costs least. As later work has it, so that it learns in minutes: a query
begins at a place of its own and each layer corrects its box (Zhu et al. 2021, arXiv:2010.04159), it looks first where that
box is (Gao et al. 2021, arXiv:2101.07448), and what stands there is told by focal loss.
"""

# B batch, S positions of the features, Q queries, N boxes of a picture, C classes, D width, H heads

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dougong.core.config import Count, config
from dougong.core.errors import bad_field
from dougong.layers.assignment import assign
from dougong.layers.attention import Attention, weighed
from dougong.layers.boxes import area, giou
from dougong.layers.fcos import LIKELY, likeliest
from dougong.layers.features import Features
from dougong.layers.feedforward import FeedForward, Linear
from dougong.layers.losses import sigmoid_focal_sum
from dougong.layers.norms import make_norm
from dougong.layers.positions import sinusoidal
from dougong.layers.pyramid import grid_of, stages_of

CLASS, SIDES, OVERLAP = (
    2.0,
    5.0,
    2.0,
)  # weights of the three parts of a match's cost and of the loss, as in arXiv:2010.04159
FINE = 1000  # steps of a side that positions tell apart
LEAST = 0.02  # score of a box that is told at all


@config
class Detr:
    """Set prediction by a decoder of `layers` layers."""

    kind: Literal["detr"] = "detr"
    queries: Count = 50  # Q: no more boxes can be told of one picture
    layers: Count = 3
    heads: Count = 4
    width: Count = 128  # D of the decoder
    levels: Count = 2  # stages of the backbone that are looked at, the coarsest

    def __post_init__(self) -> None:
        if self.width % (4 * self.heads):
            near = math.ceil(self.width / (4 * self.heads)) * 4 * self.heads
            expected = f"a multiple of 4 · heads ({4 * self.heads})"
            raise bad_field("head.width", self.width, expected, f"use width: {near}")


class DetrHead(nn.Module):
    """Features, of any backbone that gives a grid -> what stands in a picture, and where."""

    def __init__(self, config: Detr, widths: Sequence[int], classes: int, most: int):
        super().__init__()
        self.config, self.classes, self.most = config, classes, most
        self.stages = min(config.levels, len(widths))
        width = config.width
        self.norms = nn.ModuleList(make_norm("layer", each) for each in widths[-self.stages :])
        self.maps = nn.ModuleList(Linear(each, width) for each in widths[-self.stages :])
        self.place = Linear(2 * width, width)  # of positions in both directions
        self.queries = nn.Embedding(config.queries, width)
        self.begin = nn.Embedding(config.queries, 4)  # logits of middle and size
        self.layers = nn.ModuleList(Layer(width, config.heads) for _ in range(config.layers))
        self.last = make_norm("layer", width)
        self.name = Linear(width, classes)
        self.correct = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, 4, gain=0.0))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.queries.weight, std=1.0)
        nn.init.uniform_(self.begin.weight[:, :2], 0.05, 0.95)  # all over the picture
        nn.init.constant_(self.begin.weight[:, 2:], 0.2)
        with torch.no_grad():
            self.begin.weight.copy_(_logit(self.begin.weight))
        nn.init.constant_(self.name.bias, math.log(LIKELY / (1 - LIKELY)))

    def forward(self, features: Features) -> list[tuple[Tensor, Tensor]]:
        """After each layer the classes (B, Q, C) as logits, and the boxes (B, Q, 4) as middle and size."""
        stages = stages_of(features, self.stages)
        seen = [change(norm(x.values)) for x, norm, change in zip(stages, self.norms, self.maps, strict=True)]
        at = torch.cat([_middles(grid_of(x), features.values.device) for x in stages])  # (S, 2)
        real = torch.cat([x.mask for x in stages], dim=1)  # (B, S)
        memory = torch.cat(seen, dim=1) + self.placed(at)  # (B, S, D)
        rows = len(memory)
        x = self.queries.weight.expand(rows, -1, -1).to(memory.dtype)  # (B, Q, D)
        box = self.begin.weight.sigmoid().expand(rows, -1, -1)  # (B, Q, 4)
        told: list[tuple[Tensor, Tensor]] = []
        for layer in self.layers:
            there = box.detach()
            sight = weighed(real[:, None]) - _away(at, there)  # (B, Q, S)
            x = layer(x, self.placed(there[..., :2]), memory, sight)
            h = self.last(x)
            start = (
                there if told else box
            )  # each layer answers for its own correction, the first for where queries begin
            box = (_logit(start) + self.correct(h).float()).sigmoid()
            told.append((self.name(h).float(), box))
        return told

    def placed(self, at: Tensor) -> Tensor:
        """(..., 2) shares of width and height -> (..., D)."""
        waves = sinusoidal((at * FINE).flatten(0, -2), self.config.width)  # (n, 2, D)
        return self.place(waves.flatten(1)).unflatten(0, at.shape[:-1])

    def loss(self, features: Features, boxes: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        """The sum over boxes, the mean of all layers: (B, N, 4), (B, N), -1 where the class is not known, (B, N) bool."""
        told = self(features)
        known = known & (labels >= 0)
        losses = [self.one_loss(classes, box, boxes, labels, known) for classes, box in told]
        return torch.stack(losses).mean()

    def one_loss(self, classes: Tensor, told: Tensor, boxes: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        corners = as_corners(told)  # (B, Q, 4)
        picture, query, which = matched(classes.detach(), told.detach(), boxes, labels, known)  # (P,) each
        wanted = torch.zeros_like(classes)
        wanted[picture, query, labels[picture, which]] = 1.0
        loss = CLASS * sigmoid_focal_sum(classes, wanted)
        right = boxes[picture, which]  # (P, 4)
        off = (told[picture, query] - as_middles(right)).abs().sum()
        return loss + SIDES * off + OVERLAP * (1 - giou(corners[picture, query], right)).sum()

    def predict(self, features: Features) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (B, M, 4), labels and scores (B, M), the likeliest first, and how many of the M there are (B,)."""
        classes, told = self(features)[-1]
        scores = classes.sigmoid().flatten(1)  # (B, Q · C)
        best, index = scores.topk(min(self.most, scores.shape[1]), dim=1)
        query = (index // self.classes)[..., None].expand(-1, -1, 4)
        boxes = as_corners(told).gather(1, query).clamp(0, 1)
        best = best * ((best >= LEAST) & (area(boxes) > 0))
        return likeliest(boxes, index % self.classes, best, self.most)


class Layer(nn.Module):
    """Queries see each other, then the picture, then think; each is added to what came in."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.own_norm, self.own = make_norm("layer", width), Attention(width, heads, heads, gain=0.0)
        self.cross_norm, self.cross = make_norm("layer", width), Attention(width, heads, heads, gain=0.0)
        self.norm, self.feedforward = make_norm("layer", width), FeedForward(width, 4 * width, "relu", gain=0.0)

    def forward(self, x: Tensor, place: Tensor, memory: Tensor, sight: Tensor) -> Tensor:
        """(B, Q, D), where each query is (B, Q, D), (B, S, D), and how well it sees each position (B, Q, S)."""
        h = self.own_norm(x) + place
        x = x + self.own(h, *self.own.keys_values(h))
        h = self.cross_norm(x) + place
        x = x + self.cross(h, *self.cross.keys_values(memory), seen=sight[:, None])
        return x + self.feedforward(self.norm(x))


@torch.no_grad()
def matched(
    classes: Tensor, told: Tensor, boxes: Tensor, labels: Tensor, known: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Which query answers for which box: (P,) pictures, queries, and boxes. Of more boxes than queries some have none."""
    found: list[tuple[int, int, int]] = []
    for row in range(len(classes)):
        (real,) = known[row].nonzero(as_tuple=True)  # (n,)
        if not len(real):
            continue
        right, names = boxes[row, real], labels[row, real]
        likely = classes[row].sigmoid()[:, names].T  # (n, Q)
        yes = 0.25 * (1 - likely) ** 2 * -(likely + 1e-8).log()
        no = 0.75 * likely**2 * -(1 - likely + 1e-8).log()
        off = (as_middles(right)[:, None] - told[row]).abs().sum(-1)  # (n, Q)
        near = giou(right[:, None], as_corners(told[row]))
        costs = (CLASS * (yes - no) + SIDES * off - OVERLAP * near).cpu().numpy()
        if costs.shape[0] <= costs.shape[1]:
            pairs = list(enumerate(assign(costs)))
        else:
            pairs = [(int(box), query) for query, box in enumerate(assign(costs.T))]
        found += [(row, int(query), int(real[box])) for box, query in pairs]
    picture, query, which = torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3).T
    return picture, query, which


def as_corners(boxes: Tensor) -> Tensor:
    """Middle and size -> x_min, y_min, x_max, y_max."""
    middle, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([middle - size / 2, middle + size / 2], dim=-1)


def as_middles(boxes: Tensor) -> Tensor:
    """x_min, y_min, x_max, y_max -> middle and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def _middles(grid: tuple[int, int], device: torch.device) -> Tensor:
    """The middles of the cells, row by row: (h · w, 2) of x, y."""
    height, width = grid
    y, x = (torch.arange(size, device=device).add(0.5) / size for size in grid)
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)


def _away(at: Tensor, box: Tensor) -> Tensor:
    """How far positions (S, 2) lie from boxes (B, Q, 4), squared, in halves of the box's sides: (B, Q, S)."""
    middle, size = box[..., None, :2], box[..., None, 2:].clamp(min=0.05)
    return (((at - middle) / size) ** 2).sum(-1) * 2


def _logit(share: Tensor) -> Tensor:
    share = share.clamp(1e-4, 1 - 1e-4)
    return (share / (1 - share)).log()
