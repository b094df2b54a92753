"""Step 1 of a preparation: files -> clean rows, chunk by chunk, each chunk in any process.

Rows read = rows kept + rows refused: what cannot be used gets a line for the quarantine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from dougong.core.artefacts import write_file, write_json
from dougong.core.config import dump
from dougong.core.errors import DataError
from dougong.data import cleaning, duplicates, quarantine, sources, splitting
from dougong.data.report import DataReport

if TYPE_CHECKING:
    from dougong.data.prepare import Config

SPLITS = ("train", "validation", "test")
CHUNK_ROWS, CHUNK_BYTES = 20_000, 8 << 20  # a chunk ends at whichever comes first
PICTURE_BYTES = 8 << 10  # what an image counts for at least: its pixels are many times its file


@dataclass(frozen=True)
class Used:
    """A field as the preparation needs it: its name, config, and type's module, and whether it comes out."""

    name: str
    config: Any
    output: bool
    module: ModuleType

    @property
    def column(self) -> str:
        return self.config.column or self.name

    def parse(self, value: object) -> object:
        return self.module.Codec.parse(value, self.config)


def restored(name: str, kind: str, output: bool, column: str, plain: dict[str, Any]) -> Used:
    """A Used in another process; modules do not travel, their names do."""
    from importlib import import_module

    from dougong.core.config import read

    module = import_module(f"dougong.fields.{kind}")
    config, _ = read(module.Config, plain)
    return Used(name, config, output, module)


def chunked(
    files: dict[str, list[Path]], unit: sources.Unit, used: list[Used]
) -> Iterator[tuple[str, list[sources.Row | sources.BadRow]]]:
    """The rows of all files in pieces of bounded size, each with its split."""
    pictures = frozenset(field.column for field in used if field.module.Codec.PATHS)
    for split, group in files.items():
        for file in group:
            chunk: list[sources.Row | sources.BadRow] = []
            size = 0
            for row in sources.read_rows(file, unit=unit):
                chunk.append(row)
                size += _row_size(row, file, pictures)
                if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                    yield split, chunk
                    chunk, size = [], 0
            if chunk:
                yield split, chunk


@dataclass(frozen=True)
class Chunk:
    index: int
    split: str
    rows: list[sources.Row | sources.BadRow]


class Kept(NamedTuple):
    """A row that can be used: its clean values by field, and where it comes from."""

    values: dict[str, object]
    hash: int
    split: int  # index in SPLITS
    file: str
    number: int


class Cleaner:
    """Step 1 of one chunk, in any process: a part file and what to say about it."""

    def __init__(self, config: Config, used: list[Used], seed: int, folder: Path):
        self.config, self.seed, self.folder = config, seed, folder
        self.fields = [
            (field.name, field.config.type, field.output, field.column, dump(field.config)) for field in used
        ]

    @cached_property
    def used(self) -> list[Used]:
        return [restored(*field) for field in self.fields]

    def __call__(self, chunk: Chunk) -> Path:
        part = self.folder / f"part-{chunk.index:05d}.arrow"
        if part.exists():
            return part
        report, refused, kept = self.rows(chunk)
        write_json(part.with_suffix(".json"), {"report": report.to_json(), "refused": refused})
        self.write(part, kept)  # last: where it is, all of the part is
        return part

    def rows(self, chunk: Chunk) -> tuple[DataReport, list[dict[str, Any]], list[Kept]]:
        """The rows of a chunk that can be used, what is to be said of them, and a line for each that cannot."""
        report = DataReport()
        refused: list[dict[str, Any]] = []
        kept: list[Kept] = []
        kinds = {field.column: field.config.type for field in self.used}
        fractions = self.config.fractions
        for row in chunk.rows:
            report.read(1)
            values = self.clean(row, kinds, report, refused)
            if values is None:
                continue
            number = duplicates.row_hash(values, sorted(values))
            split = splitting.split_of(number, fractions, self.seed) if chunk.split == "train" else chunk.split
            kept.append(Kept(values, number, SPLITS.index(split), row.file, row.number))
            report.row({field.column: values[field.name] for field in self.used}, kinds, split)
        return report, refused, kept

    def clean(
        self,
        row: sources.Row | sources.BadRow,
        kinds: dict[str, str],
        report: DataReport,
        refused: list[dict[str, Any]],
    ) -> dict[str, object] | None:
        """The row's values by field, parsed by their types; None (and a line for the quarantine) if it is not used."""
        if isinstance(row, sources.BadRow):
            refused.append(quarantine.record(row.file, row.number, row.reason, row.raw, bad=True))
            report.count_bad(row.reason)
            return None
        cleaned = cleaning.clean(row.values, kinds, self.config.cleaning)
        report.count_changed(cleaned.changed)
        reason, bad = cleaned.bad or cleaned.dropped, cleaned.bad is not None
        if cleaned.values is not None:
            try:
                return self.parse(cleaned.values, Path(row.file))
            except Missing as error:
                reason = str(error)
            except ValueError as error:
                reason, bad = str(error), True
        refused.append(quarantine.record(row.file, row.number, str(reason), row.values, bad=bad))
        if bad:
            report.count_bad(str(reason))
        else:
            report.count_dropped(str(reason), 1)
        return None

    def parse(self, values: dict[str, object], file: Path) -> dict[str, object]:
        result = {}
        for field in self.used:
            value = values[field.column]
            if field.module.Codec.PATHS and isinstance(value, str) and value:
                value = beside(file, value)
            try:
                result[field.name] = field.parse(value)
            except ValueError as error:
                raise ValueError(f"column {field.column!r}: {error}") from None
            if field.output and result[field.name] is None:
                raise Missing(f"missing {field.column}")
        return result

    def write(self, part: Path, kept: list[Kept]) -> None:
        arrays = {
            field.name: pa.array([row.values[field.name] for row in kept], type=field.module.Codec.RAW)
            for field in self.used
        }
        arrays["_hash"] = pa.array([row.hash for row in kept], type=pa.uint64())
        arrays["_split"] = pa.array([row.split for row in kept], type=pa.uint8())
        arrays["_file"] = pa.array([row.file for row in kept], type=pa.string())
        arrays["_row"] = pa.array([row.number for row in kept], type=pa.int64())
        table = pa.table(arrays)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_file(part, [memoryview(sink.getvalue())])


class Missing(Exception):  # noqa: N818 - it never leaves this file: a row without its answer is dropped, not bad
    pass


def nothing_left() -> DataError:
    return DataError("data.train: no row is left to train on. Fix: look into the quarantine, or loosen data.cleaning.")


def one_class(field: Used, classes: list[str]) -> DataError:
    found = f"only {classes[0]!r}" if classes else "none"
    return DataError(
        f"outputs.{field.name}: at least two classes are needed, the training rows hold {found}. "
        f"Fix: check the column {field.column!r}."
    )


def _row_size(row: sources.Row | sources.BadRow, file: Path, pictures: frozenset[str]) -> int:
    if isinstance(row, sources.BadRow):
        return len(row.raw)
    size = sum(len(value) if isinstance(value, str | bytes) else 8 for value in row.values.values())
    for value in (row.values.get(column) for column in pictures):
        path = beside(file, value.strip()) if isinstance(value, str) else ""
        size += max(PICTURE_BYTES, os.path.getsize(path) if os.path.isfile(path) else 0)
    return size


def beside(file: Path, named: str) -> str:
    """The path that a row of a data file (or of a folder that is the table) names."""
    return str((file if file.is_dir() else file.parent) / named)
