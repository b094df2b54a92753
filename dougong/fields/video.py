"""Video: a clip as a folder of pictures, an animated GIF or WebP, a video file, or a list of pictures in a column.

A few frames, evenly spread, stand for the clip. In training each may be drawn at random from its part of the clip (Wang et
al. 2016, arXiv:1608.00859). Blocks of frames and pixels become features, as in Arnab et al. 2021 (arXiv:2103.15691).
"""

# N rows, B batch, K frames that are kept, F frames that are read, H height, W width in pixels, C channels, D width

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Count, config
from dougong.core.errors import DataError, Problem
from dougong.data import clips, pictures
from dougong.data.columns import Columns
from dougong.data.pictures import Form
from dougong.fields import FieldConfig, Whole, image
from dougong.fields.image import Side
from dougong.layers.features import Features
from dougong.layers.pictures import Augment

AXES = 3  # of its grid: time, rows, columns
MAX_SIDE = 112  # pixels, unless the recipe gives a size: sixteen frames are sixteen pictures
SAMPLE = 500  # clips looked at for size, channels, mean and deviation …
LOOKED_AT = 4  # … so many frames of each


@config
class Config(FieldConfig):
    """A clip. `size` is [height, width]; unless given, the most frequent one of the training rows, no side over 112."""

    type: Literal["video"] = "video"
    frames: Annotated[Count, Field(le=256)] = 16  # evenly spread over the clip; of a shorter one some stand twice
    candidates: Annotated[Count, Field(le=16)] = (
        1  # kept for each frame: training draws one, else the middle one is read
    )
    size: tuple[Side, Side] | None = None
    channels: Literal[1, 3] | None = None
    patch: Count | None = None  # side of the square that becomes one feature; the backbone's choice unless given
    tubelet: Count = 1  # frames that become one feature
    per_frame: bool = False  # its own encoder reads each frame by itself, and makes one feature of it
    augment: Augment = Augment()  # the same for all frames of a clip

    @property
    def kept(self) -> int:
        """Frames of a clip that are prepared."""
        return self.frames * self.candidates


def check(key: str, config: Config, whole: Whole) -> Iterator[Problem]:
    """What its augmentation asks of the other inputs, and a clip read frame by frame of the recipe."""
    yield from image.check(key, config, whole)
    if config.per_frame and key.partition(".")[2] not in whole.encoders:
        expected = "beside it an encoder that reads each frame"
        yield Problem(f"{key}.per_frame", True, expected, "add encoder: {kind: convnet}, or remove per_frame")


