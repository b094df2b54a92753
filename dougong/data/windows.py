"""Windows: a text that is longer than a model reads, in pieces that overlap, each beside the rest of its row.

What asks for the rows of a split takes them for rows. The order in which a text's windows come is the plan's to say, and
the same as that of any rows: a function of (seed, epoch, index).
"""

# N rows, W windows, E tokens

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dougong.data.columns import Columns, Ragged


class Rows(Protocol):
    """What windows are cut from: a split, or columns that are at hand."""

    rows: int

    @property
    def names(self) -> list[str]: ...
    def lengths(self, name: str) -> np.ndarray: ...
    def take(self, rows: np.ndarray, names: Sequence[str] | None = None) -> Columns: ...


class Held:
    """Rows whose columns are at hand."""

    def __init__(self, columns: Columns, rows: int):
        self.columns, self.rows = columns, rows

    @property
    def names(self) -> list[str]:
        return list(self.columns)

    def lengths(self, name: str) -> np.ndarray:  # (N,)
        column = self.columns[name]
        assert isinstance(column, Ragged)
        return column.lengths

    def take(self, rows: np.ndarray, names: Sequence[str] | None = None) -> Columns:
        chosen = {name: self.columns[name] for name in (self.names if names is None else names)}
        return {name: each.take(rows) if isinstance(each, Ragged) else each[rows] for name, each in chosen.items()}


class Windows:
    """The rows of `source` once for every `stride` tokens of the text `field`, until all of it has been read.

    A window holds `length` tokens at most; "first" is the character at which the first of them begins. With `most`, only
    so many rows, evenly spread, and all windows of each.
    """

    def __init__(self, source: Rows, field: str, *, length: int, stride: int, most: int | None = None):
        self.source, self.field, self.length, self.stride = source, field, length, stride
        chosen = np.arange(source.rows, dtype=np.int64)
        if most is not None and most < source.rows:
            chosen = np.arange(most, dtype=np.int64) * source.rows // most
        tokens = source.lengths(f"{field}.ends")[chosen]  # (N,)
        self.of_row = np.zeros(source.rows, dtype=np.int64)  # windows of each row
        self.of_row[chosen] = 1 + np.maximum(-(-(tokens - length) // stride), 0)
        counts = self.of_row[chosen]
        self.row = np.repeat(chosen, counts)  # (W,)
        before = np.repeat(np.cumsum(counts) - counts, counts)  # windows of the rows before
        self.start = (np.arange(len(self.row)) - before) * stride  # (W,) tokens before the window
        self.rows = len(self.row)

    @property
    def names(self) -> list[str]:
        return self.source.names

    def numbers(self, windows: np.ndarray) -> np.ndarray:
        """The rows of the data that these are of."""
        return self.row[windows]

    def lengths(self, name: str) -> np.ndarray:  # (W,)
        """Of the tokens those from where each window begins; a plan knows how many of them a batch takes."""
        lengths = self.source.lengths(name)[self.row]
        return np.maximum(lengths - self.start, 0) if name in self.cut else lengths

    @property
    def cut(self) -> tuple[str, str]:
        return f"{self.field}.tokens", f"{self.field}.ends"

    def take(self, windows: np.ndarray, names: Sequence[str] | None = None) -> Columns:
        """The columns of these windows, in that order."""
        columns = self.source.take(self.row[windows], names)
        starts = self.start[windows]
        ends = columns[self.cut[1]]
        assert isinstance(ends, Ragged)
        first = [_begin(ends.row(index), start) for index, start in enumerate(starts.tolist())]
        for name in self.cut:
            column = columns[name]
            assert isinstance(column, Ragged)
            pieces = [column.row(index)[start : start + self.length] for index, start in enumerate(starts.tolist())]
            columns[name] = Ragged.of(pieces, column.values.dtype)
        return {**columns, f"{self.field}.first": np.array(first, dtype=np.int64)}


def _begin(ends: np.ndarray, token: int) -> int:  # (E,) rising
    """The character at which a token begins: where the last one ends that does not share its end."""
    if not token:
        return 0
    before = int(np.searchsorted(ends, ends[token]))
    return int(ends[before - 1]) if before else 0
