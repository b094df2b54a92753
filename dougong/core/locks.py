"""One writer a folder: a lock that the kernel frees when its holder dies, and a file that says who holds it.

with lock(Path("runs/demo")):
    ...                            # a second process here gets an ArtefactError that names the first
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from dougong.core.artefacts import Process, disk_errors, make_folder
from dougong.core.errors import ArtefactError, MachineError
from dougong.core.strict_json import parse_json

OWNER = "owner.json"
OWNER_BYTES = 4096
NAMING_SECONDS = 2.0  # between taking the lock and writing the name lies an fsync

log = logging.getLogger(__name__)
_held: set[int] = set()  # open lock files of this process


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder alone. The lock file stays when the lock is given back: to delete it would let two holders in."""
    with disk_errors(folder):
        make_folder(folder)
        handle = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    _held.add(handle)
    try:
        _acquire(handle, folder)
        if stale := _owner(handle)[0]:
            log.warning("%s: taken over from %s, which ended without giving it back", folder, stale)
        _write_owner(handle, folder)
        try:
            yield
        finally:
            os.ftruncate(handle, 0)  # empty: given back in order
    finally:
        _held.discard(handle)
        os.close(handle)


def _acquire(handle: int, folder: Path) -> None:
    """Take the lock, or say who has it: a holder of this very moment is given time to write its name."""
    until = time.monotonic() + NAMING_SECONDS
    while not _taken(handle, folder):
        owner, here = _owner(handle)
        if here or time.monotonic() > until:
            raise ArtefactError(
                f"{folder}: in use by {owner if here else 'another process'}. "
                "Fix: wait for it or stop it, or choose another folder."
            )
        time.sleep(0.01)


def _taken(handle: int, folder: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise MachineError(f"{folder}: this file system has no locks. Fix: choose a folder on a local disk.") from None
    return True


def _write_owner(handle: int, folder: Path) -> None:
    me = Process.this()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"host": me.host, "pid": me.pid, "start": me.start, "since": started}) + "\n"
    with disk_errors(folder / OWNER, len(text)):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
        os.fsync(handle)


def _owner(handle: int) -> tuple[str, bool]:
    """Whom the lock file names ("" for nobody) and whether that process is there; torn text (a holder killed while it
    wrote) is nobody we could name."""
    data = os.pread(handle, OWNER_BYTES, 0)
    if not data:
        return "", False
    try:
        owner = parse_json(data, OWNER)
        process = Process(owner["host"], owner["pid"], owner["start"])
        return f"process {process.pid:d} on {process.host} since {owner['since']}", process.alive()
    except (ArtefactError, KeyError, TypeError, ValueError):
        return "an unknown process", False


def _forget_in_child() -> None:
    """A forked data worker must not hold its parent's lock: if the parent dies first, the folder has to be free."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
