"""Archives of data: read as the folder that they hold, and none writes outside of it, fills memory, or fills the disk."""

from __future__ import annotations

import gzip
import io
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from dougong.core.errors import DataError
from dougong.data import archives, sources
from tests.clear_error import check_clear
from tests.data.archives import member, tar_of, zip_of

TABLE = b"text,label\ngood,yes\nbad,no\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def refused(archive: Path, *words: str) -> None:
    """It is refused in words, and nothing of it stands anywhere but in the archive."""
    with pytest.raises(DataError) as caught:
        sources.find_files(str(archive), Path.cwd())
    check_clear(str(caught.value), archive.name, *words)
    left = [path for path in archive.parent.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert [path for path in left if "owner" not in path.name] == [archive]


def rows(archive: Path) -> list[dict[str, object]]:
    (file,) = sources.find_files(str(archive), Path.cwd())
    return [row.values for row in sources.read_rows(file) if isinstance(row, sources.Row)]


# ------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_a_table_in_a_tar_is_read(tmp_path: Path, mode: str) -> None:
    archive = tar_of(tmp_path / f"a.tar{mode[1:].replace(':', '.').rstrip('.')}", (member("x.csv"), TABLE), mode=mode)
    assert rows(archive) == [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]


@pytest.mark.parametrize("wrapper", ["", "reviews/"])
def test_a_table_in_a_zip_is_read_also_from_a_folder_of_its_own(tmp_path: Path, wrapper: str) -> None:
    archive = zip_of(tmp_path / "a.zip", (f"{wrapper}x.csv", TABLE), ("__MACOSX/._x.csv", b"noise"))
    assert len(rows(archive)) == 2


@pytest.mark.parametrize("wrapper", ["", "photos/"])
def test_a_folder_for_each_label_is_read(tmp_path: Path, wrapper: str) -> None:
    archive = zip_of(tmp_path / "a.zip", *((f"{wrapper}{label}/{n}.txt", b"words") for label in "ab" for n in (1, 2)))
    assert [row["label"] for row in rows(archive)] == ["a", "a", "b", "b"]


def test_it_is_unpacked_once_and_again_if_the_cache_is_damaged(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", ("x.csv", TABLE))
    (first,) = sources.find_files(str(archive), Path.cwd())
    made = first.stat().st_ino
    assert sources.find_files(str(archive), Path.cwd())[0].stat().st_ino == made
    first.write_bytes(TABLE.replace(b"good", b"evil"))
    assert rows(archive)[0]["text"] == "good"


# ------------------------------------------------------------------------------------------------------ what is refused


NAMES = ["../evil", "p/../../evil", "/tmp/evil", "..\\evil", "p/..", "a\\..\\..\\evil", "p//../../evil", "x" * 2000]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_D10_a_name_that_leads_outside_is_refused_and_nothing_stays(tmp_path: Path, kind: str, name: str) -> None:
    good, path = "good.csv", tmp_path / f"a.{kind}"
    if kind == "tar":
        tar_of(path, (member(good), TABLE), (member(name), b"2"), mode="w:")
    else:
        zip_of(path, (good, TABLE), (name, b"2"))
    refused(path, "outside")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_D10_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    link = member("link.csv", kind, "/etc/passwd")
    refused(tar_of(tmp_path / "a.tgz", (member("good.csv"), TABLE), (link, b"")), "'link.csv' is a link or a device")


def test_D10_a_file_through_a_link_that_came_before_it_is_refused(tmp_path: Path) -> None:
    link = member("out", tarfile.SYMTYPE, str(tmp_path))
    refused(tar_of(tmp_path / "a.tar", (link, b""), (member("out/evil.csv"), TABLE), mode="w:"), "a link")


@pytest.mark.parametrize("mode", [0o120777, 0o060666, 0o020666, 0o010666])
def test_D10_links_and_devices_in_a_zip_are_refused(tmp_path: Path, mode: int) -> None:
    refused(zip_of(tmp_path / "a.zip", ("link.csv", b"/etc/passwd"), mode=mode), "a link or a device")


@pytest.mark.parametrize("names", [("x.csv", "x.csv"), ("x", "x/y.csv"), ("x/y.csv", "x")])
def test_D10_what_stands_in_it_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    refused(tar_of(tmp_path / "a.tar", *((member(name), TABLE) for name in names), mode="w:"), "stands in it twice")


def test_D10_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    refused(tar_of(tmp_path / "a.tgz", (member("zeros.csv"), bytes(8 << 20))), "times its own size")
    refused(zip_of(Path.cwd() / "b.zip", ("zeros.csv", bytes(8 << 20))), "times its own size")


def test_D10_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 20)
    many = [(f"{n}.csv", TABLE) for n in range(21)]
    refused(zip_of(tmp_path / "a.zip", *many), "21 entries")
    (tmp_path / "a.zip").unlink()
    refused(tar_of(tmp_path / "a.tar", *((member(name), data) for name, data in many), mode="w:"), "more than 20")


def test_D10_a_table_of_contents_that_lies_about_its_size_is_refused_at_once(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", ("x.csv", TABLE))
    data = bytearray(archive.read_bytes())
    struct.pack_into("<I", data, data.rfind(b"PK\5\6") + 12, 2 << 30)
    archive.write_bytes(data)
    refused(archive, "table of contents of 2,147,483,648 bytes")


def test_D10_a_header_without_end_takes_no_memory(tmp_path: Path) -> None:
    """A tar keeps long names in a header that its reader takes whole: here one of 2 GB, packed to 2 MB."""
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2 << 30
    with gzip.open(tmp_path / "a.tgz", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            file.write(bytes(1 << 20))
    script = (
        "import resource, sys; from pathlib import Path; from dougong.data import archives\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: archives.unpack(Path(sys.argv[1]), Path('out'))\n"
        "except ValueError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.tgz")], capture_output=True, text=True)
    assert "a header of more than" in done.stdout, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1]) < 64


