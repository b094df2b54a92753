"""What a judge tells of pictures that were made, and who can be one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dougong
from dougong import assembly
from dougong import recipe as recipes
from dougong.core.errors import ArtefactError
from dougong.evaluation.judging import Judge
from dougong.evaluation.measure import read_measured
from dougong.inference.predict import Predicted
from tests.clear_error import clear_error
from tests.small_runs import home, recipe_of, run


def judged(name: str, judge: str, folder: Path, **image: Any) -> dict[str, Any]:
    recipe = recipe_of(name)
    recipe["outputs"] = {"image": {**recipe["outputs"]["image"], "judge": str(run(judge).folder), **image}}
    recipe["train"] = {**recipe["train"], "steps": 2, "validate_every": 1}
    return recipe


def test_a_classifier_tells_what_is_recognised_and_how_far_its_features_are(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        made = dougong.train(judged("pictures", "judge", tmp_path))
        measured = read_measured(made.folder / "evaluations" / "test")
        assert list(measured.metrics)[:3] == ["image.recognised", "image.recognised_real", "image.frechet_distance"]
        assert {"image.precision", "image.recall", "image.loss"} < set(measured.metrics)
        assert measured.rows <= 20
        real = run("judge").metrics()["test"]["label.accuracy"]["value"]
        assert measured.metrics["image.recognised_real"].value == pytest.approx(real, abs=0.2)
        assert measured.metrics["image.frechet_distance"].value > 0
        assert measured.details["image"]["judge"] == {"run": str(run("judge").folder), "weights": run("judge").weights}
        second = judged("pictures-gan", "judge", tmp_path)
        dougong.train(second)
        (compared,) = dougong.compare("pictures", "pictures-gan", metric="image.recognised")
        assert compared.estimates.keys() == {"pictures", "pictures-gan"}


def test_what_is_right_is_recognised_and_found_by_both_kinds_of_judge() -> None:
    """Real pictures in the place of made ones: the judge has to tell the same of both."""
    for name in ("judge", "judge-pairs"):
        recipe = recipe_of("pictures")
        asked = {"label": "category"} if name == "judge" else {"name": {"type": "text", "tokenizer": "byte"}}
        recipe |= {"inputs": asked, "outputs": {"image": {"type": "image", "judge": str(run(name).folder)}}}
        loaded = recipes.load(recipe)
        with contextlib.chdir(home()):
            prepared = assembly.prepared_data(loaded)
        inputs, (output,) = assembly.fitted(loaded, prepared)
        judge = Judge.of(output, inputs)
        assert judge is not None
        split, rows = prepared.split("train"), np.arange(12)
        judge.begin(split, rows)
        columns = split.take(rows, ["image.pixels", "image.known"])
        own = {key.removeprefix("image."): column for key, column in columns.items()}
        told = judge.told(Predicted(rows, {"image": {**own, "loss": np.zeros(12)}}, {"image": own}, {}))
        prediction, target = told.predictions["image"], told.targets["image"]
        np.testing.assert_array_equal(prediction["features"], target["features"])
        assert "pixels" not in prediction
        if name == "judge":
            np.testing.assert_array_equal(prediction["told"], target["told"])
            labels = [judge.told_by.codec.classes[index] for index in np.asarray(target["asked"])]
            assert set(labels) == {"left", "right"}
        else:
            np.testing.assert_array_equal(prediction["rank"], target["rank"])
            assert np.asarray(target["rank"]).max() <= 2  # of two names


def test_a_picture_made_of_a_text_finds_it_among_all_that_were_asked_for(tmp_path: Path) -> None:
    """The task of recipes/text-to-image, with two names: the first ten are all there are."""
    recipe = judged("pictures", "judge-pairs", tmp_path)
    encoder = {"kind": "transformer", "width": 16, "layers": 1, "heads": 2}
    recipe |= {"name": "drawn", "inputs": {"name": {"type": "text", "tokenizer": "byte", "encoder": encoder}}}
    with contextlib.chdir(tmp_path):
        found = dougong.train(recipe).metrics()["test"]
        assert {"image.recall_10", "image.recall_1", "image.recall_10_real", "image.frechet_distance"} < set(found)
        assert found["image.recall_10"]["value"] == 1.0
        assert dougong.load("drawn").generate(["bright at first"], count=2)[0].shape == (8, 6, 1)


@pytest.mark.parametrize(
    ("judge", "more", "parts"),
    [
        ("reviews", {}, ("outputs.image.judge", "a run from one image to a category, or one with a pairing")),
        ("judge", {"asks": "label"}, None),
        ("judge-pairs", {"asks": "label"}, ("outputs.image.asks", "an input of type text", "can recognise")),
    ],
)
def test_who_cannot_judge_is_refused_before_anything_is_trained(
    judge: str, more: dict[str, Any], parts: tuple[str, ...] | None, tmp_path: Path
) -> None:
    recipe = judged("pictures", judge, tmp_path, **more)
    with contextlib.chdir(tmp_path):
        if parts is None:
            dougong.check(recipe)
            return
        with clear_error(*parts):
            dougong.check(recipe)


def test_a_judge_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    recipe = judged("pictures", "judge", tmp_path)
    recipe["outputs"]["image"]["judge"] = "nobody"
    with contextlib.chdir(tmp_path), clear_error("nobody", "no run there", error=ArtefactError):
        dougong.train(recipe)


def test_without_a_judge_there_is_only_the_loss() -> None:
    assert list(run("pictures").metrics()["test"]) == ["image.loss"]
