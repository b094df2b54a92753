"""The run folder: all that a model is and where it came from.

runs/NAME/
  recipe.yaml      as given               fields/      one codec a field
  resolved.json    with all defaults      model/       model.safetensors, config.json, tokenizer.json
  checkpoints/     while it trains        evaluations/ one folder a split, or file
  log.jsonl        one record a step      report.html
  samples/         of a run that makes pictures, the same few at each validation
  data.json        which data it began with  changes.jsonl   what a recipe said before it was changed
  receipt.json     where it came from     manifest.json   size and sha256 of the files of a finished run
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dougong import recipe as recipes
from dougong.assembly import with_codecs
from dougong.core import artefacts
from dougong.core.artefacts import Written, read_json, write_json, write_sealed
from dougong.core.devices import device_name, pick_device
from dougong.core.errors import ArtefactError, DataError, shown
from dougong.core.strict_json import parse_json
from dougong.data.prepare import Prepared
from dougong.fields import Field
from dougong.recipe import Recipe
from dougong.training.loop import Progress

RUNS = recipes.RUNS
MODEL, KIND, DATA, CHANGES = "model", "run", "data.json", "changes.jsonl"
READ_LATER = ("model/model.safetensors", "log.jsonl")  # large: the one is checked when the model is loaded
CONFIG_VERSION = 2  # of resolved.json and config.json


def _metrics_where_texts_come_out(resolved: dict[str, Any]) -> dict[str, Any]:
    """Version 1 named the metrics of a text also where it goes in, and has none."""
    inputs = {
        name: {**field, "metrics": None} if field.get("type") == "text" else field
        for name, field in resolved["inputs"].items()
    }
    return resolved | {"inputs": inputs}


# version -> its plain recipe as the next has it
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _metrics_where_texts_come_out}


# --------------------------------------------------------------------------------------------------- writing the folder


def key_begun_with(folder: Path) -> str | None:
    """The key of the data that an interrupted run was trained on so far."""
    return read_json(folder / DATA).get("key", "") if (folder / "resolved.json").is_file() else None


def begin(folder: Path, recipe: Recipe, prepared: Prepared, inputs: Sequence[Field], outputs: Sequence[Field]) -> None:
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


def set_aside(folder: Path) -> None:
    """Rename an earlier run NAME to NAME~1, NAME~2, …: nothing is deleted."""
    if folder.exists():
        number = next(number for number in range(1, 10**6) if not folder.with_name(f"{folder.name}~{number}").exists())
        folder.rename(folder.with_name(f"{folder.name}~{number}"))


# ------------------------------------------------------------------------------------------------ a recipe that changed


# What does not touch the weights may change in an interrupted run.
FREE = {"train.checkpoint_every", "train.keep", "train.workers", "train.max_skipped", "train.device", "data.cache"}
BOUND = (  # what is learnt would be another thing
    "seed",
    "data",
    "inputs",
    "outputs",
    "model",
    "train.optimizer.kind",
    "train.ema",
    "train.weighing",
    "train.batch_size",  # the place within an epoch is counted in batches
    "train.batch_tokens",
)


def check_changes(folder: Path, recipe: Recipe, *, finished: bool, accept: bool) -> None:
    """Refuse a recipe that changes a finished run, or what is BOUND; or, without `accept`, what is not FREE."""
    changes = recipes.differences(before(folder), recipe.resolved())
    changes = {key: pair for key, pair in changes.items() if finished or key not in FREE}
    bound = {key for key in changes if key.split(".")[0] in BOUND or key in BOUND}
    if changes and (finished or bound or not accept):
        lines = [f"{folder}: the recipe has changed since this run {'finished' if finished else 'was interrupted'}"]
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
                    f"Fix: {ways if finished or bound else ways + ', or --accept-changes to go on with the new recipe'}.",
                ]
            )
        )


def before(folder: Path) -> dict[str, Any]:
    """The recipe of a run so far; keys that its dougong did not know have their defaults, which is what it did."""
    return read_recipe(folder).resolved()


def keep_changes(folder: Path, recipe: Recipe) -> None:
    """Write down each key that differs from what the run was trained with so far: what it was, and from which step on."""
    if not (folder / "resolved.json").is_file():
        return
    steps = [int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")]
    known = read_changes(folder)
    found = [
        {"step": max(steps, default=0), "key": key, "old": old, "new": new}
        for key, (old, new) in recipes.differences(before(folder), recipe.resolved()).items()
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
    return [parse_json(line, f"{path}: line {number}") for number, line in enumerate(lines, 1)]


# -------------------------------------------------------------------------------------------------------- seal, receipt


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


def is_finished(folder: Path) -> bool:
    """Whether all of a run is there: the manifest is written last."""
    return (folder / artefacts.MANIFEST).is_file()


def make_receipt(
    recipe: Recipe,
    prepared: Prepared,
    *,
    parent: str | None,
    progress: Progress,
    changes: Sequence[Mapping[str, Any]] = (),
    settled: Mapping[str, Any] | None = None,
    init: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Where a run came from: data, code, versions, seed, machine, time; what was `settled` after its training, and the
    `weights` of its losses where they were learnt."""
    device = pick_device(recipe.train.device)
    return {
        "name": recipe.name,
        "parent": parent,
        "init": None if init is None else dict(init),
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
        }
        | ({"weights": dict(weights)} if weights else {}),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    } | ({"settled": dict(settled)} if settled else {})


def code_hash() -> str:
    """One hash over all source files of dougong."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------- reading the folder


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
    return with_codecs(recipe, lambda name: read_json(folder / "fields" / f"{name}.json"))
