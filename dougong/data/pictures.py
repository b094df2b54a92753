"""Pictures: PNG, JPEG and WebP files, judged by their headers before anything is decoded; pixels of one size and depth.

data = pictures.read_file("dog.png")              # or ValueError: the row goes to quarantine
form = pictures.fit([data, …])                    # size, channels, mean and deviation of what was seen
form.pixels(data)                                 # (H, W, C) uint8
"""

# H height, W width in pixels, C channels

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dougong.core.errors import missing_extra
from dougong.data import media

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000
MAX_BYTES = 200 << 20
MAX_SCANS = 100  # of a progressive JPEG; each costs a pass over all pixels, and 1.5 kB of file: 200 MB would take hours
SCAN = b"\xff\xda"  # a marker that the compressed bytes themselves cannot hold
DEEP = ("I", "I;16", "I;16B", "F")  # PIL's modes of grey with more than 8 bits
MAX_SIDE = 224  # pixels, unless the recipe gives a size: a photo's millions would make any model slow
HEADER = 1 << 16  # bytes of a file that are read to find its size


@dataclass(frozen=True)
class Form:
    """What all pictures of a field are brought to, and what is known of their pixels."""

    size: tuple[int, int]  # height, width
    channels: int
    mean: tuple[float, ...]  # of each channel, in 0..1
    std: tuple[float, ...]
    white: float  # what becomes 255 in pictures of more than 8 bits

    @property
    def blank(self) -> np.ndarray:  # (H, W, C) uint8: stands for a picture that is missing
        return np.zeros((*self.size, self.channels), dtype=np.uint8)

    def pixels(self, data: bytes) -> np.ndarray:  # (H, W, C) uint8
        return _pixels(upright(data), self.size, self.channels, self.white)

    def to_json(self) -> dict[str, Any]:
        plain = {"size": list(self.size), "channels": self.channels, "white": self.white}
        return {**plain, "mean": list(self.mean), "std": list(self.std)}

    @staticmethod
    def from_json(saved: dict[str, Any]) -> Form:
        height, width = saved["size"]
        size = (int(height), int(width))
        return Form(size, saved["channels"], tuple(saved["mean"]), tuple(saved["std"]), saved["white"])


def fit(
    sample: Sequence[bytes], size: tuple[int, int] | None = None, channels: int | None = None, *, side: int = MAX_SIDE
) -> Form:
    """The form of some files: the most frequent size, no side over `side`, and grey where all are, unless given."""
    seen = Counter((picture.height, picture.width) for picture in map(upright, sample))
    size = size or at_most(max(sorted(seen), key=seen.__getitem__), side)
    modes = {picture.mode for picture in map(opened, sample)}
    channels = channels or (1 if modes.issubset({"L", "1", *DEEP}) else 3)
    # 12 bits of a detector come in files of 16: the brightest value seen is white, in all pictures alike
    deep = sample if modes.intersection(DEEP) else []
    white = max((_brightest(opened(data)) for data in deep), default=65535.0)
    pixels = (_pixels(upright(data), size, channels, white).reshape(-1, channels) / 255.0 for data in sample)
    mean, square = np.mean([(part.mean(0), (part**2).mean(0)) for part in pixels], axis=0)  # of (H · W, C) each
    std = np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), 1e-3)
    return Form(size, channels, tuple(mean.tolist()), tuple(std.tolist()), white)


def read_file(value: object) -> bytes:
    """The bytes of a picture, or those of the file whose path it is, known to be whole. ValueError if it is none."""
    value = media.bytes_of(value, "image", MAX_BYTES)
    picture = opened(value)
    try:
        with media.in_time("image"):
            picture.load()  # a truncated picture is found here, where its row can still be quarantined
    except media.TooSlowError:
        raise
    except Exception:  # the decoders raise OSError, SyntaxError, struct.error, MemoryError … for damage
        raise ValueError(f"a damaged {picture.format} image") from None
    return value


def size_of(value: object, formats: tuple[str, ...] = FORMATS) -> tuple[int, int] | None:
    """Height and width of a picture, or of the file whose path it is, by its header alone; None if it cannot be read."""
    if isinstance(value, str):
        if not os.path.isfile(value):
            return None
        with open(value, "rb") as stream:
            value = stream.read(HEADER)
    try:
        picture = opened(value, formats) if isinstance(value, bytes) else None
    except ValueError:
        return None
    return (picture.height, picture.width) if picture else None


