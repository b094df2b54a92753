"""A synthesizer of speech, eSpeak NG 1.52 (GPL-3), out of a wheel: neither installed nor imported, its library loaded alone.

    speaker = Speaker()
    samples = speaker.say("good morning", "en-us+f3", speed=170, pitch=50)     # (N,) int16, speaker.rate a second

For Linux on x86-64, whose wheel is pinned. The same text and voice give the same samples. `+f3` is one of its variants, which
here stand for persons: VARIANTS are those that speak (no whispers, robots and monsters).
"""

from __future__ import annotations

import ctypes
import io
from functools import cache

import fetch
import numpy as np

NAMES = (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen "
    "Reed adam anika announcer antonio aunty belinda benjamin boris caleb david ed edward edward2 f1 f2 f3 f4 f5 "
    "grandma grandpa gustave ian iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt3 klatt4 linda m1 m2 m3 "
    "m4 m5 m6 m7 m8 marcelo max michel miguel mike2 norbert pablo paul pedro quincy rob robert sandro shelby steph "
    "steph2 steph3 travis victor zac"
)
VARIANTS = NAMES.split()
SYNCHRONOUS, UTF8 = 2, 1
RATE, PITCH, RANGE = 1, 3, 4  # its parameters: words a minute, 0 to 100, 0 to 100
HEARD = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def person(variant: str) -> str:
    """Whom a variant belongs to: steph, steph2 and steph3 are one, m1 and m2 are two."""
    return variant.rstrip("0123456789").lower() if len(variant) > 2 else variant


class Speaker:
    """One library, one voice at a time."""

    def __init__(self) -> None:
        folder = fetch.pypi(
            "espeakng-loader",
            "0.2.4",
            "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",
            keep="espeakng_loader/*",
            wheel=("3.11", "manylinux_2_17_x86_64"),
        )
        home = folder / "espeakng_loader"
        self.library = ctypes.CDLL(str(home / "libespeak-ng.so.1.52.0"))
        self.rate: int = self.library.espeak_Initialize(SYNCHRONOUS, 0, bytes(home / "espeak-ng-data"), 0)
        if self.rate <= 0:
            raise RuntimeError(f"the synthesizer does not start with {home}")
        self.pieces: list[np.ndarray] = []
        self.heard = HEARD(self.hear)  # kept: the library holds a pointer to it
        self.library.espeak_SetSynthCallback(self.heard)

    def hear(self, samples: ctypes.Array, count: int, events: int) -> int:
        if samples and count > 0:
            self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, *, speed: int, pitch: int, lively: int = 50) -> np.ndarray:  # (N,) int16
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"no voice {voice!r}")
        for parameter, value in ((RATE, speed), (PITCH, pitch), (RANGE, lively)):
            self.library.espeak_SetParameter(parameter, value, 0)
        self.pieces = []
        data = text.encode()
        if self.library.espeak_Synth(data, len(data) + 1, 0, 1, 0, UTF8, None, None):
            raise RuntimeError(f"{text!r} could not be said")
        self.library.espeak_Synchronize()
        return np.concatenate(self.pieces) if self.pieces else np.zeros(0, dtype=np.int16)


@cache
def speaker() -> Speaker:
    """The one of this process."""
    return Speaker()


def flac(samples: np.ndarray, rate: int) -> bytes:
    """(N,) int16 as a FLAC file."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def trimmed(samples: np.ndarray, rate: int, keep: float = 0.05) -> np.ndarray:
    """Without the silence at both ends, but for a little."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 100)
    rim = int(keep * rate)
    return samples[max(0, loud[0] - rim) : loud[-1] + rim] if len(loud) else samples
