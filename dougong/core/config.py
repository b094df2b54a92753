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
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from yaml.constructor import ConstructorError

from dougong.core.errors import FieldError, Problem, RecipeError, nearest, shown

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


def _interval(value: object) -> object:
    """`5m`, `90s`, `1h` -> Duration in seconds as text `300s`; a plain count stays one (steps)."""
    if isinstance(value, str):
        if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", value.strip()):
            return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]
        return _count(value)
    return value


Count = Annotated[int, BeforeValidator(_count, json_schema_input_type=int | str), Field(gt=0)]
"""A positive whole number; `k`, `M` and `B` suffixes are understood."""
Interval = Annotated[int | float, BeforeValidator(_interval, json_schema_input_type=int | float | str), Field(gt=0)]
"""Every so many steps (an int), or every so many seconds (a float, written `90s`, `5m`, `1h`)."""
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A share of a whole: at least 0, less than 1."""
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


@cache
def adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def read(cls: Any, value: object, path: str = "") -> tuple[Any, list[Problem]]:
    """Turn a plain value (dicts, lists, numbers, text) into `cls`; return it with the mistakes found (None and some, or it and none)."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        return None, [
            Problem(path, value, f"plain values that JSON can hold ({error})", "use numbers, text, lists and mappings")
        ]
    try:
        return adapter(cls).validate_json(
            text, strict=True
        ), []  # JSON mode: lists become tuples, nothing else is converted
    except ValidationError as error:
        return None, _distinct([_problem(cls, item, path) for item in error.errors()])


def dump(value: Any) -> Any:
    """The plain form of a config (what `read` takes): dicts, lists, numbers, text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: dump(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): dump(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [dump(item) for item in value]
    return value


def field_names(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _problem(cls: Any, item: Any, path: str) -> Problem:
    kind, loc, context = item["type"], list(item["loc"]), item.get("ctx", {})
    inner = context.get("error")
    if isinstance(inner, FieldError):  # raised by a __post_init__: it already says it all
        return Problem(inner.field, inner.value, inner.expected, inner.fix)
    key = ".".join([path, *(str(part) for part in loc if not _is_tag(part))]).strip(".")
    value = item["input"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        names = _names_at(cls, loc[:-1])
        near = nearest(str(loc[-1]), names)
        fix = f"write {near!r}" if near else f"remove it; the keys here are {', '.join(names)}"
        return Problem(key, value, "no such key", fix)
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return Problem(key, None, "a value: it is required", f"add {loc[-1]}: …")
    if kind in ("literal_error", "union_tag_invalid"):
        expected = str(context.get("expected") or context.get("expected_tags"))
        names = re.findall(r"'([^']*)'", expected)
        wrong = str(context.get("tag", value))
        near = nearest(wrong, names)
        key = f"{key}.kind" if kind == "union_tag_invalid" else key
        return Problem(
            key,
            context.get("tag", value),
            f"one of {', '.join(names)}",
            f"write {near!r}" if near else f"use {names[0]!r}",
        )
    if kind == "union_tag_not_found":
        return Problem(f"{key}.kind", None, "a kind", "add kind: …")
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ").replace("a valid ", "a ")
    return Problem(key, value, message, "correct the value")


def _is_tag(part: object) -> bool:
    """Whether a part of pydantic's location names a branch of a union rather than a key of the file."""
    return isinstance(part, str) and bool(
        re.fullmatch(
            r"(int|float|str|bool|none|list\[.*|tuple\[.*|dict\[.*|literal\[.*|function-.*|constrained-.*)", part
        )
    )


