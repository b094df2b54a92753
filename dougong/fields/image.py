"""Image: a PNG, JPEG or WebP file, or its bytes in a column; resized once, augmented on the fly.

Sources: crop and flip as in He et al. 2016, mixup after Zhang et al. 2018, random erasing after Zhong et al. 2020.
"""

# N rows, B batch, H height, W width in pixels, C channels, D width, P patch

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, NonNegative, config
from dougong.core.errors import DataError, Problem, missing_extra
from dougong.data.columns import Columns
from dougong.fields import FieldConfig, Whole
from dougong.layers.features import Features

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000
MAX_SCANS = 100  # of a progressive JPEG; each costs a pass over all pixels, and 1.5 kB of file: 200 MB would take hours
SCAN = b"\xff\xda"  # a marker that the compressed bytes themselves cannot hold
DEEP = ("I", "I;16", "I;16B", "F")  # PIL's modes of grey with more than 8 bits
MAX_SIDE = 224  # pixels, unless the recipe gives a size: a photo's millions would make any model slow
HEADER = 1 << 16  # bytes of a file that are read to find its size
SAMPLE = 2_000  # images looked at for size, channels, mean and deviation
Side = Annotated[Count, Field(le=4096)]  # a picture of 4096 x 4096 in colour takes 50 MB, each


@config
class Augment:
    """What is done to the pictures of a training batch, at random; all off by default except where a share is given."""

    flip: bool = False  # left to right, half of the pictures
    crop: Annotated[int, Field(ge=0)] = 0  # shifted by up to so many pixels, the rim filled with the edge
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

    def __init__(
        self,
        config: Config,
        size: Sequence[int],
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        white: float,
    ):
        self.config, self.size, self.channels = config, (int(size[0]), int(size[1])), channels
        self.mean, self.std = list(mean), list(std)  # of each channel, in 0..1
        self.white = white  # what becomes 255 in pictures of more than 8 bits

    @staticmethod
    def parse(value: object, config: Config | None = None) -> bytes | None:
        """Bytes, or the path of a file -> the file's bytes, judged by its header before anything is decoded."""
        if value is None or value == "":
            return None
        if isinstance(value, str):
            path = Path(value)
            if not os.path.isfile(path):  # unlike Path.is_file it also says no to names too long for the disk
                raise ValueError(f"no such image file: {path.name}")
            if path.stat().st_size > 200 << 20:
                raise ValueError(f"{path.name}: larger than 200 MB")
            try:
                value = path.read_bytes()
            except OSError as error:
                raise ValueError(f"{path.name}: cannot be read ({error.strerror})") from None
        if not isinstance(value, bytes):
            raise ValueError(f"expected an image file or its bytes, found {type(value).__name__}")
        picture = _open(value)
        try:
            picture.load()  # a truncated picture is found here, where its row can still be quarantined
        except Exception:  # the decoders raise OSError, SyntaxError, struct.error, MemoryError … for damage
            raise ValueError(f"a damaged {picture.format} image") from None
        return value

    @staticmethod
    def footprint(value: object, config: Config) -> int:
        """Bytes of a picture's file and of its pixels once encoded, by its header alone; 0 if it cannot be read."""
        size = 0
        if isinstance(value, str):
            if not os.path.isfile(value):
                return 0
            size = os.path.getsize(value)
            if config.size is None:
                with open(value, "rb") as stream:
                    value = stream.read(HEADER)
        if config.size is not None:
            height, width = config.size
        else:
            try:
                picture = _open(value) if isinstance(value, bytes) else None
            except ValueError:
                picture = None
            height, width = _at_most((picture.height, picture.width)) if picture else (0, 0)
        return size + height * width * (config.channels or 3)

    @classmethod
    def fit(cls, config: Config, values: Iterable[bytes | None]) -> Codec:
        sample = list(islice((value for value in values if value is not None), SAMPLE))  # files; never all their pixels
        if not sample:
            raise DataError(f"column {config.column!r}: no image in any training row. Fix: leave the column out.")
        seen = Counter((picture.height, picture.width) for picture in map(_picture, sample))
        size = config.size or _at_most(max(sorted(seen), key=seen.__getitem__))
        modes = {picture.mode for picture in map(_open, sample)}
        channels = config.channels or (1 if modes.issubset({"L", "1", *DEEP}) else 3)
        # 12 bits of a detector come in files of 16: the brightest value seen is white, in all pictures alike
        deep = sample if modes.intersection(DEEP) else []
        white = max((_brightest(_open(value)) for value in deep), default=65535.0)
        codec = cls(config, size, channels, [0.0] * channels, [1.0] * channels, white)
        pixels = (codec.pixels(value).reshape(-1, channels) / 255.0 for value in sample)  # (H · W, C)
        mean, square = np.mean([(part.mean(0), (part**2).mean(0)) for part in pixels], axis=0)
        codec.mean, codec.std = mean.tolist(), np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), 1e-3).tolist()
        return codec

    def encode(self, values: Sequence[bytes | None]) -> tuple[Columns, dict[str, int]]:
        """{"pixels": (N, H, W, C) uint8}; a missing picture is black."""
        blank = np.zeros((*self.size, self.channels), dtype=np.uint8)
        rows = [blank if value is None else self.pixels(value) for value in values]
        pixels = np.stack(rows) if rows else np.zeros((0, *blank.shape), dtype=np.uint8)
        return {"pixels": pixels}, {"missing": sum(value is None for value in values)}

    def pixels(self, value: bytes) -> np.ndarray:  # (H, W, C) uint8
        return _pixels(_picture(value), self.size, self.channels, self.white)

    def decode(self, columns: Columns) -> list[np.ndarray]:
        return list(np.asarray(columns["pixels"]))

    def limits(self) -> dict[str, int]:
        return {}

    def to_json(self) -> dict[str, Any]:
        plain = {"size": list(self.size), "channels": self.channels, "white": self.white}
        return {**plain, "mean": self.mean, "std": self.std}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config, saved["size"], saved["channels"], saved["mean"], saved["std"], saved["white"])


