from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import dougong
from dougong.cli import main
from dougong.core.config import dump
from dougong.core.errors import FieldError
from dougong.inference import generate as generation
from dougong.lifecycle import Stopped
from dougong.training.monitors import Stop
from tests.clear_error import check_clear
from tests.small_runs import home, recipe_of, run

VERBS = [name for name in dougong.__all__ if name != "load"]
SECRET = "canary-5f1d-do-not-tell"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def answer(*arguments: object) -> Any:
    """The JSON object on the last line of standard output of a verb that succeeds."""
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    (*prose, last) = result.stdout.splitlines()
    assert not any(line.startswith(("{", "[")) for line in prose)
    found = json.loads(last, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(found, dict)
    return found


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dougong.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe beside its data, in a folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(home() / "table.csv", tmp_path / "table.csv")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: mine\ndata: {train: table.csv}\ninputs: {stars: number, colour: category}\noutputs: {label: category}\n"
        "model: {kind: mlp, preset: tiny}\ntrain: {steps: 4, device: cpu}\n"
    )
    return path


# ------------------------------------------------------------------------------------------------------------- results


def test_every_verb_has_a_command_and_a_function():
    assert sorted(main.commands) == sorted(VERBS)
    for name, command in main.commands.items():
        assert "--json" in {option for parameter in command.params for option in parameter.opts}, name
        assert command.help


def test_evaluate_gives_the_object_of_the_design():
    found = answer("evaluate", run("reviews").folder)
    assert list(found) == ["split", "rows", "metrics"]
    assert found["split"] == "test"
    assert found["rows"] == run("reviews").receipt["data"]["rows"]["test"]
    assert all(set(value) == {"value", "low", "high"} for value in found["metrics"].values())
    assert {"label.accuracy", "label.f1_macro", "label.f1_weighted", "label.auc"} <= set(found["metrics"])


def test_a_recipe_goes_all_the_way_through(recipe: Path):
    found = answer("check", recipe)
    assert found["rows_read"] == 120
    assert set(found["columns"]) >= {"stars", "colour", "label"}
    prepared = answer("prepare", recipe)
    assert set(prepared) == {"folder", "key", "rows"}
    assert sum(prepared["rows"].values()) == 120


def test_the_command_prepares_without_torch_what_training_finds(recipe: Path) -> None:
    script = "import sys; from dougong.cli import command; sys.argv = ['dougong', 'prepare', 'recipe.yaml', '--json']\n"
    script += "try:\n    command()\nfinally:\n    print(hasattr(sys.modules['torch'], '__file__'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    prepared, has_torch = done.stdout.splitlines()
    assert has_torch == "False"
    assert json.loads(prepared)["key"] == dougong.prepare(recipe).key
    trained = answer("train", recipe, "--quiet")
    assert set(trained) == {"run", "name", "metrics"}
    assert (trained["name"], list(trained["metrics"])) == ("mine", ["test"])
    assert answer("train", recipe) == trained  # it is finished: nothing is done
    assert answer("train", recipe, "--fresh", "--quiet")["metrics"] == trained["metrics"]
    assert sorted(path.name for path in Path("runs").glob("mine*")) == ["mine", "mine~1"]
    assert answer("report", "mine") == {"report": "runs/mine/report.html"}
    verified = answer("verify", "runs/mine")
    assert verified["damaged"] == []
    assert "run" in verified["good"]


def test_predict_gives_an_answer_a_row(tmp_path: Path):
    folder = run("prices").folder
    found = answer("predict", folder, "--value", "stars=4", "--value", "colour=red=ish")
    assert (found["rows"], found["errors"]) == (1, 0)
    assert isinstance(found["predictions"][0]["price"]["value"], float)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"stars": 3, "colour": "red"}\n{"stars": "x", "colour": "red"}\n')
    found = answer("predict", folder, path, "-o", tmp_path / "answers.jsonl")
    assert found == {"rows": 2, "errors": 1, "output": str(tmp_path / "answers.jsonl")}
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [["price"], ["error"]]
    result = call("predict", folder, path)
    assert "1 of 2 rows could not be read and have no answer" in result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_generate_gives_a_text_a_prompt():
    found = answer("generate", run("poems").folder, "good", "bad", "--max-tokens", 5, "--seed", 3)
    assert [item["prompt"] for item in found["texts"]] == ["good", "bad"]
    assert found == answer("generate", run("poems").folder, "good", "bad", "--max-tokens", 5, "--seed", 3)
    assert len(answer("generate", run("poems").folder, "--max-tokens", 5)["texts"]) == 1


