from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from dougong.core.config import (
    LARGEST,
    Count,
    Fraction,
    Interval,
    Marks,
    NonNegative,
    Positive,
    config,
    dump,
    dump_yaml,
    parse_yaml,
    read,
    read_text,
)
from dougong.core.errors import MISSING, RecipeError, bad_field


@config
class Small:
    kind: Literal["small"] = "small"
    size: Count = 3


@config
class Large:
    kind: Literal["large"] = "large"
    size: Annotated[Count, Field(ge=100)] = 1000
    share: Fraction = 0.5


@config
class Inner:
    flag: bool = False
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.flag and not self.names:
            raise bad_field("somewhere.names", list(self.names), "a name where flag is true", "add one")


@config
class Outer:
    width: Count
    rate: Positive = 0.1
    decay: NonNegative = 0.0
    every: Literal["auto"] | Interval = "auto"
    micro: Literal["auto"] | Count = "auto"
    pair: tuple[Fraction, Fraction] = (0.5, 0.9)
    paths: str | tuple[str, ...] = "x"
    shape: Annotated[Small | Large, Field(discriminator="kind")] = Small()
    inner: Inner = Inner()
    limit: Count | None = None
    warmup: Count | Fraction = 0.1
    compile: Literal["auto"] | bool = "auto"
    split: dict[Literal["a", "b"], Fraction] | None = None


def said(value: dict[str, Any], path: str = "p") -> list[str]:
    found, problems = read(Outer, value, path)
    assert found is None
    return [str(problem) for problem in problems]


def test_a_config_is_frozen_and_takes_no_positions():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Small().size = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        Small("small")  # type: ignore[misc]


def test_a_plain_value_becomes_a_config_and_back():
    plain = {"width": 8, "shape": {"kind": "large", "size": 200}, "inner": {"names": ["a"]}, "paths": ["a", "b"]}
    found, problems = read(Outer, plain)
    assert problems == []
    assert found.shape == Large(size=200)
    assert found.inner.names == ("a",)
    assert found.paths == ("a", "b")
    assert read(Outer, dump(found)) == (found, [])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("width", "many", "p.width = 'many': expected a whole number above 0. Fix: correct it."),
        ("width", True, "p.width = true: expected a whole number above 0. Fix: correct it."),
        ("width", 8.0, "p.width = 8.0: expected a whole number above 0. Fix: write width: 8."),
        ("width", LARGEST + 1, f"p.width = {LARGEST + 1}: expected a whole number above 0. Fix: correct it."),
        ("rate", 0, "p.rate = 0: expected a number above 0. Fix: write rate: 0.1, or leave it out."),
        ("rate", "0.1", "p.rate = '0.1': expected a number above 0. Fix: write rate: 0.1."),
        ("decay", -1, "p.decay = -1: expected a number from 0. Fix: write decay: 0.0, or leave it out."),
        ("micro", "atuo", "p.micro = 'atuo': expected 'auto' or a whole number above 0. Fix: write 'auto'."),
        ("micro", 0, "p.micro = 0: expected 'auto' or a whole number above 0. Fix: write micro: auto, or leave it out."),
        ("compile", "yes", "p.compile = 'yes': expected 'auto' or true or false. Fix: write true."),
        ("pair", [0.5], "p.pair = [0.5]: expected a list of 2, each a number from 0 and below 1. Fix: correct it, "
         "or leave it out."),
        ("paths", 3, "p.paths = 3: expected text or a list of texts. Fix: write \"3\" in quotation marks."),
        ("paths", [3], "p.paths = [3]: expected text or a list of texts. Fix: write paths: x, or leave it out."),
        ("shape", 3, "p.shape = 3: expected one of small, large, or a mapping with that kind. Fix: correct it, or leave it out."),
        ("shape", {"kind": "smal"}, "p.shape.kind = 'smal': expected one of small, large. Fix: write 'small'."),
        ("shape", {"kind": "blue"}, "p.shape.kind = 'blue': expected one of small, large. Fix: use one of them, such as 'small'."),
        ("shape", {"size": 3}, "p.shape.kind is missing: expected one of small, large. Fix: add kind: small."),
        ("shape", {"kind": "large", "size": 9}, "p.shape.size = 9: expected a whole number from 100. Fix: write size: 1000, "
         "or leave it out."),
        ("shape", {"kind": "large", "sise": 9}, "p.shape.sise: there is no such key. Fix: write 'size'."),
        ("every", 2.5, "p.every = 2.5: expected 'auto' or a whole number of steps above 0, or a time such as 90s, 5m or 1h. "
         "Fix: write every: auto, or leave it out."),
        ("every", "0s", "p.every = '0s': expected 'auto' or a whole number of steps above 0, or a time such as 90s, 5m or 1h. "
         "Fix: write every: auto, or leave it out."),
        ("limit", 0, "p.limit = 0: expected a whole number above 0. Fix: correct it, or leave it out."),
        ("warmup", 2.5, "p.warmup = 2.5: expected a whole number above 0 or a number from 0 and below 1. Fix: write warmup: 0.1, "
         "or leave it out."),
        ("inner", "x", "p.inner = 'x': expected a mapping with the keys flag, names. Fix: correct it, or leave it out."),
        ("inner", {"flag": 1}, "p.inner.flag = 1: expected true or false. Fix: write true."),
        ("inner", {"names": "a"}, "p.inner.names = 'a': expected a list of texts. Fix: write names: [a]."),
        ("inner", {"names": ["a", 2]}, "p.inner.names.1 = 2: expected text. Fix: write \"2\" in quotation marks."),
        ("inner", {"flag": True}, "p.inner.names = []: expected a name where flag is true. Fix: add one."),
        ("split", {"c": 0.1}, "p.split.c: there is no such key. Fix: remove it; the keys here are a, b."),
        ("split", {"a": 2}, "p.split.a = 2: expected a number from 0 and below 1. Fix: correct it."),
        ("flag", True, "p.flag: there is no such key. Fix: write it under inner: {flag: …}."),
        ("size", 5, "p.size: there is no such key. Fix: write it under shape: {kind: …, size: …}."),
        ("widht", 3, "p.widht: there is no such key. Fix: write 'width'."),
    ],
)  # fmt: skip
def test_a_mistake_is_told_once_and_as_a_person_would(key: str, value: Any, message: str):
    assert said({"width": 8, key: value}) == [message]


