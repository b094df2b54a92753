"""Rows -> clean rows: repair, drop and count. Pure, each row for itself, so that any worker can do it to any row.

    cleaned = clean({"review": "good\\r\\n", "stars": "4"}, {"review": "text", "stars": "number"}, Config())
    cleaned.values                   # {"review": "good\\n", "stars": 4.0}; None where the row is dropped or bad

Nothing is dropped in silence: every rule that changes or drops a row says so, and the data report adds that up. Rules
that need many rows stand elsewhere: duplicates in duplicates.py, what is normal for a number in `fit_outliers` below.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, cast

import numpy as np

from dougong.core.config import Count, Fraction, Positive, config
from dougong.core.errors import bad_field, missing_extra, shown
from dougong.data import answers, conversations
from dougong.data.json_lines import JSON
from dougong.data.records import Unreadable
from dougong.data.sampling import Sample

Kinds = dict[str, str]
TEXTS = ("text", "words")  # the types whose values are running text
SAID = (*TEXTS, "chat")  # those whose values say something
"""Used column -> the type of its field: text, category, labels, number, image, …"""


@config
class Config:
    unicode: Literal["none", "nfc", "nfkc"] = "nfc"  # also strips control characters and makes every line end \n
    repair: bool = False  # undo text that was decoded in a wrong encoding (Ã© -> é)
    empty: Literal["drop", "keep"] = "drop"  # rows with a blank text, or without one
    missing: Literal["drop", "keep"] = "keep"  # rows that lack an input; the fields can mark it
    min_length: Count | None = None  # characters of every text; a conversation is one, of all its messages
    max_length: Count | None = None
    language: tuple[str, ...] = ()  # two-letter codes: every text must be in one of these
    outliers: Positive | None = None  # drop rows with a number this many robust z-scores from the median
    duplicates: Literal["keep", "drop"] = "keep"
    near_duplicates: Literal["off", "keep", "drop"] = "off"  # "keep" counts them
    near_threshold: Fraction = 0.8  # of the 5-character pieces that two texts share
    max_bad: Fraction = 0.01  # stop when a larger share of the rows cannot be used

    def __post_init__(self) -> None:
        if self.min_length and self.max_length and self.max_length < self.min_length:
            expected = f"at least min_length ({self.min_length})"
            raise bad_field("data.cleaning.max_length", self.max_length, expected, "raise it, or lower min_length")
        for code in self.language:
            if not re.fullmatch("[a-z]{2}", code):
                raise bad_field("data.cleaning.language", code, "two-letter ISO 639-1 codes", "write en, zh, …")
        if not self.near_threshold:
            raise bad_field("data.cleaning.near_threshold", 0.0, "more than 0", "use near_threshold: 0.8")


class Cleaned(NamedTuple):
    """What became of one row: its values, or the rule that dropped it, or why it is bad (that is for quarantine)."""

    values: dict[str, object] | None
    dropped: str | None = None
    bad: str | None = None
    changed: tuple[str, ...] = ()  # rules that altered it, also where it was dropped afterwards


def clean(values: Mapping[str, object], kinds: Kinds, config: Config) -> Cleaned:
    """Apply the rules to one row, in the order of the keys of `Config`. Only the columns of `kinds` are kept.

    Numbers come out as floats, texts and categories as repaired text, what is missing as None.
    """
    many = clean_rows({column: [values.get(column)] for column in kinds}, kinds, config)
    changed = tuple(many.changed)
    if 0 in many.bad:
        column, problem = many.bad[0]
        return Cleaned(None, bad=f"column {shown(column)}: {problem}", changed=changed)
    if 0 in many.dropped:
        return Cleaned(None, dropped=many.dropped[0], changed=changed)
    return Cleaned({column: cleaned[0] for column, cleaned in many.values.items()}, changed=changed)


class CleanedRows(NamedTuple):
    """What became of many rows; those that are bad or dropped still have a place in `values`."""

    values: dict[str, list[object]]
    dropped: dict[int, str]  # row -> the rule
    bad: dict[int, tuple[str, str]]  # row -> column and problem
    changed: dict[str, set[int]]  # rule -> rows that it altered


def clean_rows(columns: Mapping[str, Sequence[object]], kinds: Kinds, config: Config) -> CleanedRows:
    """What `clean` does, to all rows at once: a rule that finds nothing in a whole column costs next to nothing."""
    values: dict[str, list[object]] = {}
    bad: dict[int, tuple[str, str]] = {}
    changed: dict[str, set[int]] = {}
    for column, kind in kinds.items():
        values[column], problems = _column(columns[column], kind, config, changed)
        for row, problem in problems.items():
            bad.setdefault(row, (column, problem))
    dropped: dict[int, str] = {}
    for rule, rows in _dropping_rules(values, kinds, config):
        for row in rows:
            if row not in bad:
                dropped.setdefault(row, rule)
    return CleanedRows(values, dropped, bad, changed)


def _dropping_rules(values: dict[str, list[object]], kinds: Kinds, config: Config) -> Iterator[tuple[str, list[int]]]:
    """(rule, rows that it drops), in the order in which they are tried."""
    said = [column for column, kind in kinds.items() if kind in SAID]
    texts = [[_said(value) for value in values[column]] for column in said]

    def where(drop: Callable[[str], bool]) -> list[int]:
        return [row for column in texts for row, text in enumerate(column) if drop(text)]

    if config.empty == "drop":
        plain = [
            column for name, column in zip(said, texts, strict=True) if kinds[name] == "text"
        ]  # others read no blank one
        yield "empty", [row for column in plain for row, text in enumerate(column) if not text or text.isspace()]
    if config.missing == "drop":
        yield "missing", [row for column in values.values() for row, value in enumerate(column) if value is None]
    if least := config.min_length:
        yield "min_length", where(lambda text: len(text) < least)
    if most := config.max_length:
        yield "max_length", where(lambda text: len(text) > most)
    if config.language:
        yield "language", where(lambda text: bool(text.strip()) and language_of(text) not in config.language)


def _said(value: object) -> str:
    """All that a text or a conversation says, "" where it is missing."""
    if isinstance(value, list):
        return "\n".join(message["content"] for message in value)
    return str(value or "")


# -------------------------------------------------------------------------------------------------------------- values


Changed = dict[str, set[int]]


def _column(
    values: Sequence[object], kind: str, config: Config, changed: Changed
) -> tuple[list[object], dict[int, str]]:
    """The clean form of a column's values, and what is wrong with those that cannot be of their kind, by row."""
    types = set(map(type, values))
    if kind == "number" and (numbers := _plain_numbers(values, types)) is not None:
        return numbers, {}
    if types == {str} and kind in (*TEXTS, "category", "labels"):
        texts = cast("Sequence[str]", values)
        if kind in TEXTS and _is_clean("\n".join(texts), config):
            return list(values), {}
        if kind not in TEXTS and len(distinct := set(texts)) <= len(texts) // 2:  # each value once
            known = dict(zip(distinct, *_one_by_one(list(distinct), kind, config, {})[:1], strict=True))
            if all(known[text] == text for text in distinct):
                return list(values), {}
    return _one_by_one(values, kind, config, changed)


