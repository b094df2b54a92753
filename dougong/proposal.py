"""Look at a data file and propose a recipe: typed inputs and outputs, with the reasons as comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from dougong import fields
from dougong import recipe as recipes
from dougong.core.config import parse_yaml
from dougong.core.errors import DataError, bad_field, nearest
from dougong.data import sources
from dougong.data.report import Column

LOOK = 2_000  # rows that are looked at
FEW = 100  # rows of which a tenth is too few for a validation loss to say when to stop


def name_of(data: Path) -> str:
    """The name of a run on this data: `reviews.csv.gz` -> reviews."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", data.name.split(".")[0]).strip("-")[:64] or "model"


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
    names = field_names(columns)
    lines = [input_line(name, names[name], column) for name, column in inputs.items()]
    if all(line.lstrip().startswith("#") for line in lines) and [columns[name].guess() for name in outputs] != ["text"]:
        left = f"beside {', '.join(map(repr, outputs))} no column can be looked at: it has {', '.join(columns)}"
        raise DataError(f"{data}: {left}. Fix: give a file with more columns, or write the recipe by hand.")
    return checked(
        [
            *head(data, folder, columns),
            *(["inputs:", *lines] if lines else []),
            "outputs:",
            *(output_line(name, names[name], columns[name]) for name in outputs),
            "# model: {kind: transformer, preset: small}     # the types choose one unless you do",
            "train:",
            "  epochs: 10",
            "  early_stop: 4      # validations without a better loss"
            if max(column.rows for column in columns.values()) >= FEW
            else "  # early_stop: 4      # needs more rows to validate on than a tenth of these",
        ]
    )


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
        f"# Proposed from the first {rows:,} rows of {escaped(data.name)}. `dougong check` looks at all of them.",
        f"name: {name_of(data)}      # the run goes to runs/{name_of(data)}",
        "data:",
        f"  train: {quoted(relative(data, folder))}",
        "  split: {validation: 0.1, test: 0.1}     # by a hash of the row: stable when rows are added",
    ]


def language_model(data: Path, folder: Path) -> str:
    lines = [
        f"# Nothing in, text out: a language model of {escaped(data.name)}.",
        f"name: {name_of(data)}",
        "data:",
        f"  train: {quoted(relative(data, folder))}",
        "  text_rows: paragraph      # what a row of a .txt file is: paragraph, line, or document",
        "outputs:",
        "  text: {type: text, tokenizer: {kind: bpe, vocab_size: 4096}, max_length: 256}",
        "model: {kind: transformer, layers: 6, width: 256, heads: 4}",
        "train: {minutes: 10, optimizer: muon}",
    ]
    return checked(lines)


def input_line(name: str, field: str, column: Column) -> str:
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
    return f"  {field_text(name, field, kind)}      # {describe(column)}"


def output_line(name: str, field: str, column: Column) -> str:
    kind = column.guess()
    if not hasattr(fields.load(kind), "Head"):
        raise bad_field(
            "predict", name, f"a column that can be predicted; {kind} only goes in", "choose another column"
        )
    return f"  {field_text(name, field, kind)}      # {describe(column)}"


def field_names(columns: Iterable[str]) -> dict[str, str]:
    """A name that a field may have for each column, the column's own where it can be."""
    names: dict[str, str] = {}
    for column in sorted(columns, key=lambda column: not fits(column)):  # who can keep its name has the first claim
        simple = re.sub(r"[^\w -]+", "_", column).strip()[:50]
        simple = simple if fits(simple) else f"column_{simple}"
        others = (f"{simple}_{number}" for number in count(2))
        names[column] = next(name for name in chain([simple], others) if name not in names.values())
    return names


def fits(name: str) -> bool:
    return bool(re.fullmatch(recipes.FIELD_NAME, name)) and name not in recipes.RESERVED


def field_text(name: str, field: str, kind: str) -> str:
    """`name: type`, with the column spelt out where it cannot be a field's name."""
    return f"{key(field)}: {kind}" if field == name else f"{key(field)}: {{type: {kind}, column: {quoted(name)}}}"


WORDS = {
    "true",
    "false",
    "null",
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
}  # that some reader of YAML takes for something else


def key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name) and name.lower() not in WORDS else quoted(name)


def quoted(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./-]*", text) and text.lower() not in WORDS
    return text if plain else '"' + escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def escaped(text: str) -> str:
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)


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


def checked(lines: Sequence[str]) -> str:
    """The lines as text, once they are known to be a recipe."""
    text = "\n".join(lines) + "\n"
    plain, marks = parse_yaml(text, "proposal")
    recipes.Reader("proposal", Path.cwd(), marks).recipe(plain, text)
    return text
