from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong import lifecycle
from dougong import run as runs
from dougong.core.errors import ArtefactError, RecipeError
from dougong.model import Model
from dougong.run import Run
from dougong.training.monitors import Stop
from tests.small_runs import home, recipe_of, run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_import_dougong_offers_the_verbs_and_nothing_else():
    for name in dougong.__all__:
        assert getattr(dougong, name) is getattr(lifecycle, name)
        assert getattr(lifecycle, name).__doc__
    with pytest.raises(AttributeError, match="dougong has no 'trian'; it has check, compare"):
        dougong.trian  # noqa: B018


def test_a_run_is_found_by_name_by_folder_and_as_itself(monkeypatch: pytest.MonkeyPatch):
    trained = run("reviews")
    monkeypatch.chdir(home())
    assert dougong.load("reviews").folder == Path("runs/reviews")
    assert dougong.load(trained) is trained
    assert dougong.load(str(trained.folder)).name == "reviews"
    with pytest.raises(ArtefactError, match=r"reviws: no run there; under runs/ there are .*reviews.*Fix: "):
        dougong.load("reviws")


def test_a_recipe_may_be_a_mapping_and_is_checked_like_a_file():
    plain = recipe_of("reviews") | {"train": {"steps": 2, "device": "cpu"}}
    assert dougong.check(plain).rows_read == 120
    trained = dougong.train(plain, overrides=["name=other", "model.preset=tiny"])
    assert (trained.name, trained.folder) == ("other", Path("runs/other"))
    with pytest.raises(RecipeError, match=r"train.stepz: there is no such key. Fix: write 'steps'"):
        dougong.train(plain | {"train": {"stepz": 2}})


def test_a_run_that_is_opened_again_predicts_what_the_trained_model_did(monkeypatch: pytest.MonkeyPatch):
    finished: list[Model] = []

    def finish(folder: Path, recipe: Any, model: Model, receipt: Any, **more: Any) -> Run:
        finished.append(model)
        return original(folder, recipe, model, receipt, **more)

    original = runs.finish
    monkeypatch.setattr(runs, "finish", finish)
    plain = recipe_of("prices") | {"name": "again"}
    plain["inputs"] = {"stars": "number", "colour": "category", "a text": {"type": "category", "column": "label"}}
    trained = dougong.train(plain)
    rows = [{"stars": 2, "colour": "red", "label": "good"}, {"stars": 9, "colour": "blue", "label": "bad"}]
    said = dougong.load("again").predict(rows)
    trained.__dict__["model"] = finished[0]  # as it was in memory, its inputs in the order in which it learnt
    assert said == trained.predict(rows)


def test_generate_takes_one_prompt_or_several():
    trained = run("poems")
    assert dougong.generate(trained, "a", max_tokens=3) == dougong.generate(trained, ["a"], max_tokens=3)
    assert len(dougong.generate(trained, max_tokens=3)) == 1


def test_predict_writes_one_answer_a_line_where_it_is_told(tmp_path: Path):
    path = tmp_path / "new folder/answers.jsonl"
    answers = dougong.predict(run("reviews"), ["good", "bad"], output=path)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == answers


def test_verify_names_what_is_whole_and_refuses_what_is_not():
    found = dougong.verify(run("tags"))
    assert found.damaged == ()
    assert {"run", "evaluations/test"} <= set(found.good)


def test_training_that_a_signal_ends_leaves_with_its_code():
    stopped = lifecycle.Stopped(Stop(), 7)
    assert isinstance(stopped, SystemExit)
    assert stopped.step == 7


@pytest.mark.parametrize("name", ["reviews", "poems"])
def test_everything_a_verb_returns_has_a_plain_form(name: str):
    trained = run(name)
    for result in (
        trained,
        trained.prepared,
        trained.prepared.report,
        dougong.evaluate(trained),
        dougong.verify(trained),
        dougong.report(trained),
        dougong.doctor(),
        dougong.schema(),
        [trained, Path("x")],
    ):
        json.dumps(lifecycle.plain(result), allow_nan=False)
