"""`data.by_time`: the newest rows are held out, in whichever process and chunk they are read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from dougong.core.errors import DataError, FieldError
from dougong.data import preparation, prepare, rows
from dougong.data.prepare import Config, Prepared
from dougong.data.rows import Used
from dougong.fields import category, number
from tests.clear_error import clear_error

FIELDS = [
    Used("x", number.Config(), False, number),
    Used("label", category.Config(), True, category),
]


def written(path: Path, times: list[object]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "label", "when"])
        writer.writerows((row, "ab"[row % 2], time) for row, time in enumerate(times))
    return path


def prepared(folder: Path, file: Path, workers: int = 0, **more: Any) -> Prepared:
    settings: dict[str, Any] = {"split": {"validation": 0.1, "test": 0.2}, "by_time": "when"} | more
    config = Config(train=str(file), cache=str(folder / f"cache-{workers}"), **settings)
    return prepare.prepare(config, FIELDS, workers=workers)


def values(found: Prepared, split: str) -> list[float]:
    codec = number.Codec.from_json(number.Config(), found.codec_json("x"))
    shards = found.split(split).shards
    return sorted(round(value) for shard in shards for value in codec.decode({"value": shard["x.value"]}))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK_ROWS", 7)


def test_the_newest_rows_test_and_those_before_them_validate(tmp_path: Path, small_chunks: None) -> None:
    file = written(tmp_path / "rows.csv", [f"2024-01-{1 + (row * 7) % 30:02}" for row in range(30)])
    found = prepared(tmp_path, file)
    order = sorted(range(30), key=lambda row: (row * 7) % 30)
    assert values(found, "test") == sorted(order[24:])
    assert values(found, "validation") == sorted(order[21:24])
    assert values(found, "train") == sorted(order[:21])
    assert dict(found.report.kept) == {"train": 21, "validation": 3, "test": 6}
    assert any("test: when from" in note for note in found.report.notes)


def test_every_process_cuts_at_the_same_time(tmp_path: Path, small_chunks: None) -> None:
    file = written(tmp_path / "rows.csv", list(range(40, 0, -1)))
    alone, spread = prepared(tmp_path, file), prepared(tmp_path, file, workers=2)
    for split in ("train", "validation", "test"):
        assert values(alone, split) == values(spread, split)


def test_a_row_without_a_time_goes_to_quarantine(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.csv", [*range(30), "", "soon"])
    found = prepared(tmp_path, file, cleaning=prepare.Cleaning(max_bad=0.2))
    assert found.report.bad.total() == 2
    assert sum(found.report.kept.values()) == 30
    with clear_error("'when'", "expected a", error=DataError):
        prepared(tmp_path / "strict", file)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.csv", list(range(30)))
    with clear_error("no column 'wen' for data.by_time", "by_time: when", error=DataError):
        prepared(tmp_path, file, by_time="wen")


def test_rows_of_one_time_alone_leave_nothing_to_train_on(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.csv", [5] * 30)
    with clear_error("no row is left to train on", error=DataError):
        prepared(tmp_path, file)


def test_another_column_of_time_is_another_preparation(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.csv", list(range(30)))
    keys = {prepared(tmp_path, file, by_time=column).key for column in ("when", "x")}
    keys.add(prepare.prepare(Config(train=str(file), cache=str(tmp_path / "c")), FIELDS).key)
    assert len(keys) == 3


def test_by_time_without_a_share_has_nothing_to_cut(tmp_path: Path) -> None:
    with clear_error("data.by_time", "no share", error=FieldError):
        Config(train="x.csv", split={}, by_time="when")
    assert preparation.Splits({}).borders == {}
