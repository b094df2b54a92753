"""Look at a data file and propose a recipe: typed inputs and outputs, with the reasons as comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from dougong import fields
from dougong import recipe as recipes
from dougong.core.config import parse_yaml
from dougong.core.errors import DataError, bad_field, nearest
from dougong.data import answers, conversations, folders, sources
from dougong.data.report import Column

LOOK = 2_000  # rows that are looked at
KEPT = 20_000_000  # characters of rows that are looked at side by side
FEW = 100  # rows of which a tenth is too few for a validation loss to say when to stop


def name_of(data: Path) -> str:
    """The name of a run on this data: `reviews.csv.gz` -> reviews."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", data.name.split(".")[0]).strip("-")[:64] or "model"


def propose(data: Path, predict: Sequence[str], folder: Path) -> str:
    """The text of a recipe that predicts the columns `predict` from the others (a language model where there is only text)."""
    columns, passages = look(data)
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
    if "item" not in (
        columns[name].kind for name in outputs
    ):  # a history that nothing goes on with is a list of labels
        for column in columns.values():
            column.kind = "" if column.kind in ("item", "items") else column.kind
    for quotes, passage in passages.items():
        if quotes not in outputs or passage in outputs:  # there is nothing to be quoted, or nobody quotes
            columns[quotes].kind = "text"
    inputs = {name: column for name, column in columns.items() if name not in outputs}
    names = field_names(columns)
    lines = [input_line(name, names[name], column) for name, column in inputs.items()]
    kinds = [columns[name].guess() for name in outputs]
    if kinds == ["chat"]:
        lines = left_out(lines, "a conversation is learnt from itself alone")
    elif kinds == ["boxes"]:
        picture = next((name for name, column in inputs.items() if column.guess() == "image"), None)
        alone = "boxes are told of a picture alone"
        pairs = zip(inputs, lines, strict=True)
        lines = [line if name == picture else left_out([line], alone)[0] for name, line in pairs]
    if all(line.lstrip().startswith("#") for line in lines) and kinds not in (["chat"], ["text"]):
        left = f"beside {', '.join(map(repr, outputs))} no column can be looked at: it has {', '.join(columns)}"
        raise DataError(f"{data}: {left}. Fix: give a file with more columns, or write the recipe by hand.")
    return checked(
        [
            *head(data, folder, columns),
            *(lines if kinds == ["chat"] else ["inputs:", *lines] if lines else []),
            "outputs:",
            *(output_line(name, names[name], columns[name], names.get(passages.get(name, ""))) for name in outputs),
            *(PAIRING if kinds == ["text"] and [column.guess() for column in inputs.values()] == ["text"] else []),
            "# model: {kind: transformer, preset: small}     # the types choose one unless you do",
            "train:",
            "  epochs: 10",
            "  early_stop: 4      # validations without a better loss"
            if max(column.rows for column in columns.values()) >= FEW
            else "  # early_stop: 4      # needs more rows to validate on than a tenth of these",
        ]
    )


VECTORS = (
    "# outputs: {text: words}      # in place of outputs and model: vectors of its words, to find those that are alike"
)
PAIRING = ("# outputs: {match: pairing}      # with both as inputs: to find one by the other, in place of writing it",)


def left_out(lines: Iterable[str], reason: str) -> list[str]:
    """Inputs that the output cannot have beside it, as comments that say why."""
    return [line if line.lstrip().startswith("#") else f"  # {line.strip()}; {reason}" for line in lines]


def look(data: Path) -> tuple[dict[str, Column], dict[str, str]]:
    """What the columns of the first rows hold, over all files that the path means; conversations, tags and quotes are told.

    Beside them for each column of quotes the one that it quotes.
    """
    columns: dict[str, Column] = {}
    rows: list[Mapping[str, Any]] = []  # of which columns belong together is seen row by row
    seen = kept = 0
    told: dict[str, str] = {}  # what the files of a labelled folder are
    for file in sources.find_files(str(data), Path.cwd()):
        if file.is_dir() and (kind := folders.labelled(file)):
            told[kind] = kind
        found = (row.values for row in sources.read_rows(file) if isinstance(row, sources.Row))
        for row in islice(found, LOOK - seen):
            seen += 1
            kept += sum(size_of(value) for value in row.values())
            if kept <= KEPT:
                rows.append(row)
            for name, value in row.items():
                columns.setdefault(name, Column()).add(value)
    if not columns:
        raise DataError(f"{data}: no row that can be read. Fix: give a file with rows.")
    for name, kind in told.items():
        columns[name].kind = kind
    for name, column in columns.items():
        values = [row[name] for row in rows if is_there(row.get(name))]
        if values and all(map(converses, values)):
            column.kind = "chat"
    for tags, words in tagged(columns, rows):
        columns[tags].kind, columns[words].kind = "tags", "text"
    for item, history in goes_on_with(columns, rows).items():
        columns[item].kind, columns[history].kind = "item", "items"
    passages = quoted_from(columns, rows)
    for quotes, passage in passages.items():
        columns[quotes].kind, columns[passage].kind = "span", "text"
    return columns, passages


