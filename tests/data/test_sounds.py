"""Sound files: what is whole is read, whatever its name; D9: what is broken is refused with its reason, before it is decoded."""

from __future__ import annotations

import io
import re
import struct
from typing import Any

import numpy as np
import pytest
import soundfile

from dougong.data import sounds

RATE = 16_000
PRIVATE = re.compile(r"0x[0-9a-fA-F]{6,}|<[\w.]+ object at")  # of this process


def tone(seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    sound = 0.3 * np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 440 / rate)
    return np.stack([sound * (1 - 0.5 * channel) for channel in range(channels)], axis=1)


def saved(sound: np.ndarray, form: str = "WAV", rate: int = RATE, kind: str | None = None) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, sound, rate, format=form, subtype=kind)
    return stream.getvalue()


FORMS = [
    ("WAV", None),
    ("WAV", "FLOAT"),
    ("WAV", "PCM_24"),
    ("WAV", "ULAW"),
    ("FLAC", None),
    ("OGG", None),
    ("MP3", None),
]


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_every_format_is_read(form: str, kind: str | None) -> None:
    data = saved(tone(), form, kind=kind)
    header = sounds.header(data)
    assert (header.kind, header.rate, header.channels) == (form, RATE, 1)
    samples = sounds.read(data, RATE, 10.0)
    assert samples.dtype == np.int16
    assert abs(len(samples) - RATE // 2) <= 1152
    middle = samples[2000:6000] / 32767
    assert abs(np.abs(np.fft.rfft(middle)).argmax() * RATE / len(middle) - 440) < 5
    assert abs(middle.max() - 0.3) < 0.05


def test_channels_become_their_mean_and_rates_are_changed() -> None:
    stereo = sounds.read(saved(tone(channels=2, rate=44_100), rate=44_100), RATE, 10.0)
    mono = sounds.read(saved(tone() * 0.75), RATE, 10.0)
    assert len(stereo) == len(mono) == RATE // 2
    assert np.abs(stereo.astype(int) - mono)[500:-500].max() < 40


def test_what_is_louder_than_full_scale_is_not_clipped() -> None:
    samples = sounds.read(saved(tone() * 1e6, kind="FLOAT"), RATE, 10.0)
    quiet = sounds.read(saved(tone() / 0.3), RATE, 10.0)
    assert np.abs(samples.astype(int) - quiet).max() < 20


def test_one_sample_more_than_asked_for_tells_of_a_cut() -> None:
    assert len(sounds.read(saved(tone(2.0)), RATE, 1.0)) == RATE + 1
    assert len(sounds.read(saved(tone(2.0, 44_100), rate=44_100), RATE, 1.0)) == RATE + 1
    assert len(sounds.read(saved(tone(1.0)), RATE, 1.0)) == RATE


def test_what_is_written_is_read_again() -> None:
    samples = (tone()[:, 0] * 32767).astype(np.int16)
    assert np.abs(sounds.read(sounds.wav(samples, RATE), RATE, 10.0).astype(int) - samples).max() <= 1
    data = sounds.wav(samples, RATE)
    assert data[: sounds.WAV_HEADER] + samples.tobytes() == data


def patched(form: str, value: int, place: int, kind: str | None = None) -> bytes:
    """A WAV file with another number in its header."""
    data = bytearray(saved(tone(), kind=kind))
    struct.pack_into(form, data, place, value)
    return bytes(data)


NOT_FINITE = np.array([0.1, np.nan, 0.2, np.inf] * 100)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "no rate": (patched("<I", 0, 24), "0 samples a second; 1,000 to 384,000 are read"),
    "rate of 2^32": (patched("<I", 2**32 - 1, 24), "4,294,967,295 samples a second"),
    "2^32 bytes promised": (patched("<I", 2**32 - 1, 40), "promises 4,294,967,295 bytes of sound, 16,000 are there"),
    "2^31 bytes promised": (patched("<I", 2**31, 40), "promises 2,147,483,648 bytes of sound"),
    "no channels": (patched("<H", 0, 22), "0 channels; 1 to 8 are read"),
    "65,535 channels": (patched("<H", 65_535, 22), "65,535 channels; 1 to 8 are read"),
    "9 channels": (saved(np.zeros((100, 9))), "9 channels; 1 to 8 are read"),
    "no bits": (patched("<H", 0, 34), "a damaged WAV file"),
    "an unknown code": (patched("<H", 0x7777, 20), "a damaged WAV file"),
    "a header of 2^32 bytes": (patched("<I", 2**32 - 1, 16), "a damaged WAV file"),
    "no sound": (saved(np.zeros((0, 1))), "holds no sound"),
    "not finite": (saved(NOT_FINITE, kind="FLOAT"), "numbers that are not finite"),
    "a sample at another rate": (saved(tone()[:1], rate=96_000), "too short to be read"),
    "empty": (b"", "an empty file"),
    "a few bytes": (b"RIFF", "not a WAV, FLAC, OGG or MP3 file"),
    "only a header": (saved(tone())[:36], "it lacks its sound"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a WAV, FLAC, OGG or MP3 file"),
    "a JPEG": (b"\xff\xd8\xff\xe0" + bytes(100), "not a WAV, FLAC, OGG or MP3 file"),
    "a pickle": (b"\x80\x04\x95" + bytes(100), "not a WAV, FLAC, OGG or MP3 file"),
    "AIFF, which is not read": (saved(tone(), "AIFF"), "not a WAV, FLAC, OGG or MP3 file"),
    "half a WAV": (saved(tone())[:5_000], "cut short: its header promises 16,000 bytes of sound, 4,956 are there"),
    "half a FLAC": (saved(tone(), "FLAC")[:2_000], "a damaged FLAC file"),
    "a FLAC's header": (saved(tone(), "FLAC")[:20], "cut short"),
    "half an OGG": (saved(tone(3.0), "OGG")[:-3_000], "the last page of the OGG file is missing"),
    "half an MP3": (saved(tone(3.0), "MP3")[:3_000], "s can be decoded"),
    "a FLAC without a rate": (
        b"".join((saved(tone(), "FLAC")[:18], bytes(3), saved(tone(), "FLAC")[21:])),
        "0 samples a second",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_D9_broken_sound_is_refused_with_its_reason(name: str) -> None:
    data, reason = HOSTILE[name]
    with pytest.raises(ValueError, match=reason) as raised:
        sounds.read(data, RATE, 10.0)
    assert not PRIVATE.search(str(raised.value)), "no memory address, no path"


def test_D9_a_header_is_judged_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of silence take a few kB as FLAC: only as much is decoded as is asked for."""
    data = saved(np.zeros((RATE * 600, 1)), "FLAC")
    assert len(data) < 100_000
    read: list[int] = []
    whole = soundfile.SoundFile.read

    def counted(self: Any, frames: int = -1, **options: Any) -> np.ndarray:
        read.append(frames)
        return whole(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert sounds.header(data).seconds == 600
    assert not read
    assert len(sounds.read(data, RATE, 2.0)) == 2 * RATE + 1
    assert sum(read) <= 2 * RATE + 2


def mutants(count: int, seed: int) -> list[bytes]:
    """WAV files with bytes flipped, cut out, put in, most of them in the header."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        data = bytearray(saved(tone(0.05), kind=["PCM_16", "FLOAT", "PCM_U8", "ULAW"][int(draw.integers(4))]))
        for _ in range(int(draw.integers(1, 5))):
            place = int(draw.integers(0, 60 if draw.random() < 0.8 else len(data)))
            match int(draw.integers(4)):
                case 0:
                    data[place % len(data)] = int(draw.integers(256))
                case 1:
                    del data[place : place + int(draw.integers(1, 9))]
                case 2:
                    data[place:place] = bytes(draw.integers(0, 256, int(draw.integers(1, 9)), dtype=np.uint8))
                case 3:
                    edge = int(draw.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000]))
                    data[place : place + 4] = struct.pack("<I", edge)
        made.append(bytes(data))
    return made


def refusal(data: bytes) -> str | None:
    """Why a file was not read; None if it was, and what was read is bounded."""
    try:
        samples = sounds.read(data, RATE, 1.0)
    except ValueError as error:
        return str(error)
    assert 1 <= len(samples) <= RATE + 1
    return None


def check(data: bytes) -> bool:
    """Whether it was read; what is not has a reason."""
    reason = refusal(data)
    assert reason is None or (reason and not PRIVATE.search(reason))
    return reason is None


def test_D9_mutants_of_a_WAV_are_read_or_refused_and_nothing_else_happens() -> None:
    read = [check(data) for data in mutants(400, 0)]
    assert 20 < sum(read) < 380, "both happen"


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 11))
def test_D9_many_mutants(seed: int) -> None:
    for data in mutants(2_000, seed):
        check(data)
