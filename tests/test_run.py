"""The run folder: which changes of a recipe it lets pass, what `verify` notices, and what a seal covers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong import recipe as recipes
from dougong import run as runs
from dougong.core.errors import ArtefactError, DataError
from tests.clear_error import check_clear

ROWS = "a,b,kind\n" + "".join(f"{row},{row % 7},{'odd' if row % 2 else 'even'}\n" for row in range(80))


def plain(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "table",
        "data": {"train": str(folder / "rows.csv"), "cache": str(folder / "cache")},
        "inputs": {"a": "number", "b": "number"},
        "outputs": {"kind": "category"},
        "model": {"kind": "mlp", "preset": "tiny"},
        "train": {"steps": 6, "batch_size": 16, "checkpoint_every": 2, "optimizer": {"kind": "adamw"}},
    } | changes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "rows.csv").write_text(ROWS)
    (folder / "other.csv").write_text(ROWS)
    return folder


@pytest.fixture(scope="module")
def interrupted(place: Path) -> Path:
    """A run folder as it stands when training begins."""
    recipe = recipes.load(plain(place))
    prepared = runs.prepared_data(recipe)
    runs.begin(place / "begun", recipe, prepared, *runs.fitted(recipe, prepared))
    return place / "begun"


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A whole run, to be copied by whoever damages it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return dougong.train(plain(place)).folder.resolve()


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "table"))


# --------------------------------------------------------------------------------------- T13: a recipe that has changed


FREE = {
    "train.validate_every": 7,
    "train.checkpoint_every": "90s",
    "train.keep": 3,
    "train.workers": 2,
    "train.max_skipped": 2,
    "train.device": "cpu",
    "data.cache": "elsewhere",
}
FLAGGED = {
    "train.steps": 9,
    "train.epochs": 2,
    "train.minutes": 1.5,
    "train.micro_batch": 4,
    "train.accumulate": 2,
    "train.optimizer.lr": 0.5,
    "train.optimizer.weight_decay": 0.3,
    "train.schedule.kind": "linear",
    "train.clip_norm": 2.0,
    "train.clip_value": 0.5,
    "train.clip_weights": 1.0,
    "train.precision": "bf16",
    "train.early_stop": 3,
}
REFUSED = {
    "seed": 5,
    "data.train": "other.csv",
    "data.cleaning.duplicates": "drop",
    "inputs.a.bins": 4,
    "inputs.a.normalize": "log",
    "outputs.kind.weight": 2.0,
    "model.width": 48,
    "model.dropout": 0.5,
    "model.kind": "transformer",
    "train.optimizer.kind": "sgd",
    "train.ema": 0.9,
    "train.batch_size": 8,
}


def changed(place: Path, key: str, value: Any) -> recipes.Recipe:
    value = str(place / value) if key in ("data.train",) else value
    before = recipes.load(plain(place)).resolved()
    after = recipes.load(plain(place), [f"{key}={json.dumps(value)}"])
    assert key in recipes.differences(before, after.resolved()), f"{key} is not changed: the test shows nothing"
    return after


@pytest.mark.parametrize(("key", "value"), FREE.items(), ids=FREE)
def test_t13_what_does_not_touch_the_weights_may_change(place: Path, interrupted: Path, key: str, value: Any) -> None:
    assert runs.going_on(interrupted, changed(place, key, value), accept_changes=False) is None


@pytest.mark.parametrize(("key", "value"), FLAGGED.items(), ids=FLAGGED)
def test_t13_what_is_only_trained_otherwise_needs_a_flag(place: Path, interrupted: Path, key: str, value: Any) -> None:
    recipe = changed(place, key, value)
    with pytest.raises(ArtefactError) as caught:
        runs.going_on(interrupted, recipe, accept_changes=False)
    check_clear(str(caught.value), "was interrupted", key, "--accept-changes", "--fresh")
    assert runs.going_on(interrupted, recipe, accept_changes=True) is None


@pytest.mark.parametrize(("key", "value"), REFUSED.items(), ids=REFUSED)
def test_t13_what_makes_another_model_of_it_is_refused_with_any_flag(
    place: Path, interrupted: Path, key: str, value: Any
) -> None:
    recipe = changed(place, key, value)
    for accept in (False, True):
        with pytest.raises(ArtefactError) as caught:
            runs.going_on(interrupted, recipe, accept_changes=accept)
        check_clear(str(caught.value), "was interrupted", key, "--fresh")
        assert "--accept-changes" not in str(caught.value)


def test_t13_every_key_of_the_training_section_is_in_one_of_the_three_tables(place: Path) -> None:
    """A new key must be thought about: what would it do to a run that goes on?"""
    known = {key.split(".")[1] for table in (FREE, FLAGGED, REFUSED) for key in table if key.startswith("train.")}
    elsewhere = {"tokens", "batch_tokens", "loss", "compile", "attention"}
    assert set(recipes.load(plain(place)).resolved()["train"]) == known | elsewhere


def test_t13_the_message_names_old_and_new_value_and_never_grows_beyond_five_lines(
    place: Path, interrupted: Path
) -> None:
    changes = ["train.steps=9", "train.clip_norm=2", "train.accumulate=2", "train.optimizer.lr=0.25", "seed=8"]
    with pytest.raises(ArtefactError) as caught:
        runs.going_on(interrupted, recipes.load(plain(place), changes), accept_changes=True)
    message = str(caught.value)
    check_clear(message, "seed: 0 -> 8", "and 3 more")
    assert message.splitlines()[1].strip() == "seed: 0 -> 8"  # what no flag allows comes first


def test_t13_a_finished_run_is_given_back_as_it_is_and_refuses_any_other_recipe(place: Path, copy: Path) -> None:
    found = runs.going_on(copy, recipes.load(plain(place)), accept_changes=False)
    assert found is not None
    assert found.folder == copy
    with pytest.raises(ArtefactError) as caught:
        runs.going_on(copy, changed(place, "train.steps", 9), accept_changes=True)
    check_clear(str(caught.value), "finished", "train.steps: 6 -> 9", "--fresh")


# ----------------------------------------------------------------------------------------------- D11: data that changed


def test_d11_other_data_under_the_same_recipe_is_refused(place: Path, interrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    (folder / runs.DATA).write_text('{"key": "of other data"}\n')
    recipe = recipes.load(plain(place))
    prepared = runs.prepared_data(recipe)
    with pytest.raises(DataError) as caught:
        runs.begin(folder, recipe, prepared, *runs.fitted(recipe, prepared))
    check_clear(str(caught.value), str(folder), "a data file has changed", "--fresh")
    assert caught.value.exit_code == 3


def test_setting_a_run_aside_deletes_nothing(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "log.jsonl").write_text(str(number))
        runs.set_aside(tmp_path / "run")
    assert {path.name: (path / "log.jsonl").read_text() for path in tmp_path.iterdir()} == {
        "run~1": "0",
        "run~2": "1",
        "run~3": "2",
    }
    runs.set_aside(tmp_path / "run")  # nothing there: nothing to do


# --------------------------------------------------------------------------------------------------------- verify, seal


def test_a_finished_run_verifies_part_by_part(copy: Path) -> None:
    good = dougong.verify(copy).good
    assert good[0] == "run"
    assert "evaluations/test" in good
    assert any(name.startswith("checkpoints/step-") for name in good)


FLIPPED = (
    "model/model.safetensors",
    "model/config.json",
    "model/manifest.json",
    "log.jsonl",
    "receipt.json",
    "recipe.yaml",
    "resolved.json",
    "data.json",
    "fields/kind.json",
    "manifest.json",
    "evaluations/test/result.json",
    "checkpoints/*/rank-0000.safetensors",
    "checkpoints/*/state.json",
    "checkpoints/*/manifest.json",
)


@pytest.mark.parametrize("pattern", FLIPPED)
def test_verify_notices_one_flipped_bit(copy: Path, pattern: str) -> None:
    path = sorted(copy.glob(pattern))[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(ArtefactError) as caught:
        dougong.verify(copy)
    check_clear(str(caught.value), str(path.relative_to(copy.parent)))


@pytest.mark.parametrize(
    "where", ["", "model", "fields", "evaluations/test", "checkpoints/*"], ids=lambda where: where or "run"
)
def test_verify_notices_a_file_that_was_put_there(copy: Path, where: str) -> None:
    folder = sorted(copy.glob(where))[-1] if where else copy
    (folder / "extra.bin").write_bytes(b"who are you")
    with pytest.raises(ArtefactError) as caught:
        dougong.verify(copy)
    check_clear(str(caught.value), "extra.bin", "not in the manifest")


@pytest.mark.parametrize("name", ["log.jsonl", "model/model.safetensors", "manifest.json", "fields/kind.json"])
def test_verify_notices_a_file_that_is_gone(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ArtefactError) as caught:
        dougong.verify(copy)
    check_clear(str(caught.value), name)


def test_a_run_with_a_damaged_model_is_not_used(copy: Path) -> None:
    path = copy / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactError) as caught:
        dougong.load(copy).predict([{"a": 1, "b": 2}])
    check_clear(str(caught.value), "model.safetensors")


def test_a_run_without_its_manifest_has_not_finished(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    run = dougong.load(copy)
    assert not run.finished
    with pytest.raises(ArtefactError) as caught:
        run.predict([{"a": 1, "b": 2}])
    check_clear(str(caught.value), "has not finished", "dougong train")


def test_training_again_makes_the_evaluation_and_the_report_that_a_killed_process_owed(
    place: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    shutil.rmtree(finished / "evaluations")
    (finished / "report.html").unlink()
    run = dougong.train(plain(place))
    assert run.metrics()["test"]["kind.accuracy"]["rows"] > 0
    assert (finished / "report.html").is_file()


# --------------------------------------------------------------------------------------------------- the same run again


def augmented(folder: Path) -> dict[str, Any]:
    """Pictures that are flipped, shifted, wiped and mixed at random, in a network with dropout."""
    return plain(
        folder,
        name="pictures",
        data={"train": str(folder / "pictures.csv"), "cache": str(folder / "cache")},
        inputs={"picture": {"type": "image", "augment": {"flip": True, "crop": 1, "erase": 0.5, "mixup": 0.4}}},
        model={"kind": "convnet", "preset": "tiny"},
        train={"steps": 2, "batch_size": 16},
    )


def test_the_same_recipe_and_seed_give_the_same_weights_with_all_that_is_drawn_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    for verb in ("evaluate", "report"):  # the weights are what is asked for
        monkeypatch.setattr(f"dougong.lifecycle.{verb}", lambda run: None)
    lines = ["picture,kind"]
    for row in range(40):
        image.effect_noise((8, 8), 20 + row).convert("RGB").save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{'odd' if row % 2 else 'even'}")
    (tmp_path / "pictures.csv").write_text("\n".join(lines) + "\n")
    found: list[str] = []
    for seed in (1, 1, 2):
        dougong.train(augmented(tmp_path) | {"seed": seed}, fresh=True)
        found.append(runs.fingerprint(Path("runs/pictures/model/model.safetensors")).sha256)
    assert found[0] == found[1]
    assert found[0] != found[2]
