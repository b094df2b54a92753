"""Files that must stay as they are while we rely on their bytes: how each was when it was hashed, compared again later.

material = SourceFiles(files, used, unit)
contents = material.digest()           # from here on they must not change …
material.unchanged()                   # … or this raises a DataError that names the file and the change
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dougong.core.errors import DataError
from dougong.data import clips, sources
from dougong.data.records import Unit
from dougong.data.rows import Used, beside

LOW = 2**64 - 1  # numbers are kept in 64 bits
WIDTH = 4  # of them for each file: its name hashed, and its State


class State(NamedTuple):
    """What tells in a microsecond whether a file may have changed."""

    size: int
    written: int  # the time of it, in nanoseconds
    inode: int

    @staticmethod
    def of(path: Path) -> State:
        try:
            found = os.stat(path)
        except (OSError, ValueError):  # gone, or a value of a row that cannot be a path
            return GONE
        return State(found.st_size, found.st_mtime_ns & LOW, found.st_ino & LOW)

    def change(self, now: State) -> str:
        """In words, between a state and a later one that differs."""
        if now == GONE:
            return "it is gone"
        if self == GONE:
            return "it was not there before"
        if now.size != self.size:
            return f"it had {self.size:,} bytes and has {now.size:,}"
        return "another file took its place" if now.inode != self.inode else "it was written again"


GONE = State(LOW, LOW, LOW)


class SourceFiles:
    """All files that data is made of: tables, what a folder that is one holds, what rows name, finished tokenizers.

    Only numbers are kept of each, for pictures may be millions.
    """

    def __init__(self, files: dict[str, list[Path]], used: list[Used], unit: Unit):
        self.files, self.used, self.unit = files, used, unit
        self.states = array("Q")
        self.sources = ""  # what `digest` found

    def digest(self) -> str:
        """Their contents, hashed."""
        digest = hashlib.sha256()
        self.states = array("Q")
        for name, path in self:
            self.states.extend((_name_hash(path), *State.of(path)))  # before its bytes: a change meanwhile is one, too
            digest.update(f"{name}:{_hash(path)}\n".encode("utf-8", "surrogateescape"))
        self.sources = digest.hexdigest()
        return self.sources

    def state(self) -> str:
        """All states in one word: what was read of these files may be used again only where it is the same."""
        return hashlib.sha256(self.states.tobytes()).hexdigest()[:8]

    def unchanged(self) -> None:
        """Raise a DataError if a file is no longer what was hashed: what was read of it may be anything."""
        place = 0
        path = Path()
        for _, path in self:  # a table comes before the files that its rows name: those are looked up in the same table
            known = self.states[place : place + WIDTH].tolist()
            if known[:1] != [_name_hash(path)]:
                _refuse(path.parent, "files came or went")
            if known[1:] != list(now := State.of(path)):
                _refuse(path, State(*known[1:]).change(now))
            place += WIDTH
        if place != len(self.states):
            _refuse(path.parent, "files came or went")

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        """(what it is, path), always in the same order."""
        for split, group in self.files.items():
            for file in group:
                if file.is_dir():
                    for path in sorted(path for path in file.rglob("*") if path.is_file()):
                        yield f"{split}:{file.name}:{path.relative_to(file)}", path
                else:
                    yield f"{split}:{file.name}", file
                    for path in named_files(file, self.used, self.unit):
                        yield "", path  # its name stands in the table
        for field in self.used:
            for path in own_files(field):
                yield field.name, path


def own_files(field: Used) -> list[Path]:
    """Files that a field's config names: a finished tokenizer."""
    files: list[Path] = field.module.files(field.config) if hasattr(field.module, "files") else []
    return files


def named_files(file: Path, used: list[Used], unit: Unit) -> Iterator[Path]:
    """The files that a table's rows name (images, the frames of a clip's folder), whether they exist or not.

    Other contents are other data.
    """
    columns = [field.column for field in used if field.module.Codec.PATHS]
    if not columns:
        return
    if not any(isinstance(row.values.get(column), str) for row in sources.peek(file, unit=unit) for column in columns):
        return  # a table that holds the images themselves need not be read twice
    for row in sources.read_rows(file, unit=unit):
        values = [row.values.get(column) for column in columns] if isinstance(row, sources.Row) else []
        for value in values:
            if isinstance(value, str) and value.strip():
                path = Path(beside(file, value.strip()))
                yield path
                yield from clips.files_of(path) if path.is_dir() else ()


def _hash(path: Path) -> str:
    if not os.path.isfile(path):
        return "no such file"
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Fix: check its permissions.") from None


def _name_hash(path: Path) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "little")


def _refuse(path: Path, change: str) -> None:
    raise DataError(
        f"{path}: it changed while the data was prepared: {change}. "
        "Fix: run it again when nothing writes there; what was made of it is removed."
    )
