"""Whatever is written fits the schema, by `jsonschema`'s judgement; what cannot be kept is refused by name."""

from __future__ import annotations

import json
import random
from datetime import datetime, time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from dougong.core.errors import FieldError
from dougong.inference.automata import NEVER, Automaton
from dougong.inference.json_schemas import read_schema, schema_part


def fits(automaton: Automaton, text: str) -> bool:
    state, node = automaton.follow((0, 0), text.encode())
    return state >= 0 and node == 0 and bool(automaton.whole[state])


def texts(schema: dict[str, Any], count: int = 200) -> list[str]:
    """Random walks through the automaton that end where a text is whole."""
    automaton, chance = Automaton(schema_part(schema)), random.Random(0)
    needs = automaton.distances()
    found = []
    for _ in range(count):
        state, written = 0, ""
        while not automaton.whole[state] or (chance.random() < 0.7 and (automaton.after[state] >= 0).any()):
            choices = [
                kind
                for kind in np.flatnonzero(automaton.after[state] >= 0)
                if needs[automaton.after[state, kind]] < NEVER
            ]
            if len(written) > 40:
                choices = [min(choices, key=lambda kind: needs[automaton.after[state, kind]])]
            kind = chance.choice(choices)
            written, state = written + automaton.examples[kind], int(automaton.after[state, kind])
        found.append(written)
    return found


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "null"}, "c": {"enum": ["x", 1]}}}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": r"^[A-Z]{2}-\d{3}$"},
    {"type": "string", "pattern": r"b"},
    {"type": "integer"},
    {"type": "integer", "minimum": -12, "maximum": 130},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10.5},
    {"type": "integer", "maximum": -7},
    {"type": "number"},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "minimum": -3, "exclusiveMaximum": 12},
    {"type": "number", "exclusiveMinimum": -7, "maximum": -5},
    {"type": "number", "maximum": 0},
    {"type": "number", "exclusiveMaximum": 0},
    {"type": "number", "minimum": 5},
    {"type": ["boolean", "null"]},
    {"enum": ["a", 'say "b"', 3, None, [1, {"x": "é"}]]},
    {"const": {"x": [1, 2]}},
    {"type": "array", "items": {"type": "boolean"}},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 1},
    {"type": "array", "maxItems": 0},
    OBJECT,
    OBJECT | {"required": ["b"]},
    OBJECT | {"required": ["a", "c"], "additionalProperties": False, "title": "three", "description": "…"},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "integer"}}]},
    {"$ref": "#/$defs/pair", "$defs": {"pair": {"type": "array", "items": {"$ref": "#/$defs/bit"}, "minItems": 2, "maxItems": 2},
                                       "bit": {"enum": [0, 1]}}},
    {"allOf": [{"$ref": "#/definitions/a~1b"}], "definitions": {"a/b": {"type": "null"}}},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_whatever_is_written_is_json_that_fits(schema: dict[str, Any]) -> None:
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    found = texts(schema)
    for text in found:
        checker.validate(json.loads(text))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 120), (5, 5), (0, 0), (17, 2034), (100, 999), (-12, 30), (-1000, -7), (9, 10)]
)
def test_whole_numbers_between_bounds_are_all_of_them(low: int, high: int) -> None:
    automaton = Automaton(schema_part({"type": "integer", "minimum": low, "maximum": high}))
    assert [number for number in range(-2500, 2500) if fits(automaton, str(number))] == list(range(low, high + 1))
    assert not fits(automaton, "007")


def test_times_are_those_of_iso_8601_with_their_zone() -> None:
    for text in texts({"type": "string", "format": "date-time"}):
        assert datetime.fromisoformat(json.loads(text)).tzinfo is not None
    for text in texts({"type": "string", "format": "time"}):
        assert time.fromisoformat(json.loads(text)).tzinfo is not None


def test_numbers_between_bounds_are_those_of_the_bounds() -> None:
    chance = random.Random(0)
    for low, high in ((0, 1), (-3, 12), (-7, -5), (0, 0), (-4, 0)):
        for open_low, open_high in ((False, False), (True, False), (False, True), (True, True)):
            if low == high and (open_low or open_high):
                continue
            bounds = {
                "exclusiveMinimum" if open_low else "minimum": low,
                "exclusiveMaximum" if open_high else "maximum": high,
            }
            schema = {"type": "number", **bounds}
            automaton = Automaton(schema_part(schema))
            numbers = [f"{chance.uniform(low - 2, high + 2):.3f}" for _ in range(200)]
            numbers += [str(each) for each in range(low - 2, high + 3)] + [f"{each}.0" for each in (low, high)]
            for text in numbers:
                valid = jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
                assert fits(automaton, text) == valid, (schema, text)


