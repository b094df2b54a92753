"""A run: given back as it is or refused, what `verify` notices and a seal covers, and runs of other versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong import recipe as recipes
from dougong import run as runs
from dougong import run_folder
from dougong.core import artefacts
from dougong.core.errors import ArtefactError, DataError, RecipeError
from dougong.core.strict_json import render_json
from tests.clear_error import check_clear
from tests.small_runs import run as small_run
from tests.table_recipe import ROWS, plain


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "rows.csv").write_text(ROWS)
    return folder


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A whole run, to be copied by whoever damages it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return dougong.train(plain(place)).folder.resolve()


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "table"))


# ---------------------------------------------------------------------------------------- a finished run and its recipe


def test_t13_a_finished_run_is_given_back_as_it_is_and_refuses_any_other_recipe(place: Path, copy: Path) -> None:
    found = runs.going_on(copy, recipes.load(plain(place)), accept_changes=False)
    assert found is not None
    assert found.folder == copy
    with pytest.raises(ArtefactError) as caught:
        runs.going_on(copy, recipes.load(plain(place), ["train.steps=9"]), accept_changes=True)
    check_clear(str(caught.value), "finished", "train.steps: 6 -> 9", "--fresh")


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
    path.write_bytes(render_json(plain | changes))
    if name.startswith("model/"):
        manifest = json.loads((folder / "model" / "manifest.json").read_bytes())
        manifest["files"][path.name] = vars(run_folder.fingerprint(path))
        artefacts.write_sealed(folder / "model" / "manifest.json", manifest)
    run_folder.seal(folder)


@pytest.mark.parametrize("name", ["resolved.json", "model/config.json"])
def test_a5_a_run_of_a_newer_dougong_says_so_before_anything_else(copy: Path, name: str) -> None:
    write_version(
        copy, name, {"version": run_folder.CONFIG_VERSION + 1, "dougong": "9.1", "model": {"kind": "of tomorrow"}}
    )
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

    now = run_folder.CONFIG_VERSION
    monkeypatch.setattr(run_folder, "CONFIG_VERSION", now + 2)
    monkeypatch.setattr(run_folder, "MIGRATIONS", {now: second, now + 1: third})
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
        found.append(run_folder.fingerprint(Path("runs/pictures/model/model.safetensors")).sha256)
    assert found[0] == found[1]
    assert found[0] != found[2]
