"""Files that a table names, or a folder holds one folder a label of: by their endings what they are.

A type of field whose values are such files stands here under its name, so that `dougong new` and labelled folders know it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENDINGS: dict[str, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "video": (".gif", ".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi"),  # or a folder of images
}
SECONDS = {"image": 10.0, "audio": 30.0, "video": 120.0}  # that a file may take to be decoded


class TooSlowError(ValueError):
    """A file took longer to be decoded than any in good order does."""


def kind_of(name: str) -> str | None:
    """The type of a file's value by its name; None if it is none of these."""
    name = name.lower()
    return next((kind for kind, endings in ENDINGS.items() if name.endswith(endings)), None)


def bytes_of(value: object, kind: str, most: int) -> bytes:
    """A file's bytes, or those of the file whose path stands there. ValueError beyond `most`, or if it is neither."""
    if isinstance(value, str):
        path = Path(value)
        if not os.path.isfile(path):  # unlike Path.is_file it also says no to names too long for the disk
            raise ValueError(f"no such {kind} file: {path.name}")
        if path.stat().st_size > most:
            raise ValueError(f"{path.name}: larger than {most >> 20} MB")
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path.name}: cannot be read ({error.strerror})") from None
    if not isinstance(value, bytes):
        article = "an" if kind[0] in "aeiou" else "a"
        raise ValueError(f"expected {article} {kind} file or its bytes, found {type(value).__name__}")
    return value


@contextmanager
def in_time(kind: str) -> Iterator[None]:
    """Within it a file of that kind is decoded; TooSlowError if that takes longer than SECONDS.

    Seen between two pieces that a decoder reads, and only where an alarm is heard: in a process's main thread, as preparation
    has it, not on Windows, and not where somebody else has set an alarm. Elsewhere the caps on what a header may promise are all
    that bounds it.
    """
    heard = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if not heard or signal.getitimer(signal.ITIMER_REAL)[0]:  # whoever has set it waits for it
        yield
        return

    def late(*_: Any) -> None:
        raise TooSlowError(f"decoding took longer than {SECONDS[kind]:g} s, which no {kind} file in good order does")

    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(
            signal.ITIMER_REAL, SECONDS[kind], 1.0
        )  # again each second: a library may swallow what it raises
        yield
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # one that rings now is too late
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
