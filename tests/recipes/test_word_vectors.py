"""The sanity neighbours of the recipe word-vectors: how they are read and judged, and (nightly) that a trained run holds some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dougong
from tests.scripts import ROOT, load

script = load("benchmarks/word_neighbours.py")
DATA = ROOT / "recipes" / "data" / "prepared" / "descriptions-train.jsonl"


def test_ten_words_are_chosen_and_none_is_its_own_neighbour() -> None:
    wanted = script.chosen(script.CHOSEN.read_text(encoding="utf-8"))
    assert len(wanted) == 10
    assert wanted["imap"] == {"pop3", "smtp"}
    assert all(others and word not in others for word, others in wanted.items())


def test_a_word_holds_where_one_of_those_wanted_is_near_it(monkeypatch: pytest.MonkeyPatch) -> None:
    near = {"a": ["x", "b"], "c": ["x", "y"]}

    def predict(run: str, rows: list[str], top: int) -> list[dict[str, Any]]:
        assert (run, top) == ("r", 10)
        return [{"text": {"nearest": [{"value": value} for value in near[row]]}} for row in rows]

    monkeypatch.setattr(dougong, "predict", predict)
    found = script.holding("r", script.chosen("# head\na: b, d\nc: d\n"))
    assert found == {"a": (["x", "b"], True), "c": (["x", "y"], False)}


@pytest.mark.nightly
def test_a_short_training_finds_most_of_the_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DATA.is_file(), "make it with: python recipes/data/descriptions.py"
    monkeypatch.chdir(tmp_path)
    budget = ["train.steps=1000", f"data.cache={tmp_path / 'prepared'}"]
    dougong.train(ROOT / "recipes" / "word-vectors.yaml", overrides=budget)
    wanted = script.chosen(script.CHOSEN.read_text(encoding="utf-8"))
    assert sum(holds for _, holds in script.holding("word-vectors", wanted).values()) >= 6
