"""Sound files -> samples: a WAV, FLAC, OGG or MP3, judged by its header before anything is decoded.

    sound = read(data, rate=16_000, seconds=30.0)     # (N,) int16, mono; ValueError says what is wrong with the file

Decoding is libsndfile's, resampling soxr's (the extra `audio`). Which of libsndfile's many decoders may run is decided here, by
a file's first bytes: its name says nothing.
"""

# N samples, C channels

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from dougong.core.errors import missing_extra
from dougong.data import media

FORMATS = "WAV, FLAC, OGG or MP3"
MAX_BYTES = 200 << 20  # of a file
MAX_CHANNELS = 8
RATES = (1_000, 384_000)  # samples a second
PEAK = 32767  # of int16


@dataclass(frozen=True)
class Header:
    """What a file says of its sound."""

    kind: str
    rate: int
    channels: int
    frames: int  # samples of each channel

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def read(data: bytes, rate: int, seconds: float) -> np.ndarray:  # (N,) int16
    """The sound as one channel at `rate`, at most one sample more than `seconds` of it: so that a cut can be seen."""
    with _opened(data) as file, media.in_time("audio"):
        header = _header(data, file)
        wanted = min(header.frames, math.ceil((seconds + 1 / rate) * header.rate))
        mono = _mono(file, wanted)
    # An MP3's length is an estimate, right to a few of its frames of 1,152 samples.
    if len(mono) < wanted - (3 * 1152 if header.kind == "MP3" else 0):
        told = f"{len(mono) / header.rate:.2f} of {header.seconds:.2f} s can be decoded"
        raise ValueError(f"a damaged {header.kind} file: {told}")
    if not np.isfinite(mono).all():
        raise ValueError("the sound holds numbers that are not finite")
    peak = float(np.abs(mono).max(initial=0.0))
    if peak > 1:  # of floating-point files, which know no loudest sample
        mono = mono / peak
    if header.rate != rate:
        mono = _soxr().resample(mono, header.rate, rate)
    samples = (mono.clip(-1, 1) * PEAK).round().astype(np.int16)
    if not len(samples):
        raise ValueError(f"{header.frames} samples at {header.rate:,} a second are too short to be read at {rate:,}")
    return samples[: math.floor(seconds * rate) + 1]


def header(data: bytes) -> Header:
    """What the file says of itself. ValueError where that cannot be."""
    with _opened(data) as file:
        return _header(data, file)


def wav(samples: np.ndarray, rate: int) -> bytes:  # (N,) int16
    """A WAV file of one channel."""
    data = samples.astype("<i2").tobytes()
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE") + kind + struct.pack("<4sI", b"data", len(data)) + data
    )


WAV_HEADER = 44  # bytes of what `wav` writes before the samples


def _header(data: bytes, file: Any) -> Header:
    kind, rate, channels, frames = kind_of(data), file.samplerate, file.channels, file.frames
    _check(rate, channels)
    if not 0 < frames < 1 << 40:  # unknown, as in a FLAC that was streamed: libsndfile's largest number
        raise ValueError(f"the {kind} file holds no sound" if frames <= 0 else f"the {kind} file tells no length")
    return Header(kind, rate, channels, frames)


def kind_of(data: bytes) -> str:
    """The format, by the first bytes."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "WAV"
    if data[:4] in (b"fLaC", b"OggS"):
        return "FLAC" if data[:4] == b"fLaC" else "OGG"
    layer3 = len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2  # eleven ones, then layer III
    if data[:3] == b"ID3" or layer3:
        return "MP3"
    raise ValueError(f"not a {FORMATS} file" if data else "an empty file")


def _opened(data: bytes) -> Any:
    """The file, its header in order, ready to be decoded."""
    kind = kind_of(data)
    {"WAV": _check_wav, "FLAC": _check_flac, "OGG": _check_ogg}.get(kind, _nothing)(data)
    try:
        import soundfile  # an extra: only this file needs it
    except (ImportError, OSError):  # OSError: there is no libsndfile for this machine
        raise missing_extra("soundfile", "audio", "reading sound") from None
    try:
        return soundfile.SoundFile(io.BytesIO(data))
    except (soundfile.LibsndfileError, RuntimeError, ValueError):
        raise ValueError(f"a damaged {kind} file, or one of a kind that is not read") from None


def _mono(file: Any, wanted: int) -> np.ndarray:  # (N,) float32
    """The mean of all channels, decoded a second or so at a time: many channels must not take many times the memory."""
    pieces: list[np.ndarray] = []
    left = wanted
    while left > 0:
        try:
            piece = file.read(min(left, 1 << 16), dtype="float32", always_2d=True)  # (n, C)
        except RuntimeError:  # LibsndfileError: what was decoded so far says how far it went
            break
        if not len(piece):
            break
        pieces.append(piece.mean(1))
        left -= len(piece)
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)


def _soxr() -> Any:
    try:
        import soxr
    except ImportError:
        raise missing_extra("soxr", "audio", "resampling sound") from None
    return soxr


def _check(rate: int, channels: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"{rate:,} samples a second; {RATES[0]:,} to {RATES[1]:,} are read")
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"{channels:,} channels; 1 to {MAX_CHANNELS} are read")


def _check_wav(data: bytes) -> None:
    """Its chunks: libsndfile takes what is there for the whole where the header promises more."""
    place, told = 12, False
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        place += 8
        if name == b"fmt " and place + 8 <= len(data):
            channels, rate = struct.unpack_from("<HI", data, place + 2)
            _check(rate, channels)
            told = True
        if name == b"data":
            if not told:
                break
            if size > len(data) - place:
                raise ValueError(
                    f"cut short: its header promises {size:,} bytes of sound, {len(data) - place:,} are there"
                )
            return
        place += size + size % 2
    raise ValueError("a damaged WAV file: it lacks " + ("its sound" if told else "a header"))


def _check_flac(data: bytes) -> None:
    if len(data) < 42:
        raise ValueError("cut short: a FLAC file's header takes 42 bytes")
    packed = int.from_bytes(data[18:26], "big")  # 20 bits rate, 3 channels, 5 depth, 36 samples
    _check(packed >> 44, (packed >> 41 & 7) + 1)


def _check_ogg(data: bytes) -> None:
    """Its last page says that it is the last: else what follows is missing."""
    last = data.rfind(b"OggS")
    if len(data) < last + 6 or not data[last + 5] & 4:
        raise ValueError("cut short: the last page of the OGG file is missing")


def _nothing(data: bytes) -> None:
    """An MP3 has no header that tells of the whole."""
