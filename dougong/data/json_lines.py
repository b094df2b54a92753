"""jsonl: one JSON object a line, strictly: no key twice, no NaN, no lone surrogate, nothing deep or huge."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NoReturn

from dougong.core.errors import shown
from dougong.data.lines import lines
from dougong.data.records import MAX_COLUMNS, Record, Unit, Unreadable, repeated

MAX_DEPTH = 64  # of nested JSON
MAX_NODES = 1_000_000  # lists and objects of one JSON line: 16 MB of [] would become 450 MB


def read(file: Path, compression: str, unit: Unit, used: Collection[str] | None) -> Iterator[Record]:
    for line in lines(file, compression):
        try:
            text = line.text()
            if text.strip():
                yield _json_object(text)
        except Unreadable as bad:
            yield Unreadable(bad.reason, line.raw)


def _json_object(text: str) -> dict[str, object]:
    brackets = text.count("[") + text.count("{")
    if brackets > MAX_NODES:
        raise Unreadable(f"{brackets:,} brackets: at most {MAX_NODES:,} are read")
    if brackets > MAX_DEPTH:
        check_depth(text)
    try:
        value = JSON.decode(text.strip())
    except json.JSONDecodeError as error:
        raise Unreadable(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except ValueError:  # Python's own limit on the digits of a whole number
        raise Unreadable("a number with more than 4,300 digits") from None
    if not isinstance(value, dict):
        raise Unreadable(f"a JSON object was expected, this is {JSON_NAMES.get(type(value), 'a number')}")
    if len(value) > MAX_COLUMNS:
        raise Unreadable(f"{len(value):,} keys: at most {MAX_COLUMNS:,} are read")
    if "\\u" in text:  # an escape can bring in what the encoding kept out
        flat = json.dumps(value, ensure_ascii=False)
        if re.search("[\ud800-\udfff]", flat):
            raise Unreadable("a lone surrogate (\\ud800 to \\udfff without its pair) is no character")
        if "\\u0000" in flat:
            raise Unreadable("a NUL character (\\u0000)")
    return value


def check_depth(text: str) -> None:
    """Refuse JSON that is nested too deep, before it is read."""
    depth, inside, skip = 0, False, -1
    for token in re.finditer(r'["\\\[\]{}]', text):
        mark = token[0]
        if token.start() == skip:  # escaped by the backslash before it
            continue
        if mark == "\\":
            skip = token.start() + 1
        elif mark == '"':
            inside = not inside
        elif not inside:
            depth += 1 if mark in "[{" else -1
            if depth > MAX_DEPTH:
                raise Unreadable(f"nested deeper than {MAX_DEPTH} levels")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Unreadable(f"the number {text[:20]} is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise Unreadable(f"{name} is not JSON: write null for a missing number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Unreadable(f"the key {shown(repeated([name for name, _ in pairs]))} stands twice")
    return value


JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
JSON_NAMES = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
