"""Boxes as files write them: good forms are read, every bad one is told of by its number."""

from __future__ import annotations

from typing import Any

import pytest

from dougong.data.boxes import MOST, looks_like, placed, read

CAT = [10, 20, 30.5, 40, "cat"]


@pytest.mark.parametrize(
    "value",
    [
        [CAT],
        (tuple(CAT),),
        '[[10, 20, 30.5, 40, "cat"]]',
        [{"x_min": 10, "y_min": 20, "x_max": 30.5, "y_max": 40, "label": " cat "}],
    ],
)
def test_every_form_is_read(value: Any) -> None:
    assert read(value) == {"boxes": [[10.0, 20.0, 30.5, 40.0]], "labels": ["cat"], "size": None}


def test_an_empty_list_is_a_picture_with_nothing_in_it() -> None:
    assert read([]) == read("[]") == {"boxes": [], "labels": [], "size": None}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("cat", "as JSON"),
        ("[[1, 2, 3, 4, NaN]]", "NaN is not JSON"),
        ("[" * 100_000, "expected a list"),
        (7, "found int"),
        ([[1, 2, 3, 4]], "box 1 is"),
        ([CAT, [1, 2, 3, 4, 5, 6]], "box 2 is"),
        ([CAT, "cat"], "box 2 is"),
        ([[1, 2, "3", 4, "cat"]], "box 1 has the side '3'"),
        ([[1, 2, True, 4, "cat"]], "box 1 has the side True"),
        ([[1, 2, float("nan"), 4, "cat"]], "box 1 has the side nan"),
        ([[1, 2, float("inf"), 4, "cat"]], "box 1 has the side inf"),
        ([[30, 20, 10, 40, "cat"]], "box 1 has no inside: x_min 30 is not below x_max 10"),
        ([[10, 20, 30, 20, "cat"]], "box 1 has no inside: y_min 20 is not below y_max 20"),
        ([[1, 2, 3, 4, None]], "box 1 has no label"),
        ([[1, 2, 3, 4, "  "]], "box 1 has no label"),
        ([[1, 2, 3, 4, ["cat"]]], "box 1 has no label"),
        ([{"x": 1}], "box 1 is"),
        ([CAT] * (MOST + 1), "5,001 boxes in one picture"),
    ],
)
def test_D1_what_is_no_box_is_refused_with_its_number(value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read(value)
    assert told in str(caught.value)


def test_boxes_lie_in_their_picture_but_for_a_pixel() -> None:
    found = placed(read([[-0.5, 0, 10, 20.9, "cat"]]), (20, 10))
    assert found == {"boxes": [[0.0, 0.0, 10.0, 20.0]], "labels": ["cat"], "size": [20, 10]}
    for wrong in ([0, 0, 12, 20, "cat"], [0, 0, 10, 22, "cat"], [-2, 0, 5, 5, "cat"], [30, 30, 40, 40, "cat"]):
        with pytest.raises(ValueError, match=r"box 2, \[.*\], stands out of its picture of 10 × 20 pixels"):
            placed(read([[0, 0, 5, 5, "cat"], wrong]), (20, 10))


def test_what_looks_like_boxes() -> None:
    assert looks_like([CAT])
    assert looks_like('[[10, 20, 30.5, 40, "cat"]]')
    assert not any(looks_like(value) for value in ([], "[]", ["a", "b"], "cat", 3, [[1, 2, 3]], None))
