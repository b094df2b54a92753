"""Answers as data files hold them: every form, and each mistake by its message."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dougong.data.answers import placed, places, read
from dougong.data.cleaning import Config, clean

PASSAGE = "Ann was born in Rome. Rome is large."


@pytest.mark.parametrize(
    ("value", "texts", "start"),
    [
        (None, [], None),
        ("", [], None),
        ([], [], None),
        ("[]", [], None),
        ("  ", [], None),
        ({"text": [], "answer_start": []}, [], None),
        ({"text": "", "start": 0}, [], None),
        ("Rome", ["Rome"], None),
        (" Rome ", ["Rome"], None),
        ("[1]", ["[1]"], None),
        ("{curly}", ["{curly}"], None),
        (["Rome", "in Rome", "Rome"], ["Rome", "in Rome"], None),
        ({"text": "Rome", "start": 16}, ["Rome"], 16),
        ({"text": " Rome", "start": 15}, ["Rome"], 16),
        ('{"text": "Rome", "start": 16}', ["Rome"], 16),
        ({"text": ["Rome", "in Rome"], "answer_start": [16, 13]}, ["Rome", "in Rome"], 16),
        ([{"text": "Rome", "answer_start": 16}, {"text": "in Rome", "answer_start": 13}], ["Rome", "in Rome"], 16),
    ],
)
def test_every_form_is_read(value: Any, texts: list[str], start: int | None) -> None:
    found = read(value)
    assert (found["texts"], found["start"]) == (texts, start)
    assert read(found) is found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "expected a text of the passage, {text, start}"),
        ({"a": 1}, "expected a text of the passage"),
        ({"text": "Rome", "begin": 3}, "expected a text of the passage"),
        (["Rome", 7], "expected a text of the passage"),
        ({"text": "Rome", "start": -1}, "expected a start in characters, from 0, found -1"),
        ({"text": "Rome", "start": "16"}, "expected a start in characters, from 0, found '16'"),
        ({"text": "Rome", "start": True}, "expected a start in characters, from 0, found True"),
        ({"text": ["Rome", "in Rome"], "answer_start": [16]}, "expected a start for each text, found 1 for 2"),
    ],
)
def test_what_is_no_answer_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read(value)


@pytest.mark.parametrize("nothing", [None, "", [], float("nan"), "null?"])
def test_a_passage_without_an_answer_lacks_nothing(nothing: Any) -> None:
    """Whatever the rule for missing values: that there is no answer is what is to be learnt."""
    row = {"passage": "what is null? nothing", "answer": nothing}
    cleaned = clean(row, {"passage": "text", "answer": "span"}, Config(missing="drop"))
    assert cleaned.dropped is None
    assert cleaned.values is not None
    assert cleaned.values["answer"] == read(None if isinstance(nothing, float) else nothing)


def test_answers_are_cleaned_as_passages_are() -> None:
    row = {"passage": "cafe\u0301 noir", "answer": {"text": "cafe\u0301", "start": 0}}
    cleaned = clean(row, {"passage": "text", "answer": "span"}, Config())
    assert cleaned.changed == ("unicode",)
    assert cleaned.values is not None
    assert placed(cleaned.values["answer"], cleaned.values["passage"]) == {"texts": ["café"], "start": 0, "times": 1}  # type: ignore[arg-type]


def test_an_answer_is_placed_in_its_passage() -> None:
    assert placed(read("born"), PASSAGE) == {"texts": ["born"], "start": 8, "times": 1}
    assert placed(read("Rome"), PASSAGE) == {"texts": ["Rome"], "start": 16, "times": 2}  # the first, and counted
    assert placed(read({"text": "Rome", "start": 22}), PASSAGE) == {"texts": ["Rome"], "start": 22, "times": 1}
    assert placed(read(None), "") == {"texts": [], "start": None, "times": 1}
    assert places("aa", "aaaa") == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "passage", "message"),
    [
        ("Paris", PASSAGE, "the answer 'Paris' is not in the passage"),
        ({"text": "Paris", "start": 3}, PASSAGE, "the answer 'Paris' is not in the passage"),
        (
            {"text": "Rome", "start": 21},
            PASSAGE,
            "the answer 'Rome' does not stand at character 21 of the passage, but at 22: write start: 22",
        ),
        ({"text": "Rome", "start": 900}, PASSAGE, "does not stand at character 900 of the passage, but at 22"),
        ("Rome", "", "the answer 'Rome' has an empty passage; write null where there is none"),
        ("Rome", " \n", "the answer 'Rome' has an empty passage"),
        ("Rome", None, "the answer 'Rome' has an empty passage"),
    ],
)
def test_an_answer_that_does_not_stand_there_is_refused(value: Any, passage: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        placed(read(value), passage)
