"""What is settled after training is chosen on the validation rows, kept with the weights, and used wherever they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import dougong
from dougong import assembly
from dougong import run as runs
from dougong.core.errors import FieldError, Note
from dougong.evaluation import settling
from dougong.fields import number
from dougong.inference.predict import predictions
from dougong.layers.losses import Loss
from dougong.run import Run
from tests.small_runs import recipe_of

SHARES = {"split": {"validation": 0.3, "test": 0.3}}


def recipe(base_name: str, output: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = recipe_of(base_name)
    (given,) = base["outputs"]
    data = base["data"] | SHARES
    return base | {"name": "settled", "data": data, "outputs": {given: output}} | changes


def said(run: Run, split: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All predictions and targets of a split."""
    rows = run.prepared.split(split)
    plan = assembly.plan_of(run.recipe, rows, run.inputs, run.outputs)
    (name,) = run.recipe.outputs
    found = [(each.predictions[name], each.targets[name]) for each in predictions(run.model, plan, run.autocast)]
    return tuple(
        {key: np.concatenate([side[key] for side in sides]) for key in sides[0]} for sides in zip(*found, strict=True)
    )  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("rule", ["auto", "per_label"])
def test_thresholds_are_chosen_on_the_validation_rows_and_used_everywhere(rule: str) -> None:
    run = dougong.train(recipe("tags", {"type": "labels", "threshold": rule}))
    kept = run.model.head(run.outputs[0]).threshold
    classes = run.outputs[0].codec.classes
    assert kept.shape == ((len(classes),) if rule == "per_label" else (1,))
    average = "macro" if rule == "per_label" else "micro"
    prediction, target = said(run, "validation")
    usual, ours = (
        f1_score(target["indicators"], prediction["probabilities"] >= each, average=average)
        for each in (0.5, kept.numpy())
    )
    assert ours > usual
    told = run.receipt["settled"]["tags"]
    assert told["rows"] == run.receipt["data"]["rows"]["validation"]
    assert told["metrics"][f"f1_{average}"] == {"before": pytest.approx(usual), "after": pytest.approx(ours)}
    shown = told["thresholds"] if rule == "per_label" else dict.fromkeys(classes, told["threshold"])
    assert list(shown.values()) == pytest.approx(kept.expand(len(classes)).tolist())
    prediction, target = said(run, "test")
    expected = f1_score(target["indicators"], prediction["probabilities"] >= kept.numpy(), average=average)
    assert run.metrics()["test"][f"tags.f1_{average}"]["value"] == pytest.approx(expected)
    again = dougong.load(run.folder)
    assert torch.equal(again.model.head(again.outputs[0]).threshold, kept)
    (answer,) = again.predict(["even third number 12"])
    given = [name for name, p in answer["tags"]["probabilities"].items() if p >= shown[name]]
    assert answer["tags"]["value"] == given
    assert answer["tags"].get("thresholds", answer["tags"].get("threshold")) == (
        shown if rule == "per_label" else told["threshold"]
    )
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert '<section id="settled">' in page
    json.dumps(again.receipt, allow_nan=False)


def calibrated(**changes: Any) -> dict[str, Any]:
    train = {
        "steps": 120,
        "batch_size": 16,
        "validate_every": 120,  # once, at the end: it is far too sure by then
        "device": "cpu",
        "optimizer": {"kind": "adamw", "lr": 0.02},
    }
    label = {"type": "category", "calibrate": True}
    return recipe("prices", label, outputs={"label": label}, train=train, **changes)


def test_a_temperature_is_fitted_and_leaves_accuracy_as_it_is() -> None:
    """Labels that cannot be told from the inputs: what the model is sure of is chance."""
    run = dougong.train(calibrated())
    heat = run.receipt["settled"]["label"]["temperature"]
    assert heat > 1.2
    assert run.model.head(run.outputs[0]).temperature.item() == pytest.approx(heat)
    changed = run.receipt["settled"]["label"]["metrics"]
    assert {"loss", "calibration_error"} <= changed.keys()
    assert changed["loss"]["after"] < changed["loss"]["before"]
    assert "accuracy" not in changed
    assert "loss_uncalibrated" not in changed
    found = {key: each["value"] for key, each in run.metrics()["test"].items()}
    assert found["label.loss"] < found["label.loss_uncalibrated"]
    assert found["label.calibration_error"] != found["label.calibration_error_uncalibrated"]
    prediction, _ = said(dougong.load(run.folder), "test")
    (answer,) = run.predict([{"stars": 3, "colour": "red"}])
    assert prediction["temperature"] == pytest.approx(heat)
    assert 0.5 <= answer["label"]["probability"] <= prediction["probabilities"].max() + 0.5
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "label.loss_uncalibrated" in page
    assert "temperature" in page


