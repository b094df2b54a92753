"""FCOS: each place of a feature pyramid says what it lies in the middle of, and how far away the sides are. No anchors.

Tian et al. 2019, arXiv:1904.01355, with centre sampling; the loss for what stands where is focal (Lin et al. 2017,
arXiv:1708.02002), that for the sides is 1 - GIoU (Rezatofighi et al. 2019, arXiv:1902.09630). Coordinates are shares of the
picture's width and height throughout.
"""

# B batch, L places of all levels, N boxes of a picture, C classes, D width, h, w of a grid

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, config
from dougong.layers.boxes import area, giou, suppressed
from dougong.layers.features import Features
from dougong.layers.losses import sigmoid_focal_sum
from dougong.layers.pyramid import Pyramid, grid_of, stages_of

RADIUS = 1.5  # cells from the middle of a box within which places answer for it
REACH = 4.0  # cells to the farthest side: of a box that reaches farther the next coarser level tells. FCOS, for larger pictures: 8
WHOLE = (
    2 * RADIUS
) ** 2  # places that answer for a box, where nothing is in their way: what the focal loss is divided by
CANDIDATES = 300  # places of a picture that are looked at before suppression
LEAST = 0.02  # score of a box that is told at all
LIKELY = 0.01  # how likely something stands at a place before anything is learnt (Lin et al. 2017, section 4.1)
FARTHEST = 8.0  # of the logarithm of a distance in cells, before a large one overflows


@config
class Fcos:
    """A convolutional head over a feature pyramid."""

    kind: Literal["fcos"] = "fcos"
    width: Count = 64  # D of the pyramid and the convolutions
    convs: Count = 2  # before the last, shared by all levels
    levels: Count | None = None  # of the pyramid; None: as many as the backbone has stages
    overlap: Fraction = 0.6  # IoU above which of two boxes with one label only the likelier is told


class Places(NamedTuple):
    """Every place of every level."""

    middle: Tensor  # (L, 2) x, y
    cell: Tensor  # (L, 2) width and height of its cell
    reach: Tensor  # (L, 2) cells to the farthest side, from and to, of a box that its level tells of


class Told(NamedTuple):
    """What the head says of every place."""

    classes: Tensor  # (B, L, C) logits
    boxes: Tensor  # (B, L, 4)
    centred: Tensor  # (B, L) logits: how near the middle of its box a place lies
    real: Tensor  # (B, L) bool