def _one_by_one(
    values: Sequence[object], kind: str, config: Config, changed: Changed
) -> tuple[list[object], dict[int, str]]:
    result: list[object] = []
    problems: dict[int, str] = {}
    rules: dict[str, None] = {}  # a set that keeps its order
    for row, value in enumerate(values):
        try:
            result.append(_value(value, kind, config, rules))
        except ValueError as error:
            result.append(None)
            problems[row] = str(error)
        if rules:
            for rule in rules:
                changed.setdefault(rule, set()).add(row)
            rules.clear()
    return result, problems


def _is_clean(text: str, config: Config) -> bool:
    """Whether `_text` would change or refuse nothing in it."""
    if not text.isascii() and (config.repair or SURROGATES.search(text)):
        return False
    if config.unicode == "none":
        return True
    form = "NFC" if config.unicode == "nfc" else "NFKC"
    return not CONTROLS.search(text) and (text.isascii() or unicodedata.is_normalized(form, text))  # type: ignore[arg-type]


def _plain_numbers(values: Sequence[object], types: set[type]) -> list[object] | None:
    """Numbers and empty cells as floats and None, None for the whole if any of them takes a closer look."""
    try:
        if types == {str}:
            texts = cast("Sequence[str]", values)
            if UNUSUAL.search("".join(texts)):
                return None
            numbers = [float(text) if text else math.nan for text in texts]
        elif types <= {float, int, type(None)}:
            numbers = np.array(values, dtype=np.float64).tolist()
        else:
            return None
    except (ValueError, OverflowError):
        return None
    array = np.array(numbers)
    missing = np.isnan(array)
    if (np.abs(array[~missing]) > MAX_NUMBER).any():
        return None
    return [None if number != number else number for number in numbers]


