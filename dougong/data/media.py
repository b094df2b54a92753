"""Files that a table names, or a folder holds one folder a label of: by their endings what they are.

A type of field whose values are such files stands here under its name, so that `dougong new` and labelled folders know it.
"""

from __future__ import annotations

ENDINGS: dict[str, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp"),
    "audio": (".wav", ".flac", ".ogg", ".mp3"),
    "video": (".gif", ".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi"),  # or a folder of images
}


def kind_of(name: str) -> str | None:
    """The type of a file's value by its name; None if it is none of these."""
    name = name.lower()
    return next((kind for kind, endings in ENDINGS.items() if name.endswith(endings)), None)
