"""Look at a data file and propose a recipe: typed inputs and outputs, with the reasons as comments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from dougong import fields
from dougong.core.config import parse_yaml
from dougong.core.errors import DataError, bad_field, nearest
from dougong.data import sources
from dougong.data.report import Column

LOOK = 2_000  # rows that are looked at


def name_of(data: Path) -> str:
    """The name of a run on this data: `reviews.csv.gz` -> reviews."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", data.name.split(".")[0]).strip("-") or "model"


def propose(data: Path, predict: Sequence[str], folder: Path) -> str:
    """The text of a recipe that predicts the columns `predict` from the others (a language model where there is only text)."""
    columns = look(data)
    for name in predict:
        if name not in columns:
            near = nearest(name, list(columns))
            raise bad_field(
                "predict",
                name,
                f"a column of {data.name}: {', '.join(columns)}",
                f"write {near!r}" if near else "choose one of them",
            )
    if list(columns) == ["text"] and not predict:
        return language_model(data, folder)
    outputs = list(predict) or [likely_output(columns)]
    inputs = {name: column for name, column in columns.items() if name not in outputs}
    lines = head(data, folder, columns)
    lines += ["inputs:", *(input_line(name, column) for name, column in inputs.items())]
    lines += ["outputs:", *(output_line(name, columns[name]) for name in outputs)]
    lines += [
        "# model: {kind: transformer, preset: small}     # the types choose one unless you do",
        "train:",
        "  epochs: 10",
        "  early_stop: 4      # validations without a better loss",
    ]
    return checked("\n".join(lines) + "\n")


def look(data: Path) -> dict[str, Column]:
    """What the columns of the first rows hold, over all files that the path means."""
    columns: dict[str, Column] = {}
    seen = 0
    for file in sources.find_files(str(data), Path.cwd()):
        rows = (row for row in sources.read_rows(file) if isinstance(row, sources.Row))
        for row in islice(rows, LOOK - seen):
            seen += 1
            for name, value in row.values.items():
                columns.setdefault(name, Column()).add(value)
    if not columns:
        raise DataError(f"{data}: no row that can be read. Fix: give a file with rows.")
    return columns


def likely_output(columns: dict[str, Column]) -> str:
    """A column called like an answer, else the last one that is not text."""
    usual = ("label", "labels", "target", "class", "category", "y", "output", "sentiment", "topic", "price", "score")
    for name in usual:
        if name in columns:
            return name
    return next((name for name in reversed(columns) if columns[name].guess() != "text"), list(columns)[-1])


def head(data: Path, folder: Path, columns: dict[str, Column]) -> list[str]:
    rows = max(column.rows for column in columns.values())
    return [
        f"# Proposed from the first {rows:,} rows of {data.name}. `dougong check` looks at all of them.",
        f"name: {name_of(data)}      # the run goes to runs/{name_of(data)}",
        "data:",
        f"  train: {quoted(relative(data, folder))}",
        "  split: {validation: 0.1, test: 0.1}     # by a hash of the row: stable when rows are added",
    ]


def language_model(data: Path, folder: Path) -> str:
    lines = [
        f"# Nothing in, text out: a language model of {data.name}.",
        f"name: {name_of(data)}",
        "data:",
        f"  train: {quoted(relative(data, folder))}",
        "  text_rows: paragraph      # what a row of a .txt file is: paragraph, line, or document",
        "outputs:",
        "  text: {type: text, tokenizer: {kind: bpe, vocab_size: 4096}, max_length: 256}",
        "model: {kind: transformer, layers: 6, width: 256, heads: 4}",
        "train: {minutes: 10, optimizer: muon}",
    ]
    return checked("\n".join(lines) + "\n")


def input_line(name: str, column: Column) -> str:
    kind = column.guess()
    unique = (
        kind in ("text", "category", "number")
        and len(column.hashes) == column.present > 50
        and re.search(r"(^|[_ ])id$", name.lower())
    )
    if column.present == 0:
        return f"  # {key(name)}: text      # every value is missing"
    if unique:
        return f"  # {key(name)}: {kind}      # looks like an identifier: it would only be learnt by heart"
    return f"  {field_text(name, kind)}      # {describe(column)}"


def output_line(name: str, column: Column) -> str:
    kind = column.guess()
    if not hasattr(fields.load(kind), "Head"):
        raise bad_field(
            "predict", name, f"a column that can be predicted; {kind} only goes in", "choose another column"
        )
    return f"  {field_text(name, kind)}      # {describe(column)}"


def field_text(name: str, kind: str) -> str:
    """`name: type`, with the column spelt out where it cannot be a field's name."""
    simple = re.sub(r"[^\w -]+", "_", name).strip() or "column"
    simple = simple if re.match(r"[^\W\d]", simple) else f"column_{simple}"
    return f"{key(simple)}: {kind}" if simple == name else f"{key(simple)}: {{type: {kind}, column: {quoted(name)}}}"


def key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w-]*", name) else quoted(name)


def quoted(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z0-9_./-]+", text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def describe(column: Column) -> str:
    said: dict[str, Any] = column.summary()
    parts = [f"{said['distinct']} different values"]
    if "min" in said:
        parts = [f"{said['min']:g} to {said['max']:g}"]
    if "length" in said:
        parts.append(f"{said['length']['median']} characters in the middle, at most {said['length']['max']}")
    if column.missing:
        parts.append(f"{column.missing:,} missing")
    return ", ".join(parts)


def relative(data: Path, folder: Path) -> str:
    """The data's path as seen from the recipe's folder, where it lies below it."""
    data, folder = data.resolve(), folder.resolve()
    return str(data.relative_to(folder)) if data.is_relative_to(folder) else str(data)


def checked(text: str) -> str:
    parse_yaml(text, "proposal")
    return text
