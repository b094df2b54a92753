"""Pictures changed at random, a whole batch at once: places first, then colours, then holes, then blends of two rows.

Sources: crop and flip as in He et al. 2016; RandAugment, Cubuk et al. 2020 (arXiv:1909.13719); random erasing, Zhong et
al. 2020 (arXiv:1708.04896); mixup, Zhang et al. 2018 (arXiv:1710.09412); CutMix, Yun et al. 2019 (arXiv:1905.04899).
"""

# B batch, H height, W width in pixels, C channels, N operations, K some of the rows

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dougong.core.config import Count, Fraction, NonNegative, config

GREY = 127  # what a hole is filled with


@config
class Policy:
    """RandAugment: each picture goes through `operations` of OPERATIONS, drawn anew, all of one strength."""

    operations: Count = 2
    magnitude: Fraction = 0.5  # 1: turned by 30 degrees, sheared or moved by 0.3, colours changed by 0.9


@config
class Augment:
    """What is done to the pictures of a training batch, at random; all off by default except where a share is given."""

    flip: bool = False  # left to right, half of the pictures
    crop: Annotated[int, Field(ge=0)] = 0  # shifted by up to so many pixels, the rim filled with the edge
    zoom: Annotated[float, Field(ge=0, le=0.9)] = 0.0  # enlarged or made smaller by up to this share, at a random place
    policy: Policy | None = None
    jitter: NonNegative = 0.0  # brightness and contrast changed by up to this share
    erase: Fraction = 0.0  # share of pictures in which a rectangle is wiped out
    mixup: NonNegative = 0.0  # alpha of the Beta distribution two pictures are blended by; 0 = never
    cutmix: NonNegative = 0.0  # the same for the area of a rectangle that comes from another picture

    @property
    def blends(self) -> str | None:
        """The key that mixes two rows, targets included, if there is one."""
        return next((key for key in ("mixup", "cutmix") if getattr(self, key)), None)


def changed(pixels: Tensor, setting: Augment, frames: int = 1) -> tuple[Tensor, Tensor]:
    """(B, H, W, C) uint8 -> the same, each picture changed in its own way; and where each place of it came to lie.

    That is (B, 2, 3): (x, y, 1) -> (x', y'), in shares of width and height. Of a clip the frames are channels of one picture.
    """
    rows, height, width, _ = pixels.shape
    policy, device = setting.policy, pixels.device
    drawn = None if policy is None else torch.randint(len(OPERATIONS), (policy.operations, rows), device=device)
    level = None if policy is None or drawn is None else _levels(drawn, policy)  # (N, B)
    affine = torch.eye(3, device=device).repeat(rows, 1, 1)
    if setting.flip or setting.crop or setting.zoom or drawn is not None:
        moves = _moves(pixels, setting, drawn, level)  # (B, 3, 3)
        straight = not setting.zoom and drawn is None
        pixels = _shifted(pixels, moves) if straight else _sampled(pixels, moves)
        scale = torch.tensor([width, height, 1.0], device=device)
        affine = torch.linalg.inv(moves / scale[:, None] * scale)  # back and forth, in shares
    if drawn is not None and level is not None:
        tall = (
            pixels.unflatten(3, (frames, -1)).movedim(3, 1).flatten(1, 2)
        )  # (B, F · H, W, C): colours are of all frames
        pixels = _recoloured(tall, drawn, level).unflatten(1, (frames, -1)).movedim(1, 3).flatten(3)
    if setting.erase:
        pixels = _erased(pixels, setting.erase)
    if setting.jitter:
        scale = 1 + setting.jitter * (2 * torch.rand(rows, 1, 1, 1, device=device) - 1)
        shift = 255 * setting.jitter * (2 * torch.rand(rows, 1, 1, 1, device=device) - 1)
        pixels = (pixels.float() * scale + shift).clamp(0, 255).to(torch.uint8)
    return pixels, affine[:, :2]


def mixed(pixels: Tensor, setting: Augment) -> tuple[Tensor, Tensor, float]:
    """Each picture with a part of another row's: the pictures, which row (B,), and the share that is a picture's own.

    One share for the batch, so that its loss is a blend of two sums. With both mixup and cutmix, one of them by chance.
    """
    rows, height, width, _ = pixels.shape
    partner = torch.randperm(rows, device=pixels.device)
    if setting.mixup and (not setting.cutmix or float(torch.rand(())) < 0.5):
        share = float(torch.distributions.Beta(setting.mixup, setting.mixup).sample())
        blend = share * pixels.float() + (1 - share) * pixels[partner].float()
        return blend.to(torch.uint8), partner, share
    share = float(torch.distributions.Beta(setting.cutmix, setting.cutmix).sample())
    side = math.sqrt(1 - share) / 2
    y, x = (torch.rand(2) * torch.tensor([height, width])).tolist()  # the middle; what lies beyond the edge is cut off
    top, bottom = (min(max(round(y + sign * side * height), 0), height) for sign in (-1, 1))
    left, right = (min(max(round(x + sign * side * width), 0), width) for sign in (-1, 1))
    pixels = pixels.clone()
    pixels[:, top:bottom, left:right] = pixels[partner, top:bottom, left:right]
    return pixels, partner, 1 - (bottom - top) * (right - left) / (height * width)


