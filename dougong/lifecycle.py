"""The verbs: one short function each. The command line calls them, and `import dougong` offers exactly these."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from dougong import assembly, proposal, retrieval, run_folder
from dougong import recipe as recipes
from dougong import run as runs
from dougong.core import doctoring
from dougong.core.artefacts import make_folder, write_file
from dougong.core.devices import pick_device
from dougong.core.errors import ArtefactError, DataError, Note, bad_field, nearest
from dougong.core.locks import lock
from dougong.data import conversations, sources
from dougong.data import prepare as preparation
from dougong.data.conversations import Message
from dougong.data.report import DataReport
from dougong.data.rows import SPLITS, beside
from dougong.data.shards import Split
from dougong.evaluation import comparison, judging, measure, settling, sheets, summary
from dougong.evaluation.comparison import Comparison
from dougong.evaluation.measure import Measured
from dougong.fields import Field, metrics_of
from dougong.inference import generate as generation
from dougong.run import Run
from dougong.training import adversarial, routes
from dougong.training.fit import autocast_for, check_needs_no_validation, fit
from dougong.training.loop import task_loss
from dougong.training.monitors import Stop

Source = str | Path | Mapping[str, Any]
Say = Callable[[str], None]
Answer = Callable[[Sequence[Any], runs.Notes], list[dict[str, Any]]]


class Stopped(SystemExit):
    """A signal ended the training; all steps are saved, and training the recipe again goes on. Code: 128 + signal."""

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
    text = proposal.propose(Path(data), predict, path.parent)
    make_folder(path.parent)
    write_file(path, text.encode())
    return path


def check(recipe: Source, *, overrides: Sequence[str] = ()) -> DataReport:
    """Find every mistake in a recipe and its data, without training anything."""
    loaded = recipes.load(recipe, overrides)
    if loaded.model.init is not None:
        runs.open_run(loaded.model.init)
    check_judge(loaded)
    report = preparation.inspect(loaded.data, assembly.used_fields(loaded))
    if not report.kept["validation"]:
        check_needs_no_validation(loaded.train)
        settling.check_needs_no_rows(loaded.outputs)
    return report


def check_judge(recipe: recipes.Recipe, *, load: bool = False) -> None:
    """Whether the run that is to judge what is made is there, and can: missed now, and not after hours."""
    for name, config in recipe.outputs.items():
        inputs = [Field(each, other, None) for each, other in recipe.inputs.items()]
        judge = judging.Judge.of(Field(name, config, None), inputs)
        _ = judge and load and judge.run.model


def prepare(
    recipe: Source, *, overrides: Sequence[str] = (), workers: int | None = None, say: Say = _silent
) -> preparation.Prepared:
    """Clean, split, fit the fields and write the shards; at once if that was done before."""
    return assembly.prepared_data(recipes.load(recipe, overrides), workers=workers, say=say)


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
    folder = run_folder.RUNS / loaded.name
    with lock(run_folder.RUNS / f".{loaded.name}.lock"):
        if fresh:
            run_folder.set_aside(folder)
        finished = runs.going_on(folder, loaded, accept_changes)
        if finished:
            say(f"{folder} is finished; training it again gives the same. Say --fresh to start anew.")
        run = finished or _train(loaded, folder, quiet, say)
        if run.held_out is None:
            say(f"{folder}: no row was held out, so nothing is measured. data.test or data.split would hold some out.")
        elif run.held_out not in run.evaluated_splits():  # also where an earlier process ended before it came to this
            _evaluate(run, run.held_out, run.prepared, run.held_out)
        if not (folder / "report.html").is_file():
            report(run)
    return run


def _train(recipe: recipes.Recipe, folder: Path, quiet: bool, say: Say) -> Run:
    parent = None if recipe.model.init is None else runs.open_run(recipe.model.init)
    check_judge(recipe, load=True)
    prepared = assembly.prepared_data(recipe, known=run_folder.key_begun_with(folder), say=say)
    inputs, outputs = assembly.fitted(recipe, prepared)
    for output in outputs:
        metrics_of(output, answers=bool(inputs))  # a package that one needs is missed now, and not after hours
    held_out = prepared.split("validation")
    if not held_out.rows:
        settling.check_needs_no_rows(recipe.outputs)
    model = assembly.build(recipe, inputs, outputs)
    begun = None if parent is None else runs.begin_with(model, parent)
    _tell_of_lost_rows(prepared.split("train"), inputs, outputs, say)
    run_folder.begin(folder, recipe, prepared, inputs, outputs)
    loader = assembly.loader_of(recipe, prepared.split("train"), inputs, outputs)
    say(summary.headline(recipe, model, prepared, loader))
    if begun is not None:
        say(begun.text())
    weights = {field.name: field.config.weight for field in outputs}
    plan = assembly.plan_of(recipe, held_out, inputs, outputs, brief=True) if held_out.rows else None
    autocast = autocast_for(recipe.train, next(model.parameters()).device, model)
    fitted = fit(
        model,
        loader,
        recipe.train,
        folder,
        seed=recipe.seed,
        loss_fn=task_loss(weights),
        validate=(lambda: measure.validation(model, plan, autocast, weights)) if plan else None,
        watch=sheets.watcher(folder, model, held_out, autocast) if plan and model.made else None,
        forward_backward=adversarial.seam(model),
        quiet=quiet,
    )
    if fitted.stopped:
        raise Stopped(fitted.stopped, fitted.progress.step)
    settled = settling.settle(model, assembly.plan_of(recipe, held_out, inputs, outputs), autocast) if plan else {}
    changes = run_folder.read_changes(folder)
    receipt = run_folder.make_receipt(
        recipe,
        prepared,
        parent=None if parent is None else str(parent.folder),
        progress=fitted.progress,
        changes=changes,
        init=None if begun is None else begun.to_json(),
        settled=settled,
        weights=model.learnt_weights,
    )
    if learnt := model.learnt_weights:
        told = ", ".join(f"{name} {weight:.3g}" for name, weight in learnt.items())
        say(f"weights of the losses, as they were learnt: {told}")
    return runs.finish(folder, recipe, model, receipt)


def _tell_of_lost_rows(split: Split, inputs: list[Field], outputs: list[Field], say: Say) -> None:
    """Say how many training rows an aligned output cannot learn from; DataError where these are all."""
    for name, rows in assembly.without_path(split, inputs, outputs).items():
        told = f"outputs.{name}: {rows:,} of {split.rows:,} training rows have more tokens than positions to spell them along"
        fix = "a smaller subsample of the sound, or a tokenizer with longer tokens"
        if rows == split.rows:
            raise DataError(f"{told}. Fix: use {fix}.")
        if rows:
            say(f"{told}, and teach nothing; {fix} would take them in.")


def evaluate(run: Run | str | Path, *, split: str | None = None, data: str | Path | None = None) -> Measured:
    """Every metric of the run on a split (test where there is one, else validation), with 95 % intervals; kept.

    Or on the rows of other files (`data`: a file, a folder or a pattern), under the name of the file.
    """
    run = runs.open_run(run)
    if data is not None:
        if split is not None:
            raise bad_field("split", split, "none beside data, whose rows are of no split", "leave one of the two out")
        return _evaluate_apart(run, str(data))
    split = _split(run, split)
    measured = _evaluate(run, split, run.prepared, split)
    note_on_data(run)
    return measured


def _evaluate_apart(run: Run, paths: str) -> Measured:
    fields = [*run.inputs, *run.outputs]
    codecs = {field.name: field.codec.to_json() for field in fields}
    prepared = preparation.prepare_apart(run.recipe.data, assembly.used_fields(run.recipe), paths, codecs)
    if not sum(prepared.rows["test"].values()):
        raise bad_field("data", paths, "rows that can be measured, and every one was left out", NONE_LEFT)
    if bad := prepared.report.bad.total():
        listed = f"{prepared.folder / 'quarantine.jsonl'}"
        said = f"{paths}: {bad:,} of {prepared.report.rows_read:,} rows cannot be read and are not measured; {listed} lists them"
        warnings.warn(said, Note, stacklevel=3)
    return _evaluate(run, "test", prepared, name_of(paths))


NONE_LEFT = "give rows that have the inputs and the outputs of the run"


def name_of(paths: str) -> str:
    """What an evaluation on some files is called: as the file, with its folder where that is the name of a split."""
    path = Path(paths)
    name = path.name.partition(".")[0] or path.name
    if name in SPLITS:
        name = f"{path.resolve().parent.name}-{name}"
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "data"


def _split(run: Run, split: str | None) -> str:
    """The split that is meant; one with rows."""
    there = [name for name in SPLITS if run.receipt["data"]["rows"].get(name)]
    found = split or run.held_out
    if found is None:
        raise bad_field(
            "split", None, "rows that were held out, and this run has none", "say split train, or train anew"
        )
    if found not in there:
        fix = f"write {nearest(found, there) or there[-1]}"
        raise bad_field("split", found, f"a split that has rows: {', '.join(there)}", fix)
    return found


def note_on_data(run: Run) -> None:
    """Warn where the prepared copy that was read is no longer what the data files hold."""
    try:
        told = "the data files have changed" if run.data_changed() else ""
    except DataError as error:
        told = f"the data files cannot be read ({str(error).splitlines()[0]})"
    if told:
        copy = f"measured was the copy that was prepared for its training ({run.prepared.folder})"
        warnings.warn(f"{run.folder}: {told} since it was trained; {copy}", Note, stacklevel=3)


def _evaluate(run: Run, split: str, prepared: preparation.Prepared, name: str) -> Measured:
    """Measure a split of prepared data, and keep that under a name."""
    plan = assembly.plan_of(run.recipe, prepared.split(split), run.inputs, run.outputs)
    folder = run.folder / "evaluations" / name
    made_of = {"data": prepared.key, "sources": prepared.sources, "weights": run.weights}
    some = assembly.plan_of(run.recipe, prepared.split(split), run.inputs, run.outputs, brief=True)
    return measure.write_measured(folder, run.model, plan, name, run.autocast, made_of=made_of, some=some)


def compare(
    first: Run | str | Path, *others: Run | str | Path, split: str | None = None, metric: str | None = None
) -> list[Comparison]:
    """Runs side by side on the same rows, each metric of the first (or `metric`) with a paired test and a verdict."""
    opened = [runs.open_run(run) for run in (first, *others)]
    apart = split not in SPLITS and split in opened[0].evaluated_splits()  # of other files, under their name
    split = split if split is not None and apart else _split(opened[0], split)
    for run in opened:
        if split not in run.evaluated_splits():
            if apart:
                fix = f"measure it on the same rows: dougong evaluate {run.folder} --data FILE"
                raise bad_field("split", split, f"an evaluation of that name in {run.folder} as well", fix)
            evaluate(run, split=split)
    return comparison.compare_runs(opened, split, metric)


def predict(
    run: Run | str | Path,
    data: str | Path | Iterable[Any],
    *,
    embed: bool = False,
    corpus: str | Path | Iterable[Any] | None = None,
    top: int | None = None,
    output: str | Path | None = None,
    say: Say = _silent,
) -> list[dict[str, Any]]:
    """The run's answers for rows (a list, or a data file); with `output` they are written there, one JSON line each.

    A row of a list that cannot be read is an error; in a file it is answered by {"error": why}, and the others stand.
    Of a run that has learnt a pairing, `embed` gives the embedding of each input that a row has, and `corpus` (a list or
    a file) the `top` rows of it (10) that are nearest. Of one that has learnt words the same, of the words of each row;
    `top` without a corpus gives the words that are nearest. Of one that suggests items, the `top` best of them.
    """
    run = runs.open_run(run)
    suggests = run.lists > 0 and top is not None and not embed and corpus is None
    if suggests and top not in range(1, run.lists + 1):
        raise bad_field("top", top, f"1 to {run.lists}", f"write top: {run.lists}")
    if (embed or corpus is not None or top is not None) and not suggests:
        answers = _of_space(run, data, embed, corpus, top, say)
    else:
        answer = partial(run.answer, top=top)
        answers = _of_files(run, str(data), answer, say) if isinstance(data, str | Path) else run.predict(data, top=top)
    if output:
        lines = (json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n" for answer in answers)
        make_folder(Path(output).parent)
        write_file(Path(output), (line.encode() for line in lines))
    return answers


def _of_space(
    run: Run, data: str | Path | Iterable[Any], embed: bool, corpus: str | Path | Iterable[Any] | None, top: int | None,
    say: Say,
) -> list[dict[str, Any]]:  # fmt: skip
    """Embeddings of rows, or what is nearest to them."""
    lexicon = run.words is not None and corpus is None and top is not None  # what is looked through are all its words
    if embed and (corpus is not None or lexicon):
        raise bad_field("embed", True, f"one of embed and {'top' if lexicon else 'corpus'}", "leave one of them out")
    if top is not None and ((corpus is None and not lexicon) or top < 1):
        expected = "rows of a corpus to give, 1 or more" if corpus is not None else "a corpus to search in"
        raise bad_field("top", top, expected, "leave it out, or give a corpus and a number from 1")
    _ = run.space  # refused now, and not after a corpus is read
    answer: Answer = run.embedded
    if lexicon:
        answer = retrieval.Corpus.vocabulary(run, top or retrieval.TOP).answer
    if corpus is not None:
        most = top or retrieval.TOP
        held = isinstance(corpus, str | Path)
        answer = (_corpus(run, str(corpus), most, say) if held else retrieval.Corpus.of(run, corpus, most)).answer  # type: ignore[arg-type]
    if isinstance(data, str | Path):
        return _of_files(run, str(data), answer, say, some=True)
    notes: runs.Notes = Counter()
    answers = answer(runs.listed(data), notes)
    runs.tell(notes, len(answers))
    return answers


def _corpus(run: Run, data: str, top: int, say: Say) -> retrieval.Corpus:
    """The corpus of a file's rows; those that cannot be read are counted, and not searched."""
    bad: list[str] = []

    def readable() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (file, row) in enumerate(_rows(run, data), 1):
            values, why = _readable(run, file, row, some=True)
            if values is None:
                bad.append(why)
            else:
                yield number, values

    corpus = retrieval.Corpus.read(run, readable(), top)
    if bad:
        say(f"{len(bad):,} rows of {data} could not be read and are not searched. The first: {bad[0]}")
    return corpus