def test_quantiles_are_moved_until_they_hold_as_many_validation_rows_as_they_promise(tmp_path: Path) -> None:
    """Noise that is learnt by heart: of other rows the range holds far fewer than it says."""
    noise = np.random.default_rng(0).normal(size=(200, 4))
    np.savetxt(tmp_path / "noise.csv", noise, delimiter=",", header="a,b,c,price", comments="")
    price = {"type": "number", "quantiles": [0.1, 0.5, 0.9], "calibrate": True}
    base = recipe("prices", {}, inputs=dict.fromkeys("abc", "number"), outputs={"price": price})
    base["data"] = {"train": str(tmp_path / "noise.csv"), **SHARES}
    base["model"] = {"kind": "mlp", "preset": "small"}
    base["train"] = {"steps": 150, "batch_size": 32, "validate_every": 150, "device": "cpu", "optimizer": {"lr": 0.01}}
    run = dougong.train(base)
    told = run.receipt["settled"]["price"]
    assert list(told["shifts"]) == ["0.1", "0.5", "0.9"]
    assert run.model.head(run.outputs[0]).shifts.tolist() == pytest.approx(list(told["shifts"].values()))
    prediction, target = said(dougong.load(run.folder), "validation")
    rows = len(target["value"])
    for level, quantile in zip((0.1, 0.5, 0.9), prediction["quantiles"].T, strict=True):
        assert abs((target["value"] <= quantile).mean() - level) < 3 / rows, level
    assert told["metrics"]["coverage"]["before"] < 0.7
    assert told["metrics"]["coverage"]["after"] == pytest.approx(0.8, abs=5 / rows)
    assert (np.diff(prediction["quantiles"]) >= 0).all()
    assert "shifts" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_of_rows_without_a_number_nothing_is_moved() -> None:
    head = number.Head(
        number.Config(quantiles=(0.1, 0.5, 0.9), calibrate=True),
        number.Codec(number.Config(), 0.0, 1.0, [0, 1]),
        4,
        Loss(),
    )
    rows = [({"quantiles": np.zeros((2, 3))}, {"value": np.full(2, np.nan)})]
    with pytest.warns(Note, match=r"calibrate of None: no validation row has a number"):
        assert head.settle(iter(rows)) == {}


def test_a_run_killed_before_it_was_sealed_settles_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dougong.train(calibrated(name="whole"))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runs, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            dougong.train(calibrated(name="killed"))
    again = dougong.train(calibrated(name="killed"))
    assert again.receipt["settled"] == whole.receipt["settled"]
    first, second = (run.model.weights() for run in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "out_label.temperature" in first


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ({"type": "labels", "threshold": "per_label"}, r"outputs\.tags\.threshold = 'per_label': "),
        ({"type": "labels", "threshold": "auto"}, r"outputs\.tags\.threshold = 'auto': "),
        ({"type": "category", "calibrate": True}, r"outputs\.tags\.calibrate = True: "),
    ],
)
def test_without_validation_rows_it_is_refused_before_training(
    output: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = recipe_of("tags") | {"name": "none", "outputs": {"tags": output}}
    base["data"] = base["data"] | {"split": {}}
    base["outputs"] = {"tags": output | ({"column": "reply"} if output["type"] == "category" else {})}
    monkeypatch.setattr("dougong.lifecycle.fit", lambda *_, **__: pytest.fail("it was trained"))
    expected = told + r"expected rows to validate on, and there are none\. Fix: give some rows to validation"
    for verb in (dougong.check, dougong.train):
        with pytest.raises(FieldError, match=expected):
            verb(base)
    assert not (Path("runs") / "none" / "resolved.json").exists()


def test_a_label_without_validation_rows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = dougong.train(recipe("tags", {"type": "labels", "threshold": "per_label"}))
    head = trained.model.head(trained.outputs[0])
    rows = [({"probabilities": np.full((3, 2), 0.2, dtype=np.float32)},
             {"indicators": np.array([[1, 0], [0, 0], [0, 0]]), "unseen": np.zeros(3)})]  # fmt: skip
    with pytest.warns(Note, match=r"1 of 2 labels stand in no validation row and keep 0.5: third"):
        found = head.settle(iter(rows))
    assert found["thresholds"]["third"] == 0.5
    assert found["thresholds"]["even"] < 0.2


def test_a_temperature_that_cannot_be_fitted_stays_1_and_is_told() -> None:
    trained = dougong.train(calibrated())
    head = trained.model.head(trained.outputs[0])
    right = np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    with pytest.warns(Note, match=r"no temperature from 0.05 to 20 is best.*It stays 1, and nothing is calibrated"):
        assert head.settle(iter([({"probabilities": right}, {"index": np.array([0, 1])})])) == {"temperature": 1.0}


def test_what_has_nothing_to_settle_reads_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "measure", lambda *_, **__: pytest.fail("rows were read"))
    trained = dougong.train(recipe("tags", {"type": "labels", "threshold": 0.4}))
    assert "settled" not in trained.receipt
    assert not any("threshold" in name for name in trained.model.weights())
