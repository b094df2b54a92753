"""The data report: what is in the rows, in memory of fixed size, and the same whether one worker counts or eight.

    report = DataReport()
    report.rows({"review": texts}, kinds, {"train": len(texts)})    # clean: None is missing; kinds: name -> type
    report.merge(other)                                             # of another worker
    print(report.text())                       # and report.warnings(), report.summary(), report.to_json()

Counts, extremes, means and deviations are exact; percentiles of lengths come from a histogram (within 6 %); distinct
values and classes are exact up to 10,000, "more than" beyond.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from dougong.core.errors import shown
from dougong.data import boxes, dates
from dougong.data.cleaning import MAX_NUMBER, Kinds, to_number
from dougong.data.duplicates import value_hashes
from dougong.data.media import ENDINGS, kind_of
from dougong.data.quarantine import group

MAX_DISTINCT = 10_000
TOP = 50  # classes that are listed
IMBALANCE = 20  # largest class : smallest class
FAR_OUT = 20  # standard deviations
NAME = 100  # characters of a class that are kept


class Histogram:
    """Lengths in bins: exact below 64, then 16 to an octave. Minimum and maximum exact."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()
        self.low, self.high = math.inf, 0

    def add(self, length: int) -> None:
        self.bins[_bin(length)] += 1
        self.low, self.high = min(self.low, length), max(self.high, length)

    def add_all(self, lengths: np.ndarray) -> None:
        found, counts = np.unique(lengths, return_counts=True)
        for length, count in zip(found.tolist(), counts.tolist(), strict=True):
            self.bins[_bin(length)] += count
        if len(found):
            self.low, self.high = min(self.low, int(found[0])), max(self.high, int(found[-1]))

    def merge(self, other: Histogram) -> None:
        self.bins.update(other.bins)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def percentile(self, share: float) -> int:
        """The length that this share of the rows does not exceed."""
        wanted, seen = share * self.bins.total(), 0
        for place in sorted(self.bins):
            seen += self.bins[place]
            if seen >= wanted:
                return int(min(max(_length(place), self.low), self.high))
        return 0

    def summary(self) -> dict[str, int]:
        if not self.bins:
            return {}
        return {"min": int(self.low), "median": self.percentile(0.5), "p95": self.percentile(0.95), "max": self.high}

    def to_json(self) -> dict[str, Any]:
        return {"low": int(self.low) if self.bins else 0, "high": self.high, "bins": sorted(self.bins.items())}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Histogram:
        result = Histogram()
        result.bins = Counter(dict(value["bins"]))
        result.low, result.high = (value["low"] if result.bins else math.inf), value["high"]
        return result


def _bin(length: int) -> int:
    if length < 64:
        return length
    shift = length.bit_length() - 5
    return 64 + 16 * (shift - 2) + (length >> shift) - 16


def _length(place: int) -> int:
    """The middle of a bin."""
    if place < 64:
        return place
    shift, rest = divmod(place - 64, 16)
    return ((rest + 16) << (shift + 2)) + (1 << (shift + 1))


