"""The run folder: all that a model is and where it came from.

runs/NAME/
  recipe.yaml      as given               fields/      one codec a field
  resolved.json    with all defaults      model/       model.safetensors, config.json, tokenizer.json
  checkpoints/     while it trains        evaluations/ one folder a split
  log.jsonl        one record a step      report.html
  data.json        which data it began with  changes.jsonl   what a recipe said before it was changed
  receipt.json     where it came from     manifest.json   size and sha256 of the files of a finished run
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dougong import fields
from dougong import model as models
from dougong import recipe as recipes
from dougong.core import artefacts
from dougong.core.artefacts import (
    Written,
    read_json,
    read_sealed,
    verify_folder,
    write_folder,
    write_json,
    write_sealed,
)
from dougong.core.devices import device_name, pick_device
from dougong.core.errors import ArtefactError, DataError, Note, bad_field, shown
from dougong.core.tensors import load_tensors, save_tensors
from dougong.data import cleaning, preparation, prepare
from dougong.data.columns import Columns
from dougong.data.loader import Batch, Loader, Plan, RowPlan, WindowPlan, collate
from dougong.data.shards import Split
from dougong.fields import Field
from dougong.inference import generate
from dougong.model import Model
from dougong.recipe import Recipe
from dougong.training import checkpoint
from dougong.training.fit import autocast_for
from dougong.training.loop import Progress

RUNS = Path("runs")
MODEL, KIND, DATA, CHANGES = "model", "run", "data.json", "changes.jsonl"
READ_LATER = ("model/model.safetensors", "log.jsonl")  # large: the one is checked when the model is loaded
PREDICT_ROWS = 64
BRIEF_TOKENS, BRIEF_ROWS = 32_768, 4_096  # that a validation during training looks at; `evaluate` looks at all
CONFIG_VERSION = 1  # of resolved.json and config.json
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}  # version -> its plain recipe as the next has it
Notes = Counter[tuple[str, str]]
"""(column, what is to be said of it) -> how often."""


class Run:
    """A finished run: its recipe, its fields, and its model, loaded when first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        check_sealed(folder, but=READ_LATER)
        self.recipe = read_recipe(folder)
        self.inputs, self.outputs = read_fields(folder, self.recipe)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def receipt(self) -> dict[str, Any]:
        return read_sealed(self.folder / "receipt.json")

    @cached_property
    def model(self) -> Model:
        """The trained model on this machine's device; every byte of it is checked first."""
        verify_folder(self.folder / MODEL, MODEL)
        read_resolved(self.folder / MODEL / "config.json")  # refuses one of a newer dougong
        built = build(self.recipe, self.inputs, self.outputs)
        fill(built, load_tensors(self.folder / MODEL / "model.safetensors"), self.folder / MODEL)
        return built.eval()

    @property
    def autocast(self) -> Any:
        return autocast_for(self.recipe.train, next(self.model.parameters()).device, self.model)

    @property
    def held_out(self) -> str | None:
        """The split that a run is judged on: test where there is one; None where no row was held out."""
        rows = self.receipt["data"]["rows"]
        return next((split for split in ("test", "validation") if rows.get(split)), None)

    def evaluated_splits(self) -> list[str]:
        return sorted(
            path.name
            for path in (self.folder / "evaluations").glob("*")
            if path.is_dir() and not path.name.startswith(".")
        )

    def metrics(self) -> dict[str, Any]:
        """What its evaluations say: split -> metric -> value, low, high, rows."""
        return {
            split: read_json(self.folder / "evaluations" / split / "result.json")["metrics"]
            for split in self.evaluated_splits()
        }

    @cached_property
    def prepared(self) -> prepare.Prepared:
        """The prepared data of this run, made again if it is gone; refused if the files are no longer those it was trained on."""
        folder = self.cached
        if (
            folder.is_dir()
        ):  # its key is a hash of the contents: it is the data that this run knows, whatever came since
            return prepare.Prepared(folder)
        found = prepared_data(self.recipe)
        if found.key != folder.name:
            raise DataError(
                f"{self.folder}: the data files, or dougong's way to prepare them, have changed since this run was trained. "
                "Fix: bring the files (or the version of dougong in receipt.json) back, or train anew."
            )
        return found

    @property
    def cached(self) -> Path:
        """Where its prepared data is, unless somebody removed it."""
        return Path(self.recipe.data.cache) / self.receipt["data"]["key"]

    def data_changed(self) -> bool:
        """Whether the data files are no longer those that the run was trained on. DataError where they are gone."""
        return contents_of(self.recipe) != self.receipt["data"]["contents"]

    def predict(self, rows: Iterable[Any]) -> list[dict[str, Any]]:
        """For each row (a dict of the inputs' columns, or the bare value where there is one input) the value of each output.

        A category gives {"value", "probability", "top"}, labels {"value", "probabilities"}, a number or a text {"value"}.
        Values that the model cannot know (unseen ones, cut texts) are counted in a Note.
        """
        notes: Notes = Counter()
        answers = self.answer(listed(rows), notes)
        tell(notes, len(answers))
        return answers

    def answer(self, rows: Sequence[Any], notes: Notes) -> list[dict[str, Any]]:
        """As `predict`; what it has to note is added to `notes`."""
        if not self.inputs:
            raise bad_field("run", self.name, "a model with inputs; this one writes text from nothing", "use generate")
        results: list[dict[str, Any]] = []
        for start in range(0, len(rows), PREDICT_ROWS):
            chunk = [self.read(row, start + index) for index, row in enumerate(rows[start : start + PREDICT_ROWS])]
            results += self._answers(self.encode(chunk, notes))
        return results

    def generate(self, prompts: str | Sequence[str] = ("",), **options: Any) -> list[str]:
        """The continuation of each prompt; the options are those of `dougong generate` (max_tokens, temperature, seed …)."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        return generate.generate(self.model, prompts, generate.options(options))

    def read(self, row: Any, number: int) -> dict[str, Any]:
        """One raw row -> parsed values by input. Raises DataError that names the row and the column."""
        if not isinstance(row, Mapping):
            if len(self.inputs) != 1:
                columns = ", ".join(field.column for field in self.inputs)
                raise bad_field(
                    f"rows[{number}]", row, f"a dict with the columns {columns}", "write {column: value, …}"
                )
            row = {self.inputs[0].column: row}
        for field in self.inputs:
            if field.column not in row:
                raise DataError(
                    f"rows[{number}]: no column {field.column!r}; it has {', '.join(map(str, row))}. "
                    "Fix: add it (None if it is missing)."
                )
        kinds = {field.name: field.config.type for field in self.inputs}  # by name: two may read one column
        loose = cleaning.Config(
            unicode=self.recipe.data.cleaning.unicode,
            repair=self.recipe.data.cleaning.repair,
            missing="keep",
            empty="keep",
        )
        cleaned = cleaning.clean({field.name: row[field.column] for field in self.inputs}, kinds, loose)
        if cleaned.values is None:
            raise DataError(f"rows[{number}]: {cleaned.bad or cleaned.dropped}. Fix: correct the value.")
        try:
            return {field.name: field.codec.parse(cleaned.values[field.name], field.config) for field in self.inputs}
        except ValueError as error:
            raise DataError(f"rows[{number}]: {error}. Fix: correct the value.") from None

    def encode(self, rows: Sequence[dict[str, Any]], notes: Notes | None = None) -> Batch:
        """Parsed rows -> one batch of the inputs; `notes` counts what the model cannot know of them."""
        columns: Columns = {}
        for field in self.inputs:
            encoded, counts = field.codec.encode([row[field.name] for row in rows])
            for key, limit in field.codec.limits().items():
                counts[f"cut to {limit:,} {key}"] = int((encoded[key].lengths > limit).sum())
            if notes is not None:
                counts.pop("missing", None)  # the caller knows of those
                notes.update({(field.column, what): count for what, count in counts.items() if count})
            columns |= {f"{field.name}.{key}": column for key, column in encoded.items()}
        return collate(columns, np.arange(len(rows)), limits_of(self.inputs))

    @torch.inference_mode()
    def _answers(self, batch: Batch) -> list[dict[str, Any]]:
        device = next(self.model.parameters()).device
        if self.model.written is not None:
            rows = [
                {key: value[index : index + 1] for key, value in batch.items()} for index in range(len(batch["row"]))
            ]
            texts = generate.generate(self.model, [""] * len(rows), generate.Config(temperature=0.0), rows)
            return [{self.model.written.name: {"value": text}} for text in texts]
        with self.autocast():
            outputs = self.model.predict({key: value.to(device) for key, value in batch.items()})
        answers = {
            field.name: field.codec.answers(
                {
                    key: value.float().cpu().numpy() if value.dtype == torch.bfloat16 else value.cpu().numpy()
                    for key, value in outputs[field.name].items()
                }
            )
            for field in self.outputs
        }
        return [{name: answer[index] for name, answer in answers.items()} for index in range(len(batch["row"]))]


def listed(rows: Iterable[Any]) -> list[Any]:
    """The rows as a list. A text would be taken letter by letter, a mapping or a table by the names of its columns."""
    fix = 'as in run.predict(["a text"]); of a table, run.predict(table.to_dict("records")) or .to_pylist()'
    single = isinstance(rows, str | bytes | Mapping)
    if single or hasattr(rows, "columns") or not isinstance(rows, Iterable):
        raise bad_field("rows", rows if single else type(rows).__name__, "a list of rows", f"write a list, {fix}")
    return list(rows)


def tell(notes: Notes, rows: int) -> None:
    """Warn of values that the model has to guess at."""
    if notes:
        told = "; ".join(f"{column}: {count:,} {what}" for (column, what), count in notes.items())
        warnings.warn(f"in {rows:,} rows: {told}. The model has not learnt from such values.", Note, stacklevel=3)


# ------------------------------------------------------------------------------------------- from a recipe to its parts


def used_fields(recipe: Recipe) -> list[prepare.Used]:
    """The fields of a recipe as the preparation takes them."""
    sides = [(recipe.inputs, False), (recipe.outputs, True)]
    return [
        prepare.Used(name, config, output, fields.load(config.type))
        for side, output in sides
        for name, config in side.items()
    ]


def prepared_data(recipe: Recipe, **options: Any) -> prepare.Prepared:
    return prepare.prepare(recipe.data, used_fields(recipe), **options)


def contents_of(recipe: Recipe) -> str:
    """The hash of what the recipe's data is made of now, as it stands in a receipt."""
    return prepare.content_hash(recipe.data, prepare.find_files(recipe.data), used_fields(recipe))


