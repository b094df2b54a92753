"""The report of a run: one HTML file that opens offline, on a phone as on a wide screen, in light and in dark.

It holds no script and loads nothing: styles and charts stand inline, and its content security policy forbids the rest.
Everything that comes from data (samples, labels, recipe, log) is text and is escaped as such. Equal content gives equal
bytes.
"""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from dougong.core.artefacts import write_file
from dougong.evaluation import drawing
from dougong.evaluation.charts import Line, calibration_chart, line_chart

Record = Mapping[str, Any]
MOST_CLASSES = 30  # of a confusion matrix shown whole; of a larger one the most confused pairs are listed
MOST_PAIRS = 20
MOST_SAMPLES = 50
MOST_CHARACTERS = 4000  # of one text
MOST_LINES = 200  # of one table


@dataclass(frozen=True)
class ConfusionMatrix:
    """Rows are actual classes, columns predicted ones; one row more than labels: classes that training never saw."""

    labels: Sequence[str]
    matrix: Sequence[Sequence[int]]


@dataclass(frozen=True)
class CalibrationCurve:
    """Mean confidence, share right and number of rows of each bin that is not empty."""

    confidence: Sequence[float]
    accuracy: Sequence[float]
    rows: Sequence[int]


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall, f1 and support of each class; `unseen`: rows (or labels of rows) of what training never saw."""

    classes: Sequence[Record]
    unseen: int


@dataclass(frozen=True)
class Sheet:
    """Pictures laid out in one, PNG; `columns`: what stands above each column, if they have a head."""

    title: str
    png: bytes
    columns: Sequence[str]
    caption: str


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """What a report tells, as plain values; whatever is empty has no section."""

    name: str
    summary: str = ""  # one sentence: what was trained, on what, how good it is
    parent: str = ""  # name of the run that this one started from
    parent_report: str = ""  # where its report is, relative to this file
    metrics: Mapping[str, Mapping[str, Record]] = field(
        default_factory=dict
    )  # split -> metric -> value, low, high, rows
    log: Sequence[
        Record
    ] = ()  # step, loss, val_loss, lr, tokens_per_second | rows_per_second, wait_share, memory_bytes, grad_norm
    samples: Sequence[
        Record
    ] = ()  # {prompt, text}, {input, prediction, target, right: true, false, or null}, or {drawn}
    sheets: Sequence[Sheet] = ()  # of made pictures: the grid, then those of each validation
    settled: Mapping[str, Record] = field(default_factory=dict)  # by output: what was chosen on the validation rows
    inputs: Mapping[str, Mapping[str, Record]] = field(default_factory=dict)  # by output: how much each input matters
    classes: Mapping[str, ClassScores] = field(default_factory=dict)  # by output
    confusion: Mapping[str, ConfusionMatrix] = field(default_factory=dict)  # by output
    calibration: Mapping[str, CalibrationCurve] = field(default_factory=dict)  # by output
    data: Record = field(default_factory=dict)  # rows, columns, warnings, …
    parameters: Mapping[str, int] = field(default_factory=dict)  # by part of the model
    recipe: str = ""  # as given
    overrides: Sequence[str] = ()  # KEY=VALUE that the command line said beside it
    receipt: Record = field(default_factory=dict)


def write_report(path: Path, content: ReportContent) -> None:
    """Write the report; the file is complete or unchanged."""
    write_file(path, render(content).encode("utf-8", "replace"))  # a lone surrogate becomes ?


def render(content: ReportContent) -> str:
    """The whole page."""
    parts = [
        ("results", "Results", _results(content.metrics)),
        ("inputs", "Inputs", _inputs(content.inputs)),
        ("settled", "Settled after training", _settled(content.settled)),
        ("classes", "Classes", _classes(content.classes)),
        ("training", "Training", _training(content.log)),
        ("confusion", "Confusion", _confusions(content.confusion)),
        ("calibration", "Calibration", _calibrations(content.calibration)),
        ("samples", "Samples", _sheets(content.sheets) + _samples(content.samples)),
        ("data", "Data", _data(content.data)),
        ("model", "Model", _model(content.parameters)),
        ("recipe", "Recipe", _recipe(content)),
        ("receipt", "Receipt", _details(content.receipt) if content.receipt else ""),
    ]
    shown = [part for part in parts if part[2]]
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in shown)
    sections = "".join(f'<section id="{key}"><h2>{title}</h2>{body}</section>' for key, title, body in shown)
    name = escape(content.name)
    summary = f'<p class="summary">{escape(content.summary)}</p>' if content.summary else ""
    pictured = bool(content.sheets) or any({"drawn", "pictures"} & sample.keys() for sample in content.samples)
    images = " img-src data:;" if pictured else ""
    policy = f"default-src 'none'; style-src 'unsafe-inline';{images} base-uri 'none'; form-action 'none'"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>{name} – dougong report</title><style>{STYLE}{drawing.STYLE}</style></head><body>"
        f'<header><p class="kind">dougong report</p><h1>{name}</h1>{summary}{_parent(content)}</header>'
        f'<div class="page"><nav aria-label="Contents"><ul>{links}</ul></nav><main>{sections}</main></div>'
        f"</body></html>\n"
    )


def _parent(content: ReportContent) -> str:
    if not content.parent:
        return ""
    name, link = escape(content.parent), content.parent_report
    if link and ":" not in link and not link.startswith("//"):  # a relative path: no javascript:, no other host
        name = f'<a href="{escape(link)}">{name}</a>'
    return f'<p class="parent">Started from {name}</p>'


# -------------------------------------------------------------------------------------------------------------- results


def _results(metrics: Mapping[str, Mapping[str, Record]]) -> str:
    head, tables = ("metric", "value", "95 % interval", "rows"), []
    for split, estimates in metrics.items():
        lines = [(f"<code>{escape(name)}</code>", *_estimate(estimate)) for name, estimate in estimates.items()]
        if lines:
            tables.append(f"<h3>{escape(split)}</h3>{_table(head, lines, numeric=(1, 2, 3))}")
    return "".join(tables)


def _estimate(estimate: Record) -> tuple[str, str, str]:
    """Value, interval and rows; as many digits as the interval leaves meaningful."""
    rows = number(estimate.get("rows"))
    if not all(_is_finite(estimate.get(key)) for key in ("value", "low", "high")):
        return f"<b>{number(estimate.get('value'))}</b>", "–", rows
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    digits = max(0, min(6, 1 - math.floor(math.log10(high - low)))) if high > low else 4
    return f"<b>{value:,.{digits}f}</b>", f"{low:,.{digits}f} to {high:,.{digits}f}", rows


def _inputs(outputs: Mapping[str, Mapping[str, Record]]) -> str:
    """What each output loses where the values of one input are shuffled among the rows."""
    head = ("input", "metric", "as it is", "shuffled", "difference", "95 % interval")
    caption = (
        "Shuffled: each row has this input of another row. What two inputs both tell, neither is missed for."
        " No interval that holds 0: the model uses the input."
    )
    parts = []
    for name, inputs in outputs.items():
        lines = [
            (
                f"<code>{escape(each)}</code>",
                f"<code>{escape(told['metric'])}</code>",
                *(number(told[key]) for key in ("value", "shuffled")),
                f"<b>{number(told['difference'])}</b>",
                f"{number(told['low'])} to {number(told['high'])}",
            )
            for each, told in inputs.items()
        ]
        parts.append(_titled(name, _figure(_table(head, lines, numeric=(2, 3, 4, 5)), "", caption), outputs))
    return "".join(parts)


def _settled(settled: Mapping[str, Record]) -> str:
    parts = []
    for name, record in settled.items():
        chosen = {key: value for key, value in record.items() if key not in ("rows", "metrics")}
        lines = [
            (f"<code>{escape(metric)}</code>", number(pair["before"]), number(pair["after"]))
            for metric, pair in record["metrics"].items()
        ]
        caption = f"Chosen on the {record['rows']:,} validation rows; what these rows say of it is too kind."
        table = _table(("metric", "before", "after"), lines, numeric=(1, 2)) if lines else ""
        parts.append(_titled(name, _figure(_details(chosen) + table, "", caption), settled))
    return "".join(parts)


def _classes(classes: Mapping[str, ClassScores]) -> str:
    return "".join(_titled(name, _class_scores(each), classes) for name, each in classes.items())


def _class_scores(scores: ClassScores) -> str:
    told = sorted((record["f1"], record["class"]) for record in scores.classes if record["f1"] is not None)
    caption = f"The lowest F1 is that of {told[0][1]}: {number(told[0][0])}." if told else "No class has rows."
    absent = len(scores.classes) - len(told)
    if absent:
        caption += f" {absent:,} classes stand neither in the rows nor in the predictions."
    if scores.unseen:
        caption += f" {scores.unseen:,} times a class is right that training never saw, and that nothing can predict."
    return _figure(_records(scores.classes), "", caption)


# ------------------------------------------------------------------------------------------------------------- training


def _training(log: Sequence[Record]) -> str:
    return f'<div class="charts">{charts}</div>' if (charts := _loss_chart(log) + _log_charts(log)) else ""


def _loss_chart(log: Sequence[Record]) -> str:
    steps, losses = _column(log, "loss")
    val_steps, val_losses = _column(log, "val_loss")
    lines, facts = [], []
    if losses:
        last = losses[-max(1, len(losses) // 20) :]
        ended = f"{number(sum(last) / len(last))} at step {steps[-1]:,}"
        mean = f" (mean of the last {len(last)} records)" if len(last) > 1 else ""
        lines.append(Line("training", steps, losses, smooth=True))
        facts.append(f"Training loss went from {number(losses[0])} at step {steps[0]:,} to {ended}{mean}.")
    if val_losses:
        best = min(range(len(val_losses)), key=val_losses.__getitem__)
        lowest = f"Validation loss was lowest at step {val_steps[best]:,}: {number(val_losses[best])}"
        lines.append(Line("validation", val_steps, val_losses))
        facts.append(f"{lowest}; it ended at {number(val_losses[-1])}.")
    damaged = sum(isinstance(record.get("loss"), float) and not math.isfinite(record["loss"]) for record in log)
    if damaged:
        facts.append(f"{damaged:,} records without a finite loss are not drawn.")
    return _figure(line_chart("loss", lines, "step", "loss"), "Loss", " ".join(facts)) if lines else ""


def _log_charts(log: Sequence[Record]) -> str:
    charts = []
    steps, rates = _column(log, "lr")
    if rates:
        top = max(range(len(rates)), key=rates.__getitem__)
        fact = f"Highest at step {steps[top]:,}: {number(rates[top])}; {number(rates[-1])} at the end."
        charts.append(
            _figure(line_chart("lr", [Line("lr", steps, rates)], "step", "learning rate"), "Learning rate", fact)
        )
    _, waits = _column(log, "wait_share")
    waited = f" {_share_of(waits)} of the time it waited for batches to be read and augmented." if waits else ""
    for key, unit in (("tokens_per_second", "tokens"), ("rows_per_second", "rows")):
        steps, speeds = _column(log, key)
        if speeds:
            middle = sorted(speeds)[len(speeds) // 2]
            fact = f"Median {middle:,.0f} {unit} per second, between {min(speeds):,.0f} and {max(speeds):,.0f}.{waited}"
            line = Line(key, steps, speeds, smooth=True)
            charts.append(_figure(line_chart(key, [line], "step", f"{unit} per second"), "Speed", fact))
    steps, sizes = _column(log, "memory_bytes")
    if sizes:
        scale, unit = (2**30, "GiB") if max(sizes) >= 2**30 else (2**20, "MiB")
        fact = f"At most {number(max(sizes) / scale)} {unit}."
        line = Line("memory", steps, [size / scale for size in sizes])
        charts.append(_figure(line_chart("memory", [line], "step", unit), "Memory", fact))
    steps, norms = _column(log, "grad_norm")
    if norms:
        fact = f"Median {number(sorted(norms)[len(norms) // 2])}, largest {number(max(norms))}."
        line = Line("grad_norm", steps, norms, smooth=True)
        charts.append(_figure(line_chart("grad_norm", [line], "step", "norm"), "Gradient norm", fact))
    return "".join(charts)


def _share_of(shares: Sequence[float]) -> str:
    mean = 100 * sum(shares) / len(shares)
    return f"{mean:.1f} %" if mean >= 0.1 else "Less than 0.1 %"


def _column(log: Sequence[Record], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of the records that hold a finite number under this key."""
    pairs = [
        (int(record["step"]), float(record[key])) for record in log if _is_finite(record.get(key)) and "step" in record
    ]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# -------------------------------------------------------------------------------------------- confusion and calibration