def _value(value: object, kind: str, config: Config, changed: dict[str, None]) -> object:
    """The clean form of one value, None if it is missing. ValueError if it cannot be of its kind."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return answers.read(None) if kind == "span" else None  # that there is no answer is one: nothing is missing
    if kind == "number":
        return _number(value, changed)
    if kind in TEXTS:
        if isinstance(value, list | tuple) and all(isinstance(word, str) and len(word.split()) == 1 for word in value):
            value = " ".join(value)
        if isinstance(value, dict | list | tuple | bytes):
            raise ValueError(f"{shown(value)} is not text, nor a list of words")
        return _text(str(value), config, changed)
    if kind in ("category", "item"):
        if isinstance(value, dict | list | tuple | bytes):
            raise ValueError(
                f"{shown(value)} is not {'an item' if kind == 'item' else 'a category'}: one word or number was expected"
            )
        if isinstance(value, float) and not math.isfinite(value):
            changed["not_finite"] = None
            return None
        return _label(value, config, changed) or None if isinstance(value, str) else value
    if kind == "chat" and value != "":
        return [
            {**message, "content": _text(message["content"], config, changed)} for message in conversations.read(value)
        ]
    if kind == "span":
        return answers.read(value, lambda text: _text(text, config, changed))
    if kind in NAMES and isinstance(value, str) and value.startswith("["):
        value = _listed(value)
    if kind in NAMES and isinstance(value, list | tuple):
        return [_label(item, config, changed) if isinstance(item, str) else item for item in value]
    if kind in NAMES and isinstance(value, str):  # several in one text: the field reads it
        return _label(value, config, changed)
    if isinstance(value, str):  # a path: on the disk é and e + ´ are two names
        return _label(value, AS_IT_IS, changed) or None
    return value


NAMES = ("labels", "tags", "items")  # the types of which a value is several names


def _listed(text: str) -> object:
    """The list that a JSON text holds: an escape can bring in what the encoding kept out. Else the text: the field refuses it."""
    try:
        return JSON.decode(text)
    except (ValueError, RecursionError, Unreadable):
        return text


def _text(text: str, config: Config, changed: dict[str, None]) -> str:
    if not text.isascii():
        if SURROGATES.search(text):
            raise ValueError("a lone surrogate is no character")
        if config.repair and (repaired := _ftfy()(text)) != text:
            changed["repair"], text = None, repaired
    if config.unicode == "none":
        return text
    clean = text if not CONTROLS.search(text) else STRIPPED.sub("", LINE_ENDS.sub("\n", text))
    if not clean.isascii():
        clean = unicodedata.normalize("NFC" if config.unicode == "nfc" else "NFKC", clean)
    if clean != text:
        changed["unicode"] = None
    return clean


def _label(text: str, config: Config, changed: dict[str, None]) -> str:
    text = _text(text, config, changed)
    if text != text.strip():
        changed["spaces"], text = None, text.strip()
    return text


SURROGATES = re.compile("[\ud800-\udfff]")
UNUSUAL = re.compile("[^0-9.eE+-]")  # of these alone, float() reads what NUMBER allows and nothing else
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85]")  # a page break must not glue two words together
STRIPPED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")
AS_IT_IS = Config(unicode="none")
MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-"}  # of numbers only: a category may well be called "none"
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
INFINITE = {"inf", "infinity"}
MAX_NUMBER = float(np.finfo(np.float32).max)  # beyond it a number is infinite to the model


def _number(value: object, changed: dict[str, None]) -> float | None:
    number = to_number(value)
    if number is None or abs(number) <= MAX_NUMBER:
        return number
    changed["not_finite"] = None
    return None


def to_number(value: object) -> float | None:
    """A number or a text that is one as a float, None where it is missing. ValueError for anything else."""
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in MISSING:
            return None
        if not NUMBER.fullmatch(value) and value.lower().lstrip("+-") not in INFINITE:
            raise ValueError(f"{shown(value)} is not a number")
    elif isinstance(value, bytes | bytearray):  # float() would read them
        raise ValueError(f"{shown(value)} is not a number")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf
    except (TypeError, ValueError):
        raise ValueError(f"{shown(value)} is not a number") from None
    return None if math.isnan(number) else number


def check_packages(config: Config) -> None:
    """Fail before any data is read if a rule needs a package that is not installed."""
    if config.repair:
        _ftfy()
    if config.language:
        _langid()


def language_of(text: str) -> str:
    """The two-letter code of the most likely language of a text."""
    return _langid()(text)[0]


@cache
def _ftfy() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError:
        raise missing_extra("ftfy", "data", "data.cleaning.repair") from None
    return ftfy.fix_encoding


@cache
def _langid() -> Callable[[str], tuple[str, float]]:
    try:
        import py3langid
    except ImportError:
        raise missing_extra("py3langid", "data", "data.cleaning.language") from None
    return py3langid.classify


# ------------------------------------------------------------------------------------------------------------ outliers

SAMPLE = 10_000  # values of a column that its median is taken from


@dataclass(frozen=True)
class Outliers:
    """What is normal for each number: median and robust standard deviation (1.4826 times the median deviation)."""

    threshold: float
    center: dict[str, float]
    scale: dict[str, float]

    def found(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:  # (N,) float64 each, nan = missing -> (N,) bool
        """The rows of which a number lies too far out."""
        far = [
            np.abs(columns[name] - center) > self.threshold * self.scale[name] for name, center in self.center.items()
        ]
        return np.any(far, axis=0) if far else np.zeros(len(next(iter(columns.values()))), dtype=bool)


def fit_outliers(pieces: Iterable[Mapping[str, np.ndarray]], threshold: float) -> Outliers:
    """Look once at the numbers of the clean training rows, nan where missing. Constant columns have no outliers."""
    samples: defaultdict[str, Sample] = defaultdict(lambda: Sample(SAMPLE))
    for piece in pieces:
        for name, numbers in piece.items():
            samples[name].add(numbers[~np.isnan(numbers)])
    center, scale = {}, {}
    for name, sample in samples.items():
        if len(sample.values) and (spread := _robust_scale(sample.values)):
            center[name], scale[name] = float(np.median(sample.values)), spread
    return Outliers(threshold, center, scale)


def _robust_scale(sample: np.ndarray) -> float:  # (N,) -> standard deviation that outliers hardly move
    deviation = np.abs(sample - np.median(sample))
    # where more than half of the values are equal the median deviation is 0; the mean one then says more than nothing
    return float(1.4826 * np.median(deviation) or 1.2533 * deviation.mean())
