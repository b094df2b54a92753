"""Fetching packages: a wrong sha256 is refused, and no archive writes outside of its folder. No network."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import pytest

from dougong.core.errors import DataError
from dougong.data import archives
from tests.data.archives import member, tar_of
from tests.scripts import load

fetch = load("recipes/data/fetch.py")
tables = load("recipes/data/tables.py")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_unpack_writes_only_the_files_that_fit_the_pattern(tmp_path: Path) -> None:
    archive = tar_of(
        tmp_path / "a", (member("./p/x.csv"), b"1"), (member("p/y.txt"), b"2"), (member("p/sub/z.csv"), b"3")
    )
    fetch.unpack(archive, tmp_path / "out", keep="*.csv")
    assert files(tmp_path / "out") == ["p/sub/z.csv", "p/x.csv"]
    assert (tmp_path / "out/p/x.csv").read_bytes() == b"1"


def test_unpack_reads_zip_files_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w") as zipped:
        zipped.writestr("p/x.csv", "1")
        zipped.mkdir("p/empty")
    fetch.unpack(tmp_path / "a", tmp_path / "out")
    assert files(tmp_path / "out") == ["p/x.csv"]


def test_what_leads_outside_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a", (member("good"), b"1"), (member("../evil"), b"2"))
    with pytest.raises(DataError, match=r"leads outside of the folder"):
        fetch.unpack(archive, tmp_path / "deep" / "out")
    assert files(tmp_path) == ["a"]


def test_a_pattern_that_fits_nothing_is_an_error(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a", (member("x.csv"), b"1"))
    with pytest.raises(DataError, match=r"no file in it fits '\*\.json'"):
        fetch.unpack(archive, tmp_path / "out", keep="*.json")


def fake_client(folder: Path, data: bytes) -> list[str]:
    """A command that leaves one file where it is run, as `npm pack` does, and counts its runs."""
    (folder / "data").write_bytes(data)
    script = (
        f"import shutil; open({str(folder / 'runs')!r}, 'a').write('.'); shutil.copy({str(folder / 'data')!r}, 'p.tgz')"
    )
    return [sys.executable, "-c", script]


def test_a_package_is_fetched_once_and_checked_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "DOWNLOADS", tmp_path / "downloads")
    archive = tar_of(tmp_path / "a", (member("x.csv"), b"1"))
    command, sha256 = fake_client(tmp_path, archive.read_bytes()), archives.sha256_of(archive)
    first = fetch._cached("npm-x-1", command, sha256, "*.csv")
    assert files(first) == ["x.csv"]
    assert fetch._cached("npm-x-1", command, sha256, "*.csv") == first
    assert (tmp_path / "runs").read_text() == "."
    (tmp_path / "downloads/archives/npm-x-1").write_bytes(b"changed")
    with pytest.raises(fetch.FetchError, match=f"npm-x-1: sha256 [0-9a-f]{{64}}, expected {sha256}"):
        fetch._cached("npm-x-1", command, sha256, "*.csv")


def test_a_wrong_sha256_is_refused_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "DOWNLOADS", tmp_path / "downloads")
    archive = tar_of(tmp_path / "a", (member("x.csv"), b"1"))
    with pytest.raises(fetch.FetchError, match="expected 0000"):
        fetch._cached("npm-x-1", fake_client(tmp_path, archive.read_bytes()), "0" * 64, "*")
    assert files(tmp_path / "downloads") == ["archives/npm-x-1"]


def test_a_client_that_fails_or_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "DOWNLOADS", tmp_path)
    with pytest.raises(fetch.FetchError, match=r"ended with 3 and 0 files: no such package"):
        fetch._cached("x", [sys.executable, "-c", "import sys; print('no such package'); sys.exit(3)"], "0", "*")
    with pytest.raises(fetch.FetchError, match="no-such-client is not installed"):
        fetch._cached("x", ["no-such-client"], "0", "*")


def test_equal_rows_fall_on_the_same_side_and_a_fifth_is_for_testing() -> None:
    sides = [tables.in_test(f"row {number}") for number in range(5_000)]
    assert sides == [tables.in_test(f"row {number}") for number in range(5_000)]
    assert sum(sides) == pytest.approx(1_000, abs=100)


def test_split_csv_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PREPARED", tmp_path)
    rows = [(f"text, {number}", "yes") for number in range(50)]
    tables.split_csv("t", ("text", "label"), rows, key=lambda row: row[0])
    whole, train, test = ((tmp_path / f"t{part}.csv").read_text().splitlines() for part in ("", "-train", "-test"))
    assert whole[0] == train[0] == test[0] == "text,label"
    assert sorted(whole[1:]) == sorted(train[1:] + test[1:])
    assert files(tmp_path) == ["t-test.csv", "t-train.csv", "t.csv"]


def test_png_files_hold_the_picture() -> None:
    np = pytest.importorskip("numpy")
    image_module = pytest.importorskip("PIL.Image")
    image = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    decoded = image_module.open(io.BytesIO(load("recipes/data/fashion_mnist.py").png(image)))
    assert decoded.mode == "L"
    assert np.array_equal(np.asarray(decoded), image)
