"""The verbs: one short function each. The command line calls them, and `import dougong` offers exactly these."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dougong import proposal
from dougong import recipe as recipes
from dougong import run as runs
from dougong.core import doctoring
from dougong.core.artefacts import write_file
from dougong.core.errors import ArtefactError, bad_field
from dougong.core.locks import lock
from dougong.data import prepare as preparation
from dougong.data import sources
from dougong.data.report import DataReport
from dougong.evaluation import comparison, measure, summary
from dougong.evaluation.comparison import Comparison
from dougong.evaluation.measure import Measured
from dougong.run import Run
from dougong.training.fit import fit
from dougong.training.loop import task_loss
from dougong.training.monitors import Stop

Source = str | Path | Mapping[str, Any]
Say = Callable[[str], None]


class Stopped(SystemExit):
    """A signal ended the training; all steps are saved, and training the same recipe again goes on. The code is 128 + signal."""

    def __init__(self, stop: Stop, step: int):
        self.step = step
        super().__init__(stop.exit_code)


def _silent(text: str) -> None:
    pass


def new(data: str | Path, *, predict: str | Sequence[str] = (), output: str | Path | None = None) -> Path:
    """Look at a data file, propose typed inputs and outputs, and write a commented recipe; return its path."""
    predict = [predict] if isinstance(predict, str) else list(predict)
    path = Path(output) if output else Path(data).with_name(f"{proposal.name_of(Path(data))}.yaml")
    if path.exists():
        raise bad_field("output", str(path), "a file that is not there yet", "give another one with --output")
    write_file(path, proposal.propose(Path(data), predict, path.parent).encode())
    return path


def check(recipe: Source, *, overrides: Sequence[str] = ()) -> DataReport:
    """Find every mistake in a recipe and its data, without training anything."""
    loaded = recipes.load(recipe, overrides)
    return preparation.inspect(loaded.data, runs.used_fields(loaded), seed=loaded.seed)


def prepare(
    recipe: Source, *, overrides: Sequence[str] = (), workers: int | None = None, say: Say = _silent
) -> preparation.Prepared:
    """Clean, split, fit the fields and write the shards; at once if that was done before."""
    return runs.prepared_data(recipes.load(recipe, overrides), workers=workers, say=say)


def train(
    recipe: Source,
    *,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    accept_changes: bool = False,
    quiet: bool = True,
    say: Say = _silent,
) -> Run:
    """Train the recipe's model, or go on with the interrupted run of that name; evaluate it and write its report.

    `fresh` sets an earlier run of that name aside; `accept_changes` goes on although the recipe has changed.
    """
    loaded = recipes.load(recipe, overrides)
    folder = runs.RUNS / loaded.name
    with lock(runs.RUNS / f".{loaded.name}.lock"):
        if fresh:
            runs.set_aside(folder)
        if finished := runs.going_on(folder, loaded, accept_changes):
            say(f"{folder} is finished; training it again gives the same. Say --fresh to start anew.")
            return finished
        run = _train(loaded, folder, quiet, say)
    evaluate(run)
    report(run)
    return run


def _train(recipe: recipes.Recipe, folder: Path, quiet: bool, say: Say) -> Run:
    prepared = runs.prepared_data(recipe, say=say)
    inputs, outputs = runs.fitted(recipe, prepared)
    runs.begin(folder, recipe, inputs, outputs)
    model = runs.build(recipe, inputs, outputs)
    say(summary.headline(recipe, model, prepared))
    weights = {field.name: field.config.weight for field in outputs}
    held_out = prepared.split("validation")
    plan = runs.plan_of(recipe, held_out, inputs, outputs, brief=True) if held_out.rows else None
    autocast = runs.autocast_for(recipe.train, next(model.parameters()).device, model)
    fitted = fit(
        model,
        runs.loader_of(recipe, prepared.split("train"), inputs, outputs),
        recipe.train,
        folder,
        seed=recipe.seed,
        loss_fn=task_loss(weights),
        validate=(lambda: measure.validation(model, plan, autocast, weights)) if plan else None,
        quiet=quiet,
    )
    if fitted.stopped:
        raise Stopped(fitted.stopped, fitted.progress.step)
    receipt = runs.make_receipt(recipe, prepared, parent=None, progress=fitted.progress)
    return runs.finish(folder, recipe, model, receipt)


def evaluate(run: Run | str | Path, *, split: str | None = None) -> Measured:
    """Every metric of the run on a split (test where there is one, else validation), with 95 % intervals; kept in the run."""
    run = runs.open_run(run)
    split = split or run.held_out
    rows = run.prepared.split(split)
    if not rows.rows:
        there = [name for name, parts in run.prepared.rows.items() if parts]
        raise bad_field("split", split, f"a split that has rows: {', '.join(there)}", f"use {there[-1]}")
    plan = runs.plan_of(run.recipe, rows, run.inputs, run.outputs)
    folder = run.folder / "evaluations" / split
    return measure.write_measured(folder, run.model, plan, split, run.autocast, data_key=run.prepared.key)


def compare(
    first: Run | str | Path, *others: Run | str | Path, split: str | None = None, metric: str | None = None
) -> list[Comparison]:
    """Runs side by side on the same rows, each metric of the first (or `metric`) with a paired test and a verdict."""
    opened = [runs.open_run(run) for run in (first, *others)]
    split = split or opened[0].held_out
    for run in opened:
        if not (run.folder / "evaluations" / split).is_dir():
            evaluate(run, split=split)
    return comparison.compare_runs(opened, split, metric)


def predict(
    run: Run | str | Path, data: str | Path | Sequence[Any], *, output: str | Path | None = None
) -> list[dict[str, Any]]:
    """The run's answers for rows (a list, or a data file); with `output` they are written there, one JSON object a line."""
    run = runs.open_run(run)
    rows = (
        list(data)
        if not isinstance(data, str | Path)
        else [_values(row) for file in sources.find_files(str(data), Path.cwd()) for row in sources.read_rows(file)]
    )
    answers = run.predict(rows)
    if output:
        write_file(
            Path(output), b"".join((json.dumps(answer, ensure_ascii=False) + "\n").encode() for answer in answers)
        )
    return answers


