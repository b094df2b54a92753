"""Mel spectra: equal to those of librosa, restated here by its documentation, and to transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from dougong.data.spectra import FLOOR, Frames, hertz, mels

FRAMES = {
    "16 kHz": Frames(16_000, 400, 160, 80),
    "8 kHz": Frames(8_000, 200, 80, 40),
    "odd": Frames(22_050, 552, 221, 64),
}


def noise(size: int, seed: int = 0) -> np.ndarray:
    return 0.2 * np.random.default_rng(seed).normal(size=size)


@pytest.mark.parametrize("name", FRAMES)
def test_spectra_are_those_of_another_implementation(name: str) -> None:
    frames = FRAMES[name]
    filters = mel_filter_bank(
        frames.fft // 2 + 1, frames.bands, 0, frames.rate / 2, frames.rate, norm="slaney", mel_scale="slaney"
    )
    assert np.abs(filters - frames.filters()).max() < 1e-12
    sound = noise(7_000)
    other = spectrogram(
        sound,
        window_function(frames.window, "hann", periodic=True),
        frames.window,
        frames.hop,
        frames.fft,
        power=2.0,
        pad_mode="constant",
        mel_filters=filters,
    )
    found = frames.mel(sound)  # (F, M)
    assert found.shape == other.T.shape
    assert np.abs(found - other.T).max() < 1e-4


def test_frames_stand_around_every_hop() -> None:
    frames = FRAMES["16 kHz"]
    for size in (1, 159, 160, 161, 16_000):
        assert len(frames.mel(noise(size))) == frames.count(np.array(size)) == size // 160 + 1


def test_a_tone_stands_in_its_band() -> None:
    frames = FRAMES["16 kHz"]
    for frequency in (300.0, 1000.0, 5000.0):
        tone = np.sin(2 * np.pi * frequency * np.arange(8_000) / 16_000)
        band = frames.mel(tone)[25].argmax()
        centres = hertz(np.linspace(0, mels(8_000), 82))[1:-1]
        assert abs(centres[band] - frequency) <= np.diff(centres)[min(band, 78)]


def test_mels_and_hertz_undo_each_other() -> None:
    for frequency in (0.0, 500.0, 1000.0, 1001.0, 8000.0):
        assert float(hertz(np.array(mels(frequency)))) == pytest.approx(frequency)


def test_silence_is_the_floor_and_finite() -> None:
    silent = FRAMES["16 kHz"].log_mel(np.zeros(1_000, dtype=np.int16))
    assert np.allclose(silent, np.log(FLOOR))