def test_a_note_goes_to_standard_error():
    result = call("generate", run("poems-learned").folder, "a" * 40, "--max-tokens", 500, "--temperature", 50, "--json")
    assert "note: stopped after" in result.stderr
    assert "note" not in result.stdout
    json.loads(result.stdout)


def test_compare_gives_a_comparison_a_metric():
    found = answer("compare", run("reviews").folder, run("reviews-mlp").folder, "--metric", "label.accuracy")
    assert list(found) == ["label.accuracy"]
    assert set(found["label.accuracy"]["runs"]) == {"reviews", "reviews-mlp"}
    assert found["label.accuracy"]["pairs"][0]["verdict"]


def test_new_schema_and_doctor_give_objects(recipe: Path):
    assert answer("new", "table.csv", "--predict", "label", "-o", "mine.yaml") == {"recipe": "mine.yaml"}
    assert answer("schema")["title"] == "dougong recipe"
    assert answer("schema", "-o", "schema.json") == {"schema": "schema.json"}
    assert json.loads(Path("schema.json").read_text()) == answer("schema")
    assert {"dougong", "python", "packages", "device", "cores", "advice"} <= set(answer("doctor"))


def test_prose_is_for_people(recipe: Path):
    checked = call("check", recipe)
    assert "120 rows read" in checked.stdout
    assert f"Next: dougong train {recipe}" in checked.stdout
    trained = call("train", recipe)
    assert "label.accuracy" in trained.stdout
    assert "report: runs/mine/report.html" in trained.stdout
    assert "mine: colour, stars → label; mlp" in trained.stderr
    assert call("train", recipe, "--quiet", "--fresh").stderr == ""


# -------------------------------------------------------------------------------------------------------------- errors


def wrong_recipe(folder: Path) -> list[object]:
    folder.joinpath("recipe.yaml").write_text("name: x\n")
    return ["check", folder / "recipe.yaml"]


def missing_data(folder: Path) -> list[object]:
    (folder / "recipe.yaml").write_text("name: x\ndata: {train: no.csv}\noutputs: {a: text}\ntrain: {steps: 1}\n")
    return ["check", folder / "recipe.yaml"]


