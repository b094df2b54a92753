"""JSON from outside is read strictly, and the same value always gives the same bytes."""

from __future__ import annotations

import json

import pytest

from dougong.core.errors import ArtefactError
from dougong.core.strict_json import parse_json, render_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "1e999 is too large"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
        (b'{"a": "\xff"}', "invalid start byte"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64 levels"),
        (b"[" * 10**6, "nested deeper than 64 levels"),
        (b"[" + b"[]," * 4_000_000 + b"1]", "more than 4,000,000 lists and objects"),
        (b"[" + b"9" * 5000 + b"]", "Exceeds the limit"),
        (b'{"a": 1', "line 1 column 8"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
    ],
)
def test_json_from_outside_is_read_strictly(text: bytes, message: str) -> None:
    with pytest.raises(ArtefactError, match=f"x.json: not the JSON that dougong writes .*{message}"):
        parse_json(text, "x.json")


def test_brackets_within_text_do_not_count_as_depth() -> None:
    value = {"text": "[" * 100 + '"\\' + "{" * 100, "list": [[]] * 100}
    assert parse_json(json.dumps(value).encode(), "x") == value
    assert parse_json(b"[" * 64 + b"]" * 64, "x")


def test_the_same_value_gives_the_same_bytes_and_reads_back() -> None:
    value = {"b": [1, 2.5, None, True], "a": "詩", "nested": {"z": {}}}
    assert parse_json(render_json(value), "x") == value
    assert render_json(dict(reversed(value.items()))) == render_json(value)