def opened(data: bytes, formats: tuple[str, ...] = FORMATS) -> Any:
    """A picture whose header is in order; its pixels are not read yet."""
    try:
        from PIL import Image, UnidentifiedImageError  # an extra: only this file needs it
    except ImportError:
        raise missing_extra("pillow", "data", "reading images") from None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            picture = Image.open(io.BytesIO(data), formats=formats)
        except (
            UnidentifiedImageError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
            OSError,
            SyntaxError,
            ValueError,  # a chunk of text that unpacks to many times its size
        ):
            raise ValueError(f"not a {', '.join(formats)} image, or damaged") from None
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width} × {picture.height} pixels; at most {MAX_PIXELS:,} are read")
    if picture.format == "JPEG" and (scans := data.count(SCAN)) > MAX_SCANS:
        raise ValueError(f"a JPEG image of {scans:,} scans; at most {MAX_SCANS} are read")
    return picture


def upright(data: bytes) -> Any:
    """The picture as it was seen: cameras write it as the sensor lay, and beside it how to turn it."""
    from PIL import ImageOps

    picture = opened(data)
    if "exif" in picture.info:
        try:
            ImageOps.exif_transpose(picture, in_place=True)
        except Exception:  # PIL raises whatever it stumbles over in damaged EXIF; the pixels are good without it
            return picture
    return picture


def upright_size(data: bytes) -> tuple[int, int]:
    """Height and width of a picture as it was seen."""
    picture = upright(data)
    return picture.height, picture.width


def at_most(size: tuple[int, int], side: int = MAX_SIDE) -> tuple[int, int]:
    """The same shape, no side longer than `side`."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class Animation:
    """An animated GIF or WebP: how many frames of which size, by its header, and some of them."""

    def __init__(self, data: bytes):
        self.picture = opened(data, ("GIF", "WEBP"))
        self.size = (self.picture.height, self.picture.width)
        self.count = self._checked(lambda: getattr(self.picture, "n_frames", 1))

    def __len__(self) -> int:
        return self.count

    def frames(self, places: Sequence[int], size: tuple[int, int] | None) -> Iterator[bytes]:
        """The frames of these places, which rise, each as a PNG file."""
        for place in places:
            where = f": frame {place + 1:,} of {self.count:,}"
            yield self._checked(partial(self._frame, place, size), where)

    def _frame(self, place: int, size: tuple[int, int] | None) -> bytes:
        self.picture.seek(place)  # composes those before it as well
        return png(np.asarray(self.picture.convert("RGB")), size or at_most(self.size))

    def _checked(self, look: Callable[[], Any], where: str = "") -> Any:
        try:
            return look()
        except media.TooSlowError:
            raise
        except Exception:  # as in read_file
            raise ValueError(f"a damaged {self.picture.format}{where}") from None


def png(pixels: np.ndarray, size: tuple[int, int] | None = None) -> bytes:
    """Pixels (H, W, C) uint8 as a PNG file; of that size, if one is given."""
    from PIL import Image

    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if size and (picture.height, picture.width) != size:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def sheet(rows: Sequence[Sequence[np.ndarray]], gap: int = 2) -> np.ndarray:
    """Pictures of one size, (H, W, C) uint8 each, laid out in rows on white."""
    height, width, channels = rows[0][0].shape
    columns = max(map(len, rows))
    whole = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, dtype=np.uint8)
    for row, line in enumerate(rows):
        for column, picture in enumerate(line):
            top, left = row * (height + gap), column * (width + gap)
            whole[top : top + height, left : left + width] = picture
    return whole


def _brightest(picture: Any) -> float:
    return float(np.asarray(picture).max()) if picture.mode in DEEP else 0.0


def _pixels(picture: Any, size: tuple[int, int], channels: int, white: float) -> np.ndarray:  # (H, W, C) uint8
    from PIL import Image

    if picture.mode in DEEP:  # PIL would clip it to white
        grey = np.asarray(picture, dtype=np.float64)
        picture = Image.fromarray((grey * (255.0 / max(white, 1.0))).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:  # as it is seen on a page; what colour lies below nobody chose
        seen = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if (picture.height, picture.width) != tuple(size):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.uint8).reshape(*size, channels)
