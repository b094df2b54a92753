"""Image: a PNG, JPEG or WebP file, or its bytes in a column; resized once, augmented on the fly. Comes out made from noise."""

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

from dougong.core.config import Count, config, dump
from dougong.core.errors import DataError, Problem, bad_field, nearest
from dougong.data import pictures
from dougong.data.columns import Columns
from dougong.data.pictures import Form
from dougong.fields import FieldConfig, Whole, load
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from dougong.layers.pictures import Augment, changed, mixed
from dougong.metrics.making import MakingLoss
from dougong.metrics.metric import Metric

AXES = 2  # of its grid: rows, columns
SAMPLE = 2_000  # images looked at for size, channels, mean and deviation
Side = Annotated[Count, Field(le=4096)]  # a picture of 4096 x 4096 in colour takes 50 MB, each


@config
class Config(FieldConfig):
    """An image. `size` is [height, width]; unless given, the most frequent one of the training rows, no side over 224."""

    type: Literal["image"] = "image"
    size: tuple[Side, Side] | None = None
    channels: Literal[1, 3] | None = None
    patch: Count | None = None  # side of the square that becomes one feature; the backbone's choice unless given
    augment: Augment = Augment()
    sizes: bool = False  # keep how large each picture was; set where boxes are told in its pixels
    judge: str | None = None  # a finished run that tells what made pictures show: from it follow their metrics
    asks: str | None = None  # the input whose value the judge has to recognise; the one that can be, unless given
    samples: Annotated[Count, Field(le=10_000)] = 1_000  # pictures that an evaluation makes
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if self.asks is not None and self.judge is None:
            raise bad_field("image.asks", self.asks, "nothing without a judge, who has to recognise it", "name a judge")


ONLY_IN = ("patch",)
ONLY_OUT = ("judge", "asks", "samples")


def check(key: str, config: Any, whole: Whole) -> Iterator[Problem]:
    """What its augmentation asks of the other inputs; as an output what is learnt, and who is asked to recognise it."""
    if key.startswith("outputs."):
        yield from _made(key, config, whole)
    blends = config.augment.blends
    if blends and len(whole.inputs) > 1:
        expected = "0 beside other inputs: the rows that it blends would differ in them"
        yield Problem(f"{key}.augment.{blends}", getattr(config.augment, blends), expected, "remove it")
    elif blends and any(load(output.type).Head.AUTOREGRESSIVE for output in whole.outputs.values()):
        expected = "0 before a text, which is told from what was written so far: of two blended ones there is none"
        yield Problem(f"{key}.augment.{blends}", getattr(config.augment, blends), expected, "remove it")


def _made(key: str, config: Config, whole: Whole) -> Iterator[Problem]:
    if config.augment != Augment(flip=config.augment.flip):
        expected = "nothing but flip for what is made: all else would be learnt as part of the pictures"
        yield Problem(f"{key}.augment", dump(config.augment), expected, "write augment: {flip: true}, or remove it")
    if config.asks not in (None, *whole.inputs):
        fix = f"write asks: {nearest(str(config.asks), list(whole.inputs)) or next(iter(whole.inputs), 'NAME')}"
        yield Problem(f"{key}.asks", config.asks, f"an input: {', '.join(whole.inputs) or 'there is none'}", fix)


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
        """{"pixels": (N, H, W, C) uint8, "known": (N,) uint8}; a missing picture is black, and not known.

        With `sizes` also {"size": (N, 2) int32}, as they came.
        """
        blank = self.form.blank
        rows = [blank if value is None else self.form.pixels(value) for value in values]
        known = np.array([value is not None for value in values], dtype=np.uint8)
        columns: Columns = {"pixels": np.stack(rows) if rows else np.zeros((0, *blank.shape), dtype=np.uint8)}
        columns["known"] = known
        if self.config.sizes:
            sizes = [self.size if value is None else pictures.upright_size(value) for value in values]
            columns["size"] = np.array(sizes, dtype=np.int32).reshape(-1, 2)
        return columns, {"missing": int((known == 0).sum())}

    def decode(self, columns: Columns) -> list[np.ndarray]:
        return list(np.asarray(columns["pixels"]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, *self.size)

    @staticmethod
    def file(pixels: np.ndarray) -> bytes:
        """A picture (H, W, C) uint8 as a PNG file."""
        return pictures.png(pixels, (pixels.shape[0], pixels.shape[1]))

    def limits(self) -> dict[str, int]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return self.form.to_json()

    def learnt_as(self) -> dict[str, Any]:
        """Mean and deviation only bring pixels to one scale."""
        return {"channels": self.channels}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config, Form.from_json(saved))


