"""Clips: a folder of pictures, an animated GIF or WebP, a video file, or a list of encoded pictures.

    frames = clips.read("walk/clip1", 16)     # at most 16 files of pictures, evenly spread; ValueError: to quarantine

Whatever a clip came as, its frames are pictures from there on. Headers are judged before anything is decoded, and what
decoding may take is bounded.
"""

# H height, W width in pixels

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dougong.core.errors import missing_extra
from dougong.data import media, pictures

PICTURES = media.ENDINGS["image"]  # what frames in a folder are
MAX_FRAMES = 36_000  # of a clip: 20 minutes at 30 a second
MAX_SECONDS = 1_200
MAX_BYTES = 1 << 30  # of a video file
MAX_DECODED = 10_000_000_000  # pixels of all frames that are decoded to get at some: two minutes and a half of 1080p
ANIMATED = ("GIF", "WEBP")
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mpeg2video", "mjpeg", "libvpx", "libvpx-vp9")
Size = tuple[int, int]  # height, width


def read(value: object, most: int, size: Size | None = None) -> list[bytes]:
    """At most so many frames of a clip, evenly spread over it, each as a picture's file. ValueError if it is none.

    Frames of an animation or a video are resized on the way, as they are kept: to `size`, or to what no larger one is.
    """
    if isinstance(value, str):
        return _at(Path(value), most, size)
    if isinstance(value, bytes):
        with media.in_time("video"):
            return list(_file(io.BytesIO(value), len(value), most, size))
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a clip or a list of pictures, found {type(value).__name__}")
    _check_count(len(value))
    return _whole([value[index] for index in spread(len(value), most)])


