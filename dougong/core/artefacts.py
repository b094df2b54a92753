"""Artefact folders and files that are complete or absent, and that notice any later change of a single bit.

    with write_folder(Path("runs/demo/model"), kind="model") as folder:  # a hidden sibling: `.model.….tmp`
        (folder / "config.json").write_text("{}")                        # any way of writing will do
    manifest = verify_folder(Path("runs/demo/model"), kind="model")      # sizes, sha256, nothing extra or missing

The order that makes this hold under kill -9 and power loss: files, fsync of each, manifest, fsync, folders, fsync,
rename, fsync of the parent. Most applications break it somewhere: Pillai et al. 2014, "All File Systems Are Not Created
Equal: On the Complexity of Crafting Crash-Consistent Applications".
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from dougong.core.errors import ArtefactError, MachineError, bad_field, shown
from dougong.core.strict_json import RESTORE, check_plain, parse_json, render_json

FORMAT = "dougong/1"
MANIFEST = "manifest.json"
JSON_BYTES = 512 << 20  # written and read: a million classes of 60 Chinese characters, escaped, are 375 MB
LINE_BYTES = 16 << 20  # of one record of a log
PIECE = 8 << 20  # bytes written or hashed at a time

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What a file must be: its size and the sha256 of its bytes."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an artefact folder must hold; `meta` is free for the kind of artefact to use."""

    kind: str
    meta: dict[str, Any]
    files: dict[str, Written]


# -------------------------------------------------------------------------------------------------------- whole folders


