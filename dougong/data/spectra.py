"""Mel spectra with numpy: what a sound's codec measures training rows by, and what the encoder's own are checked against.

The scale is Slaney's (linear below 1,000 Hz, logarithmic above), each filter of the same area, as librosa has it.
"""

# N samples, F frames, K frequencies, M mel bands

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLOOR = 1e-6  # of power, below which there is silence: rounding to 16 bits alone gives 1e-8 and less
LINEAR = 200 / 3  # Hz a mel below …
BREAK = 1000.0  # … this frequency; above, 27 mels are a factor of 6.4
STEP = np.log(6.4) / 27


@dataclass(frozen=True)
class Frames:
    """How sound is cut into frames, in samples: overlapping windows around every `hop`-th one."""

    rate: int
    window: int
    hop: int
    bands: int

    @property
    def fft(self) -> int:
        """Samples of a Fourier transform: the next power of two."""
        return 1 << (self.window - 1).bit_length()

    def count(self, samples: np.ndarray) -> np.ndarray:
        """Frames of sounds of so many samples: the first is centred on the first sample."""
        return samples // self.hop + 1

    def taper(self) -> np.ndarray:  # (window,)
        """Hann's window, periodic."""
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)

    def filters(self) -> np.ndarray:  # (K, M)
        """How much each frequency adds to each band: triangles from the centre of one neighbour to that of the other."""
        edges = hertz(np.linspace(0.0, mels(self.rate / 2), self.bands + 2))
        frequency = np.arange(self.fft // 2 + 1) * self.rate / self.fft
        rising = (frequency[:, None] - edges[:-2]) / np.diff(edges)[:-1]
        falling = (edges[2:] - frequency[:, None]) / np.diff(edges)[1:]
        return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))

    def mel(self, sound: np.ndarray) -> np.ndarray:  # (N,) -> (F, M)
        """The power of each band in each frame; before and after the sound there is silence."""
        half, size = self.fft // 2, self.fft
        taper = np.pad(self.taper(), ((size - self.window) // 2, (size - self.window + 1) // 2))
        padded = np.pad(sound.astype(np.float64), half)
        starts = np.arange(int(self.count(np.int64(len(sound))))) * self.hop  # type: ignore[arg-type]
        windows = padded[starts[:, None] + np.arange(size)] * taper  # (F, size)
        return np.abs(np.fft.rfft(windows, axis=1)) ** 2 @ self.filters()

    def log_mel(self, samples: np.ndarray) -> np.ndarray:  # (N,) int16 -> (F, M)
        return np.log(self.mel(samples / 32768) + FLOOR)


def mels(frequency: float) -> float:
    above = BREAK / LINEAR + np.log(max(frequency, BREAK) / BREAK) / STEP
    return float(frequency / LINEAR if frequency < BREAK else above)


def hertz(mel: np.ndarray) -> np.ndarray:
    knee = BREAK / LINEAR
    return np.where(mel < knee, mel * LINEAR, BREAK * np.exp(STEP * (np.maximum(mel, knee) - knee)))