def _values(row: sources.Row | sources.BadRow) -> dict[str, object]:
    if isinstance(row, sources.BadRow):
        raise ArtefactError(f"{row.file}: row {row.number}: {row.reason}. Fix: correct the row, or remove it.")
    return row.values


def generate(run: Run | str | Path, prompts: str | Sequence[str] = ("",), **options: Any) -> list[str]:
    """Text that the run writes after each prompt. Options: max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed."""
    return runs.open_run(run).generate([prompts] if isinstance(prompts, str) else list(prompts), **options)


def report(run: Run | str | Path) -> Path:
    """Write the run's report.html: one file that opens offline."""
    run = runs.open_run(run)
    path = run.folder / "report.html"
    summary.write(path, run)
    return path


def verify(run: Run | str | Path) -> runs.Verified:
    """Check every file of a run against the hashes that were written with it. Raises ArtefactError if one is damaged."""
    folder = runs.folder_of(run)
    verified = runs.verify(folder)
    if verified.damaged:
        raise ArtefactError("\n".join(verified.damaged[:5]))
    return verified


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors."""
    return recipes.schema()


def doctor() -> dict[str, Any]:
    """What this machine can do, and what is missing, with the line that installs it."""
    return doctoring.examine()


def load(run: str | Path) -> Run:
    """Open a finished run: `dougong.load("runs/reviews").predict([...])`."""
    return runs.open_run(run)


def plain(value: Any) -> Any:
    """The JSON form of what a verb returned."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Run):
        return {"run": str(value.folder), "name": value.name, "metrics": value.metrics()}
    if isinstance(value, preparation.Prepared):
        return {
            "folder": str(value.folder),
            "key": value.key,
            "rows": {name: sum(parts.values()) for name, parts in value.rows.items()},
        }
    if isinstance(value, list):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value) if isinstance(value, Path) else value