def _confusions(confusions: Mapping[str, ConfusionMatrix]) -> str:
    return "".join(_titled(name, _confusion(confusion), confusions) for name, confusion in confusions.items())


def _confusion(confusion: ConfusionMatrix) -> str:
    labels, matrix = list(confusion.labels), [list(row) for row in confusion.matrix]
    rows, right = sum(map(sum, matrix)), sum(matrix[index][index] for index in range(len(labels)))
    pairs = sorted(
        ((count, actual, predicted) for actual, row in enumerate(matrix) for predicted, count in enumerate(row)
         if count and actual != predicted),
        key=lambda pair: (-pair[0], pair[1:]),
    )  # fmt: skip
    names = [*labels, "(not seen in training)"]
    caption = f"{right:,} of {rows:,} rows are right."
    if pairs:
        count, actual, predicted = pairs[0]
        total = sum(matrix[actual])
        caption += (
            f" Most often confused: {names[actual]} is taken for {names[predicted]} in {count:,} of {total:,} rows."
        )
    if len(labels) > MOST_CLASSES:
        most = pairs[:MOST_PAIRS]
        lines = [(escape(names[a]), escape(names[p]), f"{n:,}", _percent(n, sum(matrix[a]))) for n, a, p in most]
        caption += f" {len(labels):,} classes are too many for a matrix:"
        caption += f" these are the {len(most)} most confused of {len(pairs):,} pairs."
        body = _table(("actual", "predicted as", "rows", "of the class"), lines, numeric=(2, 3))
    else:
        body = _matrix(names, [row for index, row in enumerate(matrix) if index < len(labels) or any(row)])
        caption += " Rows of the table are actual classes, columns predicted ones; shading is the share of the row."
    return _figure(body, "", caption)


