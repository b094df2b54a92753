"""Rows -> clean rows: repair, drop and count. Pure and one row at a time, so that any worker can do it to any row.

    cleaned = clean({"review": "good\\r\\n", "stars": "4"}, {"review": "text", "stars": "number"}, Config())
    cleaned.values                   # {"review": "good\\n", "stars": 4.0}; None where the row is dropped or bad

Nothing is dropped in silence: every rule that changes or drops a row says so, and the data report adds that up. Rules
that need many rows stand elsewhere: duplicates in duplicates.py, what is normal for a number in `fit_outliers` below.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from dougong.core.config import Count, Fraction, Positive, config
from dougong.core.errors import bad_field, missing_extra, shown

Kinds = dict[str, str]
"""Used column -> the type of its field: text, category, labels, number, image, …"""


@config
class Config:
    unicode: Literal["none", "nfc", "nfkc"] = "nfc"  # also strips control characters and makes every line end \n
    repair: bool = False  # undo text that was decoded in a wrong encoding (Ã© -> é)
    empty: Literal["drop", "keep"] = "drop"  # rows with a blank text, or without one
    missing: Literal["drop", "keep"] = "keep"  # rows that lack an input; the fields can mark it
    min_length: Count | None = None  # characters of every text
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


def clean(values: Mapping[str, object], kinds: Kinds, config: Config, outliers: Outliers | None = None) -> Cleaned:
    """Apply the rules to one row, in the order of the keys of `Config`. Only the columns of `kinds` are kept.

    Numbers come out as floats, texts and categories as repaired text, what is missing as None.
    """
    changed: dict[str, None] = {}  # a set that keeps its order
    result: dict[str, object] = {}
    for column, kind in kinds.items():
        try:
            result[column] = _value(values.get(column), kind, config, changed)
        except ValueError as error:
            return Cleaned(None, bad=f"column {shown(column)}: {error}", changed=tuple(changed))
    rule = _dropping_rule(result, kinds, config, outliers)
    return Cleaned(None if rule else result, dropped=rule, changed=tuple(changed))


def _dropping_rule(result: dict[str, object], kinds: Kinds, config: Config, outliers: Outliers | None) -> str | None:
    texts = [str(result[column] or "") for column, kind in kinds.items() if kind == "text"]
    if config.empty == "drop" and not all(text.strip() for text in texts):
        return "empty"
    if config.missing == "drop" and any(value is None for value in result.values()):
        return "missing"
    if config.min_length and any(len(text) < config.min_length for text in texts):
        return "min_length"
    if config.max_length and any(len(text) > config.max_length for text in texts):
        return "max_length"
    if config.language and any(text.strip() and language_of(text) not in config.language for text in texts):
        return "language"
    if outliers and outliers.found(result):
        return "outliers"
    return None


# -------------------------------------------------------------------------------------------------------------- values


def _value(value: object, kind: str, config: Config, changed: dict[str, None]) -> object:
    """The clean form of one value, None if it is missing. ValueError if it cannot be of its kind."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "number":
        return _number(value, changed)
    if kind == "text":
        if isinstance(value, dict | list | tuple | bytes):
            raise ValueError(f"{shown(value)} is not text")
        return _text(str(value), config, changed)
    if kind == "category":
        if isinstance(value, dict | list | tuple | bytes):
            raise ValueError(f"{shown(value)} is not a category: one word or number was expected")
        if isinstance(value, float) and not math.isfinite(value):
            changed["not_finite"] = None
            return None
        return _label(value, config, changed) or None if isinstance(value, str) else value
    if kind == "labels" and isinstance(value, list | tuple):
        return [_label(item, config, changed) if isinstance(item, str) else item for item in value]
    if kind == "labels" and isinstance(value, str):  # several in one text: the field reads it
        return _label(value, config, changed)
    if isinstance(value, str):  # a path: on the disk é and e + ´ are two names
        return _label(value, AS_IT_IS, changed) or None
    return value


def _text(text: str, config: Config, changed: dict[str, None]) -> str:
    if not text.isascii():
        if re.search("[\ud800-\udfff]", text):
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

    def found(self, values: Mapping[str, object]) -> str | None:
        """The first column whose number lies too far out."""
        for column, center in self.center.items():
            value = values.get(column)
            if isinstance(value, float) and abs(value - center) > self.threshold * self.scale[column]:
                return column
        return None


def fit_outliers(rows: Iterable[Mapping[str, object]], kinds: Kinds, threshold: float) -> Outliers:
    """Look once at clean training rows, keeping a sample of fixed size. Constant columns have no outliers."""
    samples: dict[str, list[float]] = {column: [] for column, kind in kinds.items() if kind == "number"}
    chooser, seen = random.Random(0), Counter[str]()
    for row in rows:
        for column, sample in samples.items():
            value = row.get(column)
            if not isinstance(value, float):
                continue
            seen[column] += 1
            if len(sample) < SAMPLE:
                sample.append(value)
            elif (place := chooser.randrange(seen[column])) < SAMPLE:  # reservoir sampling: each value is as likely
                sample[place] = value
    center, scale = {}, {}
    for column, sample in samples.items():
        if sample and (spread := _robust_scale(np.array(sample))):
            center[column], scale[column] = float(np.median(sample)), spread
    return Outliers(threshold, center, scale)


def _robust_scale(sample: np.ndarray) -> float:  # (N,) -> standard deviation that outliers hardly move
    deviation = np.abs(sample - np.median(sample))
    # where more than half of the values are equal the median deviation is 0; the mean one then says more than nothing
    return float(1.4826 * np.median(deviation) or 1.2533 * deviation.mean())
