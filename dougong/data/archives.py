"""Archives: a zip or tar of data files is unpacked once into the cache, and is then a folder like any other.

    folder = unpacked(Path("photos.zip"))      # .dougong/archives/<hash>/files

What it holds is hostile until shown otherwise (fault D10): only regular files with a place under the folder are written;
links, devices, names that lead outside or stand twice, too many entries, too many bytes and headers without end are
refused before they cost memory or disk, and then nothing is left behind.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, NoReturn

from dougong.core.artefacts import disk_errors, remove_folder, verify_folder, write_folder
from dougong.core.errors import ArtefactError, DougongError, shown
from dougong.core.locks import lock
from dougong.data.records import CHUNK, VALUE, refuse

CACHE = Path(".dougong/archives")
KIND = "unpacked"
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MAX_ENTRIES = 100_000  # of an archive, folders included
MAX_BYTES = 64 << 30  # of one archive, unpacked
MAX_RATIO = 100  # unpacked over packed: the line between data and a bomb
MAX_HEADER = 1 << 20  # bytes of a tar between two files: long names and the like, which are read into memory
MAX_DIRECTORY = 64 << 20  # bytes of a zip's table of contents, which is read into memory
Opened = IO[bytes] | None  # the content of an entry; None: it is a link or a device


def is_archive(file: Path) -> bool:
    return file.name.lower().endswith(ENDINGS)


def unpacked(archive: Path) -> Path:
    """The folder that holds what is in an archive, made now unless it is there; checked against its hashes."""
    final = CACHE / sha256_of(archive)[:24]
    with lock(CACHE / f"{final.name}.lock"):
        if final.is_dir():
            try:
                verify_folder(final, KIND)
            except ArtefactError:  # it can be made again
                remove_folder(final)
        if not final.is_dir():
            with write_folder(final, KIND, {"archive": archive.name}) as temporary:
                unpack(archive, temporary / "files")
    return final / "files"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path, keep: str = "*", *, packed: int | None = None) -> None:
    """Write the regular files whose name fits `keep` under `folder`, all of them or none.

    `packed`: bytes of what it was itself unpacked from, which its ratio is judged by.
    """
    most = min(MAX_BYTES, MAX_RATIO * (packed or archive.stat().st_size) + CHUNK)
    written = kept = 0
    folder.mkdir(parents=True)
    try:
        with _damage_told(archive):
            for name, source in _entries(archive, most):
                if not fnmatchcase(name, keep):
                    continue
                if source is None:
                    _refuse(archive, f"{shown(name)} is a link or a device")
                kept += 1
                for chunk in _written(_place(archive, folder, name), source):
                    written += len(chunk)
                    if written > most:
                        _refuse(archive, f"more than {most:,} bytes, which is {MAX_RATIO} times its own size")
        if not kept:
            refuse(archive, "no file in it" + (f" fits {keep!r}" if keep != "*" else ""), "take another archive")
    except BaseException:  # also KeyboardInterrupt: nothing half-written may stay
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _written(target: Path, source: IO[bytes]) -> Iterator[bytes]:
    """Write a file chunk by chunk, each handed on before it reaches the disk."""
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            while chunk := source.read(CHUNK):
                yield chunk
                out.write(chunk)


@contextmanager
def _damage_told(archive: Path) -> Iterator[None]:
    """What the readers of zip and tar raise over a damaged file, as a DataError that names it."""
    try:
        yield
    except DougongError:
        raise
    except (*DAMAGE, ValueError) as error:
        said = shown(re.sub("0x[0-9a-f]+", "…", str(error).split("\n")[0][:VALUE]))  # sums of bytes look like addresses
        refuse(archive, f"damaged, or of a kind that is not read: {said}", "get the file anew, or unpack it yourself")


DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    OSError,  # gzip's word for bytes that are none of its own, and what a place beyond the file gives
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OverflowError,
    struct.error,
    RuntimeError,  # zipfile's word for a file that is encrypted, or packed in a way that it does not know
)


def _place(archive: Path, folder: Path, name: str) -> Path:
    """The path of an entry under `folder`; a name that leads out of it, or stands there twice, is refused."""
    root = os.path.realpath(folder)
    if not name or re.search(r"[\0\\]", name) or name.startswith("/") or ".." in name.split("/") or len(name) > 1024:
        _refuse(archive, f"the name {shown(name)} leads outside of the folder it is unpacked to")
    target = os.path.realpath(os.path.join(root, name))
    if os.path.commonpath([root, target]) != root or target == root:
        _refuse(archive, f"the name {shown(name)} leads outside of the folder it is unpacked to")
    if os.path.lexists(target) or any(os.path.isfile(parent) for parent in Path(target).parents):
        _refuse(archive, f"{shown(name)} stands in it twice")
    return Path(target)


def _entries(archive: Path, most: int) -> Iterator[tuple[str, Opened]]:
    """Name and content of every entry but folders, in the archive's order; by what it is and not by its name."""
    with archive.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"PK"):
            yield from _of_zip(archive, file)
            return
        opener: Any = next((opener for start, opener in PACKED.items() if magic.startswith(start)), None)
        with opener(file) if opener else file as plain:
            yield from _of_tar(archive, Bounded(archive, plain, most + MAX_HEADER))


PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def _of_zip(archive: Path, file: IO[bytes]) -> Iterator[tuple[str, Opened]]:
    _check_directory(archive, file)
    with zipfile.ZipFile(file) as zipped:
        for entry in zipped.infolist():
            if not entry.is_dir() and not entry.filename.startswith("__MACOSX/"):  # what a Mac notes beside each file
                kind = stat.S_IFMT(entry.external_attr >> 16)
                yield entry.filename, zipped.open(entry) if kind in (0, stat.S_IFREG) else None


def _check_directory(archive: Path, file: IO[bytes]) -> None:
    """Refuse a table of contents that would fill the memory, before zipfile reads it whole.

    The record at a zip's end tells its entries and bytes (APPNOTE.TXT 4.3.16); where these do not fit, one before it.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22))
    tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < 22:
        raise zipfile.BadZipFile("no end of a zip file")
    entries, length = struct.unpack_from("<HI", tail, end + 10)
    if (large := tail.rfind(b"PK\6\6", 0, end)) >= 0 and len(tail) - large >= 56:
        entries, length = struct.unpack_from("<QQ", tail, large + 32)
    elif entries == 0xFFFF or length == 0xFFFFFFFF:
        raise zipfile.BadZipFile("its large table of contents is not where it should be")
    if entries > MAX_ENTRIES or length > MAX_DIRECTORY:
        _refuse(archive, f"{entries:,} entries, in a table of contents of {length:,} bytes")
    file.seek(0)


def _of_tar(archive: Path, stream: Bounded) -> Iterator[tuple[str, Opened]]:
    with tarfile.open(fileobj=stream, mode="r|") as tar:  # as it comes: no table of contents is built up
        stream.grant(MAX_HEADER)
        for number, entry in enumerate(tar, 1):
            if number > MAX_ENTRIES:
                _refuse(archive, f"more than {MAX_ENTRIES:,} entries")
            tar.members = []  # type: ignore[attr-defined]  # it would remember all of them
            stream.grant(entry.size + MAX_HEADER)  # this file, and what stands before the next one
            if not entry.isdir():
                yield entry.name.removeprefix("./"), tar.extractfile(entry) if entry.isreg() else None


class Bounded(io.RawIOBase):
    """A stream of which no more can be read than was granted, nor than `most` in all."""

    def __init__(self, archive: Path, stream: IO[bytes], most: int):
        self.archive, self.stream, self.left, self.granted = archive, stream, most, MAX_HEADER

    def grant(self, size: int) -> None:
        self.granted = size + 2 * tarfile.RECORDSIZE

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(min(size, CHUNK) if size >= 0 else CHUNK)
        self.left -= len(data)
        self.granted -= len(data)
        if self.left < 0:
            _refuse(self.archive, f"it unpacks to more than {MAX_RATIO} times its own size")
        if self.granted < 0:
            _refuse(self.archive, f"a header of more than {MAX_HEADER:,} bytes")
        return data


def _refuse(archive: Path, found: str) -> NoReturn:
    refuse(archive, found, "do not use this archive; or unpack it yourself, and name the folder")