@pytest.mark.parametrize(
    ("value", "every", "plain"),
    [
        (500, 500, 500), (1e3, 1000, 1000), (500.0, 500, 500), ("2k", 2000, 2000), ("90", 90, 90), ("auto", "auto", "auto"),
        ("90s", 90.0, "90s"), ("1.5m", 90.0, "90s"), ("5min", 300.0, "300s"), ("1h", 3600.0, "3600s"), ("0.5s", 0.5, "0.5s"),
        ("0.00001s", 1e-5, "0.00001s"), ("1000000000h", 3.6e12, "3600000000000s"),
    ],
)  # fmt: skip
def test_only_a_number_with_a_unit_is_a_time_and_it_reads_back(value: Any, every: Any, plain: Any):
    found, problems = read(Outer, {"width": 8, "every": value})
    assert problems == []
    assert found.every == every
    assert isinstance(found.every, type(every))
    assert dump(found)["every"] == plain
    assert read(Outer, dump(found)) == (found, [])


def test_what_is_required_and_missing_is_told():
    (problem,) = read(Outer, {}, "p")[1]
    assert problem.value is MISSING
    assert str(problem) == "p.width is missing: expected a whole number above 0. Fix: add width: …."


def test_keys_that_are_read_elsewhere_may_have_been_meant():
    _, problems = read(Small, {"presett": 1}, "model", ("preset",))
    assert str(problems[0]) == "model.presett: there is no such key. Fix: write 'preset'."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_json_cannot_hold_is_a_mistake(value: Any):
    assert "plain values that JSON can hold" in said({"width": value})[0]


def test_a_file_is_read_as_text_with_its_mark_taken_off(tmp_path: Path):
    (tmp_path / "x.yaml").write_bytes("\ufeffname: é\r\n".encode())
    assert parse_yaml(read_text(tmp_path / "x.yaml"), "x")[0] == {"name": "é"}


def test_every_key_has_its_line():
    text = "a: 1\nb:\n  c: {d: 2,\n    e: 3}\n  f:\n    - g: 4\n\nh: |\n  text\ni: 5\n"
    _, marks = parse_yaml(text, "x")
    lines = {"a": 1, "b": 2, "b.c": 3, "b.c.d": 3, "b.c.e": 4, "b.f": 5, "b.f.0.g": 6, "h": 8, "i": 10}
    assert {key: marks.line(key) for key in lines} == lines
    assert marks.line("b.c.nothing.at.all") == 3  # the nearest parent that is there
    assert marks.line("nothing") == 1
    assert Marks().line("a") is None


LIKE_OTHER_TYPES = (
    *("1e3", "1_0", ".5", "012", "null", "~", "true", "yes", "0x1", "1:30"),
    *("=", "<<", "#", "&a", "*a", "!a", "- a", "a: b"),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
    | st.sampled_from(LIKE_OTHER_TYPES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc: #-{1", max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150)
@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=4), PLAIN, max_size=4))
def test_yaml_that_is_written_reads_back_as_the_same(value: dict[str, Any]):
    again, _ = parse_yaml(dump_yaml(value), "x")
    assert again == value
    assert repr(again) == repr(value)  # 1 is not 1.0, nor true
    assert parse_yaml(dump_yaml(value | {"x": "a\x85b\u2028\ufeff"}), "x")[0]["x"] == "a\x85b\u2028\ufeff"


def test_yaml_of_one_object_that_stands_twice_has_no_alias():
    same = ["x"]
    assert "&" not in dump_yaml({"a": same, "b": same})
    with pytest.raises(RecipeError, match="numbers, text, lists and mappings"):
        dump_yaml({"a": object()})


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text("{}[]:,-#&*!|>'\"%@`?\n\t ab1~", max_size=40))
def test_any_text_is_read_or_refused(text: str):
    try:
        value, _ = parse_yaml(text, "x")
    except RecipeError as error:
        problems = error.problems
    else:
        problems = []
        assert isinstance(value, dict)
    assert all(problem.line for problem in problems)
