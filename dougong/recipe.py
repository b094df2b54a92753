"""The recipe: from YAML or a dict, with line numbers, to typed configs. There is no second schema.

Every Config stands in the file that it configures; this file composes them, and collects all mistakes first.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dougong import backbones, fields
from dougong.core.config import Marks, adapter, dump, dump_yaml, parse_yaml, read, read_text
from dougong.core.errors import MISSING, NO_SUCH_KEY, FieldError, Problem, RecipeError, nearest
from dougong.data import prepare
from dougong.data.cleaning import SAID, TEXTS
from dougong.data.rows import has_column
from dougong.model import KEEPS_APART, keeps_apart, looks_ahead, unfit, unmade
from dougong.training import loop

RUNS = Path("runs")
SECTIONS = ("name", "seed", "data", "inputs", "outputs", "model", "train")
SHORT = {
    "train": ("optimizer", "schedule", "loss"),
    "field": ("tokenizer", "encoder", "loss", "head"),
}  # `adamw` = `{kind: adamw}`
FIELD_NAME = r"[^\W\d][\w -]{0,63}"
RESERVED = ("row", "mix", "auxiliary")  # what a batch holds and a loss counts beside the fields


@dataclass(frozen=True)
class Recipe:
    """Everything about a run. `text` is the recipe as it was given, `overrides` what the command line said beside it."""

    name: str
    seed: int
    data: prepare.Config
    inputs: dict[str, Any]  # name -> the Config of its type
    outputs: dict[str, Any]
    encoders: dict[str, Any]  # name of an input -> the Config of a backbone of its own
    model: Any  # the Config of a backbone
    train: loop.Config
    text: str = ""
    overrides: tuple[str, ...] = ()

    @property
    def written(self) -> str | None:
        """The output that is written step by step (a text), if there is one."""
        found = (name for name, config in self.outputs.items() if fields.head_of(config).AUTOREGRESSIVE)
        return next(found, None)

    @property
    def masked(self) -> bool:
        """Whether its text is told from both sides, some of it hidden, and not written."""
        return any(fields.masked(config) for config in self.outputs.values())

    @property
    def paired(self) -> str | None:
        """The output that reads each input by itself (a pairing), if there is one."""
        return next((name for name, config in self.outputs.items() if fields.reads_apart(config)), None)

    @property
    def made(self) -> str | None:
        """The output that is made from noise (an image), if there is one."""
        return next((name for name, config in self.outputs.items() if fields.made(config)), None)

    @property
    def shares_encoder(self) -> bool:
        """Whether its inputs, read by themselves, go through one encoder."""
        return fields.share_encoder(self.inputs, self.outputs, self.encoders)

    @property
    def vocabularies(self) -> dict[str, str]:
        """Fields that share a vocabulary -> whose it is: of both inputs of one encoder, or of an output and the input it names."""
        if self.shares_encoder:
            return dict.fromkeys(self.inputs, next(iter(self.inputs)))
        shared = {name: getattr(config, "shares", None) for name, config in self.outputs.items()}
        return {each: of for name, of in shared.items() if of for each in (of, name)}

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out; it reads back as the same recipe."""
        inputs = {name: dump(config) for name, config in self.inputs.items()}
        for name, encoder in self.encoders.items():
            inputs[name]["encoder"] = dump(encoder)
        outputs = {name: dump(config) for name, config in self.outputs.items()}
        plain = {"name": self.name, "seed": self.seed, "data": dump(self.data), "inputs": inputs, "outputs": outputs}
        return plain | {"model": dump(self.model), "train": dump(self.train)}


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or a mapping; `overrides` are `key.path=value`. Raises RecipeError with all mistakes."""
    if isinstance(source, Mapping):
        file, base, text = "recipe", Path.cwd(), dump_yaml(source)
    else:
        path = Path(source)
        file, base, text = str(path), path.resolve().parent, read_text(path)
    plain, marks = parse_yaml(text, file)
    found = Reader(file, base, marks).recipe(override(plain, overrides, file, marks), text)
    return dataclasses.replace(found, overrides=tuple(overrides))


def from_resolved(resolved: dict[str, Any], text: str, file: str) -> Recipe:
    """A recipe from the plain form that `Recipe.resolved` gave."""
    return Reader(file, Path("/"), Marks()).recipe(resolved, text)


def override(plain: dict[str, Any], overrides: Sequence[str], file: str, marks: Marks) -> dict[str, Any]:
    """Apply `train.steps=100` and the like; the values are read as YAML."""
    problems = []
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[\w -]+(\.[\w -]+)*", key):
            problems.append(Problem("-s", item, "key.path=value", "write -s train.steps=100"))
            continue
        parsed, _ = parse_yaml(f"value: {value}", f"-s {item}")
        if parsed.keys() != {"value"}:
            problems.append(Problem("-s", item, "one value", "give each key a -s of its own"))
            continue
        node: Any = plain
        *parents, last = key.split(".")
        for place, parent in enumerate(parents):
            child = node.get(parent)
            if child is None:
                child = node[parent] = {}
            elif isinstance(child, str):  # `review: text` is short for {type: text}, `optimizer: muon` for {kind: muon}
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
            marks[tuple(key.split("."))] = 0  # no line of the file says it
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
                self.wrong(key, value, NO_SUCH_KEY, instead_of(key))
        name, seed = self.name(plain), self.seed(plain)
        data = self.section(prepare.Config, plain, "data", required=True)
        inputs, encoders = self.fields(plain, "inputs", "Encoder")
        outputs, _ = self.fields(plain, "outputs", "Head")
        model = self.model(plain, inputs, outputs)
        inputs, outputs = self.named(inputs, outputs, encoders, model)
        train = self.train(plain)
        self.across(inputs, outputs, encoders, model, train, plain)
        self.cleaning(data, [*inputs.values(), *outputs.values()])
        self.files(data)
        if self.problems:
            placed = [dataclasses.replace(problem, line=self.marks.line(problem.key)) for problem in self.problems]
            raise RecipeError(self.file, sorted(placed, key=lambda problem: problem.line or 0))
        data = prepare.rooted(data, self.base)
        inputs, outputs = (rooted(side, self.base, model.init) for side in (inputs, outputs))
        return Recipe(name, seed, data, inputs, outputs, encoders, model, train, text)

    def wrong(self, key: str, value: object, expected: str, fix: str) -> None:
        self.problems.append(Problem(key, value, expected, fix))

    def name(self, plain: dict[str, Any]) -> str:
        name = plain.get("name", MISSING)
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name):
            self.wrong(
                "name",
                name,
                "at most 64 letters, digits, '.', '_', '-', the first no '.' or '-': it becomes the folder runs/NAME",
                "write name: my-model",
            )
            return "unnamed"
        return name

    def seed(self, plain: dict[str, Any]) -> int:
        seed = plain.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 63:
            self.wrong("seed", seed, "a whole number from 0, below 2^63", "write seed: 0")
            return 0
        return seed

    def section(self, cls: Any, plain: dict[str, Any], key: str, required: bool = False) -> Any:
        if key not in plain and required:
            self.wrong(key, MISSING, "a mapping with train: FILE", f"add {key}: {{train: FILE}}")
            return None
        given = plain.get(key)
        value, problems = read(cls, {} if given is None else given, key)
        self.problems += problems
        return value

    def fields(self, plain: dict[str, Any], side: str, part: str) -> tuple[dict[str, Any], dict[str, Any]]:
        given = plain.get(side)
        given = {} if given is None else given
        if not isinstance(given, dict):
            self.wrong(side, given, "a mapping of names to types", f"write {side}: {{name: type}}")
            return {}, {}
        configs: dict[str, Any] = {}
        encoders: dict[str, Any] = {}
        # By name: JSON keeps no order, and a model's parts must come back in the order in which they learnt.
        for name, value in sorted(given.items()):
            key = f"{side}.{name}"
            if not re.fullmatch(FIELD_NAME, name) or name in RESERVED:
                expected = f"a letter, then letters, digits, '_', '-' and spaces; not {', '.join(RESERVED)}"
                self.wrong(key, name, expected, "give it another name, and say column: for the column's own name")
                continue
            config, encoder = self.field(key, value, part)
            if config is not None:
                configs[name] = config
            if encoder is not None:
                encoders[name] = encoder
        return dict(sorted(configs.items())), encoders  # by name: the model must not depend on the order in the file

    def field(self, key: str, value: Any, part: str) -> tuple[Any, Any]:
        value = {"type": value} if isinstance(value, str) else value
        if isinstance(value, dict) and not isinstance(value.get("type"), str):
            near = [each for each in value if nearest(each, ["type"])]
            fix = f"write 'type' for {near[0]!r}" if near and "type" not in value else "add type: text"
            self.wrong(f"{key}.type", value.get("type", MISSING), f"one of {', '.join(fields.having(part))}", fix)
            return None, None
        if not isinstance(value, dict):
            self.wrong(
                key,
                value,
                f"a type ({', '.join(fields.having(part))}) or a mapping with one",
                f"write {key.split('.')[-1]}: text",
            )
            return None, None
        module = self.attempt(lambda: fields.load(value["type"], part), key)
        if module is None:
            return None, None
        if not hasattr(module, part):
            side = "goes in" if part == "Head" else "comes out"
            fix = f"use one of {', '.join(fields.having(part))}"
            self.wrong(f"{key}.type", value["type"], f"a type that can stand here; {value['type']} only {side}", fix)
            return None, None
        value = _expanded(value, SHORT["field"], module.Config)
        other = "outputs" if part == "Encoder" else "inputs"
        one_sided = fields.one_sided(module, part)
        encoder = None
        if "encoder" in value and part == "Encoder":
            encoder = self.backbone(f"{key}.encoder", value.pop("encoder"), "tiny")
        config, problems = read(module.Config, value, key, ("encoder",) if part == "Encoder" else ())
        self.problems += problems
        if config is not None and config.column is not None and not has_column(module):
            expected = f"nothing: a {config.type} is made of the inputs, and has no column of its own"
            self.wrong(f"{key}.column", config.column, expected, "remove it")
        for setting in dataclasses.fields(config) if config is not None else ():
            if setting.name in one_sided and getattr(config, setting.name) != setting.default:
                self.wrong(f"{key}.{setting.name}", value[setting.name], f"it among the {other} only", "remove it")
        return config, encoder

    def model(self, plain: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
        given = plain.get("model")
        given = {"kind": given} if isinstance(given, str) else {} if given is None else given
        preset = "small"
        if isinstance(given, dict) and "kind" not in given:
            kind, preset = default_model(inputs, outputs)
            given = {"kind": kind, **given}
        return self.backbone("model", given, preset)

    def backbone(self, key: str, given: Any, preset: str) -> Any:
        given = {"kind": given} if isinstance(given, str) else given
        names = backbones.names()
        if not isinstance(given, dict):
            expected, last = f"one of {', '.join(names)}, or a mapping with that kind", key.rsplit(".", 1)[-1]
            self.wrong(key, given, expected, f"write {last}: transformer, or leave it out")
            return None
        if not isinstance(given.get("kind"), str):
            self.wrong(
                f"{key}.kind", given.get("kind", MISSING), f"one of {', '.join(names)}", "write kind: transformer"
            )
            return None
        module = self.attempt(lambda: backbones.load(given["kind"]), key)
        if module is None:
            return None
        given = dict(given)
        preset = given.pop("preset", preset)
        presets = module.PRESETS
        if not isinstance(preset, str) or preset not in presets:
            near = nearest(str(preset), list(presets)) or "small"
            self.wrong(f"{key}.preset", preset, f"one of {', '.join(presets)}", f"write {near!r}")
            preset = "small"
        # What is given replaces what the preset says; a size that the preset derived from another is derived anew.
        config, problems = read(module.Config, dump(presets[preset]) | given, key, ("preset",))
        self.problems += problems
        return config

    def train(self, plain: dict[str, Any]) -> Any:
        given = plain.get("train", MISSING)
        if not isinstance(given, dict):
            self.wrong("train", given, "a mapping with a budget", "write train: {epochs: 3}")
            return None
        given = _expanded(given, SHORT["train"], loop.Config)
        train = self.section(loop.Config, plain | {"train": given}, "train")
        meant = any(nearest(name, loop.BUDGETS) for name in given if name not in loop.BUDGETS)
        if not meant and not any(given.get(name) is not None for name in loop.BUDGETS):
            expected = f"a budget: one of {', '.join(loop.BUDGETS)}"
            self.wrong("train", plain["train"], expected, "write train: {epochs: 3}")
        return train

    def across(
        self,
        inputs: dict[str, Any],
        outputs: dict[str, Any],
        encoders: dict[str, Any],
        model: Any,
        train: Any,
        plain: dict[str, Any],
    ) -> None:
        """The rules that tie sections together."""
        if not plain.get("outputs"):
            given = plain.get("outputs", MISSING)
            fix = "add outputs: {label: category}"
            self.wrong("outputs", given, "at least one output: what the model shall tell", fix)
        sides = [side if isinstance(side := plain.get(key), dict) else {} for key in ("inputs", "outputs")]
        for name in sides[0].keys() & sides[1].keys():
            fix = "rename it, and set column: to the column's name"
            self.wrong(f"outputs.{name}", name, "a name that no input has", fix)
        written = [name for name, config in outputs.items() if fields.head_of(config).AUTOREGRESSIVE]
        if written and len(outputs) > 1:
            kind = outputs[written[0]].type
            self.wrong(f"outputs.{written[0]}", kind, f"a {kind} to be the only output", "train two models")
        if written and inputs and not hasattr(fields.load(kind := outputs[written[0]].type), "ANSWERS"):
            expected = f"none beside a {kind}, which holds all that it answers to"
            self.wrong("inputs", ", ".join(inputs), expected, f"remove them, or write outputs: {{{written[0]}: text}}")
        made = [name for name, config in outputs.items() if fields.made(config)]
        if made and len(outputs) > 1:
            kind = outputs[made[0]].type
            self.wrong(f"outputs.{made[0]}", kind, f"an output of type {kind} to be the only one", "train two models")
        if not written and not made and not plain.get("inputs") and outputs:
            given = plain.get("inputs", MISSING)
            fix = "add inputs: {review: text}"
            self.wrong("inputs", given, "at least one input: what the model shall look at", fix)
        for name, config in outputs.items():
            self.loss(name, config, train)
        if train and train.weighing != "fixed" and len(outputs) < 2:
            self.wrong("train.weighing", train.weighing, "fixed beside a single output", "remove it")
        whole = fields.Whole(inputs, outputs, encoders, model, train)
        for side, configs in (("outputs", outputs), ("inputs", inputs)):
            for name, config in configs.items():
                self.problems += fields.problems_of(f"{side}.{name}", config, whole)
        stream = written and not inputs and fields.head_of(outputs[written[0]]).STREAM
        if stream and train and train.batch_tokens:
            context = outputs[written[0]].max_length
            if train.batch_tokens < context:
                expected = f"at least the {context:,} tokens of one window (outputs.{written[0]}.max_length)"
                self.wrong("train.batch_tokens", train.batch_tokens, expected, f"write batch_tokens: {context}")
        if model is None:
            return
        module = backbones.load(model.kind)
        self.problems += module.check("model", model, whole) if hasattr(module, "check") else ()
        for name, encoder in encoders.items():
            if encoder is not None and (makes := unmade(False, encoder.kind)):
                self.wrong(f"inputs.{name}.encoder.kind", encoder.kind, *makes)
        for side, configs in (("inputs", inputs), ("outputs", outputs)):
            for name, config in configs.items():
                if asks_init(config) and model.init is None:
                    expected = "beside it the run that the model begins with, whose tokenizer it is"
                    self.wrong(f"{side}.{name}.tokenizer", "init", expected, "write model: {init: runs/NAME}")
        pictures = [name for name, config in inputs.items() if fields.has_grid(config) and name not in encoders]
        pictures = [] if fields.share_encoder(inputs, outputs, encoders) else pictures  # both are read as images
        if model.kind == "convnet" and pictures and len(inputs) > 1:
            kind = inputs[pictures[0]].type
            expected = f"a backbone that can read the {kind} {pictures[0]!r} beside other inputs"
            own = f"{pictures[0]}: {{type: {kind}, encoder: convnet}}"
            fix = f"write kind: transformer, or give it an encoder of its own: {own}"
            self.wrong("model.kind", model.kind, expected, fix)
        clips = [name for name, config in inputs.items() if fields.axes_of(config) == 3]
        for key, config, alone in [
            ("model", model, len(inputs) == 1 and not encoders),
            *((f"inputs.{name}.encoder", each, name in clips) for name, each in encoders.items()),
        ]:
            if getattr(config, "divided", False) and not (clips and alone):
                fix = "remove it, or give the clip an encoder of its own that divides"
                self.wrong(f"{key}.divided", True, "false where no clip is read by itself", fix)
        # Of several inputs, others than the one that is read along may be a single place.
        apart = encoders if len(inputs) == 1 else {}
        ways = {"model": model, **{f"inputs.{name}.encoder": each for name, each in apart.items()}}
        for name, key in ((name, key) for name, config in outputs.items() if fields.aligned(config) for key in ways):
            if ways[key] is not None and not backbones.load(ways[key].kind).Backbone.PLACES:
                expected = f"a backbone that keeps the places of what goes in, along which {name!r} is spelled"
                self.wrong(f"{key}.kind", ways[key].kind, expected, "write kind: conformer")
        lacks = unmade(bool(made), model.kind) if outputs else None
        if written and lacks is None:
            lacks = unfit(written[0], outputs[written[0]], model.kind)
        if lacks is not None:
            self.wrong("model.kind", model.kind, *lacks)
        elif any(fields.bounded(config) for config in outputs.values()) and not keeps_apart(model):
            self.wrong("model.kind", model.kind, KEEPS_APART, "write kind: transformer, or remove boundaries")
        following = [name for name, config in outputs.items() if fields.causal(config)]
        if following and not backbones.load(model.kind).Backbone.CAUSAL:
            self.wrong("model.kind", model.kind, *looks_ahead(following[0]))
        if (written or following) and getattr(model, "readout", "all") != "all":
            expected = f"all, because every step of {(written or following)[0]!r} is told"
            self.wrong("model.readout", model.readout, expected, "remove it")
        masked = any(fields.masked(config) for config in outputs.values())
        if ((written and not masked) or following) and getattr(model, "bidirectional", None) is True:
            name, why = (written[0], "is written step by step") if written else (following[0], "goes on with a history")
            expected = f"auto or false, because {name!r} {why}"
            self.wrong("model.bidirectional", True, expected, "write bidirectional: auto")
        for key, config in [("model", model), *((f"inputs.{name}.encoder", each) for name, each in encoders.items())]:
            if getattr(config, "cross", False):
                expected = "false: the layout says whether there is an encoder to attend to"
                self.wrong(f"{key}.cross", True, expected, "write layout: encoder-decoder in its place")
            if key != "model" and getattr(config, "init", None) is not None:
                self.wrong(f"{key}.init", config.init, "none: the model begins as a whole", "write it under model")
            if key != "model" and getattr(config, "layout", "decoder") != "decoder":
                self.wrong(f"{key}.layout", config.layout, "decoder: it reads one input", "remove it")
        arriving = [config for name, config in inputs.items() if name not in encoders]
        answered = [outputs[name] for name in written]
        if getattr(model, "layout", "decoder") == "encoder-decoder":
            if outputs and (not written or not inputs):  # one that could not be read is told of itself
                expected = "decoder, where no text is written from inputs"
                self.wrong(
                    "model.layout", model.layout, expected, "remove it, or add inputs and an output of type text"
                )
            self.length("model", model, arriving)
            self.length("model", model, answered)
        else:
            paired = any(fields.reads_apart(config) for config in outputs.values())
            for together in [[each] for each in arriving] if paired else [[*arriving, *answered]]:
                self.length("model", model, together)
        for name, encoder in encoders.items():
            if name in inputs and encoder is not None:
                self.length(f"inputs.{name}.encoder", encoder, [inputs[name]])

    def named(
        self, inputs: dict[str, Any], outputs: dict[str, Any], encoders: dict[str, Any], model: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs that name the words or places of an input are told which, and that input that it has to tell them."""
        named: dict[str, str] = {}  # input -> what it tells
        for name, config in outputs.items():
            module = fields.load(config.type)
            kind = getattr(module, "OF", None)
            if kind is None:
                continue
            if fields.quotes(config) and len(outputs) > 1:
                expected = f"a {config.type} to be the only output: what it quotes is read in windows"
                self.wrong(f"outputs.{name}", config.type, expected, "train two models")
            can = [each for each, other in inputs.items() if other.type == kind]
            if not can and config.of is None and getattr(module, "ALONE", False):
                continue
            if config.of not in can and (config.of is not None or len(can) != 1):
                expected = f"an input of type {kind}" + (f": one of {', '.join(can)}" if can else "")
                fix = f"write of: {can[0]}" if can else f"add inputs: {{{kind}: {kind}}}"
                self.wrong(f"outputs.{name}.of", config.of, expected, fix)
                continue
            of = config.of or can[0]
            config = dataclasses.replace(config, of=of)
            outputs = outputs | {name: config}
            if (told := fields.named_by(config)) is None:
                continue
            named[of] = told
            inputs = inputs | {of: dataclasses.replace(inputs[of], **{told: True})}
            if fields.quotes(config):
                self.attempt(partial(config.step, inputs[of].max_length), f"outputs.{name}")
            ways = {"model": model, f"inputs.{of}.encoder": encoders.get(of)}
            for key, each in ways.items() if told != "unread" else ():
                if each is not None and not backbones.keeps_places(each):
                    expected = f"a backbone that keeps the places of what it reads, for outputs.{name}"
                    self.wrong(f"{key}.kind", each.kind, expected, "write kind: transformer")
        if len(named) > 1:
            self.wrong("outputs", sorted(named), "words or places of one input alone to be named", "train two models")
        for side, configs in (("inputs", inputs), ("outputs", outputs)):
            for name, config in configs.items():
                for key in ("words", "places", "sizes", "unread"):
                    if getattr(config, key, False) and named.get(name) != key:
                        self.wrong(f"{side}.{name}.{key}", True, f"false: no output names its {key}", "remove it")
        return inputs, outputs

    def cleaning(self, data: Any, configs: Sequence[Any]) -> None:
        """Rules that no field of the recipe could fall under."""
        types = {config.type for config in configs}
        if data is None or not types:
            return
        rules = data.cleaning
        if rules.outliers is not None and "number" not in types:
            expected = "a field of type number that it could look at"
            self.wrong("data.cleaning.outliers", rules.outliers, expected, "remove it")
        for name in ("min_length", "max_length", "language"):
            if getattr(rules, name) and types.isdisjoint(SAID):
                expected = f"a field of type {', '.join(SAID[:-1])} or {SAID[-1]} that it could look at"
                self.wrong(f"data.cleaning.{name}", getattr(rules, name), expected, "remove it")
        if rules.near_duplicates != "off" and types.isdisjoint(TEXTS):
            expected = "off, where no field is of type text"
            self.wrong("data.cleaning.near_duplicates", rules.near_duplicates, expected, "remove it")

    def loss(self, name: str, config: Any, train: Any) -> None:
        """Whether the loss is one that the output's type can lower."""
        loss = config.loss or (train.loss if train else None)
        if loss is None:
            return
        key = f"outputs.{name}.loss" if config.loss else "train.loss"
        kinds = list(getattr(fields.head_of(config), "LOSSES", ("auto", "cross_entropy")))
        because = f"because {name!r} is a {config.type}"
        if loss.kind not in kinds:
            self.wrong(f"{key}.kind", loss.kind, f"one of {', '.join(kinds)}, {because}", f"write {kinds[-1]!r}")
        elif loss.label_smoothing and "cross_entropy" not in kinds:
            self.wrong(f"{key}.label_smoothing", loss.label_smoothing, f"none, {because}", "remove it")

    def length(self, key: str, model: Any, arriving: Sequence[Any]) -> None:
        """Whether a backbone with a longest sequence can hold the texts that arrive."""
        limit = getattr(model, "max_length", None) or (1024 if getattr(model, "positions", None) == "learned" else None)
        total = sum(map(fields.longest, arriving))
        if getattr(model, "rotary_scaling", None) is not None:
            self.attempt(lambda: model.rotary_scaling.check(key, total), f"{key}.rotary_scaling")
        if limit is not None and total > limit:
            fix = f"use max_length: {total} here, or a smaller one in the texts"
            self.wrong(f"{key}.max_length", limit, f"at least the {total:,} tokens that the texts may have", fix)

    def files(self, data: Any) -> None:
        for name in prepare.SPLITS if data is not None else ():
            paths = getattr(data, name)
            listed = [paths] if isinstance(paths, str) else paths
            if listed is not None and (not listed or "" in listed):
                expected = "a file, a folder or a pattern such as data/*.csv"
                self.wrong(f"data.{name}", dump(paths), expected, f"write {name}: FILE")

    def attempt(self, load: Any, key: str) -> Any:
        try:
            return load()
        except FieldError as error:
            last = error.field.rsplit(".", 1)[-1]
            self.wrong(f"{key}.{last}", error.value, error.expected, error.fix)
            return None


