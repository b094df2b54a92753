"""Clips: folders, animations, videos and lists of pictures become a few frames; what is hostile or damaged is refused by name."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dougong.data import clips, pictures
from tests.clear_error import clear_error

ROOT = Path(__file__).parents[2]


def shade(value: int, height: int = 6, width: int = 8) -> np.ndarray:
    """A picture of one grey, by which a frame can be told from another."""
    return np.full((height, width, 3), value, dtype=np.uint8)


def png(value: int, height: int = 6, width: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(shade(value, height, width)).save(stream, "PNG")
    return stream.getvalue()


def animation(form: str, frames: int = 10, height: int = 6, width: int = 8, **options: object) -> bytes:
    pages = [Image.fromarray(shade(20 * index, height, width)) for index in range(frames)]
    stream = io.BytesIO()
    pages[0].save(stream, form, save_all=True, append_images=pages[1:], **options)
    return stream.getvalue()


def video(
    form: str = "mp4", codec: str = "libx264", frames: int = 20, height: int = 32, width: int = 48, **settings: object
) -> bytes:
    stream = io.BytesIO()
    options = {"crf": "1", "preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(stream, "w", format=form) as container:
        track = container.add_stream(codec, rate=10, options=options)
        track.width, track.height, track.pix_fmt = width, height, str(settings.get("pix_fmt", "yuv420p"))
        noise = np.random.default_rng(0).integers(0, 30, (height, width, 3), dtype=np.uint8)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(noise + np.uint8(10 * (index % 20)), format="rgb24")
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return stream.getvalue()


def greys(frames: list[bytes]) -> list[int]:
    return [int(np.asarray(Image.open(io.BytesIO(frame)).convert("L")).mean()) for frame in frames]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten frames, of which the tenth would come second by the alphabet."""
    clip = tmp_path / "walk"
    clip.mkdir()
    for index in range(10):
        (clip / f"f{index + 1}.png").write_bytes(png(20 * index))
    return clip


# -------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(("count", "most", "places"), [
    (10, 5, [1, 3, 5, 7, 9]), (10, 10, [*range(10)]), (3, 16, [0, 1, 2]), (1, 4, [0]), (100, 1, [50]), (7, 2, [1, 5]),
])  # fmt: skip
def test_frames_are_spread_evenly_and_those_of_a_short_clip_are_all_taken(
    count: int, most: int, places: list[int]
) -> None:
    assert clips.spread(count, most) == places


def test_frames_of_a_folder_come_in_natural_order(folder: Path) -> None:
    assert greys(clips.read(str(folder), 100)) == [20 * index for index in range(10)]
    assert greys(clips.read(str(folder), 5)) == [20, 60, 100, 140, 180]
    assert [path.name for path in sorted(map(Path, ["b2", "a10b1", "a9", "a010", "a10"]), key=clips.natural)] == [
        "a9", "a010", "a10", "a10b1", "b2"]  # fmt: skip


def test_a_list_of_pictures_is_a_clip() -> None:
    assert clips.read([png(index) for index in range(4)], 2) == [png(1), png(3)]


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_an_animation_is_read_from_a_file_of_any_ending_and_from_bytes(tmp_path: Path, form: str) -> None:
    data = animation(form)
    file = tmp_path / "name.mp4"
    file.write_bytes(data)
    found = greys(clips.read(data, 5))
    assert np.abs(np.array(found) - [20, 60, 100, 140, 180]).max() <= 4
    assert clips.read(str(file), 5) == clips.read(data, 5)


