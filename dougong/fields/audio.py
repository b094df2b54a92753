"""Audio: a WAV, FLAC, OGG or MP3 file, or its bytes in a column; resampled once, read as a log-mel spectrogram.

Sources: SpecAugment after Park et al. 2019 (arXiv:1904.08779); strided convolutions before the layers as in Gulati et al. 2020
(arXiv:2005.08100). Samples lie in the shards, and the encoder makes their spectrogram, on the model's device: of a training step
of recipes/speech-recognition.yaml (16 sounds of 1.6 s, one thread) that takes 31 of 455 ms.
"""

# N rows, B batch, S samples, F frames, M mel bands, T positions, D width, C channels

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, config
from dougong.core.errors import DataError, bad_field
from dougong.data import media, sounds
from dougong.data.columns import Columns, Ragged
from dougong.data.spectra import FLOOR, Frames
from dougong.fields import FieldConfig
from dougong.layers.features import Features, length_mask

SAMPLE = 1_000  # sounds whose spectra are looked at for mean and deviation
PREFERS = "conformer"


@config
class Augment:
    """What is hidden of the sounds of a training batch, at random: SpecAugment. Nothing by default."""

    time_masks: Annotated[int, Field(ge=0, le=100)] = 0  # stretches of time that are hidden, …
    time_share: Fraction = 0.1  # … each at most this share of the sound
    band_masks: Annotated[int, Field(ge=0, le=100)] = 0  # stretches of neighbouring mel bands that are hidden, …
    band_width: Count = 15  # … each at most so many


