"""JSON schemas -> parts: the JSON texts that fit a schema, written on one line, keys in the order of `properties`.

A stated share of draft 2020-12; every keyword outside of it is refused by name, because a text must fit all that is said.
Whatever is written fits the schema; not all that fits is written: no keys beyond `properties`, white space only as one
space after a comma or a colon, integers of at most 18 digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core.errors import FieldError, bad_field, nearest
from dougong.inference.automata import Chain, Characters, Choice, Part, Repeat, literal, optional
from dougong.inference.patterns import pattern, searched

FIELD = "generate.json_schema"
NOTES = {
    "title",
    "description",
    "default",
    "examples",
    "$schema",
    "$id",
    "$comment",
    "deprecated",
    "readOnly",
    "writeOnly",
}
DEFINITIONS = {"$defs", "definitions"}
KEYWORDS = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set(),
    "null": set(),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
KINDS = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}
DIGITS = 18  # of an integer: it fits into 64 bits
LARGEST = 10**DIGITS - 1
PLAIN = Characters((0x20, 0x22, 0x23, 0x5C, 0x5D, 0x110000))  # what stands in a JSON text as it is
ESCAPED = r'\\["\\/bfnrt]|\\u(?:[0-9a-cefA-CEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2})'  # no half of a surrogate pair
DAY = r"\d{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
FORMATS = {
    "date": DAY,  # no 29th of February, which only some years have
    "time": CLOCK,
    "date-time": f"{DAY}T{CLOCK}",
    "uuid": "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}


def read_schema(path: Path) -> dict[str, Any]:
    """The schema that a file holds."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # what is no JSON, and no UTF-8, are ValueErrors
        raise bad_field(
            "--json-schema", str(path), "a file that holds a JSON schema", f"correct it ({error})"
        ) from None
    if not isinstance(schema, dict):
        raise bad_field("--json-schema", str(path), "a JSON object, the schema", "write the schema into it")
    return schema


def schema_part(schema: Mapping[str, Any]) -> Part:
    """The texts that fit a schema. Raises FieldError that names the keyword which cannot be kept."""
    return Reader(schema).part(schema, FIELD, ())


