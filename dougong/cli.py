"""The command line: reads arguments, calls lifecycle, prints. No logic.

Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import json
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from dougong.core.errors import MachineError, Note

SAVED_HINT = "stopped; every step is saved. The same command goes on."
STOPPED_HINT = "stopped by a signal; nothing half-written stays."


class Verbs(click.Group):
    """Verbs in the order of a model's life."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:  # click tells it in words, and ends with 2
            if ctx.meta["json"]:
                click.echo(json.dumps({"error": error.format_message(), "exit_code": 2}, ensure_ascii=False))
            raise


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dougong")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Say what goes in and what comes out; dougong trains, measures and runs the model."""
    kept = signal.signal(signal.SIGTERM, leave)
    click.get_current_context().call_on_close(lambda: signal.signal(signal.SIGTERM, kept))
    click.get_current_context().call_on_close(gc.freeze)  # or Python looks through all of torch before it ends: 0.6 s


def command() -> None:
    """`dougong` itself: this process ends with its verb, so that some may do without torch."""
    main(obj=ALONE)


ALONE = object()  # what a context holds in a process of its own


def without_torch() -> None:
    """For verbs that only look at recipes and data: they answer in a third of the time, in a third of the memory."""
    if click.get_current_context().obj is ALONE:
        from dougong.core import torchless

        torchless.install()


def leave(number: int, frame: FrameType | None) -> None:
    """End as a signal asks, in order: what is open is closed, child processes are ended, nothing half-written stays."""
    sys.exit(128 + number)