def _open(data: bytes) -> Any:
    """A picture whose header is in order; its pixels are not read yet."""
    try:
        from PIL import Image, UnidentifiedImageError  # an extra: only this file needs it
    except ImportError:
        raise missing_extra("pillow", "data", "reading images") from None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        except (
            UnidentifiedImageError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
            OSError,
            SyntaxError,
            ValueError,  # a chunk of text that unpacks to many times its size
        ):
            raise ValueError(f"not a {', '.join(FORMATS)} image, or damaged") from None
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width} × {picture.height} pixels; at most {MAX_PIXELS:,} are read")
    if picture.format == "JPEG" and (scans := data.count(SCAN)) > MAX_SCANS:
        raise ValueError(f"a JPEG image of {scans:,} scans; at most {MAX_SCANS} are read")
    return picture


def _picture(value: bytes) -> Any:
    """The picture as it was seen: cameras write it as the sensor lay, and beside it how to turn it."""
    from PIL import ImageOps

    picture = _open(value)
    if "exif" in picture.info:
        try:
            ImageOps.exif_transpose(picture, in_place=True)
        except Exception:  # PIL raises whatever it stumbles over in damaged EXIF; the pixels are good without it
            return picture
    return picture


def _at_most(size: tuple[int, int]) -> tuple[int, int]:
    """The same shape, no side longer than MAX_SIDE."""
    scale = min(1.0, MAX_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _brightest(picture: Any) -> float:
    return float(np.asarray(picture).max()) if picture.mode in DEEP else 0.0


def _pixels(picture: Any, size: tuple[int, int], channels: int, white: float) -> np.ndarray:  # (H, W, C) uint8
    from PIL import Image

    if picture.mode in DEEP:  # PIL would clip it to white
        grey = np.asarray(picture, dtype=np.float64)
        picture = Image.fromarray((grey * (255.0 / max(white, 1.0))).clip(0, 255).astype(np.uint8))
    picture = picture.convert("L" if channels == 1 else "RGB")
    if (picture.height, picture.width) != tuple(size):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.uint8).reshape(*size, channels)


def augment(field: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A training batch with its pictures changed at random (torch's generator, so a resumed run repeats it)."""
    setting: Augment = field.config.augment
    key = f"{field.name}.pixels"
    pixels = batch[key]  # (B, H, W, C) uint8
    if setting == Augment():
        return batch
    rows = len(pixels)
    if setting.crop:
        pixels = _shift(pixels, setting.crop)
    if setting.flip:
        turned = torch.rand(rows, device=pixels.device) < 0.5
        pixels = torch.where(turned[:, None, None, None], pixels.flip(2), pixels)
    if setting.erase:
        pixels = _erase(pixels, setting.erase)
    if setting.jitter:
        scale = 1 + setting.jitter * (2 * torch.rand(rows, 1, 1, 1, device=pixels.device) - 1)
        shift = 255 * setting.jitter * (2 * torch.rand(rows, 1, 1, 1, device=pixels.device) - 1)
        pixels = (pixels.float() * scale + shift).clamp(0, 255).to(torch.uint8)
    batch = {**batch, key: pixels}
    if setting.mixup and rows > 1:
        share = float(torch.distributions.Beta(setting.mixup, setting.mixup).sample())
        partner = torch.randperm(rows, device=pixels.device)
        blend = share * pixels.float() + (1 - share) * pixels[partner].float()
        batch |= {key: blend.to(torch.uint8), "mix.partner": partner, "mix.share": torch.tensor(share)}
    return batch


def _shift(pixels: Tensor, most: int) -> Tensor:
    """Each picture moved by its own offset of up to `most` pixels, the rim repeated."""
    rows, height, width, _ = pixels.shape
    offset = torch.randint(-most, most + 1, (2, rows, 1), device=pixels.device)
    y = (torch.arange(height, device=pixels.device) + offset[0]).clamp(0, height - 1)  # (B, H)
    x = (torch.arange(width, device=pixels.device) + offset[1]).clamp(0, width - 1)  # (B, W)
    index = torch.arange(rows, device=pixels.device)[:, None, None]
    return pixels[index, y[:, :, None], x[:, None, :]]


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
        self.known = (codec.mean, codec.std)
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
