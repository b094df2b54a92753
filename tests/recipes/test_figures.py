"""The figures: what a header asks is what is judged, and a figure stands in the table as it was reached."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dougong import recipe as recipes
from tests.scripts import load

FOLDER = Path(__file__).parents[2] / "recipes"
FOUND = {
    "metric": "label.accuracy",
    "asked": ">= 0.9",
    "value": 0.87654,
    "low": 0.85,
    "high": 0.9,
    "rows": 1234,
    "split": "test",
    "met": False,
    "minutes": 2.5,
}

figures = load("recipes/figures.py")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_in_order_and_says_how_it_is_run(path: Path) -> None:
    header = path.read_text(encoding="utf-8")
    assert recipes.load(path).name == path.stem
    assert re.search("^# data:", header, re.M)
    if path.stem != "demo":
        assert f"# run:     dougong train recipes/{path.name}\n" in header
        assert re.search("^# (asks|shows): ", header, re.M)


def test_a_figure_stands_in_the_table_and_says_where_it_falls_short(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n")
    figures.write_table(page, {"reviews": FOUND})
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "[reviews](recipes/reviews.yaml) | `label.accuracy` >= 0.9 | 0.8765 (0.8500 to 0.9000) — not met" in text
    assert "| 1,234 test | 2.5 min |" in text


def test_rows_that_are_measured_apart_have_lines_of_their_own(tmp_path: Path) -> None:
    found = FOUND | {"apart": {"unseen": {"value": 0.5, "low": 0.4, "high": 0.61, "rows": 77}}}
    page = tmp_path / "page.md"
    figures.write_table(page, {"reviews": found})
    assert (
        "| [reviews](recipes/reviews.yaml) | `label.accuracy` | 0.5000 (0.4000 to 0.6100) | 77 unseen | |"
        in page.read_text()
    )
    recipe = "# A title\n# run:     dougong train x.yaml\nname: x\n"
    once = figures.with_figure(recipe, found)
    assert "# reached: label.accuracy 0.5000 (95 % 0.4000 to 0.6100) on unseen\nname: x" in once
    assert figures.with_figure(once, found) == once


def test_the_figure_is_written_into_the_recipe_once() -> None:
    recipe = (
        "# A title\n#\n# run:     dougong train x.yaml\n# reached: old\n# asks:    label.accuracy >= 0.9\nname: x\n"
    )
    once = figures.with_figure(recipe, FOUND)
    assert once.count("# reached:") == 1
    assert "# reached: label.accuracy 0.8765 (95 % 0.8500 to 0.9000), not met, in 2.5 minutes of training\n" in once
    assert figures.with_figure(once, FOUND) == once
    assert once.replace(once.splitlines()[3] + "\n", "") == recipe.replace("# reached: old\n", "")


def test_what_begins_with_anothers_run_comes_behind_it() -> None:
    order = figures.in_order(FOLDER.glob("*.yaml"))
    assert sorted(order) == sorted(FOLDER.glob("*.yaml"))
    begun = 0
    for place, path in enumerate(order):
        recipe = recipes.load(path)
        judges = (getattr(output, "judge", None) for output in recipe.outputs.values())
        init = recipe.model.init or next(filter(None, judges), None)  # whose weights it begins with, or who measures it
        parent = figures.comes_after(path.read_text(encoding="utf-8"))
        assert (init is None) == (parent is None), path
        if parent is not None:
            begun += 1
            assert FOLDER.parent / parent in order[:place]
            assert init is not None
            assert Path(init).name == recipes.load(FOLDER.parent / parent).name
    assert begun


def test_a_figure_is_not_reached_again_unless_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header, body = (
        "# asks: label.accuracy >= 0.9\n",
        "name: one\ndata: {train: rows.csv}\ninputs: {a: number}\noutputs: {label: category}\ntrain: {steps: 1}\n",
    )
    path, rows, package = tmp_path / "one.yaml", tmp_path / "rows.csv", tmp_path / "dougong" / "part.py"
    path.write_text(header + body)
    rows.write_text("a,label\n1,x\n")
    package.parent.mkdir()
    package.write_text("")
    reached: list[str] = []

    def noted(path: Path, header: str) -> dict[str, object]:
        reached.append(path.stem)
        return dict(FOUND)

    for name, value in {"FOLDER": tmp_path, "ROOT": tmp_path, "KEPT": tmp_path / "figures.json", "PAGES": ()}.items():
        monkeypatch.setattr(figures, name, value)
    monkeypatch.setattr(figures, "reached", noted)

    def again(*names: str) -> bool:
        reached.clear()
        figures.main(list(names))
        return reached == ["one"]

    assert again()
    assert not again()
    assert "one: nothing has changed" in capsys.readouterr().out
    assert "# reached: label.accuracy 0.8765" not in path.read_text()  # there is no line `# run:` to put it under
    path.write_text("# a comment\n" + path.read_text())
    assert not again()
    assert again("one")
    for file, text in ((rows, "a,label\n1,y\n"), (package, "x = 1\n"), (path, header + body + "seed: 1\n")):
        file.write_text(text)
        assert again(), file
        assert not again()


def test_the_floor_is_the_best_baseline_and_what_is_asked_beyond() -> None:
    assert figures.floor({"a": 0.5, "b": 0.61}, ">=", "+", "0.05") == "0.6600"
    assert figures.floor({"a": 30.0, "b": 20.0}, "<", "-", "1.5") == "18.5000"
    assert figures.floor({"a": 30.0, "b": 20.0}, "<", None, None) == "20.0000"


def test_the_baseline_is_what_its_script_prints_last(tmp_path: Path) -> None:
    script = tmp_path / "baseline.py"
    script.write_text("import sys\nprint('chatter', sys.argv[1:])\nprint('{\"linear\": 0.5}')\n")
    lines = figures.said(f"# against: python {script} a.yaml\n", "against").splitlines()
    assert lines == ["chatter ['a.yaml']", '{"linear": 0.5}']
    assert figures.said("# data: nothing to run\n", "data") == ""