def _rows(run: Run, data: str) -> Iterator[tuple[Path, sources.Row | sources.BadRow]]:
    unit = "line" if run.words else run.recipe.data.text_rows  # a list of words
    return ((file, row) for file in sources.find_files(data, Path.cwd()) for row in sources.read_rows(file, unit=unit))


def _of_files(run: Run, data: str, answer: Answer, say: Say, *, some: bool = False) -> list[dict[str, Any]]:
    """Answers for the rows of files; with `some` a row needs but some of the inputs."""
    answers: list[dict[str, Any]] = []
    notes: runs.Notes = Counter()
    rows = _rows(run, data)
    while chunk := list(islice(rows, runs.PREDICT_ROWS)):
        read = [_readable(run, file, row, some) for file, row in chunk]
        found = iter(answer([values for values, _ in read if values is not None], notes))
        answers += [{"error": why} if values is None else next(found) for values, why in read]
    bad = [str(answer["error"]) for answer in answers if isinstance(answer.get("error"), str)]  # no output is a text
    if bad and len(bad) == len(answers):
        raise DataError(f"{data}: none of its {len(bad):,} rows can be answered. The first: {bad[0]}")
    if bad:
        say(f"{len(bad):,} of {len(answers):,} rows could not be read and have no answer. The first: {bad[0]}")
    runs.tell(notes, len(answers))
    return answers