@dataclass
class Column:
    """What one column holds. `kind` is the type of its field, or "" where that is to be guessed."""

    kind: str = ""
    rows: int = 0
    missing: int = 0
    not_finite: int = 0
    numbers: int = 0  # values that are numbers, or text that reads as one; the next four are theirs
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean (Welford)
    low: float = math.inf
    high: float = -math.inf
    lists: int = 0
    media: Counter[str] = field(default_factory=Counter)  # names of files, by the type that reads them
    dates: int = 0
    boxes: int = 0  # values that are boxes in a picture; of those that look like none, `blank` are an empty list
    blank: int = 0
    lengths: Histogram = field(default_factory=Histogram)  # characters of text, items of lists
    hashes: set[int] = field(default_factory=set)  # of distinct values, at most one more than MAX_DISTINCT
    classes: Counter[str] = field(default_factory=Counter)  # of values that may be labels

    def add(self, value: object) -> None:
        self.rows += 1
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            self.missing += 1
            return
        if not self.kind:
            self.boxes += boxes.looks_like(value)
            self.blank += value in ([], "[]")
        if self.kind == "boxes" and isinstance(value, dict):  # as their type reads them
            labels: list[str] = value["labels"]
            self.lengths.add(len(labels))
            for name, count in Counter(labels).items():
                self._add_class(name[:NAME], count)
        if _is_frames(value):
            self.media.update([] if self.kind else ["video"])  # its frames
            self._count([value])
            return
        if isinstance(value, list | tuple):
            self.lists += 1
            self.lengths.add(len(value))
            self._count([str(item) for item in value])
            return
        if self.kind in ("", "number") and not isinstance(value, bool):
            self._add_number(value)
        if isinstance(value, str):
            self.lengths.add(len(value))
            if not self.kind and (kind := kind_of(value)):
                self.media[kind] += 1
            self.dates += not self.kind and dates.looks_like_one(value)
        self._count([value])

    def add_all(self, values: Sequence[object], hashes: np.ndarray | None = None) -> None:
        """`add` for every value, in a fraction of the time where all are texts or all are numbers.

        `hashes`: their `value_hashes`, where these are known.
        """
        types = set(map(type, values))
        if self.kind not in ("", "number") and types == {str} and "" not in values:
            self.rows += len(values)
            self.lengths.add_all(np.fromiter(map(len, cast("Sequence[str]", values)), np.int64, len(values)))
            self._count(values, hashes)
        elif self.kind == "number" and types <= {float, type(None)}:
            numbers = np.array(values, dtype=np.float64)
            present = ~np.isnan(numbers)
            self.rows += len(values)
            self.missing += len(values) - int(present.sum())
            numbers = numbers[present]
            fit = numbers[np.abs(numbers) <= MAX_NUMBER]
            self.not_finite += len(numbers) - len(fit)
            if len(fit):
                mean = float(fit.mean())
                squares = float(((fit - mean) ** 2).sum())
                low, high = float(fit.min()), float(fit.max())
                self._merge_numbers(Column(numbers=len(fit), mean=mean, squares=squares, low=low, high=high))
            self._count(numbers.tolist(), None if hashes is None else hashes[present])
        elif self.kind in ENDINGS and all(isinstance(value, bytes) or _is_frames(value) for value in values):
            self.rows += len(values)
            self._count(values, hashes)
        else:
            for value in values:
                self.add(value)

    def _add_number(self, value: object) -> None:
        try:
            number = to_number(value)
        except ValueError:
            return  # only while the type is guessed: clean rows hold numbers where one is expected
        if number is None or abs(number) > MAX_NUMBER:
            self.not_finite += 1
            return
        self.numbers += 1
        step = number - self.mean
        self.mean += step / self.numbers
        self.squares += step * (number - self.mean)
        self.low, self.high = min(self.low, number), max(self.high, number)

    def _count(self, values: Sequence[object], hashes: np.ndarray | None = None) -> None:
        """Which values there are, and how often each where they may be classes."""
        if len(self.hashes) <= MAX_DISTINCT and len(values):
            found = np.unique(value_hashes(values) if hashes is None else hashes)[: MAX_DISTINCT + 1]
            self.hashes.update(found.tolist())
            if len(self.hashes) > MAX_DISTINCT + 1:
                self.hashes = set(sorted(self.hashes)[: MAX_DISTINCT + 1])
        if self.kind in ("", "category", "labels"):
            names = (value if isinstance(value, str) else _name(value) for value in values)
            for text, count in Counter(names).items():
                self._add_class(text if len(text) <= NAME else text[:NAME] + "…", count)

    def _add_class(self, name: str, count: int) -> None:
        self.classes[name if name in self.classes or len(self.classes) < MAX_DISTINCT else OTHERS] += count

    def merge(self, other: Column) -> None:
        self._merge_numbers(other)
        for name in ("rows", "missing", "not_finite", "lists", "dates", "boxes", "blank"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lengths.merge(other.lengths)
        self.media.update(other.media)
        self.hashes = set(sorted(self.hashes | other.hashes)[: MAX_DISTINCT + 1])
        for name, count in other.classes.items():
            self._add_class(name, count)

    def _merge_numbers(self, other: Column) -> None:
        """Chan, Golub and LeVeque (1979)."""
        if not other.numbers:
            return
        total, step = self.numbers + other.numbers, other.mean - self.mean
        self.squares += other.squares + step * step * self.numbers * other.numbers / total
        self.mean += step * other.numbers / total
        self.numbers = total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.numbers) if self.numbers else math.nan

    def distinct(self) -> str:
        return f"more than {MAX_DISTINCT:,}" if len(self.hashes) > MAX_DISTINCT else f"{len(self.hashes):,}"

    def guess(self) -> str:
        """The type of field that fits best: what `kind` says, else what the values look like."""
        if self.kind or not self.present:
            return self.kind or "text"
        distinct = len(self.hashes)
        few = distinct <= max(2, min(100, self.present // 3))  # each value stands three times or more
        if self.boxes and self.boxes + self.blank == self.present:
            return "boxes"
        if self.lists == self.present:
            return "labels"
        if self.present in self.media.values():
            return next(iter(self.media))
        if self.dates == self.present:
            return "date"
        if self.numbers + self.not_finite == self.present:
            whole = self.low >= 0 and all(name.isdecimal() for name in self.classes)
            return "category" if whole and distinct <= min(10, self.present // 3) else "number"
        return "category" if few and self.lengths.high <= NAME else "text"

    def summary(self) -> dict[str, Any]:
        """What a person wants to know."""
        result: dict[str, Any] = {"type": self.guess(), "missing": self.missing, "distinct": self.distinct()}
        if self.numbers and result["type"] == "number":
            result |= {"min": self.low, "max": self.high, "mean": self.mean, "std": self.std}
        if self.lengths.bins and result["type"] in ("text", "labels", "boxes"):
            result["length"] = self.lengths.summary()
        if result["type"] in ("category", "labels", "boxes"):
            result["classes"] = dict(self.top_classes())
        if self.not_finite:
            result["not_finite"] = self.not_finite
        return result

    def top_classes(self) -> list[tuple[str, int]]:
        return sorted(self.classes.items(), key=lambda item: (-item[1], item[0]))[
            :TOP
        ]  # ties by name: same on each run

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in PLAIN}
        if not self.numbers:
            plain |= {"low": None, "high": None}  # JSON knows no infinity
        lists = {"hashes": sorted(self.hashes), "classes": dict(self.classes), "lengths": self.lengths.to_json()}
        return plain | lists | {"media": dict(self.media)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Column:
        plain = {name: value[name] for name in PLAIN if name in value}  # what an older dougong did not count is 0
        if not plain["numbers"]:
            plain |= {"low": math.inf, "high": -math.inf}
        lengths = Histogram.from_json(value["lengths"])
        media = Counter(value.get("media", {}))  # absent in reports of 0.1
        hashes, classes = set(value["hashes"]), Counter(value["classes"])
        return Column(**plain, media=media, lengths=lengths, hashes=hashes, classes=classes)


def _is_frames(value: object) -> bool:
    """Whether a value is a clip as the files of its frames."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(frame, bytes) for frame in value)


def _name(value: object) -> str:
    """A class by its name; bytes are none, and a picture's millions would take a third of a second to write out."""
    return str(value[:NAME] if isinstance(value, bytes) else value)


OTHERS = "(other values)"
PLAIN = (
    "kind",
    "rows",
    "missing",
    "not_finite",
    "numbers",
    "mean",
    "squares",
    "low",
    "high",
    "lists",
    "dates",
    "boxes",
    "blank",
)


class DataReport:
    """Counts over all rows, and a `Column` for each column of the rows that cleaning keeps.

    Rows read = rows used + rows dropped (by a rule) + bad rows.
    """

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self.rows_read = 0
        self.exact_duplicates = 0  # rows of train that repeat an earlier one
        self.near_duplicates = 0
        self.kept: Counter[str] = Counter()  # split -> rows that cleaning left; the columns are over these
        self.used: Counter[str] = (
            Counter()
        )  # split -> rows in the shards; fewer where duplicates or outliers are dropped
        self.bad: Counter[str] = Counter()  # reason -> rows
        self.dropped: Counter[str] = Counter()  # rule -> rows
        self.changed: Counter[str] = Counter()  # rule -> rows that it altered
        self.leaked: Counter[str] = Counter()  # split -> its rows that stand in train, too
        self.compared: Counter[str] = Counter()  # split -> its rows that were looked for in train
        self.notes: Counter[str] = Counter()  # what the fields said while encoding (unseen classes, cut texts)

    def read(self, rows: int) -> None:
        self.rows_read += rows

    def rows(
        self,
        columns: Mapping[str, Sequence[object]],
        kinds: Kinds,
        splits: Mapping[str, int],
        hashes: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Look at rows that cleaning kept, so many of each split. A column without a kind is guessed.

        A column that stood in other rows and not in these is missing in these. `hashes`: `value_hashes` of the columns.
        """
        rows = sum(splits.values())
        for name in columns:
            if name not in self.columns:
                self.columns[name] = Column(kinds.get(name, ""), rows=self.kept.total(), missing=self.kept.total())
        for name, column in self.columns.items():
            column.add_all(columns.get(name, [None] * rows), None if hashes is None else hashes.get(name))
        self.kept.update(splits)

    def count_used(self, split: str, rows: int) -> None:
        self.used[split] += rows

    def count_bad(self, reason: str) -> None:
        reason = group(reason)
        self.bad[reason if reason in self.bad or len(self.bad) < MAX_REASONS else OTHER_REASONS] += 1

    def count_dropped(self, rule: str, rows: int) -> None:
        self.dropped[rule] += rows

    def count_changed(self, rules: Iterable[str]) -> None:
        self.changed.update(rules)

    def count_duplicates(self, *, exact: int = 0, near: int = 0) -> None:
        self.exact_duplicates += exact
        self.near_duplicates += near

    def count_leaks(self, split: str, leaked: int, rows: int) -> None:
        self.leaked[split] += leaked
        self.compared[split] += rows

    def count_note(self, note: str, count: int) -> None:
        self.notes[note] += count

    def merge(self, other: DataReport) -> None:
        """Add what another worker counted."""
        for name in [*self.columns, *(name for name in other.columns if name not in self.columns)]:
            kind = (self.columns.get(name) or other.columns[name]).kind
            mine = self.columns.setdefault(name, Column(kind, rows=self.kept.total(), missing=self.kept.total()))
            mine.merge(other.columns.get(name) or Column(kind, rows=other.kept.total(), missing=other.kept.total()))
        for name in COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for reason, count in self.bad.most_common()[MAX_REASONS:]:
            del self.bad[reason]
            self.bad[OTHER_REASONS] += count
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def warnings(self) -> list[str]:
        """What a person should look at, in plain sentences."""
        found = [sentence for name, column in self.columns.items() for sentence in _column_warnings(name, column)]
        for split, count in self.leaked.items():
            if count:
                rows = f"{count:,} of {self.compared[split]:,} rows of {split}"
                found.append(f"{rows} stand in train, too: its figures will look too good.")
        if self.exact_duplicates:
            rows = f"{self.exact_duplicates:,} rows of train repeat an earlier row"
            found.append(f"{rows} (data.cleaning.duplicates: drop removes them).")
        if self.near_duplicates:
            rows = f"{self.near_duplicates:,} rows of train nearly repeat an earlier row"
            found.append(f"{rows} (data.cleaning.near_duplicates: drop removes them).")
        dropped = self.dropped.total()
        if dropped > 0.2 * self.rows_read:
            rule, count = self.dropped.most_common(1)[0]
            found.append(
                f"{dropped:,} of {self.rows_read:,} rows were dropped, {count:,} of them by the rule {rule!r}."
            )
        return found

    def summary(self) -> dict[str, Any]:
        """What a person wants to know, as it stands in report.html: what did not happen is left out."""
        counts = {name: getattr(self, name) for name in (*NUMBERS, *COUNTERS) if getattr(self, name)}
        plain = {name: dict(value) if isinstance(value, Counter) else value for name, value in counts.items()}
        columns = {name: column.summary() for name, column in self.columns.items()}
        return {"rows_read": self.rows_read, **plain, "columns": columns, "warnings": self.warnings()}

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` and `merge` need."""
        counters = {name: dict(getattr(self, name)) for name in COUNTERS}
        numbers = {name: getattr(self, name) for name in NUMBERS}
        return {**numbers, **counters, "columns": {name: column.to_json() for name, column in self.columns.items()}}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> DataReport:
        report = DataReport()
        for name in NUMBERS:
            setattr(report, name, value[name])
        for name in COUNTERS:
            setattr(report, name, Counter(value[name]))
        report.columns = {name: Column.from_json(column) for name, column in value["columns"].items()}
        return report

    def text(self) -> str:
        """The report for a terminal."""
        rows = self.used if self.used else self.kept
        splits = ", ".join(f"{split} {count:,}" for split, count in rows.items()) or "none"
        dropped, bad = self.dropped.total(), self.bad.total()
        lines = [f"{self.rows_read:,} rows read: {splits}; {dropped:,} dropped, {bad:,} bad"]
        lines += [f"  dropped by {rule}: {count:,}" for rule, count in self.dropped.most_common()]
        lines += [f"  changed by {rule}: {count:,}" for rule, count in self.changed.most_common()]
        lines += [f"  bad: {count:,} × {reason}" for reason, count in self.bad.most_common(5)]
        lines += [f"  {note}: {count:,}" for note, count in self.notes.items()]
        width = min(24, max((len(name) for name in self.columns), default=0))
        lines += [f"  {name:<{width}}  {_described(column)}" for name, column in self.columns.items()]
        lines += [f"  warning: {sentence}" for sentence in self.warnings()]
        return "\n".join(lines)


NUMBERS = ("rows_read", "exact_duplicates", "near_duplicates")
COUNTERS = ("kept", "used", "bad", "dropped", "changed", "leaked", "compared", "notes")
OTHER_REASONS = "other reasons"
MAX_REASONS = 1000  # distinct reasons counted: a hostile file must not fill the memory with them


def _column_warnings(name: str, column: Column) -> list[str]:
    kind, name = column.guess(), f"Column {shown(name)}"
    if not column.rows:
        return []
    if not column.present:
        return [f"{name}: every value is missing; it cannot help the model."]
    found = []
    if column.missing > 0.5 * column.rows:
        found.append(f"{name}: {column.missing:,} of {column.rows:,} values are missing.")
    if column.not_finite:
        found.append(f"{name}: {column.not_finite:,} values are infinite or too large.")
    if len(column.hashes) == 1 and column.rows > 1:
        found.append(f"{name}: every value is the same; it cannot help the model.")
    elif kind == "number" and column.std:
        far = max(column.high - column.mean, column.mean - column.low) / column.std
        if far > FAR_OUT:
            extreme = column.high if column.high - column.mean > column.mean - column.low else column.low
            found.append(f"{name}: {extreme:g} lies {far:.0f} standard deviations from the mean; is it a typing error?")
    if kind == "category" and len(column.classes) > 1:
        ranked = column.classes.most_common()
        (most, many), (least, few) = ranked[0], ranked[-1]
        if many > IMBALANCE * few:
            found.append(f"{name}: {shown(most)} stands in {many:,} rows, {shown(least)} in {few:,} only.")
    return found


def _described(column: Column) -> str:
    summary = column.summary()
    parts = [summary["type"], f"{summary['distinct']} distinct"]
    if column.missing:
        parts.append(f"{column.missing:,} missing")
    if "mean" in summary:
        parts.append(f"{column.low:g} to {column.high:g}, mean {column.mean:.4g}, std {column.std:.4g}")
    if "length" in summary:
        lengths = summary["length"]
        parts.append(f"length {lengths['min']} to {lengths['max']}, median {lengths['median']}, p95 {lengths['p95']}")
    if "classes" in summary:
        top = [f"{shown(name)[:24]} {count:,}" for name, count in column.top_classes()[:5]]
        parts.append(", ".join(top) + (", …" if len(column.classes) > 5 else ""))
    return "; ".join(parts)