# -------------------------------------------------------------------------------------------------------------- places


def _moves(pixels: Tensor, setting: Augment, drawn: Tensor | None, level: Tensor | None) -> Tensor:
    """(B, 3, 3): the way back, from places (x, y, 1) in the new picture to those in the old one, in pixels."""
    rows, height, width, _ = pixels.shape
    device = pixels.device
    moves = torch.eye(3, device=device).repeat(rows, 1, 1)
    if setting.crop:
        moves[:, :2, 2] = torch.randint(-setting.crop, setting.crop + 1, (rows, 2), device=device).float()
    if setting.flip:
        turned = torch.rand(rows, device=device) < 0.5
        mirror = torch.tensor([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], device=device)
        moves = torch.where(turned[:, None, None], moves @ mirror, moves)
    if setting.zoom:
        scale = 1 + setting.zoom * (2 * torch.rand(rows, 1, device=device) - 1)  # (B, 1)
        # where the picture's own corner comes to lie
        corner = torch.rand(rows, 2, device=device) * (1 - scale) * torch.tensor([width, height], device=device)
        back = torch.diag_embed(torch.cat([1 / scale, 1 / scale, torch.ones_like(scale)], dim=1))
        back[:, :2, 2] = -corner / scale
        moves = moves @ back
    if drawn is not None and level is not None:
        middle = torch.tensor([[1.0, 0.0, width / 2], [0.0, 1.0, height / 2], [0.0, 0.0, 1.0]], device=device)
        for one, strength in zip(drawn, level, strict=True):
            moves = moves @ middle @ _one_move(one, strength, height, width) @ torch.linalg.inv(middle)
    return moves


def _one_move(drawn: Tensor, level: Tensor, height: int, width: int) -> Tensor:
    """(B,) operations, (B,) from -1 to 1 -> (B, 3, 3) about the middle; nothing moves where another operation was drawn."""

    def where(name: str, size: float) -> Tensor:
        return torch.where(drawn == OPERATIONS.index(name), size * level, 0.0)

    angle = where("rotate", math.radians(30))
    moves = torch.eye(3, device=drawn.device).repeat(len(drawn), 1, 1)
    moves[:, 0, 0] = moves[:, 1, 1] = angle.cos()
    moves[:, 0, 1] = angle.sin() + where("shear_x", 0.3)
    moves[:, 1, 0] = -angle.sin() + where("shear_y", 0.3)
    moves[:, 0, 2] = where("move_x", 0.3 * width)
    moves[:, 1, 2] = where("move_y", 0.3 * height)
    return moves


def _shifted(pixels: Tensor, moves: Tensor) -> Tensor:
    """Moved by whole pixels and mirrored, the rim repeated: every pixel is one of the old ones."""
    rows, height, width, _ = pixels.shape

    def places(axis: int, size: int) -> Tensor:  # (B, size)
        middles = torch.arange(size, device=pixels.device) + 0.5
        return (moves[:, axis, axis, None] * middles + moves[:, axis, 2, None]).floor().long().clamp(0, size - 1)

    index = torch.arange(rows, device=pixels.device)[:, None, None]
    return pixels[index, places(1, height)[:, :, None], places(0, width)[:, None, :]]


def _sampled(pixels: Tensor, moves: Tensor) -> Tensor:
    """Moved in any way: each new pixel from the four old ones around its place, the rim repeated."""
    _, height, width, _ = pixels.shape
    size = torch.tensor([[width], [height]], device=pixels.device)
    to_unit = torch.tensor([[width / 2, 0.0, width / 2], [0.0, height / 2, height / 2], [0.0, 0.0, 1.0]])
    theta = (moves @ to_unit.to(pixels.device))[:, :2] * (2 / size)  # grid_sample has places from -1 to 1
    theta[:, :, 2] -= 1
    shape = [pixels.shape[index] for index in (0, 3, 1, 2)]
    grid = F.affine_grid(theta, shape, align_corners=False)  # (B, H, W, 2)
    planes = pixels.movedim(3, 1).float()
    moved = F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8).movedim(1, 3).contiguous()


# ------------------------------------------------------------------------------------------------------------- colours


def _levels(drawn: Tensor, policy: Policy) -> Tensor:
    """The strength of each operation, weaker or stronger than nothing: (N, B) of -magnitude or magnitude."""
    return policy.magnitude * (2.0 * (torch.rand(drawn.shape, device=drawn.device) < 0.5) - 1)


