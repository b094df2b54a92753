"""Image: a PNG, JPEG or WebP file, or its bytes in a column; resized once, augmented on the fly.

Sources: crop and flip as in He et al. 2016, mixup after Zhang et al. 2018, random erasing after Zhong et al. 2020.
"""

# N rows, B batch, H height, W width in pixels, C channels, D width, P patch

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dougong.core.config import Count, Fraction, NonNegative, config
from dougong.core.errors import DataError, Problem
from dougong.data import pictures
from dougong.data.columns import Columns
from dougong.data.pictures import Form
from dougong.fields import FieldConfig, Whole
from dougong.layers.features import Features

SAMPLE = 2_000  # images looked at for size, channels, mean and deviation
Side = Annotated[Count, Field(le=4096)]  # a picture of 4096 x 4096 in colour takes 50 MB, each


@config
class Augment:
    """What is done to the pictures of a training batch, at random; all off by default except where a share is given."""

    flip: bool = False  # left to right, half of the pictures
    crop: Annotated[int, Field(ge=0)] = 0  # shifted by up to so many pixels, the rim filled with the edge
    zoom: Annotated[float, Field(ge=0, le=0.9)] = 0.0  # enlarged or made smaller by up to this share, at a random place
    jitter: NonNegative = 0.0  # brightness and contrast changed by up to this share
    erase: Fraction = 0.0  # share of pictures in which a rectangle is wiped out
    mixup: NonNegative = 0.0  # alpha of the Beta distribution two pictures are blended by; 0 = never


@config
class Config(FieldConfig):
    """An image. `size` is [height, width]; unless given, the most frequent one of the training rows, no side over 224."""

    type: Literal["image"] = "image"
    size: tuple[Side, Side] | None = None
    channels: Literal[1, 3] | None = None
    patch: Count | None = None  # side of the square that becomes one feature; the backbone's choice unless given
    augment: Augment = Augment()
    sizes: bool = False  # keep how large each picture was; set where boxes are told in its pixels


def check(key: str, config: Config, whole: Whole) -> Iterator[Problem]:
    """What its augmentation asks of the other inputs."""
    if config.augment.mixup and len(whole.inputs) > 1:
        expected = "0 beside other inputs: the rows that it blends would differ in them"
        yield Problem(f"{key}.augment.mixup", config.augment.mixup, expected, "remove it")


class Codec:
    """Image file or bytes -> (H, W, C) uint8."""

    RAW = pa.large_binary()
    PATHS = True  # a text value is the path of a file, relative to the data file
    SAMPLE: ClassVar[int | None] = SAMPLE  # rows to be fitted on

    def __init__(self, config: Config, form: Form):
        self.config, self.form = config, form
        self.size, self.channels = form.size, form.channels

    @staticmethod
    def parse(value: object, config: Config | None = None) -> bytes | None:
        """Bytes, or the path of a file -> the file's bytes, judged by its header before anything is decoded."""
        return None if value is None or value == "" else pictures.read_file(value)

    @staticmethod
    def footprint(value: object, config: Config) -> int:
        """Bytes of a picture's file and of its pixels once encoded, by its header alone; 0 if it cannot be read."""
        size = 0
        if isinstance(value, str):
            if not os.path.isfile(value):
                return 0
            size = os.path.getsize(value)
        found = config.size or pictures.size_of(value)
        height, width = config.size or (pictures.at_most(found) if found else (0, 0))
        return size + height * width * (config.channels or 3)

    @classmethod
    def fit(cls, config: Config, values: Iterable[bytes | None]) -> Codec:
        sample = list(islice((value for value in values if value is not None), SAMPLE))  # files; never all their pixels
        if not sample:
            raise DataError(f"column {config.column!r}: no image in any training row. Fix: leave the column out.")
        return cls(config, pictures.fit(sample, config.size, config.channels))

    def encode(self, values: Sequence[bytes | None]) -> tuple[Columns, dict[str, int]]:
        """{"pixels": (N, H, W, C) uint8}; a missing picture is black. With `sizes` also {"size": (N, 2) int32}, as they came."""
        blank = self.form.blank
        rows = [blank if value is None else self.form.pixels(value) for value in values]
        columns: Columns = {"pixels": np.stack(rows) if rows else np.zeros((0, *blank.shape), dtype=np.uint8)}
        if self.config.sizes:
            known = [self.size if value is None else pictures.upright_size(value) for value in values]
            columns["size"] = np.array(known, dtype=np.int32).reshape(-1, 2)
        return columns, {"missing": sum(value is None for value in values)}

    def decode(self, columns: Columns) -> list[np.ndarray]:
        return list(np.asarray(columns["pixels"]))

    def limits(self) -> dict[str, int]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return self.form.to_json()

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config, Form.from_json(saved))