def _matrix(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    columns = len(matrix[0])
    upright = " upright" if max(map(len, names[:columns])) * columns > 60 else ""
    head = "".join(
        f'<th scope="col" title="{escape(name)}"><span>{escape(name)}</span></th>' for name in names[:columns]
    )
    lines = []
    for actual, row in enumerate(matrix):
        total = max(1, sum(row))
        cells = "".join(_cell(count, count / total, actual == predicted) for predicted, count in enumerate(row))
        lines.append(f'<tr><th scope="row" title="{escape(names[actual])}">{escape(names[actual])}</th>{cells}</tr>')
    table = f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table class="matrix{upright}">{table}</table></div>'


def _cell(count: int, share: float, hit: bool) -> str:
    if not count:
        return "<td></td>"
    return f'<td class="{"hit" if hit else "miss"}" style="--share:{0.7 * share:.3f}">{count:,}</td>'


def _calibrations(curves: Mapping[str, CalibrationCurve]) -> str:
    charts = "".join(_titled(name, _calibration(name, curve), curves) for name, curve in curves.items() if curve.rows)
    return f'<div class="charts">{charts}</div>' if charts else ""


def _calibration(name: str, curve: CalibrationCurve) -> str:
    bins = list(zip(curve.confidence, curve.accuracy, curve.rows, strict=True))
    rows = sum(curve.rows)
    error = sum(abs(confidence - accuracy) * count for confidence, accuracy, count in bins) / rows
    confidence, accuracy, count = max(bins, key=lambda each: each[2])
    caption = (
        f"Expected calibration error {number(error)} on {rows:,} rows; on the dashed line confidence is what it says. "
        f"The largest dot: {count:,} rows of mean confidence {confidence:.2f}, of which {accuracy:.0%} are right."
    )
    return _figure(calibration_chart(f"calibration {name}", curve.confidence, curve.accuracy, curve.rows), "", caption)


# -------------------------------------------------------------------------------------------------------------- samples


def _samples(samples: Sequence[Record]) -> str:
    cards = "".join(_sample(sample) for sample in samples[:MOST_SAMPLES])
    body = f'<div class="samples">{cards}</div>{_more(MOST_SAMPLES, len(samples))}' if cards else ""
    drawn = any("drawn" in sample for sample in samples)
    return _figure(body, "", "Whole lines: what is told, with its score. Dashed: what is right.") if drawn else body


def _sheets(sheets: Sequence[Sheet]) -> str:
    """The grid by itself, and below it one line for each moment of training: the same inputs, the same noise."""
    if not sheets:
        return ""
    first, *rest = sheets
    later = ""
    if rest:
        columns = _columns(rest[0].columns)
        lines = "".join(f"<tr><th>{escape(sheet.title)}</th><td>{_sheet(sheet)}</td></tr>" for sheet in rest)
        table = f'<table class="moments">{f"<tr><th></th><td>{columns}</td></tr>" if columns else ""}{lines}</table>'
        caption = "The same inputs and the same noise at each validation of the training."
        later = _figure(f'<div class="wide">{table}</div>', "While it learnt", caption)
    grid = f'<div class="wide"><div class="sheet">{_columns(first.columns)}{_sheet(first)}</div></div>'
    return _figure(grid, first.title, first.caption) + later


def _sheet(sheet: Sheet) -> str:
    data = base64.b64encode(sheet.png).decode()
    return f'<img alt="{escape(sheet.title)}" src="data:image/png;base64,{data}">'


def _columns(columns: Sequence[str]) -> str:
    """What stands above each column of a sheet, each as wide as its pictures."""
    if not any(columns):
        return ""
    cells = "".join(f'<span title="{escape(text)}">{escape(text)}</span>' for text in columns)
    return f'<div class="columns" style="grid-template-columns:repeat({len(columns)},1fr)">{cells}</div>'


def _sample(sample: Record) -> str:
    if "drawn" in sample:
        return f'<article class="card">{drawing.svg(sample["drawn"])}</article>'
    if "text" in sample:
        prompt, text = (
            str(sample.get("prompt") or ""),
            str(sample["text"]).removeprefix(str(sample.get("prompt") or "")),
        )
        return f'<article class="card text"><b>{_text(prompt)}</b>{_text(text)}</article>'
    mark, right = "", sample.get("right")
    if right is not None:
        mark = f'<span class="mark {"right" if right else "wrong"}">{"right" if right else "different"}</span>'
    said = _terms({key: sample[key] for key in sample if key not in ("right", "pictures")})
    found = sample.get("pictures", ())
    seen = "".join(_picture(png, "seen" if len(found) == 1 else "frame") for png in found)
    return f'<article class="card">{mark}{seen}{said}</article>'


def _picture(png: bytes, kind: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img class="{kind}" alt="input" src="data:image/png;base64,{data}">'


# ---------------------------------------------------------------------------------------- data, model, and plain values


def _data(data: Record) -> str:
    warnings = data.get("warnings") or ()
    said = [warnings] if isinstance(warnings, str) else list(warnings)
    notes = "".join(f'<p class="warning">{_value(warning)}</p>' for warning in said)
    rest = {key: value for key, value in data.items() if key != "warnings"}
    return notes + (_details(rest) if rest else "")


def _model(parameters: Mapping[str, int]) -> str:
    if not parameters:
        return ""
    total = sum(parameters.values())
    lines = [(escape(part), f"{count:,}", _percent(count, total)) for part, count in parameters.items()]
    lines.append(("<b>all</b>", f"<b>{total:,}</b>", ""))
    return _table(("part", "parameters", "share"), lines, numeric=(1, 2))


def _recipe(content: ReportContent) -> str:
    if not content.recipe:
        return ""
    said = " ".join(f"-s {shlex.quote(item)}" for item in content.overrides)
    beside = f"<p>Trained with <code>{escape(said)}</code>, which replaces what stands here:</p>" if said else ""
    return f'{beside}<pre class="recipe">{escape(content.recipe)}</pre>'


def _details(record: Record) -> str:
    """Short values as a list of terms, tables and nested records below it under a heading each."""
    nested = {key: value for key, value in record.items() if value and (isinstance(value, Mapping) or _is_table(value))}
    short = {key: value for key, value in record.items() if key not in nested}
    below = "".join(f"<h3>{_words(key)}</h3>{_value(value)}" for key, value in nested.items())
    return (_terms(short) if short else "") + below


def _terms(record: Record) -> str:
    items = list(record.items())
    terms = "".join(f"<dt>{_words(key)}</dt><dd>{_value(value)}</dd>" for key, value in items[:MOST_LINES])
    return f"<dl>{terms}</dl>{_more(MOST_LINES, len(items))}"


def _more(shown: int, total: int) -> str:
    return f"<p>The first {shown:,} of {total:,}.</p>" if total > shown else ""


def _value(value: Any) -> str:
    """A plain value as HTML: numbers, text, lists, mappings, and tables of equal mappings."""
    if isinstance(value, Mapping):
        if value and all(isinstance(item, Mapping) for item in value.values()):
            return _records([{"": key, **item} for key, item in value.items()])
        return _terms(value)
    if isinstance(value, list | tuple):
        return _records(value) if _is_table(value) else ", ".join(_value(item) for item in value) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) or value is None else _text(str(value))


def _is_table(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _records(records: Sequence[Record]) -> str:
    columns = list(dict.fromkeys(key for record in records for key in record))
    lines = [[_value(record.get(column)) for column in columns] for record in records[:MOST_LINES]]
    numeric = [
        index
        for index, column in enumerate(columns)
        if all(record.get(column) is None or _is_finite(record[column]) for record in records)
    ]
    table = _table([str(column).replace("_", " ") for column in columns], lines, numeric)
    return table + _more(MOST_LINES, len(records))


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """Cells are HTML already; headings are not."""
    right = [' class="number"' if index in numeric else "" for index in range(len(head))]
    top = "".join(f'<th scope="col"{style}>{escape(name)}</th>' for name, style in zip(head, right, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{cell}</td>" for cell, style in zip(line, right, strict=True)) + "</tr>"
        for line in lines
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(body: str, title: str, caption: str) -> str:
    heading = f"<b>{escape(title)}.</b> " if title else ""
    return f"<figure>{body}<figcaption>{heading}{escape(caption)}</figcaption></figure>"


def _titled(name: str, body: str, among: Mapping[str, Any]) -> str:
    """A heading only where there are several to tell apart."""
    return f"<div><h3>{escape(name)}</h3>{body}</div>" if len(among) > 1 else body


def _text(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        return f"{escape(text[:MOST_CHARACTERS])}<i> … {len(text) - MOST_CHARACTERS:,} characters more</i>"
    return escape(text)


def _words(key: object) -> str:
    return escape(str(key).replace("_", " "))


def _percent(count: int, total: int) -> str:
    if not total:
        return "–"
    return f"{count / total:.1%}" if count == 0 or count / total >= 0.0005 else "< 0.1%"


def number(value: float | None) -> str:
    """Four significant digits, thousands apart; a dash for what is not known."""
    if value is None or math.isnan(value):
        return "–"
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}" if math.isfinite(value) else str(value)
    return f"{value:.4g}" if value == 0 or abs(value) < 0.1 or abs(value) >= 1 else f"{value:.4f}"


STYLE = """
:root{--paper:#fff;--raised:#f6f7f8;--ink:#1d2228;--muted:#606a75;--line:#dadfe4;--accent:#a8402b;--first:#22668c;
--second:#c25a2c;
--hit:34 120 150;--miss:214 104 52;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","PingFang SC","Hiragino Sans GB","Microsoft YaHei",
"Noto Sans CJK SC",
"Source Han Sans SC","WenQuanYi Zen Hei",sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"Noto Sans Mono","Noto Sans Mono CJK SC","WenQuanYi Zen Hei Mono",
monospace}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--raised:#1c2125;--ink:#e3e7ea;--muted:#98a2ac;
--line:#343c44;--accent:#e58a72;
--first:#6fb5da;--second:#ee9468;--hit:74 160 196;--miss:226 124 76}}
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0 auto;max-width:72rem;padding:0 1.25rem 4rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 var(--sans)}
header{padding:2.5rem 0 1.5rem;border-bottom:3px double var(--line)}
h1,h2,h3{line-height:1.2;font-weight:600;overflow-wrap:anywhere}
h1{margin:.1em 0 .3em;font-size:2.1rem}
h2{margin:0 0 .8rem;font-size:1.35rem}
h3{margin:1.6rem 0 .5rem;font-size:1rem;color:var(--muted)}
h2+h3,h2+div h3:first-child{margin-top:0}
.kind{margin:0;color:var(--accent);font-size:.85rem;font-weight:600;letter-spacing:.04em}
.summary{margin:0;max-width:44rem;font-size:1.1rem}
.parent{margin:.6rem 0 0;color:var(--muted)}
a{color:var(--accent);text-underline-offset:.15em}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:0;padding:.9rem 0;list-style:none}
nav a{color:var(--muted);text-decoration:none}
nav a:hover,nav a:focus{color:var(--accent);text-decoration:underline}
section{padding:1.6rem 0;border-top:1px solid var(--line)}
section:first-child{border-top:0}
@media(min-width:62rem){.page{display:grid;grid-template-columns:9rem minmax(0,1fr);gap:2.5rem}
nav ul{display:block;position:sticky;top:0;padding:1.7rem 0}nav li{padding:.15rem 0}}
figure{margin:0 0 1rem}
figcaption{margin-top:.4rem;max-width:44rem;color:var(--muted);font-size:.88rem}
figcaption b{color:var(--ink);font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1rem 2rem}
.charts figure{max-width:32rem}
svg{display:block;width:100%;height:auto;overflow:visible}
.wide{overflow-x:auto;margin-bottom:.8rem}
table{border-collapse:collapse;font-size:.94rem}
th,td{padding:.32rem 1.2rem .32rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{color:var(--muted);font-weight:500;font-size:.85rem;white-space:nowrap}
td{min-width:3rem;overflow-wrap:break-word;font-variant-numeric:tabular-nums}
th:last-child,td:last-child{padding-right:0}
th.number,td.number{text-align:right;white-space:nowrap}
b{font-weight:600}
code,pre,.mono{font-family:var(--mono);font-size:.9em}
.matrix{font-size:.85rem}
.matrix th,.matrix td{padding:.3rem .5rem;border:0;text-align:center;vertical-align:middle;min-width:2.2rem}
.matrix thead th{vertical-align:bottom}
.matrix th[scope=row]{position:sticky;left:0;z-index:1;background:var(--paper);text-align:right;font-weight:500;
white-space:nowrap;
max-width:11rem;overflow:hidden;text-overflow:ellipsis}
.matrix tbody td{border:1px solid var(--line)}
.matrix.upright thead span{display:inline-block;writing-mode:vertical-rl;text-orientation:sideways;
transform:rotate(180deg);max-height:11rem;overflow:hidden}
.hit{background:rgb(var(--hit)/var(--share))}
.miss{background:rgb(var(--miss)/var(--share))}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr));gap:.9rem}
.card{padding:.8rem 1rem;background:var(--raised);border:1px solid var(--line);border-radius:.35rem;
overflow-wrap:anywhere}
.card.text{white-space:pre-wrap;max-height:26rem;overflow-y:auto}
.card.text b{color:var(--accent)}
.card dl{grid-template-columns:minmax(0,max-content) minmax(0,1fr)}
.frame{width:4rem;margin:0 .25rem .25rem 0;image-rendering:pixelated}
.seen{display:block;width:8rem;margin-bottom:.5rem;image-rendering:pixelated}
.card dd{white-space:pre-wrap;max-height:12rem;overflow-y:auto}
.sheet,.moments td{width:42rem}
.sheet img,.moments img{display:block;width:42rem;image-rendering:pixelated}
.moments td,.moments th{padding:.1rem .8rem .1rem 0;border:0;vertical-align:middle;font-weight:400}
.moments th{color:var(--muted);font-size:.85rem;white-space:nowrap;text-align:right}
.columns{display:grid;width:42rem;font-size:.75rem;color:var(--muted);line-height:1.2}
.columns span{padding:0 .2rem .2rem 0;align-self:end;overflow-wrap:anywhere;max-height:4.8em;overflow:hidden}
.mark{float:right;margin-left:.8rem;font-size:.8rem;font-weight:600}
.mark.right{color:var(--first)}
.mark.wrong{color:var(--second)}
dl{display:grid;grid-template-columns:minmax(6rem,max-content) minmax(0,1fr);gap:.2rem 1.2rem;margin:0}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.warning{margin:0 0 .6rem;padding:.5rem .9rem;border-left:3px solid var(--second);background:var(--raised)}
.recipe{margin:0;padding:1rem;background:var(--raised);border:1px solid var(--line);border-radius:.35rem;
overflow-x:auto;line-height:1.45}
@media(max-width:30rem){body{padding:0 1rem 3rem}table{font-size:.85rem}th,td{padding-right:.7rem}
.matrix{font-size:.8rem}
.matrix th[scope=row]{max-width:6rem}}
@media print{nav{display:none}.card.text,.card dd{max-height:none}}
"""