class FcosHead(nn.Module):
    """Features with their finer stages -> what stands in a picture, and where."""

    def __init__(self, config: Fcos, widths: Sequence[int], classes: int, most: int):
        super().__init__()
        self.config, self.classes, self.most = config, classes, most
        self.stages = min(config.levels or len(widths), len(widths))
        self.pyramid = Pyramid(widths[-self.stages :], config.width)
        self.tower = nn.Sequential(*(layer for _ in range(config.convs) for layer in _convolution(config.width)))
        self.out = nn.Conv2d(config.width, classes + 5, 3, padding=1)
        self.scales = nn.Parameter(torch.empty(self.stages))  # each level may speak of cells of its own size

    def reset_parameters(self) -> None:
        nn.init.normal_(self.out.weight, std=0.01)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)
        nn.init.constant_(self.out.bias[: self.classes], math.log(LIKELY / (1 - LIKELY)))
        nn.init.ones_(self.scales)

    def forward(self, features: Features) -> tuple[Told, Places]:
        stages = stages_of(features, self.stages)
        told, places, count = [], [], len(stages)
        for level, (grid, scale) in enumerate(zip(self.pyramid(stages), self.scales, strict=True)):
            out = self.out(self.tower(grid)).float().flatten(2).transpose(1, 2)  # (B, l, C + 5)
            at = _places(grid_of(stages[level]), level, count, out.device)
            sides = (out[..., self.classes : -1] * scale).clamp(max=FARTHEST).exp() * at.cell.repeat(1, 2)  # (B, l, 4)
            low, high = at.middle - sides[..., :2], at.middle + sides[..., 2:]
            boxes = torch.cat([low, high], dim=-1)
            told.append(Told(out[..., : self.classes], boxes, out[..., -1], stages[level].mask))
            places.append(at)
        return (
            Told(*(torch.cat(parts, dim=1) for parts in zip(*told, strict=True))),
            Places(*(torch.cat(parts) for parts in zip(*places, strict=True))),
        )

    def loss(self, features: Features, boxes: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        """The sum over boxes: (B, N, 4), (B, N), -1 where the class is not known, (B, N) bool: which are some."""
        told, places = self(features)
        owner, positive = answering(places, boxes, known)  # (B, L)
        positive &= told.real
        label = labels.gather(1, owner)
        unknown = positive & (label < 0)  # something stands there: neither nothing nor any class
        positive &= ~unknown
        wanted = F.one_hot(label.clamp(min=0), self.classes) * positive[..., None]  # (B, L, C)
        judged = (told.real & ~unknown)[..., None].expand_as(wanted)
        loss = sigmoid_focal_sum(told.classes[judged], wanted[judged].float()) / WHOLE
        picture, place = positive.nonzero(as_tuple=True)  # (P,)
        if not len(picture):
            return loss + 0.0 * (told.boxes.sum() + told.centred.sum())
        right = boxes[picture, owner[picture, place]]  # (P, 4)
        near = centredness(places.middle[place], right)
        which = picture * boxes.shape[1] + owner[picture, place]
        off = 1 - giou(told.boxes[picture, place], right)
        loss = loss + (off * near / _sums(near, which, boxes)).sum()
        doubt = F.binary_cross_entropy_with_logits(told.centred[picture, place], near, reduction="none")
        return loss + (doubt / _sums(torch.ones_like(near), which, boxes)).sum()

    def predict(self, features: Features) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (B, M, 4), labels and scores (B, M), the likeliest first, and how many of the M there are (B,)."""
        told, _ = self(features)
        scores = (told.classes.sigmoid() * told.centred.sigmoid()[..., None]).sqrt()  # (B, L, C)
        scores = scores.masked_fill(~told.real[..., None], 0.0).flatten(1)
        best, index = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)  # (B, K)
        labels = index % self.classes
        place = (index // self.classes)[..., None].expand(-1, -1, 4)
        boxes = told.boxes.gather(1, place).clamp(0, 1)
        kept = suppressed(boxes, best, labels, self.config.overlap) & (best >= LEAST) & (area(boxes) > 0)
        return likeliest(boxes, labels, best * kept, self.most)


def _convolution(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(math.gcd(8, width), width), nn.ReLU()]


def _places(grid: tuple[int, int], level: int, levels: int, device: torch.device) -> Places:
    height, width = grid
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    middle = torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)  # (l, 2)
    cell = middle.new_tensor([1 / width, 1 / height]).expand_as(middle)
    reach = [REACH / 2 if level else 0.0, REACH if level < levels - 1 else math.inf]
    return Places(middle, cell, middle.new_tensor(reach).expand_as(middle))


def answering(places: Places, boxes: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The box that each place answers for: (B, N, 4), (B, N) -> its number (B, L), and whether there is one.

    It lies in the box, not far from its middle, and on the level of the box's size; of several it is the smallest.
    """
    at, cell = places.middle[:, None], places.cell[:, None]  # (L, 1, 2)
    low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]  # (B, 1, N, 2)
    sides = torch.cat([at - low, high - at], dim=-1)  # (B, L, N, 4)
    far = (sides / cell.repeat(1, 1, 2)).amax(-1)  # (B, L, N) cells to the farthest side
    near = (((low + high) / 2 - at).abs() < RADIUS * cell).all(-1)
    level = (far > places.reach[:, None, 0]) & (far <= places.reach[:, None, 1])
    fits = near & level & (sides.amin(-1) > 0) & known[:, None]
    size = area(boxes)[:, None].masked_fill(~fits, math.inf)  # (B, L, N)
    smallest, owner = size.min(-1)
    return owner, smallest.isfinite()


def centredness(at: Tensor, boxes: Tensor) -> Tensor:
    """(P, 2) places in their boxes (P, 4) -> (P,): 1 in the middle, 0 at the rim."""
    before, behind = at - boxes[:, :2], boxes[:, 2:] - at  # (P, 2)
    return (torch.minimum(before, behind) / torch.maximum(before, behind)).prod(1).clamp(min=1e-6).sqrt()


def _sums(values: Tensor, which: Tensor, boxes: Tensor) -> Tensor:
    """(P,) values of places -> of each the sum over all that answer for the same box."""
    count = boxes.shape[0] * boxes.shape[1]
    return values.new_zeros(count).index_add(0, which, values)[which]


def likeliest(boxes: Tensor, labels: Tensor, scores: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The `most` with the highest scores, those of a score of 0 none of them; padded with zeros to so many."""
    missing = max(0, most - scores.shape[1])
    boxes, labels, scores = F.pad(boxes, (0, 0, 0, missing)), F.pad(labels, (0, missing)), F.pad(scores, (0, missing))
    best, index = scores.topk(most, dim=1)  # (B, M)
    there = best > 0
    boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4)) * there[..., None]
    return boxes, labels.gather(1, index) * there, best, there.sum(1)