def bad_data(folder: Path) -> list[object]:
    with (folder / "bad.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["a", "b"], *([["x", "y"]] * 50)])
    recipe = "name: x\ndata: {train: bad.csv}\ninputs: {a: number}\noutputs: {b: category}\ntrain: {steps: 1}\n"
    (folder / "recipe.yaml").write_text(recipe)
    return ["train", folder / "recipe.yaml"]


def damaged_run(folder: Path) -> list[object]:
    shutil.copytree(run("reviews").folder, folder / "run")
    path = folder / "run/model/model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    return ["verify", folder / "run"]


def nothing_there(folder: Path) -> list[object]:
    return ["verify", folder]


def changed_predictions(folder: Path) -> list[object]:
    dougong.compare(run("reviews"), run("reviews-mlp"), metric="label.accuracy")
    shutil.copytree(run("reviews").folder, folder / "run", dirs_exist_ok=True)
    path = folder / "run/evaluations/test/part-00000.arrow"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    return ["compare", folder / "run", run("reviews-mlp").folder]


def damaged_model(folder: Path) -> list[object]:
    return ["predict", damaged_run(folder)[1], "--value", "review=x"]


def another_machine(folder: Path) -> list[object]:
    shutil.copy(home() / "table.csv", folder)
    recipe = recipe_of("reviews") | {"train": {"steps": 1, "device": "mps"}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return ["train", folder / "recipe.yaml"]


@pytest.mark.parametrize(
    ("cause", "code", "parts"),
    [
        (wrong_recipe, 2, ["recipe.yaml", "data is missing"]),
        (lambda folder: ["check", folder / "no.yaml"], 2, ["no.yaml"]),
        (
            lambda folder: ["new", home() / "table.csv", "--predict", "lable", "-o", folder / "x"],
            2,
            ["lable", "'label'"],
        ),
        (lambda folder: ["evaluate", run("reviews").folder, "--split", "validation", "--bogus"], 2, ["--bogus"]),
        (lambda folder: ["generate", run("reviews").folder], 2, ["a model that writes text", "use predict"]),
        (lambda folder: ["generate", run("poems").folder, "--temperature", "-1"], 2, ["--temperature"]),
        (lambda folder: ["predict", run("reviews").folder], 2, ["a data file, or one row with --value"]),
        (lambda folder: ["predict", run("reviews").folder, "--value", "good"], 2, ["--value COLUMN=good"]),
        (lambda folder: ["compare", run("reviews").folder], 2, ["at least two runs"]),
        (lambda folder: ["evaluate"], 2, ["RUN"]),
        (lambda folder: ["evalute", run("reviews").folder], 2, ["evalute"]),
        (missing_data, 3, ["no.csv"]),
        (bad_data, 3, ["50 of 50 rows", "'a'"]),
        (lambda folder: ["predict", run("reviews").folder, folder / "none.csv"], 3, ["none.csv"]),
        (lambda folder: ["predict", run("reviews").folder, "--value", "text=x"], 3, ["no column 'review'"]),
        (lambda folder: ["verify", folder / "nothing"], 4, ["nothing", "no run there"]),
        (nothing_there, 4, ["nothing to verify"]),
        (changed_predictions, 4, ["part-00000.arrow", "not those that were written"]),
        (damaged_run, 4, ["model.safetensors"]),
        (damaged_model, 4, ["model.safetensors"]),
        (another_machine, 5, ["'mps'", "device: auto"]),
        (lambda folder: ["schema", "-o", "no/x.json"], 5, ["no/x.json", "no such file", "has room"]),
    ],
)
def test_an_error_has_its_exit_code_in_prose_and_in_json(
    cause: Any, code: int, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    arguments = cause(tmp_path)
    prose = call(*arguments)
    assert prose.exit_code == code, prose.output
    assert prose.stdout == ""
    for part in parts:
        assert part in prose.stderr
    assert "Traceback" not in prose.stderr
    plain = call(*arguments, "--json")
    assert plain.exit_code == code
    found = json.loads(plain.stdout.splitlines()[-1])
    assert set(found) == {"error", "exit_code"}
    assert found["exit_code"] == code
    for part in parts:
        assert part in found["error"]
    if "Usage" not in prose.stderr:
        check_clear(found["error"])


def test_a_fault_of_ours_does_not_look_like_the_users(monkeypatch: pytest.MonkeyPatch):
    def fault(*arguments: Any, **options: Any) -> None:
        raise KeyError("inner")

    monkeypatch.setattr("dougong.lifecycle.doctor", fault)
    result = call("doctor", "--json")
    assert result.exit_code == 1
    assert "KeyError: 'inner'. This is a fault of dougong itself." in result.stderr
    assert json.loads(result.stdout) == {"error": result.stderr.strip().removeprefix("error: "), "exit_code": 1}
    assert "Traceback" not in result.output
    assert "Traceback" in call("--debug", "doctor").stderr


def test_memory_that_is_not_there_is_the_machines(monkeypatch: pytest.MonkeyPatch):
    def fault() -> None:
        raise MemoryError("3 GiB")

    monkeypatch.setattr("dougong.lifecycle.doctor", fault)
    result = call("doctor")
    assert result.exit_code == 5
    assert "lower train.batch_size" in result.stderr


def test_an_answer_that_is_not_finite_is_told_not_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dougong.lifecycle.doctor", lambda: {"advice": [], "x": float("nan")})
    result = call("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["exit_code"] == 1


# ---------------------------------------------------------------------------------------------------------- as processes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_a_verb_is_told_in_prose_and_in_json(number: int, code: int, monkeypatch: pytest.MonkeyPatch):
    def interrupted() -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr("dougong.lifecycle.doctor", interrupted)
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    try:
        result = call("doctor", "--json")
    finally:
        signal.signal(signal.SIGINT, kept)
    assert result.exit_code == code
    assert json.loads(result.stdout) == {"error": result.stderr.strip(), "exit_code": code}
    assert result.stderr.strip() == "stopped by a signal; nothing half-written stays."


def test_a_training_that_a_signal_ends_says_that_its_steps_are_saved(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    def stopped(*arguments: Any, **options: Any) -> None:
        stop = Stop()
        stop.signal = signal.SIGTERM
        raise Stopped(stop, 1234)

    monkeypatch.setattr("dougong.lifecycle.train", stopped)
    result = call("train", recipe, "--json")
    assert result.exit_code == 143
    said = "step 1,234: stopped; every step is saved. The same command goes on."
    assert json.loads(result.stdout) == {"error": said, "exit_code": 143}
    assert said in result.stderr


def taken(function: Callable[[], object]) -> bool:
    try:
        function()
    except (click.UsageError, FieldError):
        return False
    return True


WHOLE = [-1, 0, 1, 2, 99_999, 100_000, 100_001, 10**15, 10**15 + 1, 2**63 - 1, 2**63]
SHARES = [-0.5, -1e-9, 0.0, 1e-9, 0.5, 1.0 - 1e-9, 1.0, 1.0 + 1e-9, 10.5, 100.5, 1e6]


def test_the_options_of_generate_take_what_the_function_takes():
    defaults = dump(generation.Config())
    options = {option.name: option for option in main.commands["generate"].params if option.name in defaults}
    assert options.keys() == defaults.keys()
    for name, option in options.items():
        assert defaults[name] in (option.default, None), name
        if name in ("regex", "json_schema"):  # a text, and the name of a file in place of what it holds
            continue
        for value in WHOLE if isinstance(option.type, click.IntRange) else SHARES:
            on_the_line = taken(lambda: option.type.convert(value, option, None))  # noqa: B023 - called at once
            given = {"temperature": 0.0, name: value}  # beams stand beside no other
            assert on_the_line == taken(lambda: generation.options(given)), (name, value)  # noqa: B023


def test_generate_keeps_to_a_regular_expression_and_to_the_schema_in_a_file(tmp_path: Path):
    found = answer("generate", run("poems").folder, "good", "--regex", r"[a-z]{3} \d", "--max-tokens", 9)
    assert re.fullmatch(r"[a-z]{3} \d", found["texts"][0]["text"])
    path = tmp_path / "schema.json"
    path.write_text('{"type": "array", "items": {"type": "boolean"}, "minItems": 1}')
    (text,) = answer("generate", run("poems").folder, "--json-schema", path, "--max-tokens", 40)["texts"]
    assert set(json.loads(text["text"])) <= {True, False}
    result = call("generate", run("poems").folder, "--json-schema", tmp_path / "none.json")
    assert result.exit_code == 2
    assert "--json-schema = " in result.stderr
    result = call("generate", run("poems").folder, "--regex", "a{9}", "--max-tokens", 4)
    assert "note: text 1 is not whole after 4 tokens: it takes at least 5 more tokens, such as 'aaaaa'" in result.stderr


def test_a_note_of_predict_goes_to_standard_error():
    result = call("predict", run("prices").folder, "--value", "stars=4", "--value", "colour=violet", "--json")
    assert "note: in 1 rows: colour: 1 unseen values." in result.stderr
    assert json.loads(result.stdout)["rows"] == 1


def test_help_and_import_do_not_import_what_is_heavy():
    heavy = ("torch", "pyarrow", "pydantic", "numpy", "tokenizers", "matplotlib", "yaml")
    code = (
        "import sys, dougong\nfrom click.testing import CliRunner\nfrom dougong.cli import main\n"
        "for verb in [[], *[[name] for name in main.commands]]:\n"
        "    assert CliRunner().invoke(main, [*verb, '--help']).exit_code == 0\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wrong_recipe_is_told_before_the_heavy_rest_is_imported(tmp_path: Path):
    arguments = wrong_recipe(tmp_path)
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom dougong.cli import main\n"
        f"result = CliRunner().invoke(main, ['check', {str(arguments[1])!r}])\n"
        "print(result.exit_code, [name for name in ('dougong.lifecycle', 'matplotlib', 'torch.distributed.checkpoint')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"


def test_standard_output_holds_the_object_and_standard_error_the_prose(recipe: Path):
    done = process("train", recipe, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "mine"  # nothing but the object
    assert "mine: colour, stars → label" in done.stderr


def test_C2_a_secret_of_the_environment_is_never_told(recipe: Path):
    secret = dict.fromkeys(("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DOUGONG_KEY", "MY_PASSWORD"), SECRET)
    wrong = ["-s", "data.train=$HF_TOKEN"]
    verbs = [["train", recipe], ["doctor"], ["check", recipe, *wrong], ["train", recipe, "--fresh", *wrong]]
    for arguments in verbs:
        said = CliRunner().invoke(main, ["--debug", *map(str, arguments)], env=secret)
        assert SECRET not in said.output
    for path in recipe.parent.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