def augment(field: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A training batch with its pictures changed at random (torch's generator, so a resumed run repeats it).

    "affine" (B, 2, 3) says where each place came to lie: (x, y, 1) -> (x', y'), in shares of width and height. Whoever
    changes the geometry adds to it by `then`.
    """
    setting: Augment = field.config.augment
    key = f"{field.name}.pixels"
    pixels = batch[key]  # (B, H, W, C) uint8
    if setting == Augment():
        return batch
    rows = len(pixels)
    affine = torch.eye(2, 3, device=pixels.device).repeat(rows, 1, 1)  # (B, 2, 3)
    if setting.crop:
        pixels, affine = _shift(pixels, affine, setting.crop)
    if setting.flip:
        turned = torch.rand(rows, device=pixels.device) < 0.5
        pixels = torch.where(turned[:, None, None, None], pixels.flip(2), pixels)
        affine = torch.where(turned[:, None, None], then(affine, affine.new_tensor([[[-1, 0, 1], [0, 1, 0]]])), affine)
    if setting.zoom:
        pixels, affine = _zoom(pixels, affine, setting.zoom)
    if setting.erase:
        pixels = _erase(pixels, setting.erase)
    if setting.jitter:
        scale = 1 + setting.jitter * (2 * torch.rand(rows, 1, 1, 1, device=pixels.device) - 1)
        shift = 255 * setting.jitter * (2 * torch.rand(rows, 1, 1, 1, device=pixels.device) - 1)
        pixels = (pixels.float() * scale + shift).clamp(0, 255).to(torch.uint8)
    batch = {**batch, key: pixels, f"{field.name}.affine": affine}
    if setting.mixup and rows > 1:
        share = float(torch.distributions.Beta(setting.mixup, setting.mixup).sample())
        partner = torch.randperm(rows, device=pixels.device)
        blend = share * pixels.float() + (1 - share) * pixels[partner].float()
        batch |= {key: blend.to(torch.uint8), "mix.partner": partner, "mix.share": torch.tensor(share)}
    return batch


def then(affine: Tensor, step: Tensor) -> Tensor:
    """First one, then the other: (B, 2, 3) each."""
    moved = step[:, :, :2] @ affine
    return torch.cat([moved[:, :, :2], moved[:, :, 2:] + step[:, :, 2:]], dim=2)


def _shift(pixels: Tensor, affine: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Each picture moved by its own offset of up to `most` pixels, the rim repeated."""
    rows, height, width, _ = pixels.shape
    offset = torch.randint(-most, most + 1, (2, rows, 1), device=pixels.device)
    y = (torch.arange(height, device=pixels.device) + offset[0]).clamp(0, height - 1)  # (B, H)
    x = (torch.arange(width, device=pixels.device) + offset[1]).clamp(0, width - 1)  # (B, W)
    index = torch.arange(rows, device=pixels.device)[:, None, None]
    there = offset[:, :, 0].flip(0).T / offset.new_tensor([width, height])  # (B, 2)
    moved = torch.cat([affine[:, :, :2], affine[:, :, 2:] - there[:, :, None]], dim=2)
    return pixels[index, y[:, :, None], x[:, None, :]], moved


def _zoom(pixels: Tensor, affine: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Each picture scaled by its own factor between 1 - `most` and 1 + `most`, and put at a random place, the rim repeated."""
    rows, device = len(pixels), pixels.device
    scale = 1 + most * (2 * torch.rand(rows, 1, device=device) - 1)  # (B, 1)
    corner = torch.rand(rows, 2, device=device) * (1 - scale)  # (B, 2): where the picture's own corner comes to lie
    step = torch.cat([scale[:, :, None] * torch.eye(2, device=device), corner[:, :, None]], dim=2)  # (B, 2, 3)
    # What torch asks for is the way back, in coordinates from -1 to 1.
    back = (1 - 2 * corner) / scale - 1
    theta = torch.cat([torch.eye(2, device=device) / scale[:, :, None], back[:, :, None]], dim=2)
    planes = pixels.movedim(-1, 1).float()  # (B, C, H, W)
    grid = functional.affine_grid(theta, list(planes.shape), align_corners=False)
    moved = functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return moved.round().to(torch.uint8).movedim(1, -1), then(affine, step)


def _erase(pixels: Tensor, share: float) -> Tensor:
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
    return pixels.masked_fill(hole[..., None], 127)


class Encoder(nn.Module):
    """Pixels -> one feature for each P × P patch, row by row: (B, H/P · W/P, D) with grid (H/P, W/P)."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        side = config.patch or patch
        height, width_pixels = (-(-length // side) for length in codec.size)
        self.pad = (height * side - codec.size[0], width_pixels * side - codec.size[1])
        self.positions: int | None = height * width_pixels
        self.axes = 2
        self.known = (codec.form.mean, codec.form.std)
        self.register_buffer("mean", torch.empty(codec.channels), persistent=False)
        self.register_buffer("std", torch.empty(codec.channels), persistent=False)
        # A patch of one pixel still sees its neighbours, or the first layer would only recolour.
        kernel, padding = (3, 1) if side == 1 else (side, 0)
        self.patches = nn.Conv2d(codec.channels, width, kernel, stride=side, padding=padding)

    def reset_parameters(self) -> None:
        self.mean.copy_(torch.tensor(self.known[0]))
        self.std.copy_(torch.tensor(self.known[1]))

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        pixels = batch[f"{name}.pixels"].to(self.mean.dtype) / 255  # (B, H, W, C)
        pixels = ((pixels - self.mean) / self.std).movedim(-1, 1)  # (B, C, H, W), channels last in memory
        if any(self.pad):
            pixels = nn.functional.pad(pixels, (0, self.pad[1], 0, self.pad[0]))
        patches = self.patches(pixels)  # (B, D, H/P, W/P)
        grid = (patches.shape[2], patches.shape[3])
        values = patches.flatten(2).transpose(1, 2)  # (B, T, D)
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device), grid)
