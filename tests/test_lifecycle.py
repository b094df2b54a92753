from __future__ import annotations

import json
import random
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong import lifecycle
from dougong import run as runs
from dougong.core.errors import ArtefactError, FieldError, Note, RecipeError
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (None, 143)])
def test_training_that_a_signal_ends_leaves_with_its_code(number: int | None, code: int):
    stop = Stop()
    stop.signal = number
    stopped = lifecycle.Stopped(stop, 7)
    assert isinstance(stopped, SystemExit)
    assert (stopped.step, stopped.code) == (7, code)


# --------------------------------------------------------------------------------------------------- nothing is held out


def test_a_run_without_held_out_rows_is_trained_reported_and_not_measured():
    recipe = recipe_of("prices") | {"name": "all"}
    recipe["data"] = recipe["data"] | {"split": {}}
    for _ in range(2):  # the second time as a finished run
        said: list[str] = []
        trained = dougong.train(recipe, say=said.append)
        assert any("no row was held out, so nothing is measured" in line for line in said)
        assert (trained.held_out, trained.metrics()) == (None, {})
    page = dougong.report(trained).read_text(encoding="utf-8")
    assert 'id="results"' not in page
    assert 'id="samples"' not in page
    assert 'id="training"' in page
    for verb in (dougong.evaluate, lambda run: dougong.compare(run, trained)):
        with pytest.raises(FieldError, match=r"rows that were held out, and this run has none. Fix: say split train"):
            verb(trained)
    assert dougong.evaluate(trained, split="train").rows == 120


@pytest.mark.parametrize("train", [{"early_stop": 2}, {"schedule": "plateau"}])
def test_check_refuses_what_train_would_refuse_without_validation_rows(train: dict[str, Any]):
    recipe = recipe_of("prices") | {"train": {"steps": 2, **train}}
    recipe["data"] = recipe["data"] | {"split": {"test": 0.1}}
    for verb in (dougong.check, dougong.train):
        with pytest.raises(FieldError, match=r"rows to validate on, and there are none. Fix: give some rows"):
            verb(recipe)


# ------------------------------------------------------------------------------------------------- what predict is given


@pytest.mark.parametrize("rows", ["Wonderful", b"Wonderful", {"review": "Wonderful"}], ids=["text", "bytes", "dict"])
def test_predict_refuses_one_row_where_a_list_is_expected(rows: Any):
    with pytest.raises(FieldError, match=r"rows = .*Wonderful.*expected a list of rows. Fix: write a list, as in run"):
        run("reviews").predict(rows)


def test_predict_refuses_a_table_with_the_way_to_its_rows():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"review": ["good", "bad"]})
    with pytest.raises(FieldError, match=r"rows = 'Table': expected a list of rows. Fix: .*or \.to_pylist\(\)"):
        dougong.predict(run("reviews"), table)
    assert len(dougong.predict(run("reviews"), table.to_pylist())) == 2
    assert len(dougong.predict(run("reviews"), (text for text in ("good", "bad")))) == 2
    with pytest.raises(FieldError, match=r"rows = 'int'"):
        run("reviews").predict(3)  # type: ignore[arg-type]


def test_generate_of_a_run_takes_one_prompt_as_one():
    trained = run("poems")
    assert trained.generate("O, ", max_tokens=3) == trained.generate(["O, "], max_tokens=3)


def test_predict_tells_of_values_that_the_model_cannot_know(tmp_path: Path):
    rows = [{"stars": 3, "colour": colour} for colour in ["red", "violet", None] * 50]
    told = r"in 150 rows: colour: 50 unseen values. The model has not learnt"
    with pytest.warns(Note, match=told) as caught:
        run("prices").predict(rows)
    assert len(caught) == 1
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(Note, match=told) as caught:
        dougong.predict(run("prices"), path)
    assert len(caught) == 1
    with pytest.warns(Note, match=r"in 2 rows: review: 1 cut to 48 tokens"):
        run("reviews").predict(["a" * 100, "good"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("prices").predict([{"stars": 3, "colour": "red"}])


def test_the_pictures_of_a_labelled_folder_are_found():
    image = pytest.importorskip("PIL.Image")
    draw = random.Random(0)
    for index in range(40):
        folder = Path("pictures") / ("dark" if index % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (8, 8), (draw.randint(0, 90) + 160 * (1 - index % 2),) * 3).save(folder / f"{index}.png")
    recipe = {
        "name": "pictures", "data": {"train": "pictures"}, "inputs": {"image": "image"},
        "outputs": {"label": "category"}, "model": {"kind": "convnet", "preset": "tiny"},
        "train": {"steps": 2, "device": "cpu"},
    }  # fmt: skip
    trained = dougong.train(recipe)
    answers = dougong.predict(trained, "pictures")
    assert [list(answer) for answer in answers] == [["label"]] * 40


# ------------------------------------------------------------------------------------------------------ where it came from


def test_the_receipt_tells_of_overrides_contents_and_refused_checkpoints(monkeypatch: pytest.MonkeyPatch):
    fit = lifecycle.fit

    def with_damage(*arguments: Any, **options: Any) -> Any:
        fitted = fit(*arguments, **options)
        fitted.progress.refused.append("step-00000002: damaged")
        return fitted

    monkeypatch.setattr(lifecycle, "fit", with_damage)
    trained = dougong.train(recipe_of("prices"), overrides=["train.steps=3", "name=told"])
    receipt = trained.receipt
    assert receipt["overrides"] == ["train.steps=3", "name=told"]
    assert receipt["data"]["contents"] == trained.prepared.contents
    assert receipt["training"]["refused_checkpoints"] == ["step-00000002: damaged"]
    assert "-s train.steps=3 -s name=told" in (trained.folder / "report.html").read_text(encoding="utf-8")


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


def test_a_package_that_a_metric_needs_is_missed_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    recipe = recipe_of("replies")
    recipe = recipe | {"outputs": {"reply": recipe["outputs"]["reply"] | {"metrics": ["bleu"]}}}
    with pytest.raises(Exception, match=re.escape("pip install 'dougong[text]'")):
        dougong.train(recipe)
    assert not (tmp_path / "runs/replies/checkpoints").exists()
