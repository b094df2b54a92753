"""The recipe: from YAML or a dict, with line numbers, to typed configs. There is no second schema.

Every Config stands in the file that it configures; this file composes them, and collects all mistakes before it complains.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dougong import backbones, fields
from dougong.core.config import Marks, adapter, dump, parse_yaml, read, read_yaml
from dougong.core.errors import FieldError, Problem, RecipeError, nearest
from dougong.data import prepare
from dougong.training import loop

SECTIONS = ("name", "seed", "data", "inputs", "outputs", "model", "train")
SHORT = {
    "train": ("optimizer", "schedule", "loss"),
    "field": ("tokenizer", "encoder", "loss"),
}  # `adamw` = `{kind: adamw}`


@dataclass(frozen=True)
class Recipe:
    """Everything about a run. `text` is the recipe as it was given."""

    name: str
    seed: int
    data: prepare.Config
    inputs: dict[str, Any]  # name -> the Config of its type
    outputs: dict[str, Any]
    encoders: dict[str, Any]  # name of an input -> the Config of a backbone of its own
    model: Any  # the Config of a backbone
    train: loop.Config
    text: str = ""

    @property
    def written(self) -> str | None:
        """The output that is written step by step (a text), if there is one."""
        found = (name for name, config in self.outputs.items() if fields.load(config.type).Head.AUTOREGRESSIVE)
        return next(found, None)

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out; it reads back as the same recipe."""
        inputs = {name: dump(config) for name, config in self.inputs.items()}
        for name, encoder in self.encoders.items():
            inputs[name]["encoder"] = dump(encoder)
        outputs = {name: dump(config) for name, config in self.outputs.items()}
        plain = {"name": self.name, "seed": self.seed, "data": dump(self.data), "inputs": inputs, "outputs": outputs}
        return plain | {"model": dump(self.model), "train": dump(self.train)}


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or a mapping; `overrides` are `key.path=value`. Raises RecipeError with every mistake there is."""
    if isinstance(source, Mapping):
        text = yaml.safe_dump(dict(source), allow_unicode=True, sort_keys=False)
        plain, marks = parse_yaml(text, "recipe")
        file, base = "recipe", Path.cwd()
    else:
        path = Path(source)
        plain, marks = read_yaml(path)
        file, base, text = str(path), path.resolve().parent, path.read_text(encoding="utf-8-sig")
    return Reader(file, base, marks).recipe(override(plain, overrides, file), text)


def from_resolved(resolved: dict[str, Any], text: str, file: str) -> Recipe:
    """A recipe from the plain form that `Recipe.resolved` gave."""
    return Reader(file, Path("/"), Marks()).recipe(resolved, text)


def override(plain: dict[str, Any], overrides: Sequence[str], file: str) -> dict[str, Any]:
    """Apply `train.steps=100` and the like; the values are read as YAML."""
    problems = []
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            problems.append(Problem("-s", item, "key.path=value", "write -s train.steps=100"))
            continue
        parsed, _ = parse_yaml(f"value: {value}", f"-s {item}")
        node: Any = plain
        *parents, last = key.split(".")
        for place, parent in enumerate(parents):
            child = node.setdefault(parent, {})
            if isinstance(child, str):  # `review: text` is short for {type: text}, `optimizer: muon` for {kind: muon}
                child = node[parent] = {"type" if place == 1 and parents[0] in ("inputs", "outputs") else "kind": child}
            node = child
            if not isinstance(node, dict):
                problems.append(
                    Problem("-s", item, f"a key within a mapping; {parent} is not one", f"set {parent} as a whole")
                )
                break
        else:
            if key in [f"train.{name}" for name in loop.BUDGETS]:  # a new budget replaces the old one
                for name in loop.BUDGETS:
                    node.pop(name, None)
            node[last] = parsed["value"]
    if problems:
        raise RecipeError(file, problems)
    return plain


class Reader:
    """Turns the plain mapping into a Recipe, collecting problems on the way."""

    def __init__(self, file: str, base: Path, marks: Marks):
        self.file, self.base, self.marks = file, base, marks
        self.problems: list[Problem] = []

    def recipe(self, plain: dict[str, Any], text: str) -> Recipe:
        for key, value in plain.items():
            if key not in SECTIONS:
                near = nearest(key, SECTIONS)
                self.wrong(
                    key, value, "no such key", f"write {near!r}" if near else f"the keys here are {', '.join(SECTIONS)}"
                )
        name, seed = self.name(plain), self.seed(plain)
        data = self.section(prepare.Config, plain, "data", required=True)
        inputs, encoders = self.fields(plain, "inputs", "Encoder")
        outputs, _ = self.fields(plain, "outputs", "Head")
        model = self.model(plain, inputs, outputs)
        train = self.train(plain)
        self.across(inputs, outputs, model, plain)
        if self.problems:
            placed = [dataclasses.replace(problem, line=self.marks.line(problem.key)) for problem in self.problems]
            raise RecipeError(self.file, sorted(placed, key=lambda problem: problem.line or 0))
        data = prepare.rooted(data, self.base)
        return Recipe(name, seed, data, inputs, outputs, encoders, model, train, text)

    def wrong(self, key: str, value: object, expected: str, fix: str) -> None:
        self.problems.append(Problem(key, value, expected, fix))

    def name(self, plain: dict[str, Any]) -> str:
        name = plain.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name):
            self.wrong(
                "name",
                name,
                "a name of letters, digits, '.', '_', '-'; it becomes the folder runs/NAME",
                "write name: my-model",
            )
            return "unnamed"
        return name

    def seed(self, plain: dict[str, Any]) -> int:
        seed = plain.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
            self.wrong("seed", seed, "a whole number from 0", "write seed: 0")
            return 0
        return seed

    def section(self, cls: Any, plain: dict[str, Any], key: str, required: bool = False) -> Any:
        if key not in plain and required:
            self.wrong(key, None, "a mapping: it is required", f"add {key}:")
            return None
        value, problems = read(cls, plain.get(key) or {}, key)
        self.problems += problems
        return value

    def fields(self, plain: dict[str, Any], side: str, part: str) -> tuple[dict[str, Any], dict[str, Any]]:
        given = plain.get(side) or {}
        if not isinstance(given, dict):
            self.wrong(side, given, "a mapping of names to types", f"write {side}: {{name: type}}")
            return {}, {}
        configs: dict[str, Any] = {}
        encoders: dict[str, Any] = {}
        for name, value in given.items():
            key = f"{side}.{name}"
            if not re.fullmatch(r"[^\W\d][\w -]{0,63}", name):
                self.wrong(
                    key,
                    name,
                    "a name of letters, digits, '_', '-' and spaces",
                    "rename it, and set column: to the column's name",
                )
                continue
            config, encoder = self.field(key, value, part)
            if config is not None:
                configs[name] = config
            if encoder is not None:
                encoders[name] = encoder
        return configs, encoders

    def field(self, key: str, value: Any, part: str) -> tuple[Any, Any]:
        value = {"type": value} if isinstance(value, str) else value
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            self.wrong(
                key,
                value,
                f"a type ({', '.join(fields.names())}) or a mapping with one",
                f"write {key.split('.')[-1]}: text",
            )
            return None, None
        module = self.attempt(lambda: fields.load(value["type"]), key)
        if module is None:
            return None, None
        if not hasattr(module, part):
            side = "goes in" if part == "Head" else "comes out"
            self.wrong(
                f"{key}.type",
                value["type"],
                f"a type that can stand here; {value['type']} only {side}",
                "choose another type",
            )
            return None, None
        value = _expanded(value, SHORT["field"])
        encoder = None
        if "encoder" in value and part == "Encoder":
            encoder = self.backbone(f"{key}.encoder", value.pop("encoder"), "tiny")
        config, problems = read(module.Config, value, key)
        self.problems += problems
        return config, encoder

    def model(self, plain: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
        given = plain.get("model")
        given = {"kind": given} if isinstance(given, str) else {} if given is None else given
        if isinstance(given, dict) and "kind" not in given:
            given = {"kind": default_kind(inputs, outputs), **given}
        return self.backbone("model", given, "small")

    def backbone(self, key: str, given: Any, preset: str) -> Any:
        given = {"kind": given} if isinstance(given, str) else given
        if not isinstance(given, dict) or not isinstance(given.get("kind"), str):
            self.wrong(
                f"{key}.kind", given, f"one of {', '.join(backbones.names())}", f"write {key}: {{kind: transformer}}"
            )
            return None
        module = self.attempt(lambda: backbones.load(given["kind"]), key)
        if module is None:
            return None
        given = dict(given)
        preset = given.pop("preset", preset)
        if preset not in module.PRESETS:
            near = nearest(str(preset), list(module.PRESETS))
            self.wrong(f"{key}.preset", preset, f"one of {', '.join(module.PRESETS)}", f"write {near or 'small'!r}")
            return None
        # What is given replaces what the preset says; a size that the preset derived from another is derived anew.
        config, problems = read(module.Config, dump(module.PRESETS[preset]) | given, key)
        self.problems += problems
        return config

    def train(self, plain: dict[str, Any]) -> Any:
        given = plain.get("train")
        if not isinstance(given, dict):
            self.wrong("train", given, "a mapping with a budget", "write train: {epochs: 3}")
            return None
        given = _expanded(given, SHORT["train"])
        if not any(given.get(name) is not None for name in loop.BUDGETS):
            self.wrong("train", None, f"a budget: one of {', '.join(loop.BUDGETS)}", "write train: {epochs: 3}")
        return self.section(loop.Config, plain | {"train": given}, "train")

    def across(self, inputs: dict[str, Any], outputs: dict[str, Any], model: Any, plain: dict[str, Any]) -> None:
        """The rules that tie sections together."""
        if not plain.get("outputs"):
            self.wrong(
                "outputs",
                plain.get("outputs"),
                "at least one output: what the model shall tell",
                "add outputs: {label: category}",
            )
        for name in inputs:
            if name in outputs:
                self.wrong(
                    f"outputs.{name}",
                    name,
                    "a name that no input has",
                    "rename it, and set column: to the column's name",
                )
        written = [name for name, config in outputs.items() if fields.load(config.type).Head.AUTOREGRESSIVE]
        if written and len(outputs) > 1:
            self.wrong(f"outputs.{written[0]}", "text", "a text to be the only output", "train two models")
        if not written and not inputs and outputs:
            self.wrong("inputs", None, "at least one input: what the model shall look at", "add inputs: {review: text}")
        if written and model is not None and not backbones.load(model.kind).Backbone.CAUSAL:
            fix = "write kind: transformer"
            self.wrong("model.kind", model.kind, f"a backbone that can write {written[0]!r} step by step", fix)

    def attempt(self, load: Any, key: str) -> Any:
        try:
            return load()
        except FieldError as error:
            last = error.field.rsplit(".", 1)[-1]
            self.wrong(f"{key}.{last}", error.value, error.expected, error.fix)
            return None


def default_kind(inputs: dict[str, Any], outputs: dict[str, Any]) -> str:
    """The backbone that the types call for."""
    types = {config.type for config in inputs.values()}
    if "text" in {config.type for config in outputs.values()}:
        return "transformer"
    if "image" in types:
        return "convnet"
    return "transformer" if "text" in types else "mlp"


def _expanded(value: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """`optimizer: muon` -> `optimizer: {kind: muon}`."""
    return {key: {"kind": item} if key in keys and isinstance(item, str) else item for key, item in value.items()}


def differences(old: Any, new: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Every dotted key whose value differs between two resolved recipes: key -> (old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted({*old, *new}):
            found |= differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return found
    return {} if old == new else {path: (old, new)}


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, composed of the schemas of all Configs; editors complete from it."""
    definitions: dict[str, Any] = {}

    def of(cls: Any, name: str) -> dict[str, str]:
        part = adapter(cls).json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        for key, value in part.pop("$defs", {}).items():
            definitions[f"{name}.{key}"] = value
        definitions[name] = part
        return {"$ref": f"#/$defs/{name}"}

    kinds: list[dict[str, Any]] = [{"enum": backbones.names()}]
    for kind in backbones.names():
        of(backbones.load(kind).Config, f"backbone.{kind}")
        definitions[f"backbone.{kind}"]["properties"]["preset"] = {"enum": list(backbones.load(kind).PRESETS)}
        definitions[f"backbone.{kind}"].pop("required", None)
        kinds.append({"$ref": f"#/$defs/backbone.{kind}"})
    sides: dict[str, list[Any]] = {"Encoder": [], "Head": []}
    for name in fields.names():
        module = fields.load(name)
        reference = of(module.Config, f"field.{name}")
        definitions[f"field.{name}"]["properties"]["encoder"] = {"anyOf": kinds}
        definitions[f"field.{name}"]["required"] = ["type"]
        for part, choices in sides.items():
            if hasattr(module, part):
                choices += [{"const": name}, reference]
    side = {part: {"type": "object", "additionalProperties": {"anyOf": choices}} for part, choices in sides.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dougong recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "data", "outputs", "train"],
        "properties": {
            "name": {"type": "string", "description": "the run goes to runs/NAME"},
            "seed": {"type": "integer", "minimum": 0},
            "data": of(prepare.Config, "data"),
            "inputs": side["Encoder"],
            "outputs": side["Head"],
            "model": {"anyOf": kinds},
            "train": of(loop.Config, "train"),
        },
        "$defs": definitions,
    }
