"""What the benchmarks read is the same on every machine."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data
from benchmarks.shapes import SHAPES

TEXT = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n\nRough winds do shake\n" * 4


def test_paragraphs_are_the_same_each_time_and_of_the_size_asked_for() -> None:
    first = list(data.paragraphs(TEXT, 20_000))
    assert first == list(data.paragraphs(TEXT, 20_000))
    assert 20_000 <= sum(len(paragraph.encode()) + 2 for paragraph in first) < 25_000
    digest = hashlib.sha256("\n\n".join(islice(first, 10)).encode()).hexdigest()
    assert digest[:16] == "38f332865f89905c"


def test_the_vocabulary_grows_with_the_text() -> None:
    few, many = (len(set(" ".join(data.paragraphs(TEXT, size)).split())) for size in (5_000, 50_000))
    assert many > 2 * few


def test_the_rows_of_a_written_text_are_its_paragraphs(tmp_path: Path) -> None:
    rows = ["one\ntwo", "three", "four\nfive\nsix"]
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{row}\n\n" for row in rows), "utf-8")
    assert list(data.read_paragraphs(path)) == rows


def test_a_tokenizer_is_filled_up_to_the_size_asked_for() -> None:
    made = {"added_tokens": [{"id": 0, "content": "<|end|>"}], "model": {"vocab": {"<|end|>": 0, "a": 1, "b": 3}}}
    vocabulary = json.loads(data.padded(json.dumps(made), 6))["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(6))
    assert vocabulary["b"] == 3


def test_tokens_are_those_of_dougongs_recipe_and_fit_the_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, "utf-8")
    monkeypatch.setattr(data, "TEXT", text)
    monkeypatch.setattr(data, "WORK", tmp_path / "work")
    tokens = np.fromfile(data.token_file("tiny"), dtype=np.uint16)
    assert len(tokens) == len(TEXT) + 1  # the end
    assert tokens.max() < SHAPES["tiny"].vocab_size


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_recipe_of_each_shape_has_that_shape(shape: str) -> None:
    from dougong import recipe as recipes

    loaded, expected = recipes.load(data.recipe_of(shape)), SHAPES[shape]
    model, text = loaded.model, loaded.outputs["text"]
    assert (model.layers, model.width, model.heads) == (expected.layers, expected.width, expected.heads)
    assert (text.max_length, loaded.train.batch_size) == (expected.context, expected.batch)
    assert loaded.train.optimizer.lr == expected.lr
    assert getattr(text.tokenizer, "vocab_size", expected.vocab_size) == expected.vocab_size
