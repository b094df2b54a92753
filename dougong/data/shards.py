"""Shards: encoded columns as Arrow IPC files, memory-mapped, so that a terabyte opens as fast as a megabyte.

A column's name is `field.array`. Fixed-shape columns (N, ...) become fixed-size lists with the shape in the schema's
metadata, ragged ones become large lists; both are read without a copy.
"""

# N rows

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dougong.core.artefacts import Written, open_regular, write_file
from dougong.core.errors import ArtefactError
from dougong.data.columns import Column, Columns, Ragged
from dougong.data.watched import State

_checked: dict[Path, tuple[State, Written]] = {}  # what this process has hashed: a second time it need not


def write_shard(path: Path, columns: Columns) -> int:
    """Write one shard, complete or not at all; return its rows."""
    arrays = {name: _to_arrow(column) for name, column in columns.items()}
    shapes = {name: list(column.shape[1:]) for name, column in columns.items() if isinstance(column, np.ndarray)}
    items = {name: list(column.values.shape[1:]) for name, column in columns.items() if isinstance(column, Ragged)}
    told = {"shapes": json.dumps(shapes), "items": json.dumps({name: shape for name, shape in items.items() if shape})}
    table = pa.table(arrays).replace_schema_metadata(told)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    write_file(path, [memoryview(sink.getvalue())])
    return table.num_rows


