"""The run folder: which changes of a recipe it lets pass, which data it goes on with, and what setting it aside keeps."""

from __future__ import annotations

import copy as copying
import functools
import json
import operator
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dougong import assembly, backbones, fields, run_folder
from dougong import recipe as recipes
from dougong import run as runs
from dougong.core import artefacts
from dougong.core.config import adapter
from dougong.core.errors import ArtefactError, DataError, RecipeError
from dougong.training import loop, optimizers, schedules
from tests.clear_error import check_clear
from tests.table_recipe import ROWS, plain


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
    prepared = assembly.prepared_data(recipe)
    run_folder.begin(place / "begun", recipe, prepared, *assembly.fitted(recipe, prepared))
    return place / "begun"


# --------------------------------------------------------------------------------------- T13: a recipe that has changed


FREE = {
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
    "train.validate_every": 7,  # by it plateau, early_stop and the choice of the best weights live
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


@pytest.mark.parametrize(
    ("key", "value"),
    [("train.gradients", "bf16"), ("train.optimizer.state", "bf16"), ("inputs.a.normalize", "log")],
)
def test_a_key_that_was_not_there_yet_has_not_changed(
    place: Path, interrupted: Path, tmp_path: Path, key: str, value: str
) -> None:
    """A run goes on after an update that brings a key: what was done before is its default."""
    older = shutil.copytree(interrupted, tmp_path / "older")
    resolved = json.loads((older / "resolved.json").read_text())
    *parents, last = key.split(".")
    section = functools.reduce(operator.getitem, parents, resolved)
    del section[last]
    (older / "resolved.json").write_text(json.dumps(resolved))
    assert runs.going_on(older, recipes.load(plain(place)), accept_changes=False) is None
    with pytest.raises(ArtefactError):
        runs.going_on(older, changed(place, key, value), accept_changes=False)


def kinds(union: Any) -> list[str]:
    definitions = adapter(union).json_schema()["$defs"].values()
    return [each["properties"]["kind"]["const"] for each in definitions if "kind" in each.get("properties", {})]


def whole(**changes: Any) -> dict[str, Any]:
    """A recipe with every default written out."""
    base = {
        "name": "walk",
        "data": {"train": "rows.csv"},
        "inputs": {"x": "number"},
        "outputs": {"y": "category"},
        "model": {"kind": "mlp", "preset": "tiny"},
        "train": {"steps": 6},
    }
    return recipes.load(base | changes).resolved()


READS = [name for name in backbones.names() if not backbones.makes(name)]
WALKS: dict[str, dict[str, Any]] = {
    "data": {"inputs": {"x": "text"}},
    **{f"input {name}": {"inputs": {"x": name}} for name in fields.having("Encoder")},
    **{f"encoder {name}": {"inputs": {"x": {"type": "text", "encoder": name}}} for name in READS},
    **{f"output {name}": {"outputs": {"y": name}} for name in fields.having("Head")},
    **{f"model {name}": {"model": {"kind": name, "preset": "tiny"}} for name in backbones.names()},
    **{f"optimizer {name}": {"train": {"steps": 6, "optimizer": name}} for name in kinds(optimizers.OptimizerConfig)},
    **{f"schedule {name}": {"train": {"steps": 6, "schedule": name}} for name in kinds(schedules.ScheduleConfig)},
}
WALKS["output text"]["model"] = "transformer"
WALKS["output chat"] |= {"model": "transformer", "inputs": {}}
WALKS["output words"] |= {"model": "identity", "inputs": {}}
WALKS["output tags"] |= {"model": "transformer", "inputs": {"x": "text"}}
WALKS["output span"] |= {"model": "transformer", "inputs": {"x": "text"}}
WALKS["output image"]["model"] = {"kind": "diffusion", "preset": "tiny"}
for name in set(backbones.names()) - set(READS):
    WALKS[f"model {name}"]["outputs"] = {"y": "image"}
WALKS["output boxes"] |= {"model": "transformer", "inputs": {"x": "image"}}
WALKS["output pairing"]["inputs"] = {"x": "text", "z": "text"}
PARTS = {"input": "inputs", "encoder": "inputs", "output": "outputs", "model": "model"}  # of a walk; else train.KIND
WALKS["loss huber"] = {"outputs": {"y": "number"}, "train": {"steps": 6, "loss": "huber"}}
# Keys that have no other legal value: ever; but of a number's loss; but of a category's.
ONE_VALUE = {
    "train.attention",
    "train.weighing",
    *(f"train.loss.{key}" for key in ("delta", "label_smoothing", "gamma", "negatives", "calibration")),
}


def leaves(plain: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(plain, dict) and plain:
        for key, value in plain.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def words_of_keys(node: Any, found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Key -> the words that the schema knows for it, wherever it stands."""
    if isinstance(node, dict):
        for key, value in node.get("properties", {}).items():
            for choice in [value, *value.get("anyOf", [])]:
                found.setdefault(key, []).extend(each for each in choice.get("enum", [choice.get("const")]) if each)
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        words_of_keys(value, found)
    return found


WORDS = words_of_keys(recipes.schema(), {})


def other_values(key: str, value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, value // 2, value - 1, 0, 1, 2, 4, 256]
    if isinstance(value, float):
        return [value / 2, value * 2, 0.5, 0.25]
    some: list[Any] = [
        1,
        2,
        0.5,
        True,
        False,
        ["a", "b"],
        ["en"],
        {"validation": 0.2},
        {"kind": "mae"},
        [1, 2],
        [0.5, 0.75],
    ]
    return [*WORDS.get(key, []), "other", *some, {"kind": "cross_entropy"}, None]


def legal_change(plain: dict[str, Any], path: tuple[str, ...]) -> recipes.Recipe | None:
    """The recipe with another legal value at this place."""
    before = recipes.from_resolved(plain, "", "walk").resolved()
    *parents, last = path
    value = plain
    for part in path:
        value = value[part]
    for other in other_values(last, value):
        changed = copying.deepcopy(plain)
        node = changed
        for part in parents[:-1] if last in ("kind", "type") else parents:
            node = node[part]
        if last in ("kind", "type"):  # with another kind come other keys
            node[parents[-1]] = {last: other}
        else:
            node[last] = other
        if last in loop.BUDGETS and other is not None:
            node.update(dict.fromkeys(set(loop.BUDGETS) - {last}))
        try:
            recipe = recipes.from_resolved(changed, "", "walk")
        except RecipeError:
            continue
        if any(key.startswith(".".join(path)) for key in recipes.differences(before, recipe.resolved())):
            return recipe
    return None


def answer(folder: Path, recipe: recipes.Recipe, *, accept: bool) -> str:
    """Why the run does not go on with this recipe; nothing if it does."""
    try:
        assert runs.going_on(folder, recipe, accept) is None
    except ArtefactError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("walk", WALKS)
def test_t13_every_key_of_a_recipe_may_change_needs_a_flag_or_is_refused(walk: str, tmp_path: Path) -> None:
    """Each leaf of the resolved recipe, with another legal value: a new key must be thought about."""
    plain = whole(**WALKS[walk])
    artefacts.write_json(
        tmp_path / "resolved.json", run_folder.stamped(recipes.from_resolved(plain, "", "walk")) | {"name": "walk"}
    )
    part = walk.split()[0]
    under = PARTS.get(part, "" if part == "data" else f"train.{part}")
    walked = 0
    for path in leaves(plain):
        key = ".".join(path)
        if not key.startswith(under) or (not under and path[0] not in ("seed", "data", "train")):
            continue
        recipe = legal_change(plain, path)
        if recipe is None:  # of the sections that are bound as a whole some keys mean nothing on this side, or here
            assert path[0] in run_folder.BOUND or key in ONE_VALUE, f"{key}: no other legal value was found"
            continue
        walked += 1
        free, bound = key in FREE, path[0] != "train" or key in REFUSED or key == "train.batch_tokens"
        plainly, flagged = answer(tmp_path, recipe, accept=False), answer(tmp_path, recipe, accept=True)
        assert (plainly == "", flagged == "") == (free, not bound or free), key
        if plainly:
            check_clear(plainly, "was interrupted", "--fresh")
            assert ("--accept-changes" in plainly) == (not bound)
    assert walked


def test_t13_what_changed_on_the_way_stands_in_the_run_and_in_its_receipt(
    place: Path, interrupted: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    (folder / "checkpoints" / "step-00000004").mkdir(parents=True)
    recipe = recipes.load(plain(place), ["train.optimizer.lr=0.25", "train.keep=3"])
    prepared = assembly.prepared_data(recipe)
    for _ in range(2):  # the second time as after a kill: nothing is told twice
        run_folder.begin(folder, recipe, prepared, *assembly.fitted(recipe, prepared))
    old = recipes.load(plain(place)).train.optimizer.lr
    changes = run_folder.read_changes(folder)
    assert [{key: change[key] for key in ("step", "key", "old", "new")} for change in changes] == [
        {"step": 4, "key": "train.keep", "old": 2, "new": 3},
        {"step": 4, "key": "train.optimizer.lr", "old": old, "new": 0.25},
    ]
    assert all(change["when"] for change in changes)
    receipt = run_folder.make_receipt(recipe, prepared, parent=None, progress=loop.Progress(), changes=changes)
    assert receipt["changes"] == changes
    assert receipt["overrides"] == ["train.optimizer.lr=0.25", "train.keep=3"]
    again = recipes.load(plain(place), ["train.optimizer.lr=0.125", "train.keep=3"])
    run_folder.begin(folder, again, prepared, *assembly.fitted(again, prepared))
    assert [change["new"] for change in run_folder.read_changes(folder)] == [3, 0.25, 0.125]


def test_t13_the_message_names_old_and_new_value_and_never_grows_beyond_five_lines(
    place: Path, interrupted: Path
) -> None:
    changes = ["train.steps=9", "train.clip_norm=2", "train.accumulate=2", "train.optimizer.lr=0.25", "seed=8"]
    with pytest.raises(ArtefactError) as caught:
        runs.going_on(interrupted, recipes.load(plain(place), changes), accept_changes=True)
    message = str(caught.value)
    check_clear(message, "seed: 0 -> 8", "and 3 more")
    assert message.splitlines()[1].strip() == "seed: 0 -> 8"  # what no flag allows comes first


# ----------------------------------------------------------------------------------------------- D11: data that changed


def test_d11_other_data_under_the_same_recipe_is_refused(place: Path, interrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(interrupted, tmp_path / "run"))
    (folder / run_folder.DATA).write_text('{"key": "of other data"}\n')
    recipe = recipes.load(plain(place))
    prepared = assembly.prepared_data(recipe)
    with pytest.raises(DataError) as caught:
        run_folder.begin(folder, recipe, prepared, *assembly.fitted(recipe, prepared))
    check_clear(str(caught.value), str(folder), "a data file has changed", "--fresh")
    assert caught.value.exit_code == 3


def test_setting_a_run_aside_deletes_nothing(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "log.jsonl").write_text(str(number))
        run_folder.set_aside(tmp_path / "run")
    assert {path.name: (path / "log.jsonl").read_text() for path in tmp_path.iterdir()} == {
        "run~1": "0",
        "run~2": "1",
        "run~3": "2",
    }
    run_folder.set_aside(tmp_path / "run")  # nothing there: nothing to do


def test_a_run_of_the_first_version_names_metrics_of_a_text_that_goes_in_and_is_opened(tmp_path: Path) -> None:
    resolved = whole(inputs={"x": "text"})
    resolved["inputs"]["x"]["metrics"] = ["rouge_l", "exact_match"]
    artefacts.write_json(tmp_path / "resolved.json", resolved | {"version": 1, "dougong": "0.1.0"})
    assert run_folder.read_recipe(tmp_path).inputs["x"].metrics is None
