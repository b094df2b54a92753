"""A table as people have them, from file to answers: dates, missing and absurd values, several outputs at once."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong.core.errors import DataError, Note

ROWS = 80


def written(path: Path, columns: dict[str, list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def hostile() -> dict[str, list[Any]]:
    """Eighty rows with what D1, D6 and D7 tell of; two of them hold what is no date, or no number."""
    days = [f"{1 + row % 28}.{1 + row % 12}.2023 {row % 24:02}:30" for row in range(ROWS)]
    days[3], days[7] = "31.2.2023", ""
    sizes: list[Any] = [row / 7 for row in range(ROWS)]
    sizes[1], sizes[2], sizes[5], sizes[9] = "inf", 1e308, "-1e39", "many"
    return {
        "when": days,
        "same": [4] * ROWS,
        "size": sizes,
        "rare": ["" if row != 11 else 3 for row in range(ROWS)],
        "kind": ["abc"[row % 3] if row != 40 else "" for row in range(ROWS)],
        "price": [1e30 if row == 20 else row * 3.0 for row in range(ROWS)],
        "paid": [f"2023-{1 + row % 12:02}-15" for row in range(ROWS)],
        "good": ["yes" if row % 3 else "no" for row in range(ROWS)],
    }


def recipe_of(data: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "table",
        "data": {
            "train": str(data),
            "split": {"validation": 0.1, "test": 0.2},
            "cache": str(data.parent / "prepared"),
            "cleaning": {"max_bad": 0.1},
        },
        "inputs": {"when": "date", "same": "number", "size": "number", "rare": "number", "kind": "category"},
        "outputs": {
            "price": {"type": "number", "quantiles": [0.1, 0.5, 0.9], "normalize": "log"},
            "paid": "date",
            "good": {"type": "category", "balance": "sqrt", "loss": "focal"},
        },
        "train": {"steps": 6, "batch_size": 16, "weighing": "uncertainty", "device": "cpu"},
        **more,
    }


@pytest.mark.parametrize("model", ["mlp", "transformer"])
def test_D1_D6_D7_a_hostile_table_trains_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = {"kind": model, "preset": "table" if model == "transformer" else "tiny"}
    backbone |= {"width": 16, "heads": 2} if model == "transformer" else {}
    data = written(tmp_path / "rows.csv", hostile())
    run = dougong.train(recipe_of(data, model=backbone))
    assert run.prepared.report.bad.total() == 2
    assert run.prepared.report.changed["not_finite"] == 3
    assert any("read with the day first" in note for note in run.prepared.report.notes)
    metrics = run.metrics()["test"]
    told = {name.partition(".")[0] for name in metrics}
    assert told == {"price", "paid", "good"}
    assert all(math.isfinite(metrics[f"{name}.mae"]["value"]) for name in ("price", "paid"))
    assert set(run.receipt["training"]["weights"]) == {"price", "paid", "good"}
    strange = {"when": "1.1.9999", "same": 1e30, "size": None, "rare": -5, "kind": "z"}
    with pytest.warns(Note, match="outside the training range"):
        [answer] = run.predict([strange])
    low, middle, high = answer["price"]["quantiles"].values()
    assert low <= middle == answer["price"]["value"] <= high
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert len(answer["paid"]["value"]) == 10
    assert answer["good"]["value"] in ("yes", "no")


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("rare", [""] * ROWS, "column 'rare': no number in any training row"),
        ("when", ["05/06/2024", "07/08/2024"] * (ROWS // 2), "Fix: say order: dmy, or order: mdy"),
        ("good", ["yes"] * ROWS, "at least two classes"),
    ],
)
def test_D3_D7_what_no_model_can_use_is_found_by_check(
    tmp_path: Path, column: str, values: list[Any], words: str
) -> None:
    data = written(tmp_path / "rows.csv", hostile() | {column: values})
    with pytest.raises(DataError, match=words):
        dougong.check(recipe_of(data))


def test_new_finds_dates(tmp_path: Path) -> None:
    table = hostile() | {"when": ["May 31, 2024", "2024-06-01"] * (ROWS // 2)}
    text = dougong.new(written(tmp_path / "rows.csv", table), predict="price").read_text()
    assert "when: date" in text
    assert "paid: date" in text