def say(text: str) -> None:
    """Prose goes to standard error: standard output is for results."""
    click.echo(text, err=True)


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command with --json, and errors as messages with their exit code."""

    def run(as_json: bool, **options: Any) -> None:
        debug = bool(click.get_current_context().parent and click.get_current_context().parent.params["debug"])  # type: ignore[union-attr]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", Note)
                warnings.showwarning = note
                result, text = function(**options)
                if as_json:
                    from dougong.lifecycle import plain

                    text = json.dumps(plain(result), ensure_ascii=False, allow_nan=False)
        except (
            KeyboardInterrupt,
            SystemExit,
        ) as stopped:  # by a signal; a training that ends so has a step, and saved it
            code = 128 + signal.SIGINT if isinstance(stopped, KeyboardInterrupt) else stopped.code
            hint = f"step {stopped.step:,}: {SAVED_HINT}" if hasattr(stopped, "step") else STOPPED_HINT
            say(hint)
            if as_json:
                click.echo(json.dumps({"error": hint, "exit_code": code}))
            sys.exit(code)
        except Exception as error:  # ours say what to do; any other is a fault of dougong, and is told as one
            fail(error, as_json, debug)
        else:
            if text:
                click.echo(text)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    wrapped = click.option(
        "--json", "as_json", is_flag=True, help="One JSON object on the last line of standard output."
    )(run)
    return main.command(name=function.__name__.rstrip("_"))(wrapped)


def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    say(f"note: {message}")


def fail(error: Exception, as_json: bool, debug: bool) -> None:
    """Print an error and leave with its exit code."""
    if debug:
        traceback.print_exc()
    code, text = told(error)
    if as_json:
        click.echo(json.dumps({"error": text, "exit_code": code}, ensure_ascii=False))
    say(f"error: {text}")
    sys.exit(code)


def told(error: Exception) -> tuple[int, str]:
    """The exit code and the message of an error."""
    if hasattr(error, "exit_code"):
        return error.exit_code, str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            MachineError.exit_code,
            f"out of memory ({error}). Fix: lower train.batch_size, or set train.micro_batch.",
        )
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return (
            MachineError.exit_code,
            f"{place}{error.strerror.lower()}. Fix: use a place that exists, can be written and has room.",
        )
    said = f"{type(error).__name__}: {error}"  # not one of ours: a fault of dougong must not look like the user's
    return 1, f"{said}. This is a fault of dougong itself. Fix: report it with what dougong --debug VERB … shows."


recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
run_argument = click.argument("run")
overrides_option = click.option(
    "-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one value: -s train.steps=100"
)


@verb
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--predict", multiple=True, metavar="COLUMN", help="The column to predict.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where the recipe goes; beside the data unless given."
)
def new(data: Path, predict: tuple[str, ...], output: Path | None) -> tuple[Any, str]:
    """Look at a data file and write a recipe for it."""
    import dougong

    without_torch()
    path = dougong.new(data, predict=predict, output=output)
    return {"recipe": str(path)}, f"{path}\n\n{path.read_text(encoding='utf-8')}\nNext: dougong check {path}"


def read_first(recipe: Path, overrides: tuple[str, ...]) -> None:
    """Tell the mistakes of a recipe at once: what else a verb needs takes seconds to import."""
    gc.disable()  # an import makes next to no garbage, and the collector takes a tenth of its time looking for some
    from dougong import recipe as recipes

    gc.freeze()  # nor will it later: what is imported stays
    gc.enable()
    recipes.load(recipe, overrides)


@verb
@recipe_argument
@overrides_option
def check(recipe: Path, overrides: tuple[str, ...]) -> tuple[Any, str]:
    """Find every mistake in a recipe and its data."""
    import dougong

    without_torch()
    read_first(recipe, overrides)
    report = dougong.check(recipe, overrides=overrides)
    return report, f"{report.text()}\nThe recipe is in order. Next: dougong train {recipe}"


@verb
@recipe_argument
@overrides_option
def prepare(recipe: Path, overrides: tuple[str, ...]) -> tuple[Any, str]:
    """Clean, split and encode the data (train does this by itself)."""
    import dougong

    without_torch()
    read_first(recipe, overrides)
    prepared = dougong.prepare(recipe, overrides=overrides, say=say)
    return prepared, str(prepared.folder)


@verb
@recipe_argument
@overrides_option
@click.option("--fresh", is_flag=True, help="Set an earlier run of this name aside and start anew.")
@click.option("--accept-changes", is_flag=True, help="Go on with an interrupted run although the recipe has changed.")
@click.option("--quiet", is_flag=True, help="No progress.")
def train(recipe: Path, overrides: tuple[str, ...], fresh: bool, accept_changes: bool, quiet: bool) -> tuple[Any, str]:
    """Train; go on with an interrupted run; evaluate and write the report."""
    import dougong

    read_first(recipe, overrides)
    run = dougong.train(
        recipe,
        overrides=overrides,
        fresh=fresh,
        accept_changes=accept_changes,
        quiet=quiet,
        say=_mute if quiet else say,
    )
    lines = [*results(run), f"report: {run.folder / 'report.html'}", next_steps(run)]
    return run, "\n".join(lines)


def _mute(text: str) -> None:
    pass


def results(run: Any) -> list[str]:
    return [
        f"{split}  {name:26} {number(found['value'])}   95 % interval {number(found['low'])} to {number(found['high'])}"
        for split, metrics in run.metrics().items()
        for name, found in metrics.items()
    ]


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def next_steps(run: Any) -> str:
    uses = {
        "words": f"dougong predict {run.folder} --value word=WORD --top 10",
        "masked": f"start another recipe from it with model: {{init: {run.folder}}}",
        "writes": f"dougong generate {run.folder}",
        "makes": f"dougong generate {run.folder}{' PROMPT' if run.inputs else ''} --output FOLDER",
        "answers": f"dougong predict {run.folder} DATA",
    }
    kind = "masked" if run.recipe.masked else "writes" if run.recipe.written else "answers"
    kind = "words" if run.words else "makes" if run.made else kind
    return f"Next: {uses[kind]}, or open the report in a browser."


@verb
@run_argument
@click.option("--split", metavar="SPLIT", help="train, validation or test; test where there is one, else validation.")
@click.option("--data", metavar="DATA", help="Rows of another file, folder or pattern instead.")
def evaluate(run: str, split: str | None, data: str | None) -> tuple[Any, str]:
    """Measure a run on held-out rows, with 95 % intervals."""
    import dougong

    measured = dougong.evaluate(run, split=split, data=data)
    return measured, measured.text()


@verb
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN …")
@click.option("--split", metavar="SPLIT", help="As of evaluate; or the name of an evaluation on other data.")
@click.option("--metric", metavar="OUTPUT.METRIC", help="Only this one, e.g. label.accuracy.")
def compare(runs: tuple[str, ...], split: str | None, metric: str | None) -> tuple[Any, str]:
    """Put runs side by side on the same rows, with a paired test and a verdict."""
    import dougong

    comparisons = dougong.compare(runs[0], *runs[1:], split=split, metric=metric)
    return {each.metric: each.to_json() for each in comparisons}, "\n\n".join(each.text() for each in comparisons)


@verb
@run_argument
@click.argument("data", required=False)
@click.option("--value", "values", multiple=True, metavar="COLUMN=VALUE", help="One row, given on the command line.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the answers there, one JSON object a line."
)
@click.option(
    "--embed",
    is_flag=True,
    help="The embedding of each input of a pairing, or of the words of a row.",
)
@click.option(
    "--corpus", metavar="FILE", help="Of a pairing, or words: the rows of this file that are nearest to each row."
)
@click.option(
    "--top",
    type=click.IntRange(1, 100_000),
    help="How many rows of the corpus (10), or of words, without one, how many of the nearest.",
)
def predict(
    run: str,
    data: str | None,
    values: tuple[str, ...],
    output: Path | None,
    embed: bool,
    corpus: str | None,
    top: int | None,
) -> tuple[Any, str]:
    """Answers for the rows of a file, or for one row given with --value."""
    import dougong
    from dougong.core.errors import bad_field

    if (data is None) == (not values):
        raise bad_field("data", data, "a data file, or one row with --value", "give one of the two")
    if wrong := next((item for item in values if "=" not in item), None):
        raise bad_field("--value", wrong, "COLUMN=VALUE", f"write --value COLUMN={wrong}")
    rows: Any = data if data is not None else [dict(item.split("=", 1) for item in values)]
    answers = dougong.predict(run, rows, embed=embed, corpus=corpus, top=top, output=output, say=say)
    errors = sum(isinstance(answer.get("error"), str) for answer in answers)
    text = (
        f"{len(answers) - errors:,} answers in {output}"
        if output
        else "\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers)
    )
    found: Any = {"output": str(output)} if output else {"predictions": answers}
    return {"rows": len(answers), "errors": errors, **found}, text


@verb
@run_argument
@click.argument("prompts", nargs=-1, metavar="[PROMPT]…")
@click.option(
    "--messages",
    type=click.Path(path_type=Path),
    help="Of a chat: a file of conversations, each of which is replied to.",
)
@click.option("--max-tokens", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.8, show_default=True, help="0: always the most likely token."
)
@click.option("--top-k", type=click.IntRange(1, 10**15), help="Only the k most likely tokens.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--min-p", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True)
@click.option("--repetition-penalty", type=click.FloatRange(1), default=1.0, show_default=True)
@click.option("--seed", type=click.IntRange(0, 1 << 63, max_open=True), default=0, show_default=True)
@click.option(
    "--beams",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Texts searched along; with temperature 0.",
)
@click.option(
    "--length-penalty", type=float, default=1.0, show_default=True, help="Of beams: above 0 favours longer texts."
)
@click.option("--regex", metavar="PATTERN", help="What is written matches this regular expression as a whole.")
@click.option(
    "--json-schema",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What is written is JSON that fits the schema in this file.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Of pictures: the folder that they go to.")
@click.option("--count", type=click.IntRange(1, 100_000), default=1, show_default=True, help="Pictures of each prompt.")
@click.option("--guidance", type=click.FloatRange(0), help="Of pictures: how far they go beyond what is asked.")
@click.option("--sampling-steps", type=click.IntRange(1, 1000), help="Of pictures: in how many steps each is made.")
@click.option("--sampler", type=click.Choice(["euler", "ddim"]), help="Of pictures: how a step is taken.")
def generate(
    run: str,
    prompts: tuple[str, ...],
    messages: Path | None,
    json_schema: Path | None,
    output: Path | None,
    **options: Any,
) -> tuple[Any, str]:
    """Write text after each prompt (from nothing where there is none); of a chat, the reply to each; or make pictures."""
    import dougong
    from dougong.inference.json_schemas import read_schema

    opened = dougong.load(run)
    context = (
        click.get_current_context()
    )  # what is not said is not asked for: texts and pictures have options of their own
    options = {name: value for name, value in options.items() if is_said(context, name)}
    if opened.made is not None:
        return pictures(opened, prompts, messages, output, json_schema, options)
    prompts = prompts or ("",)
    schema = None if json_schema is None else read_schema(json_schema)
    texts = dougong.generate(opened, prompts, messages=messages, output=output, json_schema=schema, **options)
    if messages:
        return {"texts": [{"text": text} for text in texts]}, "\n\n".join(texts)
    shown = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
    return {"texts": shown}, "\n\n".join(texts if opened.converses else map("".join, zip(prompts, texts, strict=True)))


def is_said(context: click.Context, option: str) -> bool:
    return context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE


def pictures(
    run: Any, prompts: tuple[str, ...], messages: Path | None, output: Path | None, schema: Path | None, options: Any
) -> tuple[Any, str]:
    """The pictures of each prompt, which is the value of the one input, or of several a JSON object of their columns."""
    import dougong
    from dougong.core.errors import bad_field
    from dougong.core.strict_json import parse_json
    from dougong.lifecycle import picture_name

    if output is None:
        raise bad_field("output", None, "a folder for the pictures", "say --output FOLDER")
    options |= {} if schema is None else {"json_schema": str(schema)}
    asked: list[Any] = [parse_json(prompt.encode(), "prompt") if len(run.inputs) > 1 else prompt for prompt in prompts]
    made = dougong.generate(run, asked or ("",), messages=messages, output=output, **options)
    count = len(made) // max(len(asked), 1)
    files = [str(output / picture_name(number)) for number in range(len(made))]
    shown = [{"prompt": asked[place // count] if asked else None, "file": file} for place, file in enumerate(files)]
    return {"pictures": shown}, "\n".join(files)


@verb
@run_argument
def report(run: str) -> tuple[Any, str]:
    """Write report.html: one file that opens offline."""
    import dougong

    path = dougong.report(run)
    return {"report": str(path)}, str(path)


@verb
@run_argument
def verify(run: str) -> tuple[Any, str]:
    """Check every file of a run against the hashes written with it."""
    import dougong

    verified = dougong.verify(run)
    return verified, "\n".join(f"whole: {name}" for name in verified.good)


@verb
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write it there.")
def schema(output: Path | None) -> tuple[Any, str]:
    """The JSON Schema of a recipe, for editors."""
    import dougong

    without_torch()
    found = dougong.schema()
    if output:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return {"schema": str(output)}, str(output)
    return found, json.dumps(found, indent=1)


@verb
def doctor() -> tuple[Any, str]:
    """What this machine can do, and what is missing."""
    import dougong

    found = dougong.doctor()
    lines = [f"{key:16} {shown(value)}" for key, value in found.items() if key != "advice"]
    return found, "\n".join([*lines, *(f"advice: {line}" for line in found["advice"])])


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    command()
