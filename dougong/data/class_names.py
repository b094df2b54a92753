"""Classes: a closed set of names, as category, labels and tags have it: how they are read, listed and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import pyarrow as pa

from dougong.core.errors import DataError, bad_field, shown
from dougong.data.json_lines import JSON
from dougong.data.records import Unreadable

MAX_CLASSES = 1_000_000
WHOLE = re.compile(r"^([+-]?\d+)\.0+$")  # 3.0 of a csv file and 3 are one class


def read_name(value: object) -> str | None:
    """The name of a class, however a file writes it; None where there is none. ValueError: it is no name."""
    if value is None:
        return None
    if isinstance(value, str):
        name = value.strip()
        if name.lower() in ("true", "false"):
            return name.lower()  # True of a csv file that Python wrote, and true
        return WHOLE.sub(r"\1", name) or None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return None if value != value else str(value)
    raise ValueError(f"expected the name of a class, found {type(value).__name__}")


def check_listed(config: Any, least: int) -> None:
    """Whether listed classes can be what a recipe means."""
    kind, listed = config.type, config.classes
    if listed is None:
        return
    if len(listed) < least:
        expected = f"at least {least} names" if least > 1 else "at least one name"
        raise bad_field(f"{kind}.classes", list(listed), expected, "leave it out: the training rows tell")
    for name in listed:
        if read_name(name) != name:
            read = read_name(name)
            fix = "remove it" if read is None else f"write {read!r}"
            raise bad_field(f"{kind}.classes", name, "a name as values are read", fix)
    twice = [name for name, count in Counter(listed).items() if count > 1]
    if twice:
        raise bad_field(f"{kind}.classes", twice[0], "each name once", "remove one")
    if config.min_count > 1:
        expected = "1 beside listed classes, which are kept however rare"
        raise bad_field(f"{kind}.min_count", config.min_count, expected, "remove it, or classes")


def counted(config: Any, names: Iterable[str | None], least: int) -> dict[str, int]:
    """How often each class occurs, in the order of the classes. Of those listed at least `least` must."""
    counts: Counter[str] = Counter()
    for name in names:
        if name is not None:
            counts[name] += 1
            if len(counts) > MAX_CLASSES:
                raise DataError(
                    f"column {config.column!r}: more than {MAX_CLASSES:,} different values for a category. "
                    "Fix: use type: text or number, or leave the column out."
                )
    if config.classes is None:
        return {name: count for name, count in sorted(counts.items()) if count >= config.min_count}
    if sum(name in counts for name in config.classes) < least:
        held = ", ".join(f"{name!r}" for name, _ in counts.most_common(5)) or "nothing"
        raise DataError(
            f"column {config.column!r}: classes = {shown(list(config.classes))}: expected at least {least} of them among "
            f"the training rows, which hold {held}. Fix: write the classes as the data has them, or leave them out."
        )
    return {name: counts[name] for name in config.classes}


class NamesCodec:
    """What codecs share whose rows hold several names each; the words are those of their errors."""

    RAW = pa.list_(pa.large_string())
    PATHS = False
    SAMPLE: ClassVar[int | None] = None  # rows to be fitted on: all
    CALLED: ClassVar[str]  # what the names are called, and how many there may be at most
    MOST: ClassVar[int]

    def __init__(self, config: Any, classes: Sequence[str]):
        self.config, self.classes = config, list(classes)
        self.index = {name: index for index, name in enumerate(self.classes)}

    @classmethod
    def fit(cls, config: Any, values: Iterable[list[str] | None]) -> Self:
        names = (name for value in values if value is not None for name in value)
        classes = list(counted(config, names, least=1))
        if len(classes) > cls.MOST:
            raise DataError(
                f"column {config.column!r}: {len(classes):,} {cls.CALLED}; expected at most {cls.MOST:,}. "
                "Fix: raise min_count, which leaves out the rare ones, or list the classes."
            )
        return cls(config, classes)

    def limits(self) -> dict[str, int]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"classes": self.classes}

    @classmethod
    def from_json(cls, config: Any, saved: dict[str, Any]) -> Self:
        return cls(config, saved["classes"])


def listed(value: object, expected: str, json: str) -> list[str | None]:
    """The names of a list, or of a JSON list as text; ValueError: what was `expected`, of text `json`."""
    if isinstance(value, str):
        try:
            value = JSON.decode(value)
        except (ValueError, RecursionError, Unreadable):
            raise ValueError(json) from None
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise ValueError(expected)
    return [read_name(item) for item in value]
