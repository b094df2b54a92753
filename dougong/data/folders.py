"""Labelled folders: one folder of images, sounds, clips or texts for each label, read as a table. Hidden files are none of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dougong.data import clips, plain_text
from dougong.data.media import ENDINGS, kind_of
from dougong.data.records import Record, Unreadable, refuse


def read(folder: Path) -> Iterator[Record]:
    """`<label>/*.png` -> image (its path within the folder), label; `<label>/*.txt` -> text, label; sounds and videos as images.

    `<label>/<clip>/*.png` -> video (the path of its folder), label.
    """
    kind = labelled(folder)
    if not kind:
        refuse(folder, "no folders of images, sounds, clips or texts in it", "put the files into one folder a label")
    for label in visible(folder):
        if not label.is_dir():
            yield Unreadable("a file beside the folders of the labels", label.name)
            continue
        for file in visible(label):
            place = f"{label.name}/{file.name}"
            wanted = ENDINGS.get(kind, (".txt",))
            if kind == "video" and file.is_dir():
                yield {kind: place, "label": label.name}
            elif file.suffix.lower() not in wanted or not file.is_file():
                yield Unreadable(f"{place}: not one of {', '.join(sorted(wanted))}", place)
            elif kind in ENDINGS:
                yield {kind: place, "label": label.name}
            else:
                yield _labelled_text(file, label.name, place)


def _labelled_text(file: Path, label: str, place: str) -> Record:
    if not file.stat().st_size:
        return Unreadable(f"{place}: empty", place)
    record = next(plain_text.read(file, "", "document"), None)
    if isinstance(record, Unreadable):
        return Unreadable(f"{place}: {record.reason}", record.raw)
    return {**record, "label": label} if isinstance(record, dict) else Unreadable(f"{place}: blank", place)


def labelled(folder: Path) -> str | None:
    """What the files are in a folder that holds one folder for each label."""
    for label in visible(folder):
        if not label.is_dir():
            continue
        for file in visible(label):
            if kind := "text" if file.suffix.lower() == ".txt" else kind_of(file.name):
                return kind
            if file.is_dir() and any(kind_of(frame.name) == "image" for frame in clips.files_of(file)):
                return "video"
    return None


def visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
