"""The peer of the tables reads what a recipe names, each column as its type says, and nothing of the test rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong import recipe as recipes
from tests.scripts import load

baseline = load("benchmarks/tabular_baseline.py")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(baseline, "GRID", {"max_leaf_nodes": [7]})
    rng = np.random.default_rng(0)
    for side, rows in (("train", 240), ("test", 60)):
        with (tmp_path / f"{side}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["when", "size", "kind", "price", "good"])
            for _ in range(rows):
                month, size, kind = int(rng.integers(1, 13)), float(rng.random()), "abc"[rng.integers(3)]
                price = 10 + 5 * size + 3 * (kind == "b") + month
                known = "" if rng.random() < 0.1 else size
                writer.writerow([f"1.{month}.2024", known, kind, price, "" if rng.random() < 0.05 else price > 20])
    plain = {
        "name": "t",
        "data": {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")},
        "inputs": {"when": {"type": "date", "order": "dmy"}, "size": "number", "kind": "category"},
        "outputs": {"price": "number", "good": "category"},
        "train": {"steps": 1},
    }
    return recipes.load(plain)


@pytest.mark.parametrize("output", ["price", "good"])
def test_it_learns_a_number_and_a_category_from_numbers_categories_and_dates(recipe: Any, output: str) -> None:
    found = baseline.scores(recipe, output)
    assert len(found) == 2
    assert max(found.values()) > 0.85
    assert max(found.values()) <= 1


def test_a_text_is_nothing_that_trees_look_at(recipe: Any) -> None:
    recipe.inputs["kind"] = recipes.load(
        {
            "name": "t",
            "data": {"train": "t.csv"},
            "inputs": {"kind": "text"},
            "outputs": {"y": "number"},
            "train": {"steps": 1},
        }
    ).inputs["kind"]
    with pytest.raises(SystemExit, match=r"inputs\.kind: a text is nothing"):
        baseline.scores(recipe, "price")