def size_of(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else len(str(value))


def is_there(value: object) -> bool:
    return value is not None and value != ""


def converses(value: object) -> bool:
    """Whether a value is a conversation with something to learn."""
    if not isinstance(value, list | tuple) and not (isinstance(value, str) and value.lstrip().startswith("[")):
        return False
    try:
        conversations.check_has_reply(conversations.read(value))
    except ValueError:
        return False
    return True


def tagged(columns: Mapping[str, Column], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(column of tags, column of words): as many of one as of the other in every row, and few different tags."""
    marks = {name: tags_of(name, rows) for name in columns}
    found: list[tuple[str, str]] = []
    for name, tags in marks.items():
        distinct, total = {tag for row in tags for tag in row}, sum(map(len, tags))
        often = total >= TAG_TIMES * len(distinct) and len({len(row) for row in tags}) > 1
        words = [other for other in columns if other != name and often and fit_together(tags, other, rows)]
        if words and name not in (other for pair in found for other in pair):
            found.append((name, words[0]))
    return found


TAG_TIMES = 5  # a tag stands at least so often in the mean; a word of a text seldom does


def tags_of(name: str, rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The values of a column as lists of names: lists, or texts of nothing but `B-…`, `I-…` and `O`; else nothing."""
    values = [row.get(name) for row in rows]
    if all(isinstance(value, list) and all(isinstance(tag, str) for tag in value) for value in values):
        return [list(value) for value in values if isinstance(value, list)]
    split = [value.split() if isinstance(value, str) else [] for value in values]
    return split if all(row and all(re.fullmatch(r"O|[BI]-\S+", tag) for tag in row) for row in split) else []


def fit_together(tags: Sequence[Sequence[str]], words: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether each row has as many words as tags, and more different words than tags."""
    values = [row.get(words) for row in rows]
    texts = [value.split() if isinstance(value, str) else value if isinstance(value, list) else [] for value in values]
    many = {word for text in texts for word in text if isinstance(word, str)}
    few = {tag for row in tags for tag in row}
    return all(len(text) == len(row) for text, row in zip(texts, tags, strict=True)) and len(many) > len(few)


def goes_on_with(columns: Mapping[str, Column], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For a column of items the history that each goes on: lists that hold what other rows go on with, seldom their own item."""
    found: dict[str, str] = {}
    for history, column in columns.items():
        lists = [(row, set(map(str, row[history]))) for row in rows if isinstance(row.get(history), list)]
        if column.kind or not lists:
            continue
        known = set().union(*(listed for _, listed in lists))
        for name, other in columns.items():
            told = [(str(row[name]), listed) for row, listed in lists if isinstance(row.get(name), str | int)]
            new = sum(item not in listed for item, listed in told)
            held = sum(item in known for item, _ in told)
            varied = MANY <= len({item for item, _ in told}) < len(told)  # one of each row's own is an identifier
            if not other.kind and varied and held >= OFTEN * len(rows) and new >= OFTEN * len(told):
                found.setdefault(name, history)
    return found if len(found) == 1 else {}


MANY = 20  # different items: fewer are names of classes
OFTEN = 0.9  # of the answers stand in the passage: of the others some are always misspelt
LONGER = 3  # times a passage is longer than what is quoted from it


def quoted_from(columns: Mapping[str, Column], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each column of answers the text that they are quoted from; there is a third column, which asks for them."""
    texts = [name for name, column in columns.items() if column.guess() == "text"]
    found: dict[str, str] = {}
    for name in columns:
        said = [(row, answers_of(row.get(name))) for row in rows]
        given = [(row, texts_) for row, texts_ in said if texts_]
        for passage in (other for other in texts if other != name):
            told = [(str(row.get(passage) or ""), answer[0]) for row, answer in given]
            stand = [text for text, answer in told if answer in text]
            length = sum(map(len, stand)) / max(sum(len(answer[0]) for _, answer in given), 1)
            varied = len({answer[0] for _, answer in given}) * 2 > len(given)  # else they are names of classes
            asked = any(other not in (name, passage) for other in texts)
            if given and len(stand) >= OFTEN * len(given) and length >= LONGER and varied and asked:
                found[name] = passage
    return found


def answers_of(value: object) -> list[str]:
    """The right texts that a value holds as an answer; none where it is no answer, or there is none."""
    try:
        texts: list[str] = answers.read(value)["texts"]
    except ValueError:
        return []
    return texts


def likely_output(columns: dict[str, Column]) -> str:
    """A conversation, tags or quotes of a text, boxes, what a history goes on with; else one called like an answer, or the last.

    A text or a date is only taken where there is nothing else.
    """
    for kind in ("chat", "tags", "span", "boxes", "item"):
        for name, column in columns.items():
            if kind in (column.kind, column.guess() if kind == "boxes" else ""):
                return name
    usual = ("label", "labels", "target", "class", "category", "y", "output", "sentiment", "topic", "price", "score")
    for name in usual:
        if name in columns:
            return name
    answers_ = (name for name in reversed(columns) if columns[name].guess() not in ("text", "date"))
    return next(answers_, list(columns)[-1])


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
        VECTORS,
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


def output_line(name: str, field: str, column: Column, passage: str | None) -> str:
    kind = column.guess()
    if not hasattr(fields.load(kind), "Head"):
        raise bad_field(
            "predict", name, f"a column that can be predicted; {kind} only goes in", "choose another column"
        )
    return f"  {field_text(name, field, kind, passage)}      # {describe(column)}"


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


def field_text(name: str, field: str, kind: str, passage: str | None = None) -> str:
    """`name: type`, with the column spelt out where it cannot be a field's name, and the text that it quotes."""
    more = [] if field == name else [f"column: {quoted(name)}"]
    more += [] if passage is None else [f"of: {key(passage)}"]
    return f"{key(field)}: {{{', '.join([f'type: {kind}', *more])}}}" if more else f"{key(field)}: {kind}"


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
        unit = "words" if column.lists else "characters"
        parts.append(f"{said['length']['median']} {unit} in the middle, at most {said['length']['max']}")
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
