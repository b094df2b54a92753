"""Files that take too long to be decoded: each costs its row, where an alarm can be heard."""

from __future__ import annotations

import io
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from dougong.data import clips, media, pictures, sounds


def slow_picture() -> bytes:
    """Sixteen megapixels of noise take some tenths of a second."""
    noise = np.random.default_rng(0).integers(0, 256, (4_000, 4_000), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def test_a_picture_that_takes_too_long_is_refused_and_the_alarm_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    before, data = signal.getsignal(signal.SIGALRM), slow_picture()
    assert pictures.read_file(data) == data
    monkeypatch.setitem(media.SECONDS, "image", 0.01)
    with pytest.raises(ValueError, match=r"decoding took longer than 0\.01 s, which no image file in good order does"):
        pictures.read_file(data)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_in_another_thread_there_is_no_limit_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(media.SECONDS, "image", 0.01)
    data = slow_picture()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(pictures.read_file, data).result() == data


def test_an_alarm_that_somebody_else_has_set_still_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(media.SECONDS, "image", 0.01)
    data = slow_picture()
    signal.setitimer(signal.ITIMER_REAL, 60.0)
    try:
        assert pictures.read_file(data) == data
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_sounds_and_animations_have_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "SECONDS", dict.fromkeys(media.SECONDS, 1e-5))
    with pytest.raises(ValueError, match="no audio file in good order does"):
        sounds.read(sounds.wav(np.zeros(16_000 * 600, dtype=np.int16), 16_000), 8_000, 600.0)
    frames = [Image.fromarray(np.full((300, 300), shade, dtype=np.uint8)) for shade in range(0, 250, 5)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="no video file in good order does"):
        clips.read(stream.getvalue(), 50)