def _recoloured(pixels: Tensor, drawn: Tensor, level: Tensor) -> Tensor:
    pixels = pixels.clone()
    for one, strength in zip(drawn, level, strict=True):
        for name, recolour in COLOURS.items():
            some = (one == OPERATIONS.index(name)).nonzero()[:, 0]  # (K,)
            if len(some):
                new = recolour(pixels[some].float(), strength[some, None, None, None])
                pixels[some] = new.round().clamp(0, 255).to(torch.uint8)
    return pixels


def _autocontrast(x: Tensor, level: Tensor) -> Tensor:  # (K, H, W, C) of 0 to 255, (K, 1, 1, 1)
    """Each channel spread over all 256 values."""
    low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    return torch.where(high > low, (x - low) * (255 / (high - low).clamp(min=1)), x)


def _equalize(x: Tensor, level: Tensor) -> Tensor:
    """Each channel so that all values are about as frequent."""
    values = x.long().flatten(1, 2).transpose(1, 2)  # (K, C, H · W)
    counts = torch.zeros(*values.shape[:2], 256, device=x.device).scatter_add_(
        2, values, torch.ones_like(values).float()
    )
    brightest = counts.gather(2, values.amax(2, keepdim=True))
    step = ((values.shape[2] - brightest) / 255).floor()  # (K, C, 1)
    before = counts.cumsum(2) - counts
    table = ((before + (step / 2).floor()) / step.clamp(min=1)).floor().clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256.0, device=x.device))
    return table.gather(2, values).transpose(1, 2).view_as(x)


def _solarize(x: Tensor, level: Tensor) -> Tensor:
    """What is brighter than a threshold, inverted."""
    return torch.where(x >= 256 * (1 - level.abs()), 255 - x, x)


def _posterize(x: Tensor, level: Tensor) -> Tensor:
    """Fewer bits: 4 at the strongest."""
    size = 2 ** (4 * level.abs()).round()
    return (x / size).floor() * size


def _brightness(x: Tensor, level: Tensor) -> Tensor:
    return x * (1 + 0.9 * level)


def _contrast(x: Tensor, level: Tensor) -> Tensor:
    return _grey(x).mean((1, 2), keepdim=True).round().lerp(x, 1 + 0.9 * level)


def _colour(x: Tensor, level: Tensor) -> Tensor:
    return _grey(x).lerp(x, 1 + 0.9 * level)


def _sharpness(x: Tensor, level: Tensor) -> Tensor:
    """Away from the mean of the neighbours, or towards it; the rim stays."""
    weight = torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]], device=x.device) / 13
    planes = x.movedim(3, 1)  # (K, C, H, W)
    smooth = planes.clone()
    if min(planes.shape[2:]) > 2:
        filters = weight.expand(planes.shape[1], 1, 3, 3)
        smooth[:, :, 1:-1, 1:-1] = F.conv2d(planes, filters, groups=planes.shape[1])
    return smooth.movedim(1, 3).lerp(x, 1 + 0.9 * level)


def _grey(x: Tensor) -> Tensor:  # (K, H, W, C) -> (K, H, W, 1); luma as ITU-R BT.601 has it
    return x if x.shape[3] == 1 else (x * torch.tensor([0.299, 0.587, 0.114], device=x.device)).sum(3, keepdim=True)


COLOURS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "solarize": _solarize,
    "posterize": _posterize,
    "brightness": _brightness,
    "contrast": _contrast,
    "colour": _colour,
    "sharpness": _sharpness,
}
OPERATIONS = ("none", "rotate", "shear_x", "shear_y", "move_x", "move_y", *COLOURS)


# --------------------------------------------------------------------------------------------------------------- holes


def _erased(pixels: Tensor, share: float) -> Tensor:
    """A rectangle of 2 to 33 % of the area set to mid-grey, in a share of the pictures."""
    rows, height, width, _ = pixels.shape
    chosen = torch.rand(rows, device=pixels.device) < share
    side = (0.02 + 0.31 * torch.rand(2, rows, device=pixels.device)).sqrt()  # of H and of W
    corner = torch.rand(2, rows, device=pixels.device) * (1 - side)
    y = torch.arange(height, device=pixels.device) / height
    x = torch.arange(width, device=pixels.device) / width
    inside_y = (y >= corner[0, :, None]) & (y < (corner[0] + side[0])[:, None])  # (B, H)
    inside_x = (x >= corner[1, :, None]) & (x < (corner[1] + side[1])[:, None])  # (B, W)
    hole = inside_y[:, :, None] & inside_x[:, None, :] & chosen[:, None, None]  # (B, H, W)
    return pixels.masked_fill(hole[..., None], GREY)