def read_shard(path: Path) -> Columns:
    """The columns of a shard as views of the mapped file."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except FileNotFoundError:
        raise damaged(path, path.parent, "it is missing") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise damaged(path, path.parent, f"not a shard that can be read ({str(error)[:60]})") from None
    shapes, items = (json.loads((table.schema.metadata or {}).get(key, b"{}")) for key in (b"shapes", b"items"))
    return {name: _from_arrow(table.column(name), shapes.get(name), items.get(name, [])) for name in table.column_names}


def _to_arrow(column: Column) -> pa.Array:
    if isinstance(column, Ragged):
        return pa.LargeListArray.from_arrays(pa.array(column.offsets), _flat(column.values))
    return _flat(column)


def _flat(array: np.ndarray) -> pa.Array:
    """(n, ...) -> n numbers, or n lists of as many numbers as there are in each."""
    if array.ndim == 1:
        return pa.array(array)
    size = int(np.prod(array.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array).reshape(-1)), size)


def _from_arrow(chunked: pa.ChunkedArray, shape: list[int] | None, item: list[int]) -> Column:
    """`shape`: of a row; None: it is ragged, of items of the shape `item`."""
    array: Any = chunked.chunk(0)  # `write_shard` writes one
    if shape is None:
        values = array.values.flatten().to_numpy().reshape(-1, *item) if item else array.values.to_numpy()
        return Ragged(values, array.offsets.to_numpy())
    if not shape:
        flat: np.ndarray = array.to_numpy()
        return flat
    return array.flatten().to_numpy().reshape(len(array), *shape)


def check_bytes(path: Path, written: Written, folder: Path, *, again: bool = False) -> State:
    """The state of a prepared file whose bytes are those that were written, else an ArtefactError; hashed only once."""
    state = State.of(path)  # before its bytes
    if not again and _checked.get(path) == (state, written):
        return state
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise damaged(path, folder, f"it cannot be read ({error.strerror})") from None
    if (state.size, sha256) != (written.bytes, written.sha256):
        raise damaged(path, folder, "its bytes are not those that were written (sha256)")
    _checked[path] = state, written
    return state


def damaged(path: Path, folder: Path, damage: str) -> ArtefactError:
    return ArtefactError(f"{path}: {damage}. Fix: delete {folder}; it is prepared again.")


class Shard(Mapping[str, Column]):
    """The columns of one mapped file. Each look at one makes sure that the file still is the one that was mapped.

    Reading a mapped file that was cut ends the process (SIGBUS); one written over gives other values without a word.
    """

    def __init__(self, path: Path, written: Written | None = None):
        self.path = path
        self.state = check_bytes(path, written, path.parent.parent) if written else State.of(path)
        self.columns = read_shard(path)

    def __getitem__(self, name: str) -> Column:
        now = State.of(self.path)  # about a microsecond
        if now != self.state:
            change = f"it changed while it was read: {self.state.change(now)}"
            raise damaged(self.path, self.path.parent.parent, change)
        return self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


class Split:
    """The rows of one split (train, validation, test) over its shards. `written`: what the file of each must be."""

    def __init__(self, name: str, paths: Sequence[Path], rows: Sequence[int], written: Sequence[Written] = ()):
        self.name, self.paths, self.written = name, list(paths), list(written)
        self.starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)  # first row of each shard, and the end
        self.rows = int(self.starts[-1])

    @cached_property
    def shards(self) -> Sequence[Mapping[str, Column]]:
        return [Shard(path, written) for path, written in zip_longest(self.paths, self.written)]

    def __getstate__(self) -> dict[str, object]:  # a worker process maps the files itself
        return {key: value for key, value in self.__dict__.items() if key not in ("shards", "_lengths")}

    @property
    def names(self) -> list[str]:
        return list(self.shards[0]) if self.shards else []

    def take(self, rows: np.ndarray, names: Sequence[str] | None = None) -> Columns:
        """The columns of the given rows (or only the named ones), in that order."""
        names = self.names if names is None else names
        owner = np.searchsorted(self.starts, rows, side="right") - 1  # (n,) shard of each row
        parts: dict[str, list[Column]] = {name: [] for name in names}
        places: list[np.ndarray] = []
        for shard in np.unique(owner):
            chosen = np.flatnonzero(owner == shard)
            local = rows[chosen] - self.starts[shard]
            for name in names:
                parts[name].append(_rows(self.shards[shard][name], local))
            places.append(chosen)
        order = np.argsort(np.concatenate(places)) if len(places) > 1 else None
        return {name: _joined(columns, order) for name, columns in parts.items()}

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """The rows of the data that these are: themselves."""
        return rows

    def lengths(self, name: str) -> np.ndarray:  # (N,) int64
        """Length of every row of a ragged column."""
        known: dict[str, np.ndarray] = self.__dict__.setdefault("_lengths", {})
        if name not in known:
            columns = [shard[name] for shard in self.shards]
            known[name] = np.concatenate([c.lengths for c in columns if isinstance(c, Ragged)]).astype(np.int64)
        return known[name]

    def stream(self, name: str) -> Stream:
        return Stream(self.shards, name)


class Stream:
    """A ragged column read as one flat sequence over all shards, with the documents' borders kept."""

    def __init__(self, shards: Sequence[Mapping[str, Column]], name: str):
        self.shards, self.name = [shard for shard in shards if isinstance(shard[name], Ragged)], name
        sizes = [int(column.offsets[-1] - column.offsets[0]) for column in self.columns]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.documents = np.concatenate([[0], np.cumsum([len(column) for column in self.columns])]).astype(np.int64)

    @property
    def columns(self) -> Iterator[Ragged]:
        return (self.column(index) for index in range(len(self.shards)))

    def column(self, index: int) -> Ragged:
        column = self.shards[index][self.name]
        assert isinstance(column, Ragged)
        return column

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Positions start..stop of the stream; crosses shards where it must."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        pieces = []
        while start < stop:
            column, base = self.column(first), int(self.starts[first])
            end = min(stop, int(self.starts[first + 1]))
            origin = int(column.offsets[0])
            pieces.append(column.values[origin + start - base : origin + end - base])
            start, first = end, first + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def document_of(self, positions: np.ndarray) -> np.ndarray:
        """The row number that each position of the stream belongs to."""
        owner = np.searchsorted(self.starts, positions, side="right") - 1
        result = np.empty(len(positions), dtype=np.int64)
        for shard in np.unique(owner):
            column, here = self.column(shard), owner == shard
            local = positions[here] - self.starts[shard] + column.offsets[0]
            result[here] = self.documents[shard] + np.searchsorted(column.offsets, local, side="right") - 1
        return result


def _rows(column: Column, rows: np.ndarray) -> Column:
    if isinstance(column, np.ndarray):
        return column[rows]
    return Ragged.of([column.row(int(row)) for row in rows], column.values.dtype)


def _joined(columns: list[Column], order: np.ndarray | None) -> Column:
    if order is None:
        return columns[0]
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    if arrays:
        return np.concatenate(arrays)[order]
    ragged = [column for column in columns if isinstance(column, Ragged)]
    rows = [column.row(index) for column in ragged for index in range(len(column))]
    return Ragged.of([rows[index] for index in order], ragged[0].values.dtype)