def test_what_people_write_fits() -> None:
    person = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "number"}}},
    }
    automaton = Automaton(schema_part(person))
    value = {"name": 'Zoë "Z" \\ \u00e9 \n 床', "tags": [1, -2.5, 0.1, 1e20, 3e-7]}
    for text in (
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, separators=(",", ":")),
        "{}",
    ):
        assert fits(automaton, text), text
    for text in (
        json.dumps(value, indent=1),
        '{"tags": [], "name": ""}',
        '{"name": "a\nb"}',
        r'{"name": "\ud800"}',
        '{"x": 1}',
    ):
        assert not fits(automaton, text), text


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({}, r"generate.json_schema = {}: expected a type"),
        ({"type": "text"}, r"generate.json_schema.type = 'text': expected one of string, integer"),
        ({"type": "integer", "multipleOf": 5}, r"schema.multipleOf = 5: expected a keyword that can be kept for integer"),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "null"}, "uniqueItems": True}}},
         r"generate.json_schema.properties.a.uniqueItems = True: expected a keyword that can be kept for array"),
        ({"type": "array"}, "expected items: what may be anything has no end"),
        ({"type": "object"}, "expected properties: what may be anything has no end"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "null"}},
         "generate.json_schema.additionalProperties = .*: expected true or false"),
        ({"type": "object", "properties": {"name": {"type": "null"}}, "required": ["nmae"]},
         "generate.json_schema.required = 'nmae': expected one of name. Fix: write 'name'"),
        ({"oneOf": [{"type": "null"}]}, r"generate.json_schema.oneOf = .*: expected a keyword that can be kept \(\$ref"),
        ({"not": {"type": "null"}}, "generate.json_schema.not"),
        ({"type": "string", "format": "email"}, "schema.format = 'email': expected one of date, time, date-time, uuid"),
        ({"type": "string", "pattern": "a(?=b)"}, "generate.json_schema.pattern = .* without .*look around"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "generate.json_schema.maxLength = 3: .*beside pattern"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, r"maxLength = 2: expected at least minLength \(3\). Fix: .* 3"),
        ({"type": "string", "minLength": -1}, "minLength = -1: expected a whole number from 0"),
        ({"type": "number", "minimum": 0.5}, "generate.json_schema.minimum = 0.5: expected a whole number as a bound"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "expected bounds with a whole number"),
        ({"type": "number", "minimum": 5, "exclusiveMaximum": 5}, "expected bounds with a number between them"),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": 1}, "expected one of minimum and exclusiveMinimum"),
        ({"type": "integer", "enum": [1, "a"]}, "generate.json_schema.enum = 'a': expected a value of type integer"),
        ({"enum": []}, "generate.json_schema.enum = .*: expected a list of at least one"),
        ({"enum": [1], "maximum": 3}, "generate.json_schema.maximum = 3: .* beside enum"),
        ({"allOf": [{"type": "null"}, {"type": "null"}]}, "expected one schema: several at once"),
        ({"anyOf": [{"type": "null"}, True]}, r"generate.json_schema.anyOf\[1\] = True: expected a schema"),
        ({"$ref": "#/$defs/none"}, r"generate.json_schema.\$ref = '#/\$defs/none': expected a place within this schema"),
        ({"$ref": "other.json"}, "expected a place within this schema"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
         "items.* = '#/\\$defs/a': expected a reference that does not lead to itself"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError, match=said) as caught:
        schema_part(schema)
    assert "Fix: " in str(caught.value)


def test_a_file_that_holds_no_schema_is_told(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    with pytest.raises(
        FieldError, match=r"--json-schema = .*: expected a file that holds a JSON schema. .*No such file"
    ):
        read_schema(path)
    path.write_text('{"type": ')
    with pytest.raises(FieldError, match="expected a file that holds a JSON schema"):
        read_schema(path)
    path.write_text("[1]")
    with pytest.raises(FieldError, match="expected a JSON object, the schema"):
        read_schema(path)
    path.write_text('{"type": "null"}')
    assert read_schema(path) == {"type": "null"}
