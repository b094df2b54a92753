"""The run folder: which changes of a recipe it lets pass, what `verify` notices, and what a seal covers."""

from __future__ import annotations

import copy as copying
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong import backbones, fields
from dougong import recipe as recipes
from dougong import run as runs
from dougong.core import artefacts
from dougong.core.config import adapter
from dougong.core.errors import ArtefactError, DataError, RecipeError
from dougong.training import loop, optimizers, schedules
from tests.clear_error import check_clear
from tests.small_runs import run as small_run

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


WALKS: dict[str, dict[str, Any]] = {
    "data": {"inputs": {"x": "text"}},
    **{f"input {name}": {"inputs": {"x": name}} for name in fields.names()},
    **{f"encoder {name}": {"inputs": {"x": {"type": "text", "encoder": name}}} for name in backbones.names()},
    **{f"output {name}": {"outputs": {"y": name}} for name in fields.names() if hasattr(fields.load(name), "Head")},
    **{f"model {name}": {"model": {"kind": name, "preset": "tiny"}} for name in backbones.names()},
    **{f"optimizer {name}": {"train": {"steps": 6, "optimizer": name}} for name in kinds(optimizers.OptimizerConfig)},
    **{f"schedule {name}": {"train": {"steps": 6, "schedule": name}} for name in kinds(schedules.ScheduleConfig)},
}
WALKS["output text"]["model"] = "transformer"
PARTS = {"input": "inputs", "encoder": "inputs", "output": "outputs", "model": "model"}  # of a walk; else train.KIND
WALKS["loss huber"] = {"outputs": {"y": "number"}, "train": {"steps": 6, "loss": "huber"}}
# Keys that have no other legal value: ever; but of a number's loss; but of a category's.
ONE_VALUE = {"train.attention", "train.loss.delta", "train.loss.label_smoothing"}


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
        tmp_path / "resolved.json", runs.stamped(recipes.from_resolved(plain, "", "walk")) | {"name": "walk"}
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
            assert path[0] in runs.BOUND or key in ONE_VALUE, f"{key}: no other legal value was found"
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
    prepared = runs.prepared_data(recipe)
    for _ in range(2):  # the second time as after a kill: nothing is told twice
        runs.begin(folder, recipe, prepared, *runs.fitted(recipe, prepared))
    old = recipes.load(plain(place)).train.optimizer.lr
    changes = runs.read_changes(folder)
    assert [{key: change[key] for key in ("step", "key", "old", "new")} for change in changes] == [
        {"step": 4, "key": "train.keep", "old": 2, "new": 3},
        {"step": 4, "key": "train.optimizer.lr", "old": old, "new": 0.25},
    ]
    assert all(change["when"] for change in changes)
    receipt = runs.make_receipt(recipe, prepared, parent=None, progress=loop.Progress(), changes=changes)
    assert receipt["changes"] == changes
    assert receipt["overrides"] == ["train.optimizer.lr=0.25", "train.keep=3"]
    again = recipes.load(plain(place), ["train.optimizer.lr=0.125", "train.keep=3"])
    runs.begin(folder, again, prepared, *runs.fitted(again, prepared))
    assert [change["new"] for change in runs.read_changes(folder)] == [3, 0.25, 0.125]


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


def test_d11_a_finished_run_notices_that_its_data_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "rows.csv"
    rows.write_text(ROWS)
    folder = dougong.train(plain(tmp_path)).folder
    assert dougong.train(plain(tmp_path)).folder == folder
    rows.write_text(ROWS.replace("79,2,odd", "79,2,even"))
    with pytest.raises(DataError) as caught:
        dougong.train(plain(tmp_path))
    check_clear(str(caught.value), str(folder), "was trained on", "bring the files back", "--fresh")
    with pytest.warns(
        dougong.core.errors.Note, match=r"the data files have changed since it was trained; measured was"
    ):
        dougong.evaluate(folder)
    rows.unlink()
    with pytest.warns(dougong.core.errors.Note, match=r"the data files cannot be read .*rows.csv"):
        dougong.evaluate(folder)
    rows.write_text(ROWS)
    assert dougong.train(plain(tmp_path)).folder == folder


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
    assert f"prepared data {dougong.load(copy).cached.name}" in good


def test_verify_notices_one_flipped_bit_of_the_prepared_data(copy: Path) -> None:
    path = next((dougong.load(copy).cached / "train").glob("*.arrow"))
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    try:
        with pytest.raises(ArtefactError) as caught:
            dougong.verify(copy)
        check_clear(str(caught.value), str(path))
    finally:
        path.write_bytes(data)


