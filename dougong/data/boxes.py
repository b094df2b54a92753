"""Boxes: as data files write them, and as they lie in their picture.

A value is a list of `[x_min, y_min, x_max, y_max, label]` in pixels of the picture as it was seen, from its upper left corner;
or, where a column must be of one type (parquet), a list of `{x_min, y_min, x_max, y_max, label}`; or either as JSON text. An
empty list is a picture with nothing in it.
"""

from __future__ import annotations

import math
from typing import Any

from dougong.core.errors import shown
from dougong.data.class_names import read_name
from dougong.data.json_lines import JSON
from dougong.data.records import Unreadable

EXPECTED = "a list of [x_min, y_min, x_max, y_max, label] in pixels"
SIDES = ("x_min", "y_min", "x_max", "y_max")
MOST = 5_000  # boxes of one picture
SLACK = 1.0  # pixels that a box may stand out by: annotators round

Boxes = dict[str, Any]
"""{boxes: [[x_min, y_min, x_max, y_max], …], labels: [name, …], size: [height, width] of the picture, None: not known yet}."""


def read(value: object) -> Boxes:
    """Boxes as a data file holds them. ValueError says what is wrong, and with which of them."""
    if isinstance(value, str):
        try:
            value = JSON.decode(value.strip())
        except Unreadable as error:
            raise ValueError(f"expected {EXPECTED}: {error.reason}") from None
        except (ValueError, RecursionError):
            raise ValueError(f"expected {EXPECTED}, as JSON") from None
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected {EXPECTED}, found {type(value).__name__}")
    if len(value) > MOST:
        raise ValueError(f"{len(value):,} boxes in one picture; at most {MOST:,} are read")
    pairs = [_one(item, number) for number, item in enumerate(value, 1)]
    return {"boxes": [sides for sides, _ in pairs], "labels": [label for _, label in pairs], "size": None}


def looks_like(value: object) -> bool:
    """Whether a value is boxes, and not by chance: an empty list could be of anything."""
    if not isinstance(value, list | tuple) and not (isinstance(value, str) and value.lstrip().startswith("[")):
        return False
    try:
        return bool(read(value)["boxes"])
    except ValueError:
        return False


def _one(item: object, number: int) -> tuple[list[float], str]:
    if isinstance(item, dict) and item.keys() == {*SIDES, "label"}:
        item = [item[key] for key in (*SIDES, "label")]
    if not isinstance(item, list | tuple) or len(item) != 5:
        raise ValueError(f"expected {EXPECTED}; box {number} is {shown(item)}")
    sides = [_number(side, number) for side in item[:4]]
    label = read_name(item[4]) if isinstance(item[4], str | int | float) else None
    if label is None:
        raise ValueError(f"expected {EXPECTED}; box {number} has no label")
    for low, high in ((0, 2), (1, 3)):
        if sides[low] >= sides[high]:
            found = f"{SIDES[low]} {sides[low]:g} is not below {SIDES[high]} {sides[high]:g}"
            raise ValueError(f"box {number} has no inside: {found}")
    return sides, label


def _number(side: object, number: int) -> float:
    if isinstance(side, bool) or not isinstance(side, int | float) or not math.isfinite(side):
        raise ValueError(f"expected {EXPECTED}; box {number} has the side {shown(side)}")
    return float(side)


def placed(value: Boxes, size: tuple[int, int]) -> Boxes:
    """The boxes within their picture of (height, width). ValueError where one stands out of it."""
    height, width = size
    boxes = []
    for number, sides in enumerate(value["boxes"], 1):
        within = [min(max(side, 0.0), float(most)) for side, most in zip(sides, (width, height) * 2, strict=True)]
        out = max(abs(a - b) for a, b in zip(sides, within, strict=True))
        if out > SLACK or within[0] >= within[2] or within[1] >= within[3]:
            told = ", ".join(f"{side:g}" for side in sides)
            raise ValueError(f"box {number}, [{told}], stands out of its picture of {width} × {height} pixels")
        boxes.append(within)
    return {**value, "boxes": boxes, "size": [height, width]}