@contextmanager
def write_folder(final: Path, kind: str, meta: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """Give a temporary folder to fill; on leaving it becomes `final`, complete, or (error, kill) it never existed."""
    folder = begin_folder(final)
    try:
        with disk_errors(final):
            yield folder
        commit_folder(folder, final, kind, meta or {})
    except BaseException:  # also KeyboardInterrupt: nothing half-written may stay
        discard(folder)
        raise


def begin_folder(final: Path) -> Path:
    """Make the folder that `commit_folder` later puts in place; for when several processes fill it."""
    with disk_errors(final):
        make_folder(final.parent)
        sweep(final.parent)
        folder = _aside(final, "tmp")
        os.mkdir(folder)
    return folder


def commit_folder(
    folder: Path, final: Path, kind: str, meta: Mapping[str, Any], known: Mapping[str, Written] | None = None
) -> Manifest:
    """Seal a filled folder and rename it into place. `known`: files that their writer has hashed already."""
    known = known or {}
    files: dict[str, Written] = {}
    with disk_errors(final):
        for place, _, _ in os.walk(folder, topdown=False, onerror=_raise):  # nobody else writes what is to be sealed,
            sweep(Path(place), everyone=True)  # so what is half-written was left by the dead
        for name, path in _files(folder).items():
            with open_regular(path) as file:
                files[name] = known.get(name) or _fingerprint(file)
                _fsync(file.fileno())
                if os.fstat(file.fileno()).st_size != files[name].bytes:
                    _damaged(path, "it changed while it was written", "let only one process write this folder")
        entries = {name: asdict(written) for name, written in files.items()}
        write_sealed(folder / MANIFEST, {"format": FORMAT, "kind": kind, "meta": dict(meta), "files": entries})
    with disk_errors(final, sum(written.bytes for written in files.values())):
        for inner, _, _ in os.walk(folder, topdown=False, onerror=_raise):
            _fsync_folder(Path(inner))
        _put_in_place(folder, final)
    return Manifest(kind, dict(meta), files)


def verify_folder(path: Path, kind: str | None = None) -> Manifest:
    """Check every byte of a folder against its manifest. Raises ArtefactError with the file and the damage."""
    restore_replaced(path.parent, path.name)
    if path.is_symlink() or not path.is_dir():
        _damaged(path, "there is no such folder", "check the path")
    try:
        return _verified(path, kind)
    except OSError as error:  # an unreadable sector is damage like any other: the caller must be able to fall back
        raise ArtefactError(f"{error.filename or path}: cannot be read ({error.strerror}). Fix: {RESTORE}.") from error


def _verified(path: Path, kind: str | None) -> Manifest:
    manifest = read_manifest(path)
    if kind is not None and manifest.kind != kind:
        _damaged(path / MANIFEST, f"this is a {shown(manifest.kind)}, not a {kind}", f"give the path of a {kind}")
    present = _files(path)
    for name in sorted(present.keys() - manifest.files.keys()):
        _damaged(
            path / name,
            "this file is not in the manifest",
            "remove it if you put it there; else do not use this folder",
        )
    for name, expected in manifest.files.items():
        inside(path, name)
        if name not in present:
            _damaged(path / name, "this file is missing", RESTORE)
        size = present[name].stat().st_size
        if size != expected.bytes:
            _damaged(path / name, f"{size:,} bytes where {expected.bytes:,} were written", RESTORE)
    for name, expected in manifest.files.items():  # sizes of all before the hash of any: a cut file is found at once
        with open_regular(present[name]) as file:
            if _fingerprint(file) != expected:
                _damaged(path / name, "its bytes are not those that were written (sha256)", RESTORE)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest of a folder, itself checked, its files not: that is what `verify_folder` does."""
    file = path / MANIFEST
    value = read_sealed(file)
    if value.get("format") != FORMAT:
        _damaged(
            file,
            f"format {shown(value.get('format'))} where {FORMAT!r} is known",
            "use the dougong that wrote it, or a newer one",
        )
    kind, meta, files = value.get("kind"), value.get("meta"), value.get("files")
    if not isinstance(kind, str) or not isinstance(meta, dict) or not isinstance(files, dict):
        _damaged(file, "kind, meta or files is missing", RESTORE)
    entries: dict[str, Written] = {}
    for name, entry in files.items():
        if not isinstance(entry, dict) or entry.keys() != {"bytes", "sha256"}:
            _damaged(file, f"the entry of {shown(name)} is not a size and a sha256", RESTORE)
        if type(entry["bytes"]) is not int or not isinstance(entry["sha256"], str):
            _damaged(file, f"the entry of {shown(name)} is not a size and a sha256", RESTORE)
        entries[name] = Written(entry["bytes"], entry["sha256"])
    return Manifest(kind, meta, entries)


def remove_folder(path: Path) -> None:
    """Delete an artefact folder: it vanishes by one rename, so that a kill leaves no half folder under its name."""
    hidden = _aside(path, "tmp")
    with disk_errors(path):
        os.rename(path, hidden)
        _fsync_folder(path.parent)
    discard(hidden)


def _put_in_place(folder: Path, final: Path) -> None:
    """Rename into place. An older `final` steps aside; `restore_replaced` brings it back if we die in between."""
    replaced = None
    for _ in range(8):  # a reader may bring the older one back between our two renames: then once more
        if final.is_symlink() or (final.exists() and not final.is_dir()):
            _damaged(final, "there is something else than a folder", "remove it, or choose another name")
        if final.exists():
            replaced = _aside(final, "old")
            os.rename(final, replaced)
        try:
            os.rename(folder, final)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            restore_replaced(final.parent, final.name)
            raise
        _fsync_folder(final.parent)
        if replaced is not None:
            remove_folder(replaced)
        return
    _damaged(final, "other processes write it at the same time", "let only one process write this folder")


# --------------------------------------------------------------------------------------------------------- single files


def write_file(path: Path, data: bytes | Iterable[bytes | memoryview], size: int | None = None) -> Written:
    """Write a file that is complete or unchanged, durable on return. `size`: the bytes to come, if `data` streams."""
    pieces: Iterable[bytes | memoryview] = [data] if isinstance(data, bytes) else data
    hidden = _aside(path, "tmp")
    with disk_errors(path, len(data) if isinstance(data, bytes) else size):
        _sweep_once(os.path.abspath(path.parent), os.getpid())
        try:
            handle = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                written = _write_all(handle, pieces)
                _fsync(handle)
            finally:
                os.close(handle)
            os.replace(hidden, path)
        except BaseException:
            discard(hidden)
            raise
        _fsync_folder(path.parent)
    return written


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that carries the sha256 of itself."""
    body = {key: item for key, item in value.items() if key != "sha256"}
    _write_rendered(path, body | {"sha256": hashlib.sha256(render_json(body)).hexdigest()}, path.name)


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote. One changed bit, even in the blanks between two values, is an ArtefactError."""
    data = _read_limited(path, JSON_BYTES)
    value = parse_json(data, str(path))
    body = {key: item for key, item in value.items() if key != "sha256"} if isinstance(value, dict) else {}
    sealed = body | {"sha256": hashlib.sha256(render_json(body)).hexdigest()}
    if value != sealed or data != render_json(sealed):
        _damaged(path, "its bytes are not those that were written (its own sha256 does not fit)", RESTORE)
    return body


def write_json(path: Path, value: Any, name: str = "value") -> Written:
    """Write plain values as JSON; `name` is what a wrong one is called in the error."""
    check_plain(value, name)
    return _write_rendered(path, value, name)


def _write_rendered(path: Path, value: Any, name: str) -> Written:
    data = render_json(value)
    if len(data) > JSON_BYTES:  # it could not be read again
        raise bad_field(
            name, f"{len(data):,} bytes of JSON", f"at most {JSON_BYTES:,}", "keep less in it: fewer or shorter texts"
        )
    return write_file(path, data)


def read_json(path: Path, limit: int = JSON_BYTES) -> Any:
    """Read strict JSON: no NaN, no duplicate keys, limits of depth, lists and `limit` bytes; else an ArtefactError."""
    return parse_json(_read_limited(path, limit), str(path))


# ------------------------------------------------------------------------------------------------------------ log files


def append_line(path: Path, record: Mapping[str, Any], *, sync: bool = False) -> None:
    """Append one record to a JSONL file. `sync` when it must outlive a power cut now, not within seconds."""
    check_plain(record, path.name)
    line = (json.dumps(record, allow_nan=False) + "\n").encode()
    with disk_errors(path, len(line)):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            before = os.fstat(handle)
            try:
                _write_all(handle, [line])
            except OSError:
                if stat.S_ISREG(before.st_mode):
                    os.ftruncate(handle, before.st_size)  # else the next record would be glued to half of this one
                raise
            if sync:
                _fsync(handle)
        finally:
            os.close(handle)


def repair_jsonl(path: Path, keep: Callable[[dict[str, Any]], bool] = lambda record: True) -> int:
    """Drop a torn last line and the records that `keep` refuses (after the resumed step); return how many went."""
    if not path.exists():
        return 0
    dropped = size = 0
    for line in _kept_lines(path, keep):
        dropped, size = dropped + (line is None), size + len(line or b"")
    if size != path.stat().st_size:
        write_file(path, (line for line in _kept_lines(path, keep) if line is not None), size)
    return dropped


def _kept_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> Iterator[bytes | None]:
    """Each line to keep, None for each to drop. A kill can tear only the last; one before it is another damage."""
    torn: tuple[int, str] | None = None
    number = 0
    with disk_errors(path), path.open("rb") as file:
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if torn is not None:
                _damaged(path, f"line {torn[0]} is not a record: {torn[1]}", "remove that line, or move the file away")
            try:
                if len(line) > LINE_BYTES:
                    raise ArtefactError(f"longer than {LINE_BYTES:,} bytes")
                record = parse_json(line, f"line {number}")
                if not isinstance(record, dict):
                    raise ArtefactError("not an object")
            except ArtefactError as error:
                torn = (number, str(error))
                continue
            yield (line if line.endswith(b"\n") else line + b"\n") if keep(record) else None
    if torn is not None:
        yield None


# ---------------------------------------------------------------------------------------------------- room and failures


def need_space(folder: Path, size: int) -> None:
    """Refuse to start a write that cannot fit on the disk."""
    free = _free(folder)
    if free is not None and free < size:
        fix = f"free {size - free:,} bytes, or choose a folder on another disk"
        raise MachineError(f"{folder}: {size:,} bytes needed, {free:,} bytes free. Fix: {fix}.")


@contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a failed write (disk full, read-only, broken) into a MachineError with path, needed and free bytes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FIXES:
            raise
        free = _free(path.parent)
        need = "" if needed is None else f"{needed:,} bytes needed, "
        have = "" if free is None else f"{free:,} bytes free"
        raise MachineError(f"{path}: {os.strerror(error.errno)} ({need}{have}). Fix: {_FIXES[error.errno]}.") from error


_FULL = "free space on this disk, or choose a folder on another one"
_FIXES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "free space or raise your quota, or choose a folder on another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that you may write, or change its permissions",
    errno.EPERM: "choose a folder that you may write, or change its permissions",
    errno.EIO: "the disk itself fails: check it, and choose a folder on another one",
}


def _free(folder: Path) -> int | None:
    """Bytes free on the disk that would hold `folder`, None if even that cannot be asked."""
    for place in [folder, *folder.parents]:
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:  # a broken disk: the error that brought us here says more than this one
            return None
    return None


# --------------------------------------------------------------------------------------------- what dead processes left


def sweep(folder: Path, *, everyone: bool = False) -> None:
    """Remove what dead processes left half-written. `everyone`: on other machines too, only if you hold the lock."""
    for path, match in _left_over(folder):
        if match["role"] == "old":
            restore_replaced(folder, match["name"])
        if everyone or not Process(match["host"], int(match["pid"]), int(match["start"])).alive():
            discard(path)


@cache
def _sweep_once(folder: str, process: int) -> None:
    """The first file that a process writes into a folder sweeps it: 25,000 files are not listed 25,000 times."""
    sweep(Path(folder))


def restore_replaced(folder: Path, name: str | None = None) -> None:
    """Bring back folders whose replacer died between its two renames (harmless if it lives: it tries again)."""
    for path, match in _left_over(folder):
        final = folder / match["name"]
        if match["role"] == "old" and name in (None, match["name"]) and not final.exists():
            try:
                with disk_errors(final):
                    os.rename(path, final)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):  # another process was quicker
                    raise


def discard(path: Path) -> None:
    """Delete a hidden leftover. A failure is no more than a warning: the next process that writes there sweeps it."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass  # swept by another process at the same moment
    except OSError as error:
        log.warning("%s: left behind (%s); the next process that writes there tries again", path, error.strerror)


@dataclass(frozen=True)
class Process:
    """A process on some machine; `start` tells it from a later one that got the same number."""

    host: str
    pid: int
    start: int

    @staticmethod
    def this() -> Process:
        return Process(_host(), os.getpid(), _start(os.getpid()))

    def alive(self) -> bool:
        """Whether it may still run: of another machine's processes we cannot know, so they count as alive."""
        if self.host != _host():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # someone else's, but there
        return _start(self.pid) == self.start


_LEFT_OVER = re.compile(
    r"\.(?P<name>.+)\.(?P<host>[A-Za-z0-9-]+)\.(?P<pid>\d+)\.(?P<start>\d+)\.[0-9a-f]{8}\.(?P<role>tmp|old)"
)


def _left_over(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    if folder.is_dir():
        with disk_errors(folder):
            hidden = sorted(name for name in os.listdir(folder) if name.startswith("."))
        for name in hidden:
            if match := _LEFT_OVER.fullmatch(name):
                yield folder / name, match


def _aside(path: Path, role: str) -> Path:
    """A hidden name beside `path` that says whose it is."""
    me = Process.this()
    inner = _LEFT_OVER.fullmatch(path.name)  # a leftover of a leftover keeps the first name
    name = inner["name"] if inner else path.name
    return path.with_name(f".{name}.{me.host}.{me.pid}.{me.start}.{os.urandom(4).hex()}.{role}")


@cache
def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"


def _start(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where the system does not say (macOS)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


# ----------------------------------------------------------------------------------------------------------- the bottom


def make_folder(path: Path) -> None:
    """Make a folder and its parents, each durable in its own parent."""
    if not path.is_dir():
        make_folder(path.parent)
        try:
            os.mkdir(path)
        except FileExistsError:
            if not path.is_dir():
                _damaged(path, "there is something else than a folder", "remove it, or choose another name")
        _fsync_folder(path.parent)


def inside(folder: Path, name: str) -> Path:
    """The path of a file that text from outside names; it must stay within the folder, links followed."""
    if not name or re.search(r"[\0\\]", name) or any(part in ("", ".", "..") for part in name.split("/")):
        _damaged(
            folder / MANIFEST,
            f"the file name {shown(name)} is not allowed",
            "do not use this folder: it was tampered with",
        )
    path, base = folder / name, os.path.realpath(folder)
    if os.path.commonpath([base, os.path.realpath(path)]) != base:
        _damaged(path, "it leads out of its folder", "do not use this folder: it was tampered with")
    return path


def _files(folder: Path) -> dict[str, Path]:
    """All files under a folder but its manifest, by relative name; anything that is not a plain file is refused."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders.sort()
        for name in sorted(names + folders):
            path = Path(place) / name
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                _damaged(
                    path, "a link or device, not a plain file", "remove it: artefact folders hold plain files only"
                )
            if stat.S_ISREG(mode):
                found[path.relative_to(folder).as_posix()] = path
    found.pop(MANIFEST, None)
    return found


def _raise(error: OSError) -> NoReturn:
    raise error


def open_regular(path: Path) -> BinaryIO:
    """Open for reading what must be a plain file: never a link, and never a FIFO that would block for ever."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        _damaged(path, "a link or device, not a plain file", "remove it: artefact folders hold plain files only")
    return os.fdopen(handle, "rb", buffering=0)


def _fingerprint(file: BinaryIO) -> Written:
    room = min(PIECE, os.fstat(file.fileno()).st_size + 1)  # to make 8 MB of zeros takes longer than a small file does
    digest, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(room))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:count])
        size += count
    return Written(size, digest.hexdigest())


def _write_all(handle: int, pieces: Iterable[bytes | memoryview]) -> Written:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        digest.update(rest)
        size += len(rest)
        while rest:
            rest = rest[os.write(handle, rest[:PIECE]) :]
    return Written(size, digest.hexdigest())


def _fsync(handle: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync alone leaves the bytes in the drive's own cache
        fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
    else:
        os.fsync(handle)


def sync_file(path: Path) -> None:
    """Make what was appended to a file outlive a power cut, and its name in its folder too."""
    with disk_errors(path):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _fsync(handle)
        finally:
            os.close(handle)
        _fsync_folder(path.parent)


def _fsync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _fsync(handle)
    finally:
        os.close(handle)


def _read_limited(path: Path, limit: int) -> bytes:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                _damaged(path, f"{size:,} bytes, more than the {limit:,} that dougong writes", RESTORE)
            data = bytearray()
            while piece := file.read(limit + 1 - len(data)):
                data += piece
            return bytes(data)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror}). Fix: {RESTORE}.") from error


def _damaged(path: Path, damage: str, fix: str) -> NoReturn:
    raise ArtefactError(f"{path}: {damage}. Fix: {fix}.")