def test_where_nothing_can_be_verified_nothing_is_called_good(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no run")
    with pytest.raises(ArtefactError) as caught:
        dougong.verify(tmp_path / "notes")
    check_clear(str(caught.value), "nothing to verify")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("fields/kind.json", "even", "ever"),
        ("resolved.json", '"steps": 6', '"steps": 7'),
        ("resolved.json", '"normalize": "standard"', '"normalize": "quantile"'),
        ("recipe.yaml", "steps: 6", "steps: 7"),
        ("receipt.json", '"seed": 0', '"seed": 1'),
    ],
)
def test_a6_a_finished_run_that_was_changed_by_hand_is_not_opened(copy: Path, name: str, old: str, new: str) -> None:
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new))
    with pytest.raises(ArtefactError) as caught:
        dougong.load(copy)
    check_clear(str(caught.value), name, "not those that were written")


def test_a6_the_whole_model_of_another_run_is_not_taken_for_its_own(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "model")
    shutil.copytree(small_run("prices").folder / "model", copy / "model")
    with pytest.raises(ArtefactError) as caught:
        dougong.load(copy)
    check_clear(str(caught.value), "model/", "not those that were written")


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
    for verb in (dougong.load, dougong.evaluate, dougong.report, lambda run: dougong.predict(run, [{"a": 1, "b": 2}])):
        with pytest.raises(ArtefactError) as caught:
            verb(copy)
        check_clear(str(caught.value), "has not finished", "run the same dougong train command again")


# ------------------------------------------------------------------------------------------- A5: runs of other versions

OLD = Path(__file__).parent / "fixtures" / "run-0.1"


def write_version(folder: Path, name: str, changes: dict[str, Any], *without: str) -> None:
    """As another dougong would have written it: seals and all."""
    path = folder / name
    plain = {key: value for key, value in json.loads(path.read_bytes()).items() if key not in without}
    path.write_bytes(artefacts.render_json(plain | changes))
    if name.startswith("model/"):
        manifest = json.loads((folder / "model" / "manifest.json").read_bytes())
        manifest["files"][path.name] = vars(runs.fingerprint(path))
        artefacts.write_sealed(folder / "model" / "manifest.json", manifest)
    runs.seal(folder)


@pytest.mark.parametrize("name", ["resolved.json", "model/config.json"])
def test_a5_a_run_of_a_newer_dougong_says_so_before_anything_else(copy: Path, name: str) -> None:
    write_version(copy, name, {"version": runs.CONFIG_VERSION + 1, "dougong": "9.1", "model": {"kind": "of tomorrow"}})
    with pytest.raises(ArtefactError) as caught:
        dougong.load(copy).predict([{"a": 1, "b": 2}])
    check_clear(str(caught.value), name, "written by dougong 9.1, this is", "Fix: update dougong")


def test_a5_a_recipe_without_its_version_is_refused(copy: Path) -> None:
    write_version(copy, "resolved.json", {"version": "one"})
    with pytest.raises(ArtefactError, match=r"expected a recipe with its version"):
        dougong.load(copy)


def test_a5_a_recipe_of_an_older_version_is_migrated_step_by_step(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = dougong.load(copy).predict([{"a": 1, "b": 2}])
    for name in ("resolved.json", "model/config.json"):
        train = json.loads((copy / name).read_bytes())["train"]
        write_version(copy, name, {"training": train, "old": True}, "train")
    with pytest.raises(RecipeError):
        dougong.load(copy)

    def second(plain: dict[str, Any]) -> dict[str, Any]:
        assert plain.pop("old")
        return plain

    def third(plain: dict[str, Any]) -> dict[str, Any]:
        assert "old" not in plain  # it comes after the second
        return {("train" if key == "training" else key): value for key, value in plain.items()}

    monkeypatch.setattr(runs, "CONFIG_VERSION", 3)
    monkeypatch.setattr(runs, "MIGRATIONS", {1: second, 2: third})
    assert dougong.load(copy).predict([{"a": 1, "b": 2}]) == said


@pytest.mark.filterwarnings("ignore::dougong.core.errors.Note")
def test_a5_a_run_of_release_0_1_loads_verifies_and_predicts_what_it_did() -> None:
    run = dougong.load(OLD)
    assert dougong.verify(OLD).good[0] == "run"
    rows = json.loads((OLD.parent / "run-0.1.json").read_bytes())
    for found, expected in zip(run.predict(rows["rows"]), rows["answers"], strict=True):
        assert found["price"]["value"] == pytest.approx(expected["price"]["value"], rel=1e-4)
        assert found["kind"]["value"] == expected["kind"]["value"]
        assert found["kind"]["probability"] == pytest.approx(expected["kind"]["probability"], rel=1e-4)
    assert run.metrics()["test"]["kind.accuracy"]["rows"] > 0


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("reviews", ["tokenizer.json"]),
        ("poems", ["tokenizer.json"]),
        ("replies", ["tokenizer-reply.json", "tokenizer-text.json"]),
        ("prices", []),
    ],
)
def test_a_model_holds_the_tokenizer_of_every_text(name: str, files: list[str]) -> None:
    assert sorted(path.name for path in (small_run(name).folder / "model").glob("tokenizer*")) == files


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