@config
class Config(FieldConfig):
    """A sound."""

    type: Literal["audio"] = "audio"
    sample_rate: Annotated[int, Field(ge=4_000, le=96_000)] = 16_000  # that files are resampled to
    max_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    longer: Literal["refuse", "cut"] = "refuse"  # what is longer is a bad row, or its rest is left out
    mels: Annotated[Count, Field(le=512)] = 80  # bands of the spectrogram
    window_ms: Annotated[float, Field(ge=1, le=1000)] = 25.0
    hop_ms: Annotated[float, Field(ge=1, le=1000)] = 10.0  # from one frame to the next
    subsample: Literal[1, 2, 4, 8] = 4  # frames that become one position
    augment: Augment = Augment()

    def __post_init__(self) -> None:
        if self.window_ms < self.hop_ms:
            expected = f"at least hop_ms ({self.hop_ms:g}), or samples between the windows are never seen"
            raise bad_field("audio.window_ms", self.window_ms, expected, f"use window_ms: {self.hop_ms:g}")
        if self.mels > (most := frames_of(self).fft // 4):
            expected = f"at most {most}: the {4 * most} samples of a window tell no more bands apart"
            raise bad_field("audio.mels", self.mels, expected, f"use mels: {most}, or a longer window_ms")
        if self.augment.band_width > self.mels and self.augment.band_masks:
            expected = f"at most mels ({self.mels})"
            raise bad_field("audio.augment.band_width", self.augment.band_width, expected, "lower it")


def frames_of(config: Config) -> Frames:
    window, hop = (round(ms * config.sample_rate / 1000) for ms in (config.window_ms, config.hop_ms))
    return Frames(config.sample_rate, window, hop, config.mels)


def most_of(config: Config) -> int:
    """Samples of a row that a batch takes."""
    return max(1, int(config.max_seconds * config.sample_rate))


class Codec:
    """Sound file or bytes -> ragged int16 samples of one channel."""

    RAW = pa.large_binary()  # the samples: a sound is decoded once
    PATHS = True  # a text value is the path of a file, relative to the data file
    SAMPLE: ClassVar[int | None] = SAMPLE  # rows to be fitted on

    def __init__(self, config: Config, mean: Sequence[float], std: Sequence[float]):
        self.config, self.mean, self.std = config, list(mean), list(std)  # of each band's log power

    @staticmethod
    def parse(value: object, config: Config | None = None) -> bytes | None:
        """Bytes, or the path of a file -> its samples, int16 as bytes. What cannot be heard is a ValueError."""
        config = config or Config()
        if value is None or value == "":
            return None
        name = f"{Path(value).name}: " if isinstance(value, str) else ""
        value = media.bytes_of(value, "sound", sounds.MAX_BYTES)
        try:
            header = sounds.header(value)
            if config.longer == "refuse" and header.seconds > config.max_seconds:
                raise ValueError(
                    f"{header.seconds:.2f} s of sound; at most {config.max_seconds:g} are read (max_seconds)"
                )
            return sounds.read(value, config.sample_rate, config.max_seconds).tobytes()
        except ValueError as error:
            raise ValueError(f"{name}{error}") from None

    @staticmethod
    def footprint(value: object, config: Config) -> int:
        """Bytes of a sound's file and of its samples, by its header alone; 0 if it cannot be read."""
        if isinstance(value, str):
            if not os.path.isfile(value) or os.path.getsize(value) > sounds.MAX_BYTES:
                return 0
            value = Path(value).read_bytes()
        try:
            seconds = sounds.header(value).seconds if isinstance(value, bytes) else 0.0
        except (ValueError, OSError):
            return 0
        return len(value) + 2 * int(min(seconds, config.max_seconds) * config.sample_rate)  # type: ignore[arg-type]

    @classmethod
    def fit(cls, config: Config, values: Iterable[bytes | None]) -> Codec:
        count, total, squares = 0, np.zeros(config.mels), np.zeros(config.mels)
        for value in islice((value for value in values if value is not None), SAMPLE):
            spectrum = frames_of(config).log_mel(_samples(value)[: most_of(config)])  # (F, M)
            count, total, squares = count + len(spectrum), total + spectrum.sum(0), squares + (spectrum**2).sum(0)
        if not count:
            raise DataError(f"column {config.column!r}: no sound in any training row. Fix: leave the column out.")
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return cls(config, mean.tolist(), np.maximum(std, 0.1).tolist())  # a band that is always silent stays so

    def encode(self, values: Sequence[bytes | None]) -> tuple[Columns, dict[str, int]]:
        """{"samples": ragged int16}; a missing sound has none."""
        rows = [_samples(value or b"") for value in values]
        return {"samples": Ragged.of(rows, np.int16)}, {"missing": sum(value is None for value in values)}

    def decode(self, columns: Columns) -> list[bytes]:
        """WAV files."""
        samples = columns["samples"]
        assert isinstance(samples, Ragged)
        return [sounds.wav(samples.row(index), self.config.sample_rate) for index in range(len(samples))]

    def shown(self, value: bytes) -> str:
        """What a report says of a decoded sound."""
        return f"{sounds.header(value).seconds:.2f} s of sound" if len(value) > sounds.WAV_HEADER else "no sound"

    def limits(self) -> dict[str, int]:
        return {"samples": most_of(self.config)}

    def strides(self) -> dict[str, int]:
        """Samples from one position to the next."""
        return {"samples": frames_of(self.config).hop * self.config.subsample}

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std}

    def learnt_as(self) -> dict[str, Any]:
        """Mean and deviation only bring loudness to one scale."""
        return {}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config, saved["mean"], saved["std"])


def _samples(value: bytes) -> np.ndarray:
    return np.frombuffer(value, dtype=np.int16)


