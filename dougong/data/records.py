"""Records: what the readers of the formats hand on, one or many at once, and why one, or a whole file, cannot be read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn, Protocol

from dougong.core.errors import DataError, shown

Unit = Literal["paragraph", "line", "document"]  # what a row of a txt file is

MAX_RECORD = 16 << 20  # bytes of one line, paragraph, document or field
MAX_COLUMNS = 10_000
CHUNK = 1 << 20  # bytes read at once
KEPT = 4096  # bytes that are kept of a record too long to hold
VALUE = 100  # characters of another library's message that are passed on


class Unreadable(Exception):  # noqa: N818
    """Why one record is bad, and its bytes. Never leaves the readers, where it is a value as often as an error."""

    def __init__(self, reason: str, raw: bytes | str = b""):
        self.reason, self.raw = reason, raw


class Many(NamedTuple):
    """Consecutive good records as columns of equal length."""

    columns: dict[str, Sequence[object]]
    rows: int


Record = dict[str, object] | Unreadable | Many


class Reader(Protocol):
    """`used`: the only columns that are wanted, None for all."""

    def __call__(
        self, file: Path, compression: str, unit: Unit, used: Collection[str] | None, /
    ) -> Iterator[Record]: ...


def refuse(file: object, found: str, fix: str) -> NoReturn:
    """What makes a whole file useless."""
    name = str(file)
    name = name if len(name) <= 200 else f"{name[:100]}…{name[-99:]}"
    raise DataError(f"{name}: {found}. Fix: {fix}.") from None


def check_names(file: Path, names: Sequence[str]) -> None:
    """Refuse a file whose columns have no names of their own, or are too many."""
    if len(names) > MAX_COLUMNS:
        refuse(
            file,
            f"{len(names):,} columns: at most {MAX_COLUMNS:,} are read",
            "keep the columns that you need, or store long vectors as one list column",
        )
    if "" in names:
        refuse(file, f"column {list(names).index('') + 1} has no name", "name every column in the header")
    if len(set(names)) != len(names):
        refuse(file, f"the column {shown(repeated(names))} stands twice", "rename one of the two in the header")


def repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