def _readable(
    run: Run, file: Path, row: sources.Row | sources.BadRow, some: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """The values of a row that the run can read, or why it cannot."""
    if isinstance(row, sources.BadRow):
        return None, f"{file}: row {row.number}: {row.reason}. Fix: correct the row."
    values = dict(row.values)
    for field in run.inputs:  # the path of an image starts at the data file
        if field.codec.PATHS and isinstance(path := values.get(field.column), str) and path:
            values[field.column] = beside(file, path)
    try:
        run.read(values, row.number, run.given(values, row.number) if some else None)
    except DataError as error:
        return None, str(error).replace(f"rows[{row.number}]", f"{file}: row {row.number}", 1)
    return values, ""


def generate(
    run: Run | str | Path,
    prompts: str | Sequence[Any] = ("",),
    *,
    messages: str | Path | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> list[Any]:
    """Text that the run writes after each prompt; of a chat the reply to each, a text or a list of messages.

    `messages` is a file of conversations that takes the place of prompts. Of a run that makes pictures `count` of each
    prompt, (H, W, C) uint8; with `output` they are written into that folder, too, as PNG files.
    Options: max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, beams, length_penalty, regex, json_schema;
    of pictures count, seed, and what their backbone can change, such as guidance and sampling_steps.
    """
    run = runs.open_run(run)
    if run.made is not None:
        if messages is not None:
            raise bad_field("messages", str(messages), "a run whose output is a chat", "give prompts")
        return _pictures(run, run.made, prompts, output, options)
    generation.options(options)
    if output is not None:
        raise bad_field("output", str(output), "a run that makes pictures", "leave it out")
    if messages is not None:
        if tuple(prompts) != ("",):
            raise bad_field("messages", str(messages), "prompts or a file of messages, not both", "leave one out")
        prompts = _conversations(run, str(messages))
    return run.generate([prompts] if isinstance(prompts, str) else list(prompts), **options)


def _pictures(
    run: Run, made: Field, prompts: str | Sequence[Any], output: str | Path | None, options: dict[str, Any]
) -> list[Any]:
    found = run.generate(prompts, **options)
    if output is not None:
        make_folder(Path(output))
        for number, picture in enumerate(found):
            write_file(Path(output) / picture_name(number), made.codec.file(picture))
    return found


def picture_name(number: int) -> str:
    """The file of the so-manieth picture that was made."""
    return f"{number:05}.png"


def _conversations(run: Run, data: str) -> list[list[Message]]:
    """The conversations of a file's rows, which wait for a reply."""
    if not run.converses:
        raise bad_field("messages", data, "a run whose output is a chat", "give prompts as text")
    column = run.outputs[0].column
    found = []
    for file in sources.find_files(data, Path.cwd()):
        for row in sources.read_rows(file, unit=run.recipe.data.text_rows):
            if isinstance(row, sources.BadRow):
                raise DataError(f"{file}: row {row.number}: {row.reason}. Fix: correct the row.")
            if column not in row.values:
                there = ", ".join(map(str, row.values))
                raise DataError(f"{file}: row {row.number}: no column {column!r}; it has {there}. Fix: add it.")
            try:
                found.append(conversations.read(row.values[column]))
            except ValueError as error:
                raise DataError(f"{file}: row {row.number}: {error}. Fix: correct the row.") from None
    return found


def report(run: Run | str | Path) -> Path:
    """Write the run's report.html: one file that opens offline."""
    run = runs.open_run(run)
    path = run.folder / "report.html"
    summary.write(path, run)
    return path


def verify(run: Run | str | Path) -> runs.Verified:
    """Check every file of a run against the hashes written with it. Raises ArtefactError if one is damaged."""
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
    return doctoring.examine() | {"routes": routes.of_machine(pick_device())}


def load(run: str | Path) -> Run:
    """Open a finished run: `dougong.load("runs/reviews").predict([...])`."""
    return runs.open_run(run)


def plain(value: Any) -> Any:
    """The JSON form of what a verb returned."""
    if isinstance(value, DataReport):
        return value.summary()
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