def augment(field: Any, batch: dict[str, Tensor], frames: int = 1) -> dict[str, Tensor]:
    """A training batch with its pictures changed at random (torch's generator, so a resumed run repeats it).

    "affine" (B, 2, 3) says where each place came to lie: (x, y, 1) -> (x', y'), in shares of width and height.
    """
    setting, key = field.config.augment, f"{field.name}.pixels"
    if setting == Augment():
        return batch
    pixels, affine = changed(batch[key], setting, frames)  # (B, H, W, C) uint8
    batch = {**batch, key: pixels, f"{field.name}.affine": affine}
    if setting.blends and len(pixels) > 1:
        blend, partner, share = mixed(pixels, setting)
        batch |= {key: blend, "mix.partner": partner, "mix.share": torch.tensor(share)}
    return batch


class Encoder(nn.Module):
    """Pixels -> one feature for each P × P patch, row by row: (B, H/P · W/P, D) with grid (H/P, W/P)."""

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        side = config.patch or patch
        height, width_pixels = (-(-length // side) for length in codec.size)
        self.pad = (height * side - codec.size[0], width_pixels * side - codec.size[1])
        self.positions: int | None = height * width_pixels
        self.axes = AXES
        self.normal = Normal(codec.form)
        # A patch of one pixel still sees its neighbours, or the first layer would only recolour.
        kernel, padding = (3, 1) if side == 1 else (side, 0)
        self.patches = nn.Conv2d(codec.channels, width, kernel, stride=side, padding=padding)

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        pixels = self.normal(batch[f"{name}.pixels"]).movedim(-1, 1)  # (B, C, H, W), channels last in memory
        if any(self.pad):
            pixels = nn.functional.pad(pixels, (0, self.pad[1], 0, self.pad[0]))
        patches = self.patches(pixels)  # (B, D, H/P, W/P)
        grid = (patches.shape[2], patches.shape[3])
        values = patches.flatten(2).transpose(1, 2)  # (B, T, D)
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device), grid)


class Normal(nn.Module):
    """uint8 pixels (B, …, C) -> the same, of mean 0 and deviation 1 over the training rows, by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, form: Form):
        super().__init__()
        self.known = (form.mean, form.std)
        self.register_buffer("mean", torch.empty(form.channels), persistent=False)
        self.register_buffer("std", torch.empty(form.channels), persistent=False)

    def reset_parameters(self) -> None:
        self.mean.copy_(torch.tensor(self.known[0]))
        self.std.copy_(torch.tensor(self.known[1]))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std


class Head(nn.Module):
    """Pictures as values of -1 to 1, which a backbone makes from noise; it learns from those of the batch."""

    AUTOREGRESSIVE: ClassVar[bool] = False
    MADE: ClassVar[bool] = True
    LOSSES: ClassVar[tuple[str, ...]] = ("auto",)  # the backbone's own

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in self.LOSSES:
            raise bad_field("train.loss", loss.kind, "auto for an image, whose loss is the backbone's", "remove it")

    def known(self, batch: dict[str, Tensor], name: str) -> Tensor:  # (B,) bool
        return batch[f"{name}.known"] > 0

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return self.known(batch, name).sum()

    def values(self, batch: dict[str, Tensor], name: str) -> Tensor:  # (B, C, H, W)
        return batch[f"{name}.pixels"].movedim(-1, 1).float() / 127.5 - 1

    def arrays(self, values: Tensor) -> dict[str, Tensor]:
        """{"pixels": (B, H, W, C) uint8} of values (B, C, H, W)."""
        pixels = ((values.float() + 1) * 127.5).round().clamp(0, 255)
        return {"pixels": pixels.to(torch.uint8).movedim(1, -1).contiguous()}


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    return [MakingLoss()]  # what a judge tells of them comes beside it: evaluation/judging.py
