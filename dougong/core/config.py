"""Strict configs: frozen dataclasses inside, YAML with line marks outside, pydantic at the border between them.

@config
class Config:
    width: int = 256

value, problems = read(Config, {"widht": 8}, "model")     # problems[0]: unknown key, did you mean 'width'
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated, Any, TypeVar, dataclass_transform

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from dougong.core.errors import MISSING, NO_SUCH_KEY, FieldError, Problem, RecipeError, nearest

T = TypeVar("T")
MAX_BYTES = 1 << 20  # a recipe larger than 1 MB is not a recipe
MAX_DEPTH = 32
Path_ = tuple[str | int, ...]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass whose unknown keys are errors when it is read from outside."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def _count(value: object) -> object:
    """`32k`, `20M`, `1.5B` -> an int; anything else passes on to the type check."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMBG]?)", value.strip())):
        scale = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}[match[2]]
        return round(float(match[1]) * scale)
    return value


class Seconds(float):
    """A time; in plain form `300s`."""

    def __str__(self) -> str:
        return f"{Decimal(repr(float(self))):f}".removesuffix(".0") + "s"


def _interval(value: object) -> object:
    """`5m`, `90s`, `1h` -> seconds, a float; `100`, `2k`, `1e3` -> steps, an int. A time needs its unit."""
    if isinstance(value, str):
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", value.strip()):
            return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]
        return _count(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError("neither a number of steps nor a time")
        return int(value)
    return value


LARGEST = 10**15  # no count is larger: beyond it arithmetic on 64 bits would overflow somewhere
_Whole = Annotated[int, Field(gt=0, le=LARGEST)]
_Suffixed = Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*[kKMBG]?$")]
_Time = Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*([kKMBG]?|s|m|min|h)$")]

Count = Annotated[int, BeforeValidator(_count, json_schema_input_type=_Whole | _Suffixed), Field(gt=0, le=LARGEST)]
"""A positive whole number; `k`, `M` and `B` suffixes are understood."""
Interval = Annotated[
    int | float,
    BeforeValidator(_interval, json_schema_input_type=_Whole | _Time),
    Field(gt=0, le=LARGEST, description="a whole number of steps above 0, or a time such as 90s, 5m or 1h"),
    AfterValidator(lambda value: Seconds(value) if isinstance(value, float) else value),
]
"""Every so many steps (an int), or every so many seconds (a float, written `90s`, `5m`, `1h`)."""
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A share of a whole: at least 0, less than 1."""
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


@cache
def adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def read(cls: Any, value: object, path: str = "", also: Sequence[str] = ()) -> tuple[Any, list[Problem]]:
    """Turn a plain value (dicts, lists, numbers, text) into `cls`; return it and no mistakes, or None and all of them.

    `also` are keys that stand beside those of `cls` and are read elsewhere: a misspelt one may have meant one of them.
    """
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        return None, [
            Problem(path, value, f"plain values that JSON can hold ({error})", "use numbers, text, lists and mappings")
        ]
    try:
        # JSON mode: lists become tuples, nothing else is converted
        return adapter(cls).validate_json(text, strict=True), []
    except ValidationError as error:
        problems = [_problem(cls, item, path, value, also) for item in error.errors()]
        return None, list({problem.key: problem for problem in reversed(problems)}.values())[::-1]  # one a key


def dump(value: Any) -> Any:
    """The plain form of a config (what `read` takes): dicts, lists, numbers, text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: dump(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): dump(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [dump(item) for item in value]
    return str(value) if isinstance(value, Seconds) else value


# ------------------------------------------------------------------------------------------------------------ mistakes


def _problem(cls: Any, item: Any, path: str, root: object, also: Sequence[str]) -> Problem:
    """One of pydantic's complaints in words of ours: the key as the file has it, what fits there, and what to write."""
    kind, inner = item["type"], item.get("ctx", {}).get("error")
    loc = list(item["loc"])
    unknown = kind in ("unexpected_keyword_argument", "extra_forbidden")
    if unknown:
        loc, wrong = loc[:-1], str(loc[-1])
    elif loc and loc[-1] == "[key]":  # a mapping whose keys are a closed set
        loc, wrong, unknown = loc[:-2], str(loc[-2]), True
    place = Place.at(cls, loc, root)
    key = ".".join([path, *place.keys]).strip(".")
    if isinstance(inner, FieldError):  # raised by a __post_init__: it already says it all but where the config stands
        inside = inner.field == path or inner.field.startswith(f"{path}.")
        own = inner.field if inside else ".".join([key, inner.field.rsplit(".", 1)[-1]]).strip(".")
        return Problem(own, inner.value, inner.expected, inner.fix)
    if unknown:
        value = place.value.get(wrong) if isinstance(place.value, dict) else item["input"]
        return Problem(f"{key}.{wrong}".strip("."), value, NO_SUCH_KEY, place.rename(wrong, () if place.keys else also))
    if kind == "union_tag_invalid":
        names = place.kinds()
        given = place.value["kind"] if isinstance(place.value, dict) else place.value
        return Problem(f"{key}.kind", given, f"one of {', '.join(names)}", _choose(str(given), names))
    if kind == "union_tag_not_found" and isinstance(place.value, dict):
        names = place.kinds()
        return Problem(
            f"{key}.kind",
            MISSING,
            f"one of {', '.join(names)}",
            f"add kind: {place.default['kind'] if isinstance(place.default, dict) else names[0]}",
        )
    if place.value is MISSING:
        return Problem(key, MISSING, place.words(), f"add {key.rsplit('.', 1)[-1]}: …")
    return Problem(key, place.value, place.words(), place.fix(key.rsplit(".", 1)[-1]))


@dataclasses.dataclass
class Place:
    """A place within a config: the keys that lead there, its JSON schema, its value, and the default of its key."""

    keys: list[str]
    node: dict[str, Any]
    definitions: dict[str, Any]
    value: object
    default: object = MISSING

    @staticmethod
    def at(cls: Any, loc: Sequence[str | int], root: object) -> Place:
        """Follow pydantic's location; it ends early at a union or a list of fixed length: judged as a whole."""
        schema = adapter(cls).json_schema(mode="serialization")
        place = Place([], schema, schema.get("$defs", {}), root)
        for part in loc:
            branches = place.branches()
            if "discriminator" in place.node or "discriminator" in branches[0]:
                tagged = place.tagged(str(part))
                place.node = tagged or place.node
                if tagged:
                    continue
            if len(branches) > 1:
                break
            node = place.resolve(branches[0])
            if part in node.get("properties", {}):
                child = node["properties"][part]
            elif isinstance(part, int) and "items" in node:
                child = node["items"]
            elif isinstance(node.get("additionalProperties"), dict):
                child = node["additionalProperties"]
            else:
                break
            value, default = _child(place.value, part), child.get("default", MISSING)
            place = Place([*place.keys, str(part)], child, place.definitions, value, default)
        return place

    def resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        return self.definitions[node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node

    def branches(self, node: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """What may stand here, each resolved; null, which only says that the key may be left out, is not counted."""
        node = self.resolve(node or self.node)
        if "anyOf" not in node or "description" in node:
            return [node]
        return [each for branch in node["anyOf"] if branch.get("type") != "null" for each in self.branches(branch)]

    def tagged(self, kind: str) -> dict[str, Any] | None:
        """The config of that kind, where the kind decides."""
        mapping = self.branches()[0].get("discriminator", {}).get("mapping", {})
        return self.resolve({"$ref": mapping[kind]}) if kind in mapping else None

    def kinds(self) -> list[str]:
        choices = [self.resolve(each) for each in self.branches()[0].get("oneOf", [])]
        return [each["properties"]["kind"]["const"] for each in choices]

    def names(self) -> list[str]:
        """The keys of the mapping that stands here."""
        node = self.branches()[0]
        return sorted(node.get("properties", node.get("propertyNames", {}).get("enum", {})))

    def rename(self, wrong: str, also: Sequence[str]) -> str:
        """What to write instead of a key that is not one."""
        names = sorted({*self.names(), *also})
        if near := nearest(wrong, names):
            return f"write {near!r}"
        for name in self.names():  # right, but one level too high
            inner = Place([], self.branches()[0].get("properties", {}).get(name, {}), self.definitions, None)
            below = [inner.resolve(each) for branch in inner.branches() for each in branch.get("oneOf", [branch])]
            if any(wrong in each.get("properties", {}) for each in below):
                kind = "kind: …, " if "oneOf" in inner.branches()[0] else ""
                return f"write it under {name}: {{{kind}{wrong}: …}}"
        return f"remove it; the keys here are {', '.join(names)}"

    def words(self) -> str:
        """What fits here, as a person says it."""
        said = dict.fromkeys(self._words(branch) for branch in self.branches())
        return " or ".join(said)

    def _words(self, node: dict[str, Any]) -> str:
        kind = node.get("type")
        if "oneOf" in node:
            return f"one of {', '.join(self.kinds())}, or a mapping with that kind"
        if "const" in node or "enum" in node:
            names = [str(name) for name in node.get("enum", [node.get("const")])]
            return f"one of {', '.join(names)}" if len(names) > 1 else f"{names[0]!r}"
        if kind in ("integer", "number"):
            return f"{'a whole number' if kind == 'integer' else 'a number'}{_bounds(node)}"
        if kind == "array":
            if "prefixItems" in node:
                first = self._words(self.resolve(node["prefixItems"][0]))
                return f"a list of {len(node['prefixItems'])}, each {first}"
            return f"a list of {self._words(self.resolve(node.get('items', {}))).removeprefix('a ')}s"
        if kind == "object":
            few = 0 < len(self.names()) < 4
            return f"a mapping with the keys {', '.join(self.names())}" if few else "a mapping of keys to values"
        return {"string": "text", "boolean": "true or false"}.get(str(kind)) or str(node.get("description", "a value"))

    def fix(self, name: str) -> str:
        value, branches = self.value, self.branches()
        kinds = {str(branch.get("type")) for branch in branches}
        constants = [branch["const"] for branch in branches if "const" in branch]
        choices = [
            str(each) for each in (*constants, *(each for branch in branches for each in branch.get("enum", ())))
        ]
        if isinstance(value, str) and (near := nearest(value, choices)):
            return f"write {near!r}"
        if "string" in kinds and not choices and isinstance(value, bool | int | float):
            return f'write "{str(value).lower()}" in quotation marks'
        if "boolean" in kinds and str(value).lower() in ("yes", "on", "1", "no", "off", "0"):
            return f"write {'true' if str(value).lower() in ('yes', 'on', '1') else 'false'}"
        if "integer" in kinds and isinstance(value, float) and value.is_integer() and 0 < value <= LARGEST:
            return f"write {name}: {int(value)}"
        if "array" in kinds and isinstance(value, str):
            return f"write {name}: [{value}]"
        if "number" in kinds and isinstance(value, str) and (match := re.match(r"\d+(\.\d+)?", value)):
            return f"write {name}: {match[0]}"
        if isinstance(self.default, bool | int | float | str):
            return f"write {name}: {str(self.default).lower()}, or leave it out"
        return "correct it" if self.default is MISSING else "correct it, or leave it out"


def _bounds(node: dict[str, Any]) -> str:
    """The limits of a number; pydantic names them otherwise where a suffix was taken off before."""
    low, above = node.get("minimum", node.get("ge")), node.get("exclusiveMinimum", node.get("gt"))
    high, below = node.get("maximum", node.get("le")), node.get("exclusiveMaximum", node.get("lt"))
    if low is not None:
        parts = [f"from {_plain_number(low)}"]
    else:
        parts = [] if above is None else [f"above {_plain_number(above)}"]
    if below is not None:
        parts.append(f"below {_plain_number(below)}")
    elif high not in (None, LARGEST):
        return (
            f" from {_plain_number(low)} to {_plain_number(high)}"
            if low is not None
            else f" {parts[0]}, at most {_plain_number(high)}"
        )
    return " " + " and ".join(parts) if parts else ""


def _plain_number(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


def _child(value: object, part: str | int) -> object:
    if isinstance(value, dict):
        return value.get(part, MISSING)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else MISSING


def _choose(wrong: str, names: Sequence[str]) -> str:
    near = nearest(wrong, names)
    return f"write {near!r}" if near else f"use one of them, such as {names[0]!r}"


# ---------------------------------------------------------------------------------------------------------------- YAML


class Marks(dict[Path_, int]):
    """Line number (from 1) of every key of a YAML file, by its path; 0 where it was not the file that said it."""

    def line(self, key: str) -> int | None:
        """The line of a dotted key, or of the nearest parent that stands in the file."""
        lines = {".".join(map(str, path)): line for path, line in self.items()}
        while key not in lines and key:
            key = key.rpartition(".")[0]
        return lines.get(key) or None


class _Loader(yaml.SafeLoader):
    """YAML without aliases, tags, duplicate keys, and with numbers as people write them (1e-3 is one, on is a word)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise ConstructorError(None, None, "anchors (&name) and aliases (*name)", event.start_mark)
        if event.tag is not None:
            raise ConstructorError(None, None, f"the tag {event.tag}", event.start_mark)
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > MAX_DEPTH:
            raise ConstructorError(None, None, "nested too deeply", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}  # start from nothing: YAML 1.1 reads `on` as true and `1e-3` as text
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+([eE][-+]?[0-9]+)?)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, file: str) -> tuple[dict[str, Any], Marks]:
    """Read strict YAML; return its plain value and the line of every key. Raises RecipeError with every mistake."""
    if len(text) > MAX_BYTES:
        size = f"{len(text):,} characters"
        raise RecipeError(file, [Problem("file", size, "at most 1 MB", "is this a recipe? give the recipe file")])
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(file, [_syntax_problem(error, text)]) from None
    marks = Marks()
    problems: list[Problem] = []
    value = _value(loader, node, (), marks, problems) if node is not None else {}
    if not problems and not isinstance(value, dict):
        problems.append(Problem("file", value, "a mapping of keys to values", "start with name: my-model", 1))
    if problems:
        raise RecipeError(file, problems)
    return value, marks


def read_text(path: Path) -> str:
    """The text of a recipe. Raises RecipeError where there is none, or it is not UTF-8."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)  # a wrong path may be a large file, or a device without an end
    except OSError as error:
        fix = f"give the path of a recipe ({(error.strerror or str(error)).lower()})"
        raise RecipeError(str(path), [Problem("file", str(path), "a recipe that can be read", fix)]) from None
    try:
        return raw.decode("utf-8-sig") if len(raw) <= MAX_BYTES else " " * len(raw)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem("file", f"byte {error.start:,}", "UTF-8 text", "save the file as UTF-8", line)
        raise RecipeError(str(path), [problem]) from None


def _value(loader: _Loader, node: Any, path: Path_, marks: Marks, problems: list[Problem]) -> Any:
    line = node.start_mark.line + 1
    marks.setdefault(path, line)
    key = ".".join(map(str, path))
    if isinstance(node, yaml.MappingNode):
        result: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(Problem(key or "file", "? …", "keys that are words", "write KEY: value", line))
                continue
            name = str(key_node.value)
            marks[(*path, name)] = line
            if name in result:
                given = value_node.value if isinstance(value_node, yaml.ScalarNode) else "…"
                first = f"each key once; {name} stands here a second time"
                problems.append(Problem(f"{key}.{name}".strip("."), given, first, "remove one", line))
            result[name] = _value(loader, value_node, (*path, name), marks, problems)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*path, index), marks, problems) for index, item in enumerate(node.value)]
    try:
        value = loader.construct_object(node)
    except ValueError:  # Python reads no whole number of more than 4300 digits
        value = math.inf
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(key, node.value, "a finite number", "write a smaller one", line))
    return value


SYNTAX = {  # what the parser says -> what was expected, and the fix
    "cannot start any token": (
        "a value or a key; no tab, and none of @ ` % at its beginning",
        "indent with spaces, and put such a text in quotation marks",
    ),
    "mapping values are not allowed here": (
        "one key: value a line",
        "put a text that holds ': ' in quotation marks, or indent this line as its neighbours",
    ),
    "could not find expected ':'": ("key: value", "put a colon and a space after the key"),
    "expected ',' or": ("a bracket that is closed", "close it with ] or }, or put a comma between the values"),
    "unexpected end of stream": ("a quotation mark that is closed", "close the one that is opened here"),
    "found another document": ("one recipe in a file", "remove the line ---"),
    "anchors": ("every value written out, without anchors (&name) and aliases (*name)", "write the value itself"),
    "the tag": ("a plain value without a tag (!…)", "remove the tag"),
    "nested too deeply": (f"at most {MAX_DEPTH} levels", "is this a recipe? give the recipe file"),
}
OPENED = ("unexpected end of stream", "expected ',' or")  # seen late: what is wrong stands where it began


def _syntax_problem(error: Exception, text: str) -> Problem:
    """What is wrong with the YAML itself, with the line that shows it."""
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Problem("text", chr(int(error.character)), "text that can be printed", "remove this character", line)
    mark, said = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or "nested too deeply")
    if any(part in said for part in OPENED):
        mark = getattr(error, "context_mark", None) or mark
    known = next((words for part, words in SYNTAX.items() if part in said), None)
    lines = text.splitlines()
    row = min(mark.line, max(len(lines) - 1, 0)) if mark else 0
    expected, fix = known or (f"valid YAML ({said})", "correct this line, or the one above")
    return Problem("text", lines[row].strip(" ") if lines else "", expected, fix, row + 1)


class _Dumper(yaml.SafeDumper):
    """Writes what `parse_yaml` reads back as the same: no aliases, and quotes wherever a text looks like a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}
BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")  # that PyYAML takes for line breaks, or a mark, unless it escapes them
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if BREAKS.search(text) else None
    ),
)
_Dumper.add_multi_representer(PurePath, lambda dumper, path: dumper.represent_str(str(path)))


def dump_yaml(value: Mapping[str, Any]) -> str:
    """A mapping as the text of a recipe. Raises RecipeError where a value has no plain form."""
    try:
        return yaml.dump(dict(value), Dumper=_Dumper, allow_unicode=True, sort_keys=False)
    except (yaml.YAMLError, RecursionError) as error:
        found = error.args[-1] if len(error.args) > 1 else "nested without end"
        problem = Problem("recipe", found, "numbers, text, lists and mappings", "convert it to one of these")
        raise RecipeError("recipe", [problem]) from None
