from __future__ import annotations

import pytest

from dougong.core import errors
from dougong.core.errors import MISSING, NO_SUCH_KEY, Problem, RecipeError, bad_field, missing_extra, nearest, shown
from tests.clear_error import check_clear


def test_a_wrong_setting_names_field_value_what_fits_and_the_fix():
    error = bad_field("model.width", 100, "a multiple of heads (12)", "use width: 108")
    assert str(error) == "model.width = 100: expected a multiple of heads (12). Fix: use width: 108."
    assert (error.field, error.value, error.exit_code) == ("model.width", 100, 2)
    assert isinstance(error, ValueError)  # a caller needs no import to catch it


def test_every_kind_of_error_has_its_exit_code():
    codes = {"RecipeError": 2, "FieldError": 2, "DataError": 3, "ArtefactError": 4, "MachineError": 5}
    assert {name: getattr(errors, name).exit_code for name in codes} == codes


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (Problem("seed", -1, "a number", "write 0", 3), "line 3: seed = -1: expected a number. Fix: write 0."),
        (Problem("seed", "x", "a number", "write 0"), "seed = 'x': expected a number. Fix: write 0."),
        (Problem("seed", None, "a number", "write 0"), "seed = null: expected a number. Fix: write 0."),
        (Problem("seed", True, "a number", "write 0"), "seed = true: expected a number. Fix: write 0."),
        (Problem("seed", False, "a number", "write 0"), "seed = false: expected a number. Fix: write 0."),
        (Problem("seed", MISSING, "a number", "add 0"), "seed is missing: expected a number. Fix: add 0."),
        (Problem("sede", 1, NO_SUCH_KEY, "write 'seed'", 2), "line 2: sede: there is no such key. Fix: write 'seed'."),
    ],
)
def test_a_mistake_is_told_in_the_words_of_the_file(problem: Problem, said: str):
    assert str(problem) == said


def test_a_recipe_error_lists_every_mistake_and_counts_them():
    problems = [Problem("a", 1, "x", "y", 1), Problem("b", 2, "x", "y", 2)]
    assert str(RecipeError("r.yaml", problems[:1])) == "r.yaml: 1 mistake\n  line 1: a = 1: expected x. Fix: y."
    assert str(RecipeError("r.yaml", problems)).startswith("r.yaml: 2 mistakes\n  line 1: a")
    check_clear(str(RecipeError("r.yaml", problems)), "r.yaml", "line 2")


def test_a_long_value_cannot_flood_a_terminal():
    assert shown("short") == "'short'"
    text = shown("x" * 10_000_000)
    assert len(text) < 120
    assert text.endswith("… (10,000,002 characters)")


@pytest.mark.parametrize(
    ("name", "near"), [("lable", "label"), ("widht", "width"), ("kind", "kind"), ("zzz", None), ("", None)]
)
def test_the_nearest_name_is_the_one_that_was_most_likely_meant(name: str, near: str | None):
    assert nearest(name, ["label", "width", "kind"]) == near


def test_a_missing_package_is_told_with_the_line_that_installs_it():
    error = missing_extra("pillow", "data", "reading images")
    assert str(error) == "reading images needs the package 'pillow'. Fix: pip install 'dougong[data]'."
    assert error.exit_code == 5