def fitted(recipe: Recipe, prepared: prepare.Prepared) -> tuple[list[Field], list[Field]]:
    """Inputs and outputs with the codecs that were fitted on the training rows."""

    def side(configs: dict[str, Any]) -> list[Field]:
        return [
            Field(name, config, fields.load(config.type).Codec.from_json(config, prepared.codec_json(name)))
            for name, config in configs.items()
        ]

    return side(recipe.inputs), side(recipe.outputs)


def build(recipe: Recipe, inputs: Sequence[Field], outputs: Sequence[Field]) -> Model:
    """The recipe's model with fresh weights, on this machine's device."""
    device = pick_device(recipe.train.device)
    return models.build(
        inputs, outputs, recipe.model, encoders=recipe.encoders, loss=recipe.train.loss, seed=recipe.seed, device=device
    )


def limits_of(fields_: Sequence[Field]) -> dict[str, int]:
    """How much of each ragged column a batch takes."""
    return {f"{field.name}.{key}": limit for field in fields_ for key, limit in field.codec.limits().items()}


def plan_of(
    recipe: Recipe,
    split: Split,
    inputs: Sequence[Field],
    outputs: Sequence[Field],
    *,
    shuffle: bool = False,
    brief: bool = False,
) -> Plan:
    """How a split is read: windows of a stream for a language model, whole rows otherwise. `brief`: an even part of a large one."""
    rows, tokens = batch_of(recipe, split)
    if recipe.written and not inputs:
        field = next(field for field in outputs if field.name == recipe.written)
        context = field.config.max_length
        return WindowPlan(
            split,
            field.name,
            context=context,
            batch_rows=rows or max(1, tokens // context),
            end=field.codec.end,
            seed=recipe.seed,
            shuffle=shuffle,
            most=max(1, BRIEF_TOKENS // context) if brief else None,
        )
    limits = limits_of([*inputs, *outputs])
    most = BRIEF_ROWS if brief else None
    return RowPlan(
        split, limits=limits, batch_rows=rows, batch_tokens=tokens, seed=recipe.seed, shuffle=shuffle, most=most
    )


def batch_of(recipe: Recipe, split: Split) -> tuple[int, int]:
    """Rows, or tokens, of one batch. Defaults: 8,192 tokens of a language model; of rows more where there are more."""
    train = recipe.train
    if train.batch_size or train.batch_tokens:
        return train.batch_size or 0, 0 if train.batch_size else train.batch_tokens or 0
    if recipe.written:
        return 0, 8192
    return int(np.clip(2 ** round(np.log2(max(split.rows, 1) / 150)), 16, 256)), 0


def loader_of(recipe: Recipe, split: Split, inputs: Sequence[Field], outputs: Sequence[Field]) -> Loader:
    """The training split as the loop reads it."""
    plan = plan_of(recipe, split, inputs, outputs, shuffle=True)
    micro = recipe.train.micro_batch if isinstance(recipe.train.micro_batch, int) else 0
    return Loader(plan, micro_batch=micro, accumulate=recipe.train.accumulate, workers=recipe.train.workers)


def fill(model: Model, tensors: dict[str, torch.Tensor], source: Path) -> None:
    """Put loaded tensors into a model; every name and shape must agree."""
    targets = model.weights()
    for name in sorted({*targets, *tensors}):
        found, wanted = tensors.get(name), targets.get(name)
        if found is None or wanted is None or found.shape != wanted.shape:
            shapes = " where the model has ".join(
                "nothing" if t is None else str(tuple(t.shape)) for t in (found, wanted)
            )
            raise ArtefactError(
                f"{source}: tensor {name}: the file has {shapes}. Fix: use the recipe that this model was trained with."
            )
        with torch.no_grad():
            wanted.copy_(found)


# ---------------------------------------------------------------------------------------------------- writing the folder


def key_begun_with(folder: Path) -> str | None:
    """The key of the data that an interrupted run was trained on so far."""
    return read_json(folder / DATA).get("key", "") if (folder / "resolved.json").is_file() else None


def begin(
    folder: Path, recipe: Recipe, prepared: prepare.Prepared, inputs: Sequence[Field], outputs: Sequence[Field]
) -> None:
    """What stands in a run folder before training: the recipe, as given and resolved, which data, and the fields."""
    if key_begun_with(folder) not in (None, prepared.key):
        raise other_data(folder, "began with")
    keep_changes(folder, recipe)
    artefacts.make_folder(folder / "fields")
    artefacts.write_file(folder / "recipe.yaml", recipe.text.encode())
    for field in [*inputs, *outputs]:
        write_json(folder / "fields" / f"{field.name}.json", field.codec.to_json(), field.name)
    write_json(folder / DATA, {"key": prepared.key})
    write_json(folder / "resolved.json", stamped(recipe))  # last: with it the folder is a run that can go on


def other_data(folder: Path, then: str) -> DataError:
    return DataError(
        f"{folder}: the data is not what this run {then}: a data file has changed, or dougong's way to prepare it."
        " Fix: bring the files back, or say --fresh to set the run aside and start anew."
    )


def stamped(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe, with the version of its form and the dougong that wrote it."""
    return {"version": CONFIG_VERSION, "dougong": version("dougong"), **recipe.resolved()}


def keep_changes(folder: Path, recipe: Recipe) -> None:
    """Write down each key that differs from what the run was trained with so far: what it was, and from which step on."""
    if not (folder / "resolved.json").is_file():
        return
    steps = [int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")]
    known = read_changes(folder)
    found = [
        {"step": max(steps, default=0), "key": key, "old": old, "new": new}
        for key, (old, new) in recipes.differences(read_resolved(folder / "resolved.json"), recipe.resolved()).items()
    ]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = [{key: value for key, value in change.items() if key != "when"} for change in known]
    new = [change | {"when": now} for change in found if change not in told]  # told already: killed right after this
    if new:
        lines = [json.dumps(change, allow_nan=False) + "\n" for change in [*known, *new]]
        artefacts.write_file(folder / CHANGES, "".join(lines).encode())


def read_changes(folder: Path) -> list[dict[str, Any]]:
    """What `--accept-changes` let pass, and what needed no flag: step, key, old, new, when."""
    path = folder / CHANGES
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [artefacts.parse_json(line, f"{path}: line {number}") for number, line in enumerate(lines, 1)]


def finish(folder: Path, recipe: Recipe, model: Model, receipt: dict[str, Any]) -> Run:
    """Write model and receipt, and seal the run with a manifest."""
    with write_folder(folder / MODEL, MODEL, {"run": recipe.name}) as temporary:
        save_tensors(temporary / "model.safetensors", model.weights(), {"format": "pt"})
        write_json(temporary / "config.json", stamped(recipe))
        texts = [field for field in [*model.inputs, *model.outputs] if hasattr(field.codec, "tokenizer")]
        for field in texts:
            name = "tokenizer.json" if len(texts) == 1 else f"tokenizer-{field.name}.json"
            (temporary / name).write_text(field.codec.tokenizer.to_str(), encoding="utf-8")
    write_sealed(folder / "receipt.json", receipt)
    seal(folder)
    return Run(folder)


def seal(folder: Path) -> None:
    """Write the manifest of a finished run's own files. What comes later (evaluations, the report) is sealed by itself."""
    files = {str(path.relative_to(folder)): asdict(fingerprint(path)) for path in sealed_files(folder)}
    write_sealed(
        folder / artefacts.MANIFEST,
        {"format": artefacts.FORMAT, "kind": KIND, "meta": {"name": folder.name}, "files": files},
    )


OWN_SEALS = {"checkpoints", "evaluations", "report.html", artefacts.MANIFEST}  # or none: a report is made again at will


def sealed_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name not in OWN_SEALS and not path.name.startswith("."):  # hidden: what a killed write left behind
            yield from [path] if path.is_file() else sorted(inner for inner in path.rglob("*") if inner.is_file())


def fingerprint(path: Path) -> Written:
    with path.open("rb") as stream:
        return Written(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def make_receipt(
    recipe: Recipe,
    prepared: prepare.Prepared,
    *,
    parent: str | None,
    progress: Progress,
    changes: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Where a run came from: data, code, versions, seed, machine, time."""
    device = pick_device(recipe.train.device)
    return {
        "name": recipe.name,
        "parent": parent,
        "seed": recipe.seed,
        "recipe": hashlib.sha256(recipe.text.encode()).hexdigest(),
        "overrides": list(recipe.overrides),
        "changes": list(changes),
        "data": {
            "key": prepared.key,
            "contents": prepared.contents,
            "rows": {name: sum(parts.values()) for name, parts in prepared.rows.items()},
        },
        "code": {"dougong": version("dougong"), "sha256": code_hash()},
        "versions": {name: version(name) for name in ("torch", "numpy", "tokenizers", "pyarrow", "safetensors")}
        | {"python": platform.python_version()},
        "machine": {"system": platform.platform(), "device": device_name(device)},
        "training": {
            "steps": progress.step,
            "rows": progress.rows,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 1),
            "skipped_steps": progress.skipped,
            "weights_of_step": progress.chosen,
            "refused_checkpoints": list(progress.refused),
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def code_hash() -> str:
    """One hash over all source files of dougong."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------- reading the folder


FREE = {
    "train.checkpoint_every",
    "train.keep",
    "train.workers",
    "train.max_skipped",
    "train.device",
    "data.cache",
}
BOUND = (
    "seed",
    "data",
    "inputs",
    "outputs",
    "model",
    "train.optimizer.kind",
    "train.ema",
    "train.batch_size",  # the place within an epoch is counted in batches
    "train.batch_tokens",
)  # what is learnt would be another thing


def going_on(folder: Path, recipe: Recipe, accept_changes: bool) -> Run | None:
    """The run if it has finished with this recipe; None if it is to be begun, or gone on with. Refuses a changed recipe."""
    if not (folder / "resolved.json").is_file():
        return None
    run = Run(folder) if is_finished(folder) else None
    changes = recipes.differences(read_resolved(folder / "resolved.json"), recipe.resolved())
    changes = {key: pair for key, pair in changes.items() if run or key not in FREE}
    bound = {key for key in changes if key.split(".")[0] in BOUND or key in BOUND}
    if changes and (run or bound or not accept_changes):
        lines = [f"{folder}: the recipe has changed since this run {'finished' if run else 'was interrupted'}"]
        # Those that no flag allows first, and among them a kind, which is why other keys came and went.
        keys = sorted(changes, key=lambda key: (key not in bound, not key.endswith((".kind", ".type"))))
        most = len(keys) if len(keys) <= 3 else 2
        lines += [f"  {key}: {shown(changes[key][0])} -> {shown(changes[key][1])}" for key in keys[:most]]
        lines += [f"  … and {len(keys) - most} more"] if len(keys) > most else []
        ways = "give it another name, or say --fresh to set the old run aside and start anew"
        raise ArtefactError(
            "\n".join(
                [
                    *lines,
                    f"Fix: {ways if run or bound else ways + ', or --accept-changes to go on with the new recipe'}.",
                ]
            )
        )
    if run and run.data_changed():
        raise other_data(folder, "was trained on")
    return run


def set_aside(folder: Path) -> None:
    """Rename an earlier run NAME to NAME~1, NAME~2, …: nothing is deleted."""
    if folder.exists():
        number = next(number for number in range(1, 10**6) if not folder.with_name(f"{folder.name}~{number}").exists())
        folder.rename(folder.with_name(f"{folder.name}~{number}"))


def folder_of(source: Run | str | Path) -> Path:
    """The folder of a run, finished or not, that may be damaged."""
    if isinstance(source, Run):
        return source.folder
    path = Path(source)
    folder = path if path.is_dir() else RUNS / path
    if not folder.is_dir():
        raise ArtefactError(f"{source}: no run there. Fix: give the folder of a run.")
    return folder


def open_run(source: Run | str | Path) -> Run:
    """A run by its folder, or by its name under runs/."""
    if isinstance(source, Run):
        return source
    path = Path(source)
    folder = path if path.is_dir() else RUNS / path
    if not (folder / "resolved.json").is_file():
        there = sorted(each.parent.name for each in RUNS.glob("*/resolved.json"))
        raise ArtefactError(
            f"{source}: no run there; under {RUNS}/ there are {', '.join(there) or 'none'}. Fix: give the folder of a run."
        )
    if not is_finished(folder):
        raise ArtefactError(f"{folder}: this run has not finished. Fix: run the same dougong train command again.")
    return Run(folder)


def is_finished(folder: Path) -> bool:
    """Whether all of a run is there: the manifest is written last."""
    return (folder / artefacts.MANIFEST).is_file()


def read_resolved(path: Path) -> dict[str, Any]:
    """The plain recipe in resolved.json or config.json, in the form of this version. A newer one is refused by name."""
    resolved = read_json(path)
    if not isinstance(resolved, dict) or not isinstance(number := resolved.pop("version", None), int):
        raise ArtefactError(f"{path} = {shown(resolved)}: expected a recipe with its version. Fix: train again.")
    wrote = resolved.pop("dougong", "(unknown)")
    if number > CONFIG_VERSION:
        raise ArtefactError(f"{path}: written by dougong {wrote}, this is {version('dougong')}. Fix: update dougong.")
    for each in range(number, CONFIG_VERSION):
        resolved = MIGRATIONS[each](resolved)
    return resolved


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run folder."""
    resolved = read_resolved(folder / "resolved.json")
    text = (folder / "recipe.yaml").read_text(encoding="utf-8") if (folder / "recipe.yaml").is_file() else ""
    return recipes.from_resolved(resolved, text, str(folder / "resolved.json"))


def read_fields(folder: Path, recipe: Recipe) -> tuple[list[Field], list[Field]]:
    def side(configs: dict[str, Any]) -> list[Field]:
        return [
            Field(
                name,
                config,
                fields.load(config.type).Codec.from_json(config, read_json(folder / "fields" / f"{name}.json")),
            )
            for name, config in configs.items()
        ]

    return side(recipe.inputs), side(recipe.outputs)


@dataclass(frozen=True)
class Verified:
    """What `verify` found: the parts that are whole, and what is wrong with the others."""

    good: tuple[str, ...]
    damaged: tuple[str, ...]


def verify(folder: Path) -> Verified:
    """Check every file of a run against its manifests: the run itself, checkpoints, evaluations, its prepared data."""
    good: list[str] = []
    damaged: list[str] = []

    def check(name: str, look: Any) -> None:
        try:
            look()
            good.append(name)
        except ArtefactError as error:
            damaged.append(str(error))

    if (folder / MODEL).exists() or (folder / artefacts.MANIFEST).exists():
        check("run", lambda: check_sealed(folder))
        if "run" in good and (cached := Run(folder).cached).is_dir():
            check(f"prepared data {cached.name}", lambda: verify_folder(cached, preparation.KIND))
    for path in sorted((folder / "checkpoints").glob("step-*")):
        check(f"checkpoints/{path.name}", lambda path=path: checkpoint.verify(path))
    for path in sorted((folder / "evaluations").glob("[!.]*")):
        check(f"evaluations/{path.name}", lambda path=path: verify_folder(path, "evaluation"))
    if not good and not damaged:
        raise ArtefactError(
            f"{folder}: nothing to verify: no finished run, no checkpoint, no evaluation. Fix: give the folder of a run."
        )
    return Verified(tuple(good), tuple(damaged))


def check_sealed(folder: Path, but: Sequence[str] = ()) -> None:
    """Check the files of a finished run, all `but` these, against its manifest."""
    manifest = artefacts.read_manifest(folder)
    present = {str(path.relative_to(folder)) for path in sealed_files(folder) if path.exists()}
    for name in sorted({*manifest.files, *present} - {*but}):
        path = folder / name
        if name not in manifest.files:
            raise ArtefactError(
                f"{path}: this file is not in the manifest. Fix: remove it if you put it there; else do not use this run."
            )
        if name not in present:
            raise ArtefactError(
                f"{path}: this file is missing. Fix: copy the run again from where it came, or train again."
            )
        if fingerprint(path) != manifest.files[name]:
            raise ArtefactError(
                f"{path}: its bytes are not those that were written. Fix: copy the run again from where it came, or train again."
            )