@pytest.mark.parametrize(("form", "codec"), [
    ("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("mov", "mjpeg"),
])  # fmt: skip
def test_a_video_file_is_read_from_a_file_and_from_bytes(tmp_path: Path, form: str, codec: str) -> None:
    data = video(form, codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p")
    file = tmp_path / "name.gif"
    file.write_bytes(data)
    frames = clips.read(data, 4)
    expected = np.array([2, 7, 12, 17]) * 10 + 14
    assert np.abs(np.array(greys(frames)) - expected).max() <= 4
    assert pictures.size_of(frames[0]) == (32, 48)
    assert clips.read(str(file), 4) == frames


def test_frames_of_a_video_are_kept_as_small_as_they_are_used() -> None:
    data = video(height=400, width=560, frames=3)
    assert [pictures.size_of(frame) for frame in clips.read(data, 2)] == [(160, 224)] * 2
    assert [pictures.size_of(frame) for frame in clips.read(data, 2, (20, 30))] == [(20, 30)] * 2


def test_one_frame_is_a_clip(folder: Path) -> None:
    for value in (animation("GIF", 1), video(frames=1), [png(7)]):
        assert len(clips.read(value, 16)) == 1


# ------------------------------------------------------------------------------------------------------ what is refused


def refused(value: object, *words: str) -> None:
    with pytest.raises(ValueError) as caught:
        clips.read(value, 16)
    said = str(caught.value)
    assert len(said) < 200
    assert "0x" not in said
    for word in words:
        assert word in said, said


def test_D8_a_folder_without_frames_or_with_something_else_is_refused_by_name(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(str(tmp_path / "empty"), "empty: a clip without any frame")
    refused(str(tmp_path / "none"), "none: no such clip")
    refused([], "a clip without any frame")
    (folder / ".hidden").write_text("none of it")
    assert len(clips.read(str(folder), 100)) == 10
    (folder / "notes.txt").write_text("what is this?")
    refused(str(folder), "walk: notes.txt is not one of .png, .jpg, .jpeg, .webp")
    (folder / "notes.txt").unlink()
    (folder / "more.png").mkdir()
    refused(str(folder), "walk: more.png is not one of")


def test_D8_a_damaged_frame_in_the_middle_is_named(folder: Path) -> None:
    (folder / "f6.png").write_bytes(png(1)[:-35])
    refused(str(folder), "walk: f6.png: a damaged PNG image")
    (folder / "f6.png").write_bytes(b"GIF89a, they say")
    refused(str(folder), "walk: f6.png: not a PNG, JPEG, WEBP image, or damaged")
    refused([png(1), png(2)[:-35], png(3)], "frame 2 of 3: a damaged PNG image")
    refused([png(1), "two"], "frame 2 of 2: expected a picture's bytes, found str")


def test_D10_a_link_that_leads_outside_of_the_clips_folder_is_refused_and_one_within_is_read(
    tmp_path: Path, folder: Path
) -> None:
    (folder / "f11.png").symlink_to(folder / "f1.png")
    assert greys(clips.read(str(folder), 100))[-1] == 0
    (tmp_path / "secret.png").write_bytes(png(255))
    (tmp_path / "walk-too").mkdir()
    (tmp_path / "walk-too" / "x.png").write_bytes(png(255))
    for target in ("../secret.png", "../walk-too/x.png", "/dev/zero", "../nothing.png"):
        (folder / "f11.png").unlink()
        (folder / "f11.png").symlink_to(target)
        refused(str(folder), "walk: f11.png is a link that leads outside of the clip's folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_D10_a_pipe_among_the_frames_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "f55.png")
    refused(str(folder), "f55.png is not one of")


def test_D8_far_too_many_frames_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    refused([b""] * 1_000_000, "1,000,000 frames; at most 36,000 are read. Cut it into shorter clips")
    monkeypatch.setattr(clips, "MAX_FRAMES", 9)
    refused(str(folder), "walk: more than 9 frames")
    refused(animation("GIF"), "10 frames; at most 9")
    refused(video(), "20 frames; at most 9")
    refused(video("matroska"), "10 frames; at most 9")  # it does not say how many: its packets are counted


def test_D8_more_pixels_than_are_decoded_are_refused_by_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "MAX_DECODED", 400)
    refused(animation("GIF"), "10 frames of 8 × 6 pixels; at most 400 pixels of all frames together")
    refused(video(), "20 frames of 48 × 32 pixels; at most 400")
    monkeypatch.setattr(pictures, "MAX_PIXELS", 40)
    refused(animation("WEBP"), "8 × 6 pixels; at most 40")
    refused(video(), "48 × 32 pixels; at most 40")


def test_D8_a_video_that_says_it_is_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "MAX_SECONDS", 1)
    refused(video(), "2 seconds; at most 1 are read")


def test_D8_files_that_are_too_large_are_refused_by_their_size(tmp_path: Path) -> None:
    for name, head, most in (("a.mp4", b"\0\0\0\x20ftypisom", 1024), ("a.gif", b"GIF89a", 200), ("a", b"", 200)):
        with (tmp_path / name).open("wb") as file:
            file.write(head)
            file.truncate(2 << 30)
        refused(str(tmp_path / name), f"{name}: 2,147,483,648 bytes; at most {most:,} MB are read")


NOT_CLIPS = [
    b"", b"GIF89a", b"GIF89a" + bytes(30), b"RIFF\x10\0\0\0WEBP", b"RIFF\x10\0\0\0AVI ", b"\x1a\x45\xdf\xa3" + bytes(40),
    b"\0\0\0\x20ftypisom" + bytes(60), b"#EXTM3U\n#EXT-X-VERSION:3\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile x",
    png(3), b"not a clip", b"\x80\x04\x95" + bytes(30), video(codec="libx264")[:400],
]  # fmt: skip


@pytest.mark.parametrize("data", NOT_CLIPS, ids=range(len(NOT_CLIPS)))
def test_D8_what_is_no_clip_whatever_it_says_is_refused(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize("codec", ["ffv1", "rawvideo"])
def test_D8_encodings_that_nobody_needs_are_refused_by_the_header(codec: str) -> None:
    refused(video("matroska", codec), f"encoded as {codec}", "h264")


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi"])
def test_D8_a_video_that_is_cut_off_is_refused(form: str) -> None:
    data = video(form, "mpeg4" if form == "avi" else "libx264", frames=60)
    refused(data[: len(data) // 3])


def test_D8_a_video_that_is_damaged_in_the_middle_is_refused() -> None:
    data = bytearray(video(frames=30))
    start = data.index(b"mdat") + 2000
    data[start : start + 1500] = bytes(1500)
    refused(bytes(data), "a damaged video")


def test_D8_an_animation_that_is_cut_off_is_refused() -> None:
    for form in ("GIF", "WEBP"):
        data = animation(form, height=60, width=80)
        refused(data[: len(data) * 2 // 3])


def test_D8_every_cut_and_flip_of_a_clip_is_read_or_refused() -> None:
    random = np.random.default_rng(0)
    for whole in (animation("GIF", 4), animation("WEBP", 4), video(frames=4), video("matroska", frames=4)):
        for _ in range(40):
            data = bytearray(whole[: random.integers(1, len(whole) + 1)])
            data[random.integers(len(data))] ^= 1 << random.integers(8)
            try:
                frames = clips.read(bytes(data), 16)
            except ValueError:
                continue
            assert all(pictures.size_of(frame) for frame in frames)


def gif_bomb(frames: int, side: int) -> bytes:
    """Large frames of a few bytes each."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0xF0, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


def test_D8_bombs_are_refused_before_they_take_memory_or_time() -> None:
    code = (
        "import resource, time\n"
        "from dougong.data import clips\n"
        "from tests.data.test_clips import gif_bomb, animation\n"
        "clips.read(animation('GIF'), 2)\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()\n"
        "for data in (gif_bomb(10, 60_000), gif_bomb(30_000, 7_000), gif_bomb(40_000, 16)):\n"
        "    try:\n        clips.read(data, 16)\n    except ValueError:\n        continue\n"
        "    raise SystemExit('was read')\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "if time.monotonic() - start > 10:\n    raise SystemExit('slow')\n"
        "raise SystemExit(0 if grown < 250_000 else f'grew by {grown} kB')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_frame_that_is_a_bomb_is_refused_as_a_picture_is(folder: Path) -> None:
    body = zlib.compress(bytes(1 << 20))
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )
    (folder / "f3.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    refused(str(folder), "walk: f3.png:")


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with clear_error("av", "pip install 'dougong[video]'"):
        clips.read(video_bytes, 2)


video_bytes = video(frames=2)
