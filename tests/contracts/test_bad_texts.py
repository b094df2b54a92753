"""D1, D2, D4, D6: what hostile, wrong or foreign text does to every type that holds language, through a whole preparation.

Rows read = rows used + rows listed: a row that cannot be used stands in the quarantine with its reason, or the work stops.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dougong
from dougong import assembly
from dougong import recipe as recipes
from dougong.core.errors import DataError
from dougong.data import cleaning
from dougong.data.prepare import Prepared
from dougong.evaluation import summary
from tests.clear_error import clear_error

BYTES = {"type": "text", "tokenizer": "byte", "max_length": 32}
TINY = {"kind": "transformer", "preset": "tiny"}
ROWS = 100
Row = dict[str, Any]


@dataclass(frozen=True)
class Sort:
    """The ends of a recipe, and a row of its data about a text of two words."""

    ends: dict[str, Any]
    row: Callable[[str], Row]
    column: str  # that holds the text
    again: Callable[[Any], str] = str  # the text in what that column decodes to


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": text}]


SORTS = {
    "language model": Sort({"outputs": {"text": BYTES}}, lambda text: {"text": text}, "text"),
    "texts from texts": Sort(
        {"inputs": {"text": BYTES}, "outputs": {"reply": BYTES}}, lambda text: {"text": text, "reply": text}, "text"
    ),
    "text to category": Sort(
        {"inputs": {"text": BYTES}, "outputs": {"label": "category"}},
        lambda text: {"text": text, "label": "ab"[sum(text.encode("utf-8", "surrogatepass")) % 2]},
        "text",
    ),
    "chat": Sort(
        {"outputs": {"messages": {**BYTES, "type": "chat"}}},
        lambda text: {"messages": messages(text)},
        "messages",
        lambda found: str(found[1]["content"]),
    ),
    "tags": Sort(
        {"inputs": {"text": BYTES}, "outputs": {"tags": "tags"}},
        lambda text: {"text": text, "tags": " ".join("B-x" if index else "O" for index, _ in enumerate(text.split()))},
        "text",
    ),
    "pairing": Sort(
        {"inputs": {"text": BYTES, "reply": BYTES}, "outputs": {"match": {"type": "pairing", "dim": 8}}},
        lambda text: {"text": text, "reply": f"to {text[:8]}"},
        "text",
    ),
}


def plain(number: int) -> str:
    return f"word number{number}"


def recipe(folder: Path, sort: str, rows: list[Row], **data: Any) -> dict[str, Any]:
    written(folder / "rows.jsonl", rows)
    return {
        "name": "bad",
        "data": {"train": str(folder / "rows.jsonl"), "cache": str(folder / "cache"), "split": {}, **data},
        "model": TINY,
        "train": {"steps": 1, "device": "cpu"},
        **SORTS[sort].ends,
    }


def written(file: Path, rows: list[Row]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def listed(prepared: Prepared) -> list[Row]:
    """The quarantine; every row that was read stands there or was used."""
    found = [json.loads(line) for line in (prepared.folder / "quarantine.jsonl").read_bytes().split(b"\n") if line]
    assert prepared.report.rows_read == sum(prepared.report.used.values()) + len(found)
    assert prepared.report.rows_read >= ROWS
    return found


def one_among(folder: Path, sort: str, text: str, **data: Any) -> Prepared:
    """The rows of a sort, one of which, the 51st, holds that text."""
    rows = [SORTS[sort].row(text if number == 50 else plain(number)) for number in range(ROWS)]
    return dougong.prepare(recipe(folder, sort, rows, **data))


def texts_of(prepared: Prepared, made: dict[str, Any], sort: str) -> list[str]:
    """The texts of the training rows as a model sees them."""
    inputs, outputs = assembly.fitted(recipes.load(made), prepared)
    field = next(field for field in [*inputs, *outputs] if field.column == SORTS[sort].column)
    rows = prepared.split("train")
    columns = rows.take(np.arange(rows.rows))
    return [SORTS[sort].again(value) for value in field.codec.decode({"tokens": columns[f"{field.name}.tokens"]})]


@pytest.mark.parametrize("sort", SORTS)
def test_D2_a_lone_surrogate_costs_its_row_in_every_type(tmp_path: Path, sort: str) -> None:
    (row,) = listed(one_among(tmp_path, sort, "word \ud800"))
    assert (row["row"], row["bad"]) == (51, True)
    assert "lone surrogate" in row["reason"]


@pytest.mark.parametrize("sort", SORTS)
def test_D2_a_value_with_a_lone_surrogate_is_refused_by_every_type(sort: str) -> None:
    """Rows that did not come through a file: a table of Python, what `predict` is given."""
    config = {name: config for side in SORTS[sort].ends.values() for name, config in side.items()}[SORTS[sort].column]
    kinds = {SORTS[sort].column: config["type"]}
    found = cleaning.clean(SORTS[sort].row("word \ud800"), kinds, cleaning.Config())
    assert found.values is None
    assert found.bad == f"column {SORTS[sort].column!r}: a lone surrogate is no character"


@pytest.mark.parametrize("sort", SORTS)
def test_D2_control_characters_are_taken_out_and_counted_in_every_type(tmp_path: Path, sort: str) -> None:
    rows = [
        SORTS[sort].row("wo\x07rd\ufeff\x1b numb\x9fer!" if number == 50 else plain(number)) for number in range(ROWS)
    ]
    made = recipe(tmp_path, sort, rows)
    prepared = dougong.prepare(made)
    assert listed(prepared) == []
    assert prepared.report.changed["unicode"] == 1
    texts = texts_of(prepared, made, sort)
    assert "word number!" in texts
    assert not any(re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ufeff]", text) for text in texts)


@pytest.mark.parametrize("sort", SORTS)
def test_D1_a_text_in_another_language_is_dropped_and_counted_in_every_type(tmp_path: Path, sort: str) -> None:
    english = "This is certainly a sentence that was written in English, number"
    rows = [SORTS[sort].row(f"{english} {number}") for number in range(ROWS)]
    rows[50] = SORTS[sort].row("Ich weiß nicht, was soll es bedeuten, dass ich so traurig bin")
    prepared = dougong.prepare(recipe(tmp_path, sort, rows, cleaning={"language": ["en"]}))
    assert [(row["row"], row["reason"], row["bad"]) for row in listed(prepared)] == [(51, "language", False)]
    assert prepared.report.dropped == {"language": 1}


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize(
    ("rule", "length", "text"), [("min_length", 11, "a b"), ("max_length", 60, "word " + "x" * 99)]
)
def test_lengths_are_judged_in_every_type(tmp_path: Path, sort: str, rule: str, length: int, text: str) -> None:
    (row,) = listed(one_among(tmp_path, sort, text, cleaning={rule: length}))
    assert (row["row"], row["reason"], row["bad"]) == (51, rule, False)


# ------------------------------------------------------------------------------------------- several names in one value


@pytest.mark.parametrize("kind", ["tags", "labels"])
def test_D2_a_surrogate_that_an_escape_brings_into_a_list_of_names_costs_its_row(tmp_path: Path, kind: str) -> None:
    prepared = dougong.prepare(names_recipe(tmp_path, kind, r'["O", "\ud800"]'))
    (row,) = listed(prepared)
    assert (row["row"], row["bad"]) == (51, True)
    assert row["reason"] == "column 'names': a lone surrogate is no character"


@pytest.mark.parametrize("kind", ["tags", "labels"])
def test_D2_control_characters_in_names_are_taken_out_and_counted(tmp_path: Path, kind: str) -> None:
    made = names_recipe(tmp_path, kind, r'["O", "B\u0007-x\u0000"]')
    prepared = dougong.prepare(made)
    assert listed(prepared) == []
    assert prepared.report.changed["unicode"] == 1
    _, (field,) = assembly.fitted(recipes.load(made), prepared)
    assert field.codec.classes == ["B-x", "O"]


@pytest.mark.parametrize("kind", ["tags", "labels"])
def test_D1_what_is_no_list_of_names_costs_its_row(tmp_path: Path, kind: str) -> None:
    for value in ('["O", ', '["O", NaN]', "[" * 2000):
        (row,) = listed(dougong.prepare(names_recipe(tmp_path, kind, value)))
        assert (row["row"], row["bad"]) == (51, True)
        assert row["reason"].startswith("column 'names': expected a "), row["reason"]


def names_recipe(folder: Path, kind: str, value: str) -> dict[str, Any]:
    """Texts of two words with two names each, one row of which holds that value instead."""
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "names"])
        writer.writerows([plain(number), value if number == 50 else '["O", "B-x"]'] for number in range(ROWS))
    data = {"train": str(folder / "rows.csv"), "cache": str(folder / "cache"), "split": {}}
    ends = {"inputs": {"text": BYTES}, "outputs": {"names": kind}}
    return {"name": "names", "data": data, "model": TINY, "train": {"steps": 1, "device": "cpu"}, **ends}


# ------------------------------------------------------------------------------------ files that know different answers


@pytest.mark.parametrize(
    ("sort", "other", "unseen"),
    [("text to category", {"label": "never"}, 1), ("tags", {"tags": "B-other plain"}, 2)],
)
def test_D6_names_that_only_the_test_file_holds_are_counted_and_never_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sort: str, other: Row, unseen: int
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "test.jsonl", [SORTS[sort].row(plain(number)) | other for number in range(200, 220)])
    rows = [SORTS[sort].row(plain(number)) for number in range(ROWS)]
    run = dougong.train(recipe(tmp_path, sort, rows, test=str(tmp_path / "test.jsonl")))
    (output,) = run.recipe.outputs
    assert run.prepared.report.notes[f"test.{output}: unseen values"] == 20 * unseen
    assert run.metrics()["test"][f"{output}.accuracy"]["value"] == 0.0
    assert {sample["right"] for sample in summary.samples(run)} == {False}


def test_D1_a_file_whose_roles_have_other_names_stops_the_work_and_is_named(tmp_path: Path) -> None:
    foreign = [{"messages": [{"role": "human", "content": "Well?"}, {"role": "gpt", "content": "yes"}]}] * 20
    written(tmp_path / "other.jsonl", foreign)
    rows = [SORTS["chat"].row(plain(number)) for number in range(ROWS)]
    made = recipe(tmp_path, "chat", rows, test=str(tmp_path / "other.jsonl"))
    with clear_error("other.jsonl", "20 ×", "one of the roles system, user, assistant, found", error=DataError):
        dougong.prepare(made)
