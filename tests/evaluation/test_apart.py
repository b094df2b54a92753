"""Rows of another file, measured by a finished run: `dougong evaluate RUN --data FILE`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dougong
from dougong.core.errors import DataError, DougongError, FieldError, Note
from dougong.lifecycle import name_of
from tests.small_runs import home, recipe_of, run


def rows_of(name: str) -> list[dict[str, Any]]:
    with (home() / "table.csv").open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if name in row["review"]]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run of its own, whose folder a test may add to."""
    monkeypatch.chdir(tmp_path)
    return dougong.train(recipe_of("reviews") | {"name": "mine"})


def test_its_metrics_are_those_of_its_own_predictions(trained: Any, tmp_path: Path) -> None:
    rows = rows_of("a")[:30]
    found = dougong.evaluate(trained, data=written(tmp_path / "more.jsonl", rows))
    assert (found.split, found.rows) == ("more", 30)
    right = [answer["label"]["value"] == row["label"] for answer, row in zip(trained.predict(rows), rows, strict=True)]
    assert found.metrics["label.accuracy"].value == pytest.approx(sum(right) / 30)


def test_the_same_rows_as_the_test_give_the_same_figures(trained: Any, tmp_path: Path) -> None:
    held = trained.prepared.split("test")
    texts = trained.inputs[0].codec.decode({"tokens": held.take(np.arange(held.rows))["review.tokens"]})
    by_text = {row["review"]: row for row in rows_of("a")}
    found = dougong.evaluate(trained, data=written(tmp_path / "again.jsonl", [by_text[text] for text in texts]))
    expected = dougong.evaluate(trained)
    assert {name: each.value for name, each in found.metrics.items()} == {
        name: pytest.approx(each.value) for name, each in expected.metrics.items()
    }


def test_it_is_kept_reported_verified_and_compared(trained: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "more.jsonl", rows_of("a")[:40])
    dougong.evaluate(trained, data=path)
    assert {"test", "more"} <= set(trained.metrics())
    assert trained.held_out == "test"
    assert "evaluations/more" in dougong.verify(trained).good
    assert "more" in dougong.report(trained).read_text(encoding="utf-8")
    other = dougong.train(recipe_of("reviews") | {"name": "other", "seed": 3})
    with pytest.raises(FieldError, match=r"an evaluation of that name in .*other as well. Fix: .* --data FILE"):
        dougong.compare(trained, other, split="more")
    dougong.evaluate(other, data=path)
    assert dougong.compare(trained, other, split="more")[0].metric == "label.accuracy"
    manifest = json.loads((other.folder / "evaluations/more/manifest.json").read_text())
    assert manifest["meta"]["weights"] == other.weights


def test_other_rows_under_the_same_name_are_not_compared(trained: Any, tmp_path: Path) -> None:
    dougong.evaluate(trained, data=written(tmp_path / "more.jsonl", rows_of("a")[:40]))
    other = dougong.train(recipe_of("reviews") | {"name": "other", "seed": 3})
    dougong.evaluate(other, data=written(tmp_path / "more.jsonl", rows_of("a")[40:80]))
    with pytest.raises(DataError, match=r"evaluations more: made of different files. Fix: dougong evaluate"):
        dougong.compare(trained, other, split="more")


def test_what_is_missing_or_refused_is_told(trained: Any, tmp_path: Path) -> None:
    rows = rows_of("a")[:6]
    bare = [{"review": row["review"]} for row in rows]
    with pytest.raises(DataError, match=r"no column 'label' for outputs.label"):
        dougong.evaluate(trained, data=written(tmp_path / "bare.jsonl", bare))
    with pytest.raises(FieldError, match=r"rows that can be measured, and every one was left out. Fix: give rows"):
        dougong.evaluate(trained, data=written(tmp_path / "none.jsonl", [row | {"label": None} for row in rows]))
    with pytest.raises(FieldError, match=r"none beside data, whose rows are of no split. Fix: leave one of the two"):
        dougong.evaluate(trained, split="test", data="more.jsonl")
    with pytest.raises(DougongError, match="no such file"):
        dougong.evaluate(trained, data="nowhere.jsonl")


def test_rows_that_cannot_be_read_are_told_and_listed(trained: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "some.jsonl", rows_of("a"))
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"review": "broken\n')
    with pytest.warns(Note, match=r"1 of 121 rows cannot be read and are not measured; .*quarantine.jsonl lists them"):
        assert dougong.evaluate(trained, data=path).rows == 120


def test_a_class_that_training_never_saw_is_wrong_and_no_error(trained: Any, tmp_path: Path) -> None:
    rows = [row | {"label": "middling"} for row in rows_of("a")[:10]]
    found = dougong.evaluate(trained, data=written(tmp_path / "new.jsonl", rows))
    assert found.metrics["label.accuracy"].value == 0


@pytest.mark.parametrize("name", ["poems", "masked", "chats", "tags", "spans", "pairs", "prices", "replies"])
def test_every_type_can_be_measured_apart(name: str) -> None:
    trained = run(name)
    source = Path(trained.recipe.data.train)
    try:
        found = dougong.evaluate(trained, data=source)
        kept = trained.metrics()
    finally:
        shutil.rmtree(trained.folder / "evaluations" / source.stem)  # other tests have the run as well
    assert found.rows
    assert set(found.metrics) == set(kept[source.stem]) == set(kept[str(trained.held_out)])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/unseen.jsonl", "unseen"),
        ("data/unseen.jsonl.gz", "unseen"),
        ("late/test.csv", "late-test"),
        ("data/2024 part-*.csv", "2024-part"),
        ("data/", "data"),
    ],
)
def test_an_evaluation_is_called_as_its_file(path: str, name: str) -> None:
    assert name_of(path) == name