def _names_at(cls: Any, loc: list[Any]) -> list[str]:
    """The keys that a config offers at a place within it, found in its JSON schema."""
    schema = adapter(cls).json_schema()
    definitions = schema.get("$defs", {})

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        return definitions[node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node

    node = resolve(schema)
    for part in loc:
        branches = [resolve(branch) for branch in node.get("anyOf", node.get("oneOf", [node]))]
        tagged = [b for b in branches if b.get("properties", {}).get("kind", {}).get("const") == part]
        if tagged:
            node = tagged[0]
            continue
        found = [b["properties"][part] for b in branches if part in b.get("properties", {})]
        if found:
            node = resolve(found[0])
    branches = [resolve(branch) for branch in node.get("anyOf", node.get("oneOf", [node]))]
    return sorted({name for branch in branches for name in branch.get("properties", {})})


def _distinct(problems: list[Problem]) -> list[Problem]:
    """One problem a key: a union reports a mistake once for every branch, the first that says most is kept."""
    kept: dict[str, Problem] = {}
    for problem in problems:
        kept.setdefault(problem.key + ("?" if problem.expected == "no such key" else ""), problem)
    return list(kept.values())


# ---------------------------------------------------------------------------------------------------------------- YAML


class Marks(dict[Path_, int]):
    """Line number (from 1) of every key of a YAML file, by its path."""

    def line(self, key: str) -> int | None:
        """The line of a dotted key, or of the nearest parent that stands in the file."""
        parts = key.split(".")
        while parts:
            for path, line in self.items():
                if [str(part) for part in path] == parts:
                    return line
            parts.pop()
        return None


class _Loader(yaml.SafeLoader):
    """YAML without aliases, tags, duplicate keys, and with numbers as people write them (1e-3 is one, on is a word)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ConstructorError(None, None, "aliases (*name) are not allowed: write the value out", event.start_mark)
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > MAX_DEPTH:
            raise ConstructorError(None, None, f"nested deeper than {MAX_DEPTH} levels", self.peek_event().start_mark)
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
    """Read strict YAML; return its plain value and the line of every key. Raises RecipeError with the line of a mistake."""
    if len(text) > MAX_BYTES:
        raise RecipeError(
            file,
            [Problem("file", f"{len(text):,} characters", "at most 1 MB", "is this a recipe? give the recipe file")],
        )
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(file, [_syntax_problem(error)]) from None
    marks = Marks()
    problems: list[Problem] = []
    value = _plain(loader, node, (), marks, problems) if node is not None else {}
    if not problems and not isinstance(value, dict):
        problems.append(Problem("file", value, "a mapping of keys to values", "start with name: my-model", 1))
    if problems:
        raise RecipeError(file, problems)
    return value, marks


def read_yaml(path: Path) -> tuple[dict[str, Any], Marks]:
    """`parse_yaml` of a file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError(
            str(path), [Problem("file", str(path), "a recipe that can be read", error.strerror or str(error))]
        ) from None
    try:
        return parse_yaml(raw[: MAX_BYTES + 1].decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise RecipeError(
            str(path), [Problem("file", f"byte {error.start}", "UTF-8 text", "save the file as UTF-8")]
        ) from None


def _plain(loader: _Loader, node: Any, path: Path_, marks: Marks, problems: list[Problem]) -> Any:
    marks.setdefault(path, node.start_mark.line + 1)
    line = node.start_mark.line + 1
    key = ".".join(map(str, path))
    if isinstance(node, yaml.MappingNode):
        result: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            name = str(key_node.value)
            marks[(*path, name)] = key_node.start_mark.line + 1
            if name in result:
                problems.append(
                    Problem(
                        ".".join([*map(str, path), name]),
                        name,
                        "each key once",
                        "remove one of the two",
                        key_node.start_mark.line + 1,
                    )
                )
            result[name] = _plain(loader, value_node, (*path, name), marks, problems)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, index), marks, problems) for index, item in enumerate(node.value)]
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rsplit(":", 1)[-1] not in (
        "str",
        "int",
        "float",
        "bool",
        "null",
    ):
        problems.append(Problem(key, node.tag, "a plain value without a tag", f"remove {shown(node.tag)}", line))
        return None
    value = loader.construct_object(node)
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(key, value, "a finite number", "write a number", line))
    return value


def _syntax_problem(error: Exception) -> Problem:
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or "nested too deeply"
    return Problem("file", said, "valid YAML", "correct the line above or at this one", mark.line + 1 if mark else None)