def test_D10_an_encrypted_zip_is_told_of(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", ("x.csv", TABLE))
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # its flag in front of the file, and in the table of contents
    data[data.rfind(b"PK\1\2") + 8] |= 1
    archive.write_bytes(data)
    refused(archive, "encrypted")


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_D10_every_cut_and_flip_is_read_or_refused_and_writes_nothing_outside(tmp_path: Path, kind: str) -> None:
    path, draw = tmp_path / f"a.{kind}", random.Random(3)
    if kind == "zip":
        zip_of(path, ("a/x.csv", TABLE), ("a/y.csv", TABLE))
    else:
        tar_of(path, (member("a/x.csv"), TABLE), (member("a/y.csv"), TABLE), mode="w:gz" if kind == "tgz" else "w:")
    whole, read = path.read_bytes()[:3000], 0
    for number in range(60):
        data = bytearray(whole[: draw.randrange(len(whole))] if number % 3 == 0 else whole)
        if number % 3:
            for _ in range(number % 3):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            archives.unpack(path, tmp_path / "out" / str(number))
            read += 1
        except DataError as error:
            check_clear(str(error), path.name)
    assert read < 60
    outside = [each for each in tmp_path.rglob("*") if each.is_file() and "out" not in each.relative_to(tmp_path).parts]
    assert outside == [path]


def test_D10_what_is_no_archive_but_is_named_so_is_told_of(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar", "a.tgz"):
        (tmp_path / name).write_bytes(TABLE * 100)
        refused(tmp_path / name, "damaged, or of a kind that is not read")
        (tmp_path / name).unlink()


def test_D10_a_zip_within_a_zip_is_not_opened(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as zipped:
        zipped.writestr("x.csv", TABLE)
    archive = zip_of(tmp_path / "a.zip", ("inner.zip", inner.getvalue()))
    with pytest.raises(DataError, match=r"inner\.zip"):
        sources.find_files(str(archive), Path.cwd())