def _at(path: Path, most: int, size: Size | None) -> list[bytes]:
    """The frames of what lies at a path; its name stands before what is wrong with it."""
    try:
        if os.path.isdir(path):
            return list(_folder(path, most))
        if not os.path.isfile(path):
            raise ValueError("no such clip, neither a folder nor a file")
        with path.open("rb") as stream, media.in_time("video"):
            return list(_file(stream, path.stat().st_size, most, size))
    except OSError as error:
        raise ValueError(f"{path.name}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` places, evenly spread over `count`: the middle of each of as many equal parts. Of fewer, each once."""
    if count <= wanted:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def _check_count(count: int) -> None:
    if not count:
        raise ValueError("a clip without any frame")
    if count > MAX_FRAMES:
        raise ValueError(f"{count:,} frames; at most {MAX_FRAMES:,} are read. Cut it into shorter clips")


def _check_pixels(size: Size, count: int) -> None:
    pixels = size[0] * size[1]
    if pixels > pictures.MAX_PIXELS:
        raise ValueError(f"{size[1]} × {size[0]} pixels; at most {pictures.MAX_PIXELS:,} are read")
    if pixels * count > MAX_DECODED:
        most = f"at most {MAX_DECODED:,} pixels of all frames together are decoded"
        raise ValueError(f"{count:,} frames of {size[1]} × {size[0]} pixels; {most}. Cut it into shorter clips")


def _whole(frames: Sequence[object]) -> list[bytes]:
    """Frames that are pictures, each known to be whole. Their place is told of one that is not."""
    found = []
    for place, frame in enumerate(frames, 1):
        try:
            if not isinstance(frame, bytes):
                raise ValueError(f"expected a picture's bytes, found {type(frame).__name__}")
            found.append(pictures.read_file(frame))
        except ValueError as error:
            raise ValueError(f"frame {place:,} of {len(frames):,}: {error}") from None
    return found


# ------------------------------------------------------------------------------------------------------------- folders


def files_of(folder: Path) -> list[Path]:
    """What stands in the folder of a clip, in natural order: 9.png comes before 10.png. Hidden files are none of it.

    Of far too many only so many as tell that they are.
    """
    with os.scandir(folder) as entries:
        visible = (Path(entry.path) for entry in entries if not entry.name.startswith("."))
        found = list(islice(visible, MAX_FRAMES + 1))
    return sorted(found, key=natural)


def natural(path: Path) -> list[tuple[str, int]]:
    """A key that sorts numbers within names by what they are worth."""
    parts = re.split("([0-9]+)", path.name)
    numbers = [int(number) for number in parts[1::2]] + [0]
    return list(zip(parts[::2], numbers, strict=True))


def _folder(folder: Path, most: int) -> Iterator[bytes]:
    files = files_of(folder)
    if len(files) > MAX_FRAMES:
        raise ValueError(f"more than {MAX_FRAMES:,} frames. Cut it into shorter clips")
    _check_count(len(files))
    root = os.path.realpath(folder)
    for file in files:
        if os.path.commonpath([root, os.path.realpath(file)]) != root:
            raise ValueError(f"{file.name} is a link that leads outside of the clip's folder")
        if file.suffix.lower() not in PICTURES or not file.is_file():
            raise ValueError(f"{file.name} is not one of {', '.join(PICTURES)}, which frames are")
    for index in spread(len(files), most):
        try:
            yield pictures.read_file(str(files[index]))
        except ValueError as error:
            raise ValueError(f"{files[index].name}: {error}") from None


# --------------------------------------------------------------------------------------------- animations and video files


def _file(stream: BinaryIO, total: int, most: int, size: Size | None) -> Iterator[bytes]:
    """The frames of an animation or a video file of so many bytes: the first of them tell which, whatever its name is."""
    head = stream.read(16)
    stream.seek(0)
    demuxer = next((name for begins, name in CONTAINERS if begins(head)), None)
    limit = MAX_BYTES if demuxer else pictures.MAX_BYTES
    if total > limit:
        raise ValueError(f"{total:,} bytes; at most {limit >> 20:,} MB are read")
    if demuxer:
        return _video(stream, demuxer, most, size)
    if head.startswith((b"GIF8", b"RIFF")):
        return _animation(stream.read(), most, size)
    raise ValueError("not an animated GIF or WebP, nor an MP4, WebM, Matroska or AVI video")


CONTAINERS: tuple[
    tuple[Callable[[bytes], bool], str], ...
] = (  # how a file begins, and the one demuxer that may read it
    (lambda head: head[4:8] == b"ftyp", "mp4"),
    (lambda head: head.startswith(b"\x1a\x45\xdf\xa3"), "matroska"),
    (lambda head: head.startswith(b"RIFF") and head[8:12] == b"AVI ", "avi"),
)


def _animation(data: bytes, most: int, size: Size | None) -> Iterator[bytes]:
    animation = pictures.Animation(data)
    _check_count(len(animation))
    _check_pixels(animation.size, len(animation))
    return animation.frames(spread(len(animation), most), size)


def _video(stream: BinaryIO, demuxer: str, most: int, size: Size | None) -> Iterator[bytes]:
    av = _av()
    try:
        with av.open(stream, format=demuxer, io_open=_refuse_more) as container:
            video = _checked(container)
            expected = _frames_in(container, video)
            container.seek(0)
            wanted = set(spread(expected, most))
            count = 0
            for count, frame in enumerate(container.decode(video), 1):
                _check_pixels((frame.height, frame.width), count)  # the size may change on the way
                if frame.is_corrupt:
                    raise ValueError(f"a damaged video: frame {count:,} of {expected:,}")
                if count - 1 in wanted:
                    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                    yield pictures.png(pixels, size or pictures.at_most((pixels.shape[0], pixels.shape[1])))
                if count > max(wanted):
                    break
            if count <= max(wanted):
                raise ValueError(f"a damaged video: only {count:,} of its {expected:,} frames can be read")
    except (av.FFmpegError, EOFError, MemoryError):
        raise ValueError("a damaged video") from None


def _checked(container: Any) -> Any:
    """The stream of a video whose header is in order; nothing of it is decoded yet."""
    streams = container.streams.video
    if not streams:
        raise ValueError("no video in this file")
    video, context = streams[0], streams[0].codec_context
    if context is None or context.name not in CODECS:
        found = "of an unknown kind" if context is None else f"encoded as {context.name}"
        raise ValueError(f"a video {found}; {', '.join(CODECS[:6])} and a few more are read")
    if not context.width or not context.height:
        raise ValueError("a video without a size")
    if container.duration and container.duration > MAX_SECONDS * 1_000_000:
        seconds = container.duration // 1_000_000
        raise ValueError(f"{seconds:,} seconds; at most {MAX_SECONDS:,} are read. Cut it into shorter clips")
    _check_pixels((context.height, context.width), max(video.frames, 1))
    _check_count(video.frames or 1)
    context.options = {"err_detect": "explode"}  # else what is damaged is filled with what stood there before
    context.thread_count = 1  # other processes prepare other rows
    return video


def _frames_in(container: Any, video: Any) -> int:
    """How many frames a video has, by its packets: few headers say so, and none must."""
    count = 0
    ends = 0.0
    for packet in container.demux(video):
        if not packet.size:
            continue
        count += 1
        ends = max(ends, float((packet.pts or 0) * packet.time_base))
        if count > MAX_FRAMES:
            _check_count(count)
    if video.frames and count < video.frames:
        raise ValueError(f"cut off: {count:,} of its {video.frames:,} frames are there")
    whole = (container.duration or 0) / 1_000_000
    if ends < CUT_OFF * whole - 1:
        raise ValueError(f"cut off: it ends after {ends:.0f} of {whole:.0f} seconds")
    _check_count(count)
    _check_pixels((video.codec_context.height, video.codec_context.width), count)
    return count


CUT_OFF = 0.75  # of the length that a header tells: sound may go on after the last frame


def _refuse_more(url: str, flags: int, options: dict[str, str]) -> Any:
    """A file may ask for others, at any address. It is read alone."""
    raise ValueError("a video that refers to other files")


def _av() -> Any:
    try:
        import av  # an extra: only this file needs it
    except ImportError:
        raise missing_extra("av", "video", "reading video files") from None
    av.logging.set_level(None)  # what the decoders find wrong is told by our own errors
    return av
