"""The recommendation recipes: how MovieLens becomes histories, and that each recipe learns at tiny size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dougong import lifecycle
from dougong import recipe as recipes
from dougong.core.errors import Note
from tests.scripts import load

fetch = load("recipes/data/fetch.py")
tables = load("recipes/data/tables.py")
movielens = load("recipes/data/movielens.py")
baseline = load("benchmarks/recommendation_baseline.py")
content_baseline = load("benchmarks/recommendation_content_baseline.py")
ROOT = Path(__file__).parents[2]
CHOSEN = {
    "u": [(float(n), f"f{n}") for n in range(8)],
    "v": [(1.0, "f9"), (1.0, "f3"), (2.0, "f1"), (3.0, "f0"), (4.0, "f2")],
}


def test_histories_are_in_the_order_of_time_and_then_of_the_file() -> None:
    rows = [(1, "b", 5), (1, "a", 5), (2, "x", 1), (1, "c", 4), (1, "d", 9), (1, "e", 8)]
    read = [{"user_id": str(user), "item_id": item, "timestamp": str(time)} for user, item, time in rows]
    found = movielens.histories(read)
    assert {user: [item for _, item in each] for user, each in found.items()} == {"1": ["c", "b", "a", "e", "d"]}


def test_leaving_one_out_no_row_knows_what_a_later_split_asks() -> None:
    rows = movielens.leave_one_out(CHOSEN)
    for row in rows["train"]:
        known = [*row["history"], row["item"]]
        assert not {*known} & {
            held["item"] for name in ("validation", "test") for held in rows[name] if held["user"] == row["user"]
        }
    assert [(row["history"][-1], row["item"]) for row in rows["test"]] == [("f6", "f7"), ("f0", "f2")]
    assert [(row["history"][-1], row["item"]) for row in rows["validation"]] == [("f5", "f6"), ("f1", "f0")]


def test_cold_films_stand_in_no_training_row_and_in_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "FEWEST", 2)
    films = [f"f{n}" for n in range(10)]
    rows = movielens.cold(CHOSEN, films)
    asked = {name: {row["item"] for row in rows[name]} for name in rows}
    assert asked["test"]
    assert not asked["test"] & asked["validation"]
    known = {item for name in rows for row in rows[name] for item in row["history"]} | asked["train"]
    assert not known & (asked["test"] | asked["validation"])


def test_the_baselines_rank_as_we_do() -> None:
    rows = [
        {"history": ["a", "b"], "item": "c"},
        {"history": ["a", "c"], "item": "b"},
        {"history": ["a"], "item": "never"},
    ]
    assert baseline.popularity(rows) == [2, 2, 0] or baseline.popularity(rows) == [1, 1, 0]
    assert baseline.mean([1, 3, 11, 0], "ndcg_10") == pytest.approx((1 + 0.5) / 4)
    assert baseline.mean([1, 3, 11, 0], "hit_rate_10") == 0.5


def test_of_new_films_what_is_known_is_their_genres() -> None:
    genres = {"a": ["war"], "b": ["love"], **{f"w{n}": ["war"] for n in range(11)}, "l": ["love"], "none": []}
    train = [{"history": ["a", "a"], "item": "a"}, {"history": ["b"], "item": "b"}]
    rows = [{"history": ["b"], "item": "l"}, {"history": ["a"], "item": "w1"}]
    found = content_baseline.baselines(genres, train, rows)
    assert found["chance"] == pytest.approx(10 / 13)
    assert (
        found["popularity of the genres"] == 0.0
    )  # eleven films of war share the first place, before the only one of love
    assert found["the user's genres"] == 0.5


RECIPES = ("recommendation", "recommendation-gru", "recommendation-factors", "recommendation-content")


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_learns_at_tiny_size(name: str, tmp_path: Path) -> None:
    """Its own fields and model on a dozen users, two steps."""
    users: list[dict[str, Any]] = [
        {"user": str(n), "history": [str((n + step) % 9) for step in range(5)], "item": str((n + 5) % 9)}
        for n in range(12)
    ]
    films = [
        {"item": str(n), "title": f"film {n}", "genres": ["war", "love"][: n % 3], "year": 1980 + n} for n in range(14)
    ]
    for file, rows in (("rows", users), ("films", films)):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows_file = str(tmp_path / "rows.jsonl")
    files = [f"data.{split}={tmp_path / f'{split}.jsonl'}" for split in ("train", "validation", "test")]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_bytes(Path(rows_file).read_bytes())
    changes = [*files, f"data.cache={tmp_path / 'cache'}", "train.steps=2", "train.device=cpu"]
    if name == "recommendation-content":
        changes += [f"inputs.history.content.file={tmp_path / 'films.jsonl'}"]
        changes += [
            "inputs.history.content.inputs={title: {type: text, tokenizer: byte, max_length: 16}, genres: labels, year: number}"
        ]
        with pytest.warns(Note, match="5 items that no training row holds"):
            run = lifecycle._train(
                recipes.load(ROOT / f"recipes/{name}.yaml", changes), tmp_path / "run", True, lambda _: None
            )
    else:
        run = lifecycle._train(
            recipes.load(ROOT / f"recipes/{name}.yaml", changes), tmp_path / "run", True, lambda _: None
        )
    row = {"user": "1", "history": ["1", "2"]}
    suggested = run.predict([row], top=5)[0]["item"]["top"]
    assert len(suggested) == 5
    assert not {"1", "2"} & {each["item"] for each in suggested}
