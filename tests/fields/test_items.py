"""Histories: any list of items, in its order; hostile ones cost their row at most."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dougong import lifecycle
from dougong import recipe as recipes
from dougong.core.errors import DataError
from dougong.data import vocabulary
from dougong.data.columns import Ragged
from dougong.data.loader import collate
from dougong.fields.items import UNKNOWN, Codec, Config, Encoder
from dougong.model import initialize
from tests.clear_error import clear_error


def encoded(codec: Codec, values: list[list[str] | None]) -> Ragged:
    column = codec.encode(values)[0]["items"]
    assert isinstance(column, Ragged)
    return column


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (["b", "a", "b"], ["b", "a", "b"]), ("b a  b", ["b", "a", "b"]), ('["b c", 3]', ["b c", "3"]), ([3, "x"], ["3", "x"]),
        ([], []), ("", []), ("[]", []), (None, None), (["a", " ", ""], ["a"]), ("7", ["7"]),
    ],
)  # fmt: skip
def test_a_history_is_a_list_json_or_separated_text_and_keeps_its_order(value: object, items: list[str] | None) -> None:
    assert Codec.parse(value) == items


@pytest.mark.parametrize("value", [["a", None], [["a"]], [1.5], '["a"', '{"a": 1}{', 7, b"ab", '["a", null]'])
def test_D1_what_is_no_list_of_items_is_refused(value: object) -> None:
    if value == '{"a": 1}{':  # separated text like any other
        assert Codec.parse(value) == ['{"a":', "1}{"]
        return
    with pytest.raises(ValueError, match="expected a"):
        Codec.parse(value)


def test_the_catalogue_is_counted_over_histories_and_what_goes_on_with_them_most_frequent_first() -> None:
    codec = Codec.fit(Config(), [["a", "b"], ["b"], None, "c", "b", "c"])
    assert codec.items == ["b", "c", "a"]
    assert codec.counts.tolist() == [3, 2, 1]
    assert Codec.fit(Config(min_count=2), [["a", "b"], ["b"]]).items == ["b"]
    assert Codec.fit(Config(max_items=1), [["a", "b"], ["b"]]).items == ["b"]


def test_D6_unknown_items_keep_their_place_and_are_counted() -> None:
    codec = Codec.fit(Config(), [["a", "b"]])
    columns, notes = codec.encode([["a", "z", "b"], None, []])
    items = columns["items"]
    assert isinstance(items, Ragged)
    assert items.row(0).tolist() == [0, UNKNOWN, 1]
    assert items.lengths.tolist() == [3, 0, 0]
    assert (notes["missing"], notes["unknown items"]) == (1, 1)


def test_of_a_long_history_the_end_is_kept_and_the_cut_is_counted() -> None:
    codec = Codec.fit(Config(max_length=3), [[str(place) for place in range(100_000)]])
    assert codec.vocab_size == 100_000
    columns, notes = codec.encode([[str(place) for place in range(100_000)], ["7"]])
    assert codec.decode(columns) == [["99997", "99998", "99999"], ["7"]]
    assert notes["histories cut to the last 3"] == 1


def test_no_item_at_all_is_an_error_that_says_what_to_do() -> None:
    with clear_error("'seen'", "no item stands 2 times", "lower min_count", error=DataError):
        Codec.fit(Config(column="seen", min_count=2), [["a"], ["b"], None])


def test_names_are_counted_in_bounded_memory() -> None:
    rows = ([str(number), "often"] for number in range(5_000))
    assert vocabulary.frequent(rows, size=2, least=1, most=100)[0][0] == "often"


def test_an_empty_history_has_the_feature_that_it_begins_with() -> None:
    codec = Codec.fit(Config(), [["a", "b"]])
    encoder = Encoder(Config(), codec, 8, 4)
    initialize(encoder, 0)
    batch = collate({"x.items": encoded(codec, [[], ["a"], None])}, np.arange(3), {"x.items": 200})
    features = encoder(batch, "x")
    assert features.mask.tolist() == [[True, False], [True, True], [True, False]]
    assert torch.equal(features.values[0, 0], features.values[1, 0])


def test_hostile_histories_go_to_quarantine_and_the_rest_is_learnt(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"seen": [f"i{n % 5}" for n in range(row % 7)], "next": f"i{row % 5}"} for row in range(60)
    ]
    bad: list[object] = [["i1", None], {"i1": 2}, 3.5, [["i1"]]]
    rows += [{"seen": value, "next": "i1"} for value in bad]
    rows += [{"seen": ["i1"] * 10_000, "next": "i2"}, {"seen": ["i1"], "next": ["i2"]}, {"seen": ["i1"], "next": None}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipes.load(
        {
            "name": "hostile",
            "data": {"train": str(file), "split": {}, "cleaning": {"max_bad": 0.2}, "cache": str(tmp_path / "cache")},
            "inputs": {"seen": {"type": "items", "max_length": 50}},
            "outputs": {"next": "item"},
            "model": {"kind": "transformer", "preset": "tiny"},
            "train": {"steps": 2, "device": "cpu"},
        }
    )
    run = lifecycle._train(recipe, tmp_path / "run", True, lambda _: None)
    report = run.prepared.report
    assert report.bad.total() == 5
    assert report.dropped.total() == 1
    assert run.prepared.rows["train"] == {"part-00000.arrow": 61}
    answers = run.predict([{"seen": []}, {"seen": None}, {"seen": ["never seen"] * 300}], top=3)
    assert all(len(answer["next"]["top"]) == 3 for answer in answers)


def test_a_log_of_clicks_becomes_histories_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clicks = ["user,item,timestamp", "u,c,3", "v,x,9", "u,a,1", "w,x,1", "v,y,10", "u,b,2"]
    Path("clicks.csv").write_text("\n".join(clicks) + "\n")
    page = (Path(__file__).parents[2] / "docs/fields/items.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "clicks" in block]
    subprocess.run([sys.executable, "-c", code], check=True)
    found = {row["user"]: row for row in pq.read_table("histories.parquet").to_pylist()}
    assert {user: (row["history"], row["item"], row["timestamp"]) for user, row in found.items()} == {
        "u": (["a", "b"], "c", 3),
        "v": (["x"], "y", 10),
    }