class Codec:
    """Clip -> (K, H, W, C) uint8."""

    RAW = pa.large_list(pa.large_binary())  # some frames, each a picture's file
    PATHS = True  # a text value is the path of a file or folder, relative to the data file
    SAMPLE: ClassVar[int | None] = SAMPLE  # rows to be fitted on

    def __init__(self, config: Config, form: Form):
        self.config, self.form = config, form
        self.size, self.channels = form.size, form.channels

    @staticmethod
    def parse(value: object, config: Config | None = None) -> list[bytes] | None:
        """A clip -> its frames that are kept, each a picture known to be whole; fewer where it has no more."""
        config = config or Config()
        return None if value is None or value == "" else clips.read(value, config.kept, config.size)

    @staticmethod
    def footprint(value: object, config: Config) -> int:
        """About the bytes of a clip's frames, as files and once encoded."""
        frames = value if isinstance(value, list | tuple) else []
        found = config.size or (pictures.size_of(frames[0]) if frames else None)
        height, width = config.size or pictures.at_most(found or (MAX_SIDE, MAX_SIDE), MAX_SIDE)
        files = sum(len(frame) for frame in frames if isinstance(frame, bytes))
        return files + config.kept * height * width * (config.channels or 3)

    @classmethod
    def fit(cls, config: Config, values: Iterable[list[bytes] | None]) -> Codec:
        some = islice((value for value in values if value), SAMPLE)
        sample = [clip[index] for clip in some for index in clips.spread(len(clip), LOOKED_AT)]
        if not sample:
            raise DataError(f"column {config.column!r}: no clip in any training row. Fix: leave the column out.")
        return cls(config, pictures.fit(sample, config.size, config.channels, side=MAX_SIDE))

    def encode(self, values: Sequence[list[bytes] | None]) -> tuple[Columns, dict[str, int]]:
        """{"pixels": (N, K, H, W, C) uint8}; a missing clip is black."""
        pixels = np.zeros((len(values), self.config.kept, *self.size, self.channels), dtype=np.uint8)
        for row, clip in enumerate(values):
            frames = np.stack([self.form.pixels(frame) for frame in clip]) if clip else self.form.blank[None]
            pixels[row] = frames[(2 * np.arange(self.config.kept) + 1) * len(frames) // (2 * self.config.kept)]
        return {"pixels": pixels}, {"missing": sum(value is None for value in values)}

    def decode(self, columns: Columns) -> list[np.ndarray]:  # (F, H, W, C) each
        return list(np.asarray(columns["pixels"])[:, _middle(self.config)])

    @staticmethod
    def file(frames: np.ndarray) -> list[bytes]:
        """A clip (F, H, W, C) uint8 as a PNG file of each frame."""
        return [pictures.png(frame) for frame in frames]

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


def _middle(config: Config) -> np.ndarray:  # (F,)
    """The frame of each part that stands for it."""
    return np.arange(config.frames) * config.candidates + config.candidates // 2


def augment(field: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A training batch with its clips changed at random (torch's generator, so a resumed run repeats it)."""
    setting: Config = field.config
    key = f"{field.name}.pixels"
    if setting.candidates > 1:
        batch = {**batch, key: _drawn(batch[key], setting)}
    if setting.augment == Augment():
        return batch
    pixels = batch[key]  # (B, F, H, W, C)
    # Frames as channels of one picture: what is drawn for a picture is drawn once for all of them.
    flat = {**batch, key: pixels.movedim(1, 3).flatten(3)}  # (B, H, W, F * C)
    changed = image.augment(field, flat, frames=pixels.shape[1])
    return {**changed, key: changed[key].unflatten(3, (-1, pixels.shape[4])).movedim(3, 1)}


def _drawn(pixels: Tensor, setting: Config) -> Tensor:
    """One frame of each part of a clip: (B, K, H, W, C) -> (B, F, H, W, C)."""
    rows, frames = len(pixels), torch.arange(setting.frames, device=pixels.device)
    place = torch.randint(setting.candidates, (rows, setting.frames), device=pixels.device)
    place = place + frames * setting.candidates  # (B, F)
    return pixels[torch.arange(rows, device=pixels.device)[:, None], place]


class Encoder(nn.Module):
    """Pixels -> one feature for each block of frames and pixels: (B, f · h · w, D) with grid (f, h, w).

    With `per_frame`: of each frame by itself, those of a clip below each other, (B · f, h · w, D) with grid (h, w).
    """

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        side, self.config = config.patch or patch, config
        self.block = (config.tubelet, side, side)
        self.whole = (config.frames, *codec.size)
        self.grid = tuple(-(-length // step) for length, step in zip(self.whole, self.block, strict=True))
        frames, height, columns = self.grid
        self.positions: int | None = height * columns if config.per_frame else frames * height * columns
        self.axes = 2 if config.per_frame else 3
        self.parts = frames if config.per_frame else None
        self.normal = image.Normal(codec.form)
        # A patch of one pixel still sees its neighbours, or the first layer would only recolour.
        kernel, padding = (3, 1) if side == 1 else (side, 0)
        self.blocks = nn.Conv3d(
            codec.channels,
            width,
            (config.tubelet, kernel, kernel),
            stride=self.block,
            padding=(0, padding, padding),
        )

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        pixels = batch[f"{name}.pixels"]  # (B, K or F, H, W, C)
        if pixels.shape[1] > self.config.frames:
            pixels = pixels[:, torch.from_numpy(_middle(self.config)).to(pixels.device)]
        pixels = self.normal(pixels).movedim(-1, 1)  # (B, C, F, H, W), channels last in memory
        ends = [count * step - length for count, step, length in zip(self.grid, self.block, self.whole, strict=True)]
        if any(ends):
            pixels = nn.functional.pad(pixels, (0, ends[2], 0, ends[1], 0, ends[0]))
        values = self.blocks(pixels).flatten(3).permute(0, 2, 3, 1)  # (B, f, h · w, D)
        grid = self.grid[1:] if self.parts else self.grid
        values = values.flatten(0, 1) if self.parts else values.flatten(1, 2)
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device), grid)