def augment(field: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A training batch with "hidden frames" (B, F) and "hidden bands" (B, M), drawn anew (torch's generator: a resumed run
    repeats it). What is hidden is set to the mean."""
    setting: Augment = field.config.augment
    if not setting.time_masks and not setting.band_masks:
        return batch
    lengths = batch[f"{field.name}.samples.length"]  # (B,)
    hop, bands = frames_of(field.config).hop, field.config.mels
    longest = batch[f"{field.name}.samples"].shape[1] // hop + 1
    frames = (lengths // hop + 1).float()  # (B,)
    times = _stretches(setting.time_masks, setting.time_share * frames, frames, longest)
    height = torch.full_like(frames, float(bands))
    across = _stretches(setting.band_masks, torch.full_like(frames, float(setting.band_width)), height, bands)
    return {**batch, f"{field.name}.hidden.frames": times, f"{field.name}.hidden.bands": across}


def _stretches(count: int, widest: Tensor, size: Tensor, longest: int) -> Tensor:
    """(B, longest) bool: for each row `count` stretches of 0 to `widest` places, anywhere in the first `size`."""
    draws = torch.rand((2, count, len(size)), device=size.device)
    width = (draws[0] * (widest + 1)).floor().minimum(size)  # (count, B)
    start = (draws[1] * (size - width + 1)).floor()
    place = torch.arange(longest, device=size.device)
    return ((place >= start[..., None]) & (place < (start + width)[..., None])).any(0)


class Encoder(nn.Module):
    """Samples -> features (B, T, D): log-mel spectra, normalized, every `subsample` frames of them one position."""

    mean: Tensor
    std: Tensor
    filters: Tensor
    taper: Tensor

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        self.positions: int | None = None
        self.frames = frames_of(config)
        self.known = (codec.mean, codec.std)
        for name, shape in (("mean", (config.mels,)), ("std", (config.mels,)), ("taper", (self.frames.window,))):
            self.register_buffer(name, torch.empty(shape), persistent=False)
        self.register_buffer("filters", torch.empty(self.frames.fft // 2 + 1, config.mels), persistent=False)
        self.subsample = Subsample(config.mels, width, config.subsample)

    def reset_parameters(self) -> None:
        self.mean.copy_(torch.tensor(self.known[0]))
        self.std.copy_(torch.tensor(self.known[1]))
        self.taper.copy_(torch.from_numpy(self.frames.taper()))
        self.filters.copy_(torch.from_numpy(self.frames.filters()))

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        samples, lengths = batch[f"{name}.samples"], batch[f"{name}.samples.length"]  # (B, S), (B,)
        with torch.autocast(samples.device.type, enabled=False):  # the power of a quiet band has no bits to lose
            spectra = (torch.log(self.mel(samples.float() / 32768) + FLOOR) - self.mean) / self.std  # (B, F, M)
        if f"{name}.hidden.frames" in batch:
            hidden = batch[f"{name}.hidden.frames"][..., None] | batch[f"{name}.hidden.bands"][:, None]
            spectra = spectra.masked_fill(hidden, 0.0)
        return self.subsample(spectra, length_mask(lengths // self.frames.hop + 1, spectra.shape[1]))

    def mel(self, sound: Tensor) -> Tensor:  # (B, S) -> (B, F, M)
        """The power of each band in each frame, as `Frames.mel` has it. A row's padding is the silence that it ends in."""
        fft, hop, window = self.frames.fft, self.frames.hop, self.frames.window
        spectra = torch.stft(sound, fft, hop, window, self.taper, pad_mode="constant", return_complex=True)  # (B, K, F)
        return spectra.abs().square().mT @ self.filters


class Subsample(nn.Module):
    """Convolutions over time and bands, each of half as many of both; then what the bands hold as one vector."""

    def __init__(self, bands: int, width: int, factor: int):
        super().__init__()
        channels = max(8, min(64, width // 4))
        sizes = [1, *[channels] * max(1, factor.bit_length() - 1)]
        self.halves = factor > 1  # positions; the bands are halved in any case
        strides = (2, 2) if self.halves else (1, 2)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=strides, padding=1) for a, b in pairwise(sizes))
        for _ in self.convolutions:
            bands = -(-bands // 2)
        self.out = nn.Linear(channels * bands, width)

    def forward(self, spectra: Tensor, mask: Tensor) -> Features:  # (B, F, M), (B, F)
        x = spectra[:, None]  # (B, 1, F, M)
        for convolution in self.convolutions:
            x = convolution(x * mask[:, None, :, None].to(x.dtype)).relu()  # (B, C, F', M')
            mask = mask[:, ::2] if self.halves else mask
        return Features(self.out(x.transpose(1, 2).flatten(2)), mask)  # (B, T, C · M') -> (B, T, D)
