"""Answers that are quoted from a passage: what is read, where it stands, what is learnt, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dougong

COLOURS = ("red", "green", "dark blue", "white", "black")
SIZES = ("4", "17", "230", "5 cm", "9")
SHAPES = ("round", "flat", "long", "square")


def records(count: int) -> list[dict[str, Any]]:
    """A few facts in any order, and a question after one of them; every seventh passage does not tell it."""
    rows = []
    for number in range(count):
        facts = {
            "colour": COLOURS[number % 5],
            "size": SIZES[number // 5 % 5],
            "shape": SHAPES[number // 25 % 4],
        }
        question = list(facts)[number // 3 % 3]
        right = facts[question]
        if number % 7 == 0:
            del facts[question]
        order = sorted(facts, key=lambda name: (len(name) * 7 + number * 3) % 5)
        passage = "; ".join(f"{name}: {facts[name]}" for name in order)
        answer = (
            None if number % 7 == 0 else {"text": right, "start": passage.index(f"{question}: ") + len(question) + 2}
        )
        rows.append({"question": question, "passage": passage, "answer": answer})
    return rows


def recipe(file: Path, **changes: Any) -> dict[str, Any]:
    words = {"type": "text", "tokenizer": {"kind": "bpe", "vocab_size": 320}}
    return {
        "name": "facts",
        "data": {"train": str(file), "cache": str(file.parent / "cache")},
        "inputs": {"question": words, "passage": words},
        "outputs": {"answer": {"type": "span", "of": "passage"}},
        "model": {"kind": "transformer", "preset": "tiny"},
        "train": {"steps": 300, "batch_size": 32, "device": "cpu", "optimizer": {"kind": "adamw", "lr": 0.01}},
    } | changes


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_answers_are_found_and_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = dougong.train(recipe(written(tmp_path, records(700))))
    measured = run.metrics()["test"]
    assert measured["answer.exact_match"]["value"] >= 0.9
    passage = "shape: flat; colour: dark blue; size: 17"
    told, untold = run.predict(
        [{"question": "colour", "passage": passage}, {"question": "size", "passage": "shape: flat"}]
    )
    assert told["answer"] == {
        "value": "dark blue",
        "start": 21,
        "end": 30,
        "probability": told["answer"]["probability"],
    }
    assert 0.5 < told["answer"]["probability"] <= 1
    assert untold["answer"]["value"] is None