def default_model(inputs: dict[str, Any], outputs: dict[str, Any]) -> tuple[str, str]:
    """The backbone that the types call for, and its preset."""
    types = {config.type for config in inputs.values()}
    if only := next(filter(None, map(fields.only_backbone, outputs.values())), None):
        return only, "small"
    if any(map(fields.made, outputs.values())):
        return "diffusion", "small"
    if any(fields.head_of(config).AUTOREGRESSIVE for config in outputs.values()):
        return "transformer", "small"
    if prefers := next(filter(None, (getattr(fields.load(name), "PREFERS", None) for name in sorted(types))), None):
        return prefers, "small"
    if any(map(fields.has_grid, inputs.values())):
        return "convnet" if len(
            inputs
        ) == 1 else "transformer", "small"  # beside other inputs a convnet would lose its grid
    if any(getattr(fields.load(config.type), "OF", None) in types for config in outputs.values()):
        return "transformer", "small"
    return "mlp", "bag" if types == {"text"} else "small"


def rooted(configs: dict[str, Any], base: Path, init: str | None) -> dict[str, Any]:
    """The same with absolute paths of tokenizers, so that a resolved recipe means the same files from anywhere."""

    def absolute(name: str, config: Any) -> Any:
        module = fields.load(config.type)
        config = module.rooted(config, base) if hasattr(module, "rooted") else config
        tokenizer: Any = getattr(config, "tokenizer", None)
        if init is not None and asks_init(config):
            # Found by its name alone where the run is not there: a recipe is in order before its parent is trained.
            run = Path(init) if Path(init).is_dir() or Path(init).name != init else RUNS / init
            tokenizer = tokenizer.found(Path.cwd() / run / "model", name)
        if not hasattr(tokenizer, "path"):
            return config
        return dataclasses.replace(config, tokenizer=dataclasses.replace(tokenizer, path=str(base / tokenizer.path)))

    return {name: absolute(name, config) for name, config in configs.items()}


