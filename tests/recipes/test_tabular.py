"""The script of the tables: row numbers stay behind, NA is nothing, and days are split by their year. No network."""

from __future__ import annotations

import csv
import tarfile
from pathlib import Path

import pytest

from tests.scripts import load

fetch = load("recipes/data/fetch.py")
tables = load("recipes/data/tables.py")
tabular = load("recipes/data/tabular.py")


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "PREPARED", tmp_path / "prepared")
    monkeypatch.setattr(fetch, "pypi", lambda *_, keep: tmp_path)
    return tmp_path / "prepared"


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_table_of_the_archive_within_the_archive_loses_its_row_numbers_and_its_NA(
    tmp_path: Path, prepared: Path
) -> None:
    for name in ("car/Chile", "Ecdat/Computers"):
        path = tmp_path / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        rows = "".join(f'"{row}",{row},NA,"Y"\n' for row in range(50))
        path.write_text(f'"","age","income","vote"\n{rows}')
    with tarfile.open(tmp_path / "resources.tar.gz", "w:gz") as archive:
        for folder in ("car", "Ecdat"):
            archive.add(tmp_path / folder, arcname=f"resources/rdata/csv/{folder}")
    tabular.votes()
    header, *rows_read = read(prepared / "votes.csv")
    assert header == ["age", "income", "vote"]
    assert rows_read[:2] == [["0", "", "Y"], ["1", "", "Y"]]
    halves = [row for side in ("train", "test") for row in read(prepared / f"votes-{side}.csv")[1:]]
    assert sorted(halves) == sorted(rows_read)


def test_days_are_learnt_judged_and_tested_on_by_their_year(tmp_path: Path, prepared: Path) -> None:
    days = [f"{year}/0{month}/01" for year in range(2012, 2016) for month in range(1, 10)]
    (tmp_path / "seattle-weather.csv").write_text("date,wind\n" + "".join(f"{day},1\n" for day in days))
    tabular.weather()
    years = {
        side: {row[0][:4] for row in read(prepared / f"weather-{side}.csv")[1:]}
        for side in ("train", "validation", "test")
    }
    assert years == {"train": {"2012", "2013"}, "validation": {"2014"}, "test": {"2015"}}
