"""The baseline of a recipe that begins with another run: the same recipe, and not one weight of that run."""

from __future__ import annotations

from pathlib import Path

import pytest

import dougong
from dougong.core.config import dump_yaml
from dougong.core.errors import FieldError
from tests.scripts import load
from tests.small_runs import BYTES, TINY, recipe_of, run

script = load("benchmarks/from_scratch.py")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that begins with a masked language model."""
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of("reviews") | {
        "name": "labels",
        "inputs": {"text": {**BYTES, "column": "review", "tokenizer": "init"}},
        "model": {**TINY, "init": str(run("masked").folder)},
        "train": {"steps": 2, "batch_size": 16, "device": "cpu"},
    }
    (tmp_path / "labels.yaml").write_text(f"# asks:    label.accuracy >= baseline\n{dump_yaml(recipe)}")
    return tmp_path / "labels.yaml"


def test_the_same_recipe_is_trained_without_the_other_run(path: Path):
    value = script.from_scratch(path, script.metric_of(path))
    trained = dougong.load("runs/labels-from-scratch")
    assert trained.receipt["init"] is None
    assert trained.recipe.model.init is None
    assert trained.inputs[0].codec.to_json() == run("masked").outputs[0].codec.to_json()
    measured = next(iter(trained.metrics().values()))
    assert value == measured["label.accuracy"]["value"]


def test_a_recipe_that_begins_with_no_run_has_no_such_baseline(path: Path):
    kept = (line for line in path.read_text().splitlines(True) if "init:" not in line and "tokenizer:" not in line)
    path.write_text("".join(kept))
    with pytest.raises(FieldError, match=r"model.init = None: expected a run that the recipe begins with"):
        script.from_scratch(path, "label.accuracy")


def test_a_header_without_a_metric_is_told(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("# shows: label.accuracy\n")
    with pytest.raises(SystemExit, match=r"write '# asks: output.metric >= baseline' into its header"):
        script.metric_of(tmp_path / "a.yaml")