def asks_init(config: Any) -> bool:
    """Whether a field has the tokenizer of the run that the model begins with."""
    return getattr(getattr(config, "tokenizer", None), "kind", None) == "init"


def instead_of(key: str) -> str:
    """What to write instead of a section that is none."""
    if near := nearest(key, SECTIONS):
        return f"write {near!r}"
    for section, cls in (("train", loop.Config), ("data", prepare.Config)):
        if key in {field.name for field in dataclasses.fields(cls)}:
            return f"write it under {section}: {{{key}: …}}"
    return f"remove it; the keys here are {', '.join(SECTIONS)}"


def _expanded(value: dict[str, Any], keys: Sequence[str], cls: Any) -> dict[str, Any]:
    """`optimizer: muon` -> `optimizer: {kind: muon}`; `optimizer: {lr: 0.1}` -> that of the kind which `cls` defaults to."""
    defaults = {field.name: getattr(field.default, "kind", None) for field in dataclasses.fields(cls)}

    def whole(key: str, item: Any) -> Any:
        if key not in keys or not isinstance(item, dict):
            return {"kind": item} if key in keys and isinstance(item, str) else item
        meant = "kind" in item or nearest_kind(item)
        return item if meant or defaults.get(key) is None else {"kind": defaults[key], **item}

    def nearest_kind(item: dict[str, Any]) -> bool:  # a misspelt kind must not become the default one
        return any(nearest(each, ["kind"]) for each in item if isinstance(each, str))

    return {key: whole(key, item) for key, item in value.items()}


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

    def shorten(properties: dict[str, Any], keys: Sequence[str]) -> None:
        """`optimizer: muon` beside `optimizer: {kind: muon}`."""
        for key in set(keys) & set(properties):
            branches = [properties[key], *properties[key].get("anyOf", [])]
            choices = [part for branch in branches for part in (branch, *branch.get("oneOf", []))]
            references = [part["$ref"] for part in choices if "$ref" in part]
            found = [definitions[reference.removeprefix("#/$defs/")] for reference in references]
            kinds = [each["properties"]["kind"] for each in found]
            names = [name for kind in kinds for name in kind.get("enum", [kind.get("const")])]
            default = (properties[key].get("default") or {}).get("kind")
            for each, kind in zip(found, kinds, strict=True):  # what names no kind is of the default one
                if kind.get("const") not in (None, default):
                    each["required"] = sorted({"kind", *each.get("required", [])})
            properties[key] = {"anyOf": [{"enum": names}, properties[key]]}

    sides: dict[str, list[Any]] = {"Encoder": [], "Head": []}
    for name in fields.names():
        module = fields.load(name)
        reference = of(module.Config, f"field.{name}")
        shorten(definitions[f"field.{name}"]["properties"], SHORT["field"])
        definitions[f"field.{name}"]["properties"]["encoder"] = {"anyOf": kinds}
        definitions[f"field.{name}"]["required"] = ["type"]
        for part, choices in sides.items():
            if hasattr(module, part):
                choices += [{"const": name}, reference]
    train = of(loop.Config, "train")
    shorten(definitions["train"]["properties"], SHORT["train"])
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
            "train": train,
        },
        "$defs": definitions,
    }