class Reader:
    """Goes through a schema; `path` is where it stands, `open_refs` are the references that lead there."""

    def __init__(self, schema: Mapping[str, Any]):
        self.root = schema

    def part(self, schema: Any, path: str, open_refs: tuple[str, ...]) -> Part:
        if not isinstance(schema, Mapping):
            raise bad_field(
                path, schema, "a schema: a mapping of keywords", "say what stands here, such as type: string"
            )
        for name, read in (("$ref", self.reference), ("anyOf", self.any_of), ("allOf", self.all_of)):
            if name in schema:
                only(schema, path, {name}, f"beside {name}")
                return read(schema[name], f"{path}.{name}", open_refs)
        if "enum" in schema or "const" in schema:
            return self.values(schema, path)
        if "type" not in schema:
            for key in schema.keys() - NOTES - DEFINITIONS:
                if all(key not in known for known in KEYWORDS.values()):
                    raise unknown(f"{path}.{key}", schema[key])
            raise bad_field(path, dict(schema), "a type: what may be anything has no end", "add type: object, say")
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        for kind in kinds:
            if not isinstance(kind, str) or kind not in KEYWORDS:
                raise bad_field(f"{path}.type", kind, f"one of {', '.join(KEYWORDS)}", "write one of them")
        only(schema, path, {"type"}.union(*(KEYWORDS[kind] for kind in kinds)), f"for {' or '.join(kinds)}")
        return Choice(tuple(self.of_kind(kind, schema, path, open_refs) for kind in kinds))

    def of_kind(self, kind: str, schema: Mapping[str, Any], path: str, open_refs: tuple[str, ...]) -> Part:
        if kind == "object":
            return self.object(schema, path, open_refs)
        if kind == "array":
            return self.array(schema, path, open_refs)
        simple: dict[str, Callable[[Mapping[str, Any], str], Part]] = {
            "string": string,
            "integer": integer,
            "number": number,
            "boolean": lambda schema, path: Choice((literal("true"), literal("false"))),
            "null": lambda schema, path: literal("null"),
        }
        return simple[kind](schema, path)

    def reference(self, name: Any, path: str, open_refs: tuple[str, ...]) -> Part:
        if name in open_refs:
            expected = "a reference that does not lead to itself: its texts have no bound"
            raise bad_field(path, name, expected, "write the levels out that you need")
        steps = str(name).split("/")
        here: Any = self.root
        for step in steps[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            here = here.get(key) if isinstance(here, Mapping) else None
        if steps[0] != "#" or here is None:
            raise bad_field(path, name, "a place within this schema, such as #/$defs/NAME", "write it into $defs")
        return self.part(here, path, (*open_refs, str(name)))

    def any_of(self, schemas: Any, path: str, open_refs: tuple[str, ...]) -> Part:
        some(schemas, path)
        return Choice(tuple(self.part(each, f"{path}[{index}]", open_refs) for index, each in enumerate(schemas)))

    def all_of(self, schemas: Any, path: str, open_refs: tuple[str, ...]) -> Part:
        some(schemas, path)
        if len(schemas) > 1:
            raise bad_field(path, schemas, "one schema: several at once cannot be kept", "write them as one")
        return self.part(schemas[0], f"{path}[0]", open_refs)

    def values(self, schema: Mapping[str, Any], path: str) -> Part:
        """The values of enum or const, which must be of the type that stands beside them."""
        name = "enum" if "enum" in schema else "const"
        only(schema, path, {name, "type"}, f"beside {name}")
        values = schema[name] if name == "enum" else [schema[name]]
        some(values, f"{path}.{name}")
        kinds = schema.get("type", list(KINDS))
        for value in values:
            if not any(is_kind(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
                raise bad_field(f"{path}.{name}", value, f"a value of type {kinds}", "remove it, or change the type")
        return Choice(tuple(literal(json.dumps(value, ensure_ascii=False)) for value in values))

    def array(self, schema: Mapping[str, Any], path: str, open_refs: tuple[str, ...]) -> Part:
        least, most = bounds(schema, path, "minItems", "maxItems")
        if "items" not in schema and most != 0:
            raise bad_field(
                path, dict(schema), "items: what may be anything has no end", "add items: {type: string}, say"
            )
        if most == 0:
            return literal("[]")
        item = self.part(schema["items"], f"{path}.items", open_refs)
        more = Repeat(Chain((separator(","), item)), max(least - 1, 0), None if most is None else most - 1)
        filled = Chain((literal("["), item, more, literal("]")))
        return filled if least else Choice((literal("[]"), filled))

    def object(self, schema: Mapping[str, Any], path: str, open_refs: tuple[str, ...]) -> Part:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping):
            raise bad_field(f"{path}.properties", properties, "a mapping of keys to schemas", "write the keys into it")
        if not isinstance(schema.get("additionalProperties", False), bool):
            fix = "write the keys into properties, and leave it out"
            raise bad_field(f"{path}.additionalProperties", schema["additionalProperties"], "true or false", fix)
        if not properties and schema.get("additionalProperties") is not False:
            fix = "add properties; for {} alone additionalProperties: false"
            raise bad_field(path, dict(schema), "properties: what may be anything has no end", fix)
        for key in required:
            if key not in properties:
                near = nearest(str(key), list(properties))
                fix = f"write {near!r}" if near else "write it into properties"
                raise bad_field(f"{path}.required", key, f"one of {', '.join(properties)}", fix)
        pairs = []
        for key, each in properties.items():
            value = self.part(each, f"{path}.properties.{key}", open_refs)
            pairs.append(
                (Chain((literal(json.dumps(key, ensure_ascii=False)), separator(":"), value)), key in required)
            )
        return Chain((literal("{"), members(pairs), literal("}")))


def members(pairs: Sequence[tuple[Part, bool]]) -> Part:
    """Keys with their values, in order; those that are not required may be left out, with the comma beside them."""
    comma = separator(",")
    must = next((index for index, (_, required) in enumerate(pairs) if required), None)

    def following(first: int) -> Part:
        rest = [Chain((comma, pair)) for pair, _ in pairs[first + 1 :]]
        needed = [required for _, required in pairs[first + 1 :]]
        return Chain(tuple(part if must else optional(part) for part, must in zip(rest, needed, strict=True)))

    if must is not None:
        before = [optional(Chain((pair, comma))) for pair, _ in pairs[:must]]
        return Chain((*before, pairs[must][0], following(must)))
    some_first = [Chain((pair, following(index))) for index, (pair, _) in enumerate(pairs)]
    return Choice((Chain(()), *some_first))


def separator(mark: str) -> Part:
    return Chain((literal(mark), optional(literal(" "))))


def string(schema: Mapping[str, Any], path: str) -> Part:
    least, most = bounds(schema, path, "minLength", "maxLength")
    for name in ("pattern", "format"):
        if name in schema:
            only(schema, path, {"type", name}, f"beside {name}")
    if "pattern" in schema:
        if not isinstance(schema["pattern"], str):
            raise bad_field(f"{path}.pattern", schema["pattern"], "a regular expression", "write it as text")
        inside = searched(schema["pattern"], f"{path}.pattern", PLAIN)
    elif "format" in schema:
        if schema["format"] not in FORMATS:
            expected = f"one of {', '.join(FORMATS)}"
            raise bad_field(f"{path}.format", schema["format"], expected, "write it as a pattern")
        inside = pattern(f"(?a:{FORMATS[schema['format']]})", path)
    else:
        inside = Repeat(Choice((PLAIN, pattern(ESCAPED, path))), least, most)
    return Chain((literal('"'), inside, literal('"')))


def integer(schema: Mapping[str, Any], path: str) -> Part:
    low, high = (
        Limit.of(schema, path, "minimum", "exclusiveMinimum"),
        Limit.of(schema, path, "maximum", "exclusiveMaximum"),
    )
    least = -LARGEST if low is None else max(math.ceil(low.value) + (low.open and low.whole), -LARGEST)
    most = LARGEST if high is None else min(math.floor(high.value) - (high.open and high.whole), LARGEST)
    if least > most:
        raise bad_field(
            path, dict(schema), f"bounds with a whole number of at most {DIGITS} digits between them", "correct them"
        )
    below = [Chain((literal("-"), numerals(max(1, -most), -least)))] if least < 0 else []
    return Choice((*below, numerals(max(0, least), most))) if most >= 0 else Choice(tuple(below))


def number(schema: Mapping[str, Any], path: str) -> Part:
    """Any number of at most 15 digits before and after the point; one with bounds has no exponent."""
    low, high = (
        Limit.of(schema, path, "minimum", "exclusiveMinimum"),
        Limit.of(schema, path, "maximum", "exclusiveMaximum"),
    )
    if low is None and high is None:
        return pattern(r"(?a:-?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?(?:[eE][+-]?\d{1,2})?)", path)
    for limit in (low, high):
        if limit is not None and not limit.whole:
            raise bad_field(
                f"{path}.{limit.name}", limit.value, "a whole number as a bound", "write the next whole number"
            )
    low, high = low or Limit("", -(10**15) + 1), high or Limit("", 10**15 - 1)
    if low.value > high.value or (low.value == high.value and (low.open or high.open)):
        raise bad_field(path, dict(schema), "bounds with a number between them", "correct them")
    made: list[Part] = []
    if low.value < 0:
        nearer = Limit("", -high.value, high.open) if high.value <= 0 else Limit("", 0)
        made.append(Chain((literal("-"), decimals(nearer, Limit("", -low.value, low.open)))))
    if high.value > 0 or (high.value == 0 and not high.open):
        made.append(decimals(low if low.value >= 0 else Limit("", 0), high))
    return Choice(tuple(made))


@dataclass(frozen=True)
class Limit:
    """A bound of a number; an open one is not reached."""

    name: str
    value: int | float
    open: bool = False

    @property
    def whole(self) -> bool:
        return float(self.value).is_integer()

    @classmethod
    def of(cls, schema: Mapping[str, Any], path: str, closed: str, opened: str) -> Limit | None:
        given = [name for name in (closed, opened) if name in schema]
        for name in given:
            if not is_kind(schema[name], "number"):
                raise bad_field(f"{path}.{name}", schema[name], "a number", "write one")
        if len(given) == 2:
            raise bad_field(f"{path}.{opened}", schema[opened], f"one of {closed} and {opened}", "remove one of them")
        value = schema[given[0]] if given else 0
        return cls(given[0], int(value) if float(value).is_integer() else value, given[0] == opened) if given else None


def decimals(low: Limit, high: Limit) -> Part:
    """Numbers from 0 on between whole bounds, with or without a fraction."""
    first, last = int(low.value), int(high.value)
    zeros, some_fraction = optional(FRACTION_ZERO), optional(FRACTION)
    if first == last:
        return Chain((numerals(first, first), zeros))
    made: list[Part] = [Chain((numerals(first, first), FRACTION_ABOVE if low.open else some_fraction))]
    if first + 1 < last:
        made.append(Chain((numerals(first + 1, last - 1), some_fraction)))
    if not high.open:
        made.append(Chain((numerals(last, last), zeros)))
    return Choice(tuple(made))


def numerals(low: int, high: int) -> Part:
    """The whole numbers from `low`, at least 0, to `high`, written without leading zeros."""
    made = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        made.append(between(str(first), str(min(high, 10**digits - 1))))
    return Choice(tuple(made))


def between(low: str, high: str) -> Part:
    """The numbers from `low` to `high`, which have equally many digits."""
    rest = len(low) - 1
    if rest < 0:
        return Chain(())
    if (low, high) == ("0" * len(low), "9" * len(low)):
        return Repeat(digit(0, 9), len(low), len(low))
    if low[0] == high[0]:
        return Chain((literal(low[0]), between(low[1:], high[1:])))
    made: list[Part] = [Chain((literal(low[0]), between(low[1:], "9" * rest)))]
    if int(low[0]) + 1 < int(high[0]):
        made.append(Chain((digit(int(low[0]) + 1, int(high[0]) - 1), Repeat(digit(0, 9), rest, rest))))
    return Choice((*made, Chain((literal(high[0]), between("0" * rest, high[1:])))))


def digit(low: int, high: int) -> Part:
    return Characters((ord("0") + low, ord("0") + high + 1))


FRACTION = Chain((literal("."), Repeat(digit(0, 9), 1, 15)))
FRACTION_ZERO = Chain((literal("."), Repeat(digit(0, 0), 1, 15)))
FRACTION_ABOVE = Chain((literal("."), Repeat(digit(0, 9), 0, 7), digit(1, 9), Repeat(digit(0, 9), 0, 7)))


def bounds(schema: Mapping[str, Any], path: str, least: str, most: str) -> tuple[int, int | None]:
    """How often something may stand there: two keywords that count."""
    for name in (least, most):
        if name in schema and (not is_kind(schema[name], "integer") or schema[name] < 0):
            raise bad_field(f"{path}.{name}", schema[name], "a whole number from 0", "write one")
    low, high = schema.get(least, 0), schema.get(most)
    if high is not None and high < low:
        raise bad_field(f"{path}.{most}", high, f"at least {least} ({low})", f"write {most}: {low}")
    return low, high


def is_kind(value: Any, kind: str) -> bool:
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def only(schema: Mapping[str, Any], path: str, known: set[str], where: str) -> None:
    """Raise for the first keyword that is none of those known, and says more than a note."""
    for key in schema:
        if key not in known | NOTES | DEFINITIONS:
            expected = f"a keyword that can be kept {where} ({', '.join(sorted(known))})"
            raise bad_field(f"{path}.{key}", schema[key], expected, "remove it, and check the texts for it yourself")


def unknown(path: str, value: object) -> FieldError:
    known = sorted({"$ref", "anyOf", "enum", "const", "type"}.union(*KEYWORDS.values()))
    return bad_field(path, value, f"a keyword that can be kept ({', '.join(known)})", "write it with those")


def some(values: Any, path: str) -> None:
    if not isinstance(values, list) or not values:
        raise bad_field(path, values, "a list of at least one", "add what may stand here")
