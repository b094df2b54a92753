"""Encoded columns: what a field's codec makes of raw values, what shards hold, what batches are cut from."""

# N rows

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """N rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray  # (total, ...) flat
    offsets: np.ndarray  # (N + 1,) int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:  # (N,) int64
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Ragged:  # (M,) -> M rows
        """Some rows, in the order that is asked for."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[places], offsets)

    @staticmethod
    def of(rows: list[np.ndarray], dtype: np.dtype | type) -> Ragged:
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        values = np.concatenate(rows).astype(dtype, copy=False) if rows else np.zeros(0, dtype=dtype)
        return Ragged(values, offsets)

    @staticmethod
    def concat(pieces: Sequence[Ragged]) -> Ragged:
        """The rows of all pieces, of which there is at least one."""
        ends = np.cumsum([piece.offsets[-1] for piece in pieces])
        offsets = [piece.offsets[1:] + before for piece, before in zip(pieces, [0, *ends], strict=False)]
        return Ragged(
            np.concatenate([piece.values for piece in pieces]), np.concatenate([pieces[0].offsets[:1], *offsets])
        )


Column = np.ndarray | Ragged
"""A fixed-shape column (N, ...) or a ragged one."""
Columns = dict[str, Column]
"""All arrays of one field for N rows, by name: {"tokens": Ragged} for text, {"index": (N,) int64} for a category."""


def cut(codec: Any, columns: Columns) -> dict[str, int]:
    """How many rows hold more of which ragged column than a batch takes of it: what is left out is told of."""
    if getattr(codec, "in_windows", False):
        return {}
    return {
        f"cut to {limit:,} {name}": int((column.lengths > limit).sum())
        for name, limit in codec.limits().items()
        if limit and isinstance(column := columns[name], Ragged)  # 0: a column that batches do without
    }


def positions_of(lengths: np.ndarray, stride: int) -> np.ndarray:
    """Positions that rows of so many values make, where each `stride` of them begins one (see `Codec.strides`)."""
    return lengths if stride == 1 else lengths // stride + 1


def concatenated(pieces: Sequence[Column]) -> Column:
    """One column of the rows of several of one kind, of which there is at least one."""
    ragged = [piece for piece in pieces if isinstance(piece, Ragged)]
    return Ragged.concat(ragged) if ragged else np.concatenate([np.asarray(piece) for piece in pieces])
