"""Step 1 of a preparation: files -> clean rows, chunk by chunk, each chunk in any process.

Rows read = rows kept + rows refused: what cannot be used gets a line for the quarantine. A chunk is handled column by
column, for a rule that has nothing to do in a column can then say so at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from dougong.core.artefacts import write_file, write_json
from dougong.core.config import dump
from dougong.core.errors import DataError, shown
from dougong.data import cleaning, duplicates, quarantine, sources
from dougong.data.records import Unit
from dougong.data.report import DataReport
from dougong.data.splitting import SPLITS, split_of, when

if TYPE_CHECKING:
    from dougong.data.prepare import Config

KNOWN = 1000  # texts of a column that need not be read twice
CHUNK_ROWS, CHUNK_BYTES = 20_000, 4 << 20  # a chunk ends at whichever comes first


@dataclass(frozen=True)
class Used:
    """A field as the preparation needs it: its name, config, and type's module, and whether it comes out.

    Fields of one `vocabulary` are fitted together, on the values of all of them.
    """

    name: str
    config: Any
    output: bool
    module: ModuleType
    vocabulary: str | None = None

    @property
    def column(self) -> str:
        return self.config.column or self.name

    def parse(self, value: object) -> object:
        return self.module.Codec.parse(value, self.config)


def has_column(module: ModuleType) -> bool:
    """Whether a type's values stand in a column; else a row's value is the hashes of its inputs."""
    return getattr(module.Codec, "COLUMN", True)


def in_columns(used: list[Used]) -> list[Used]:
    """The fields whose values stand in a column."""
    return [field for field in used if has_column(field.module)]


def restored(name: str, kind: str, output: bool, column: str, plain: dict[str, Any]) -> Used:
    """A Used in another process; modules do not travel, their names do."""
    from importlib import import_module

    from dougong.core.config import read

    module = import_module(f"dougong.fields.{kind}")
    config, _ = read(module.Config, plain)
    return Used(name, config, output, module)


@dataclass(frozen=True)
class Piece:
    """Rows of one file: the columns that the fields use, the number of each row, and the bad rows between them."""

    file: str
    columns: dict[str, list[object]]
    numbers: list[int]
    bad: list[sources.BadRow]


@dataclass(frozen=True)
class Chunk:
    index: int
    split: str
    rows: Piece


def chunked(
    files: dict[str, list[Path]], unit: Unit, used: list[Used], by_time: str | None = None
) -> Iterator[tuple[str, Piece]]:
    """The rows of all files in pieces of bounded size, each with its split."""
    used = in_columns(used)
    names = {field.column for field in used} | ({by_time} if by_time else set())
    for split, group in files.items():
        for file in group:
            yield from (
                (split, piece) for piece in _pieces(file, sources.read_blocks(file, unit=unit, used=names), used, names)
            )


def _pieces(file: Path, blocks: Iterator[sources.Block], used: list[Used], names: set[str]) -> Iterator[Piece]:
    """Blocks joined and cut into pieces that end at CHUNK_ROWS or CHUNK_BYTES."""
    piece, rows, size = _empty(file, names), 0, 0
    for block in blocks:
        piece.bad.extend(block.bad)
        rows, size = rows + len(block.bad), size + sum(len(row.raw) for row in block.bad)
        ends = np.cumsum(_sizes(file, block, used))  # (N,) bytes of the first rows
        start = before = 0
        while start < len(block.numbers):
            fits = (
                int(np.searchsorted(ends, before + CHUNK_BYTES - size, side="left")) + 1
            )  # the one that fills it, too
            stop = min(len(block.numbers), fits, start + CHUNK_ROWS - rows)
            stop = max(stop, start + 1)
            for name, column in piece.columns.items():
                column.extend(block.columns[name][start:stop])
            piece.numbers.extend(block.numbers[start:stop])
            rows, size = rows + stop - start, size + int(ends[stop - 1]) - before
            start, before = stop, int(ends[stop - 1])
            if rows >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield piece
                piece, rows, size = _empty(file, names), 0, 0
        if rows >= CHUNK_ROWS or size >= CHUNK_BYTES:  # of bad rows
            yield piece
            piece, rows, size = _empty(file, names), 0, 0
    if rows:
        yield piece


def _empty(file: Path, names: set[str]) -> Piece:
    return Piece(str(file), {name: [] for name in sorted(names)}, [], [])


def _sizes(file: Path, block: sources.Block, used: list[Used]) -> np.ndarray:  # (N,) int64
    """About how many bytes each row takes; a picture as many as its pixels, which are many times its file."""
    sizes = np.zeros(len(block.numbers), dtype=np.int64)
    for column in block.columns.values():
        texts = set(map(type, column)) == {str}
        sizes += np.fromiter(map(len if texts else _size, column), np.int64, len(column))  # type: ignore[arg-type]
    for field in used:
        if field.module.Codec.PATHS:
            sizes += [field.module.Codec.footprint(named(file, v), field.config) for v in block.columns[field.column]]
    return sizes


def _size(value: object) -> int:
    if isinstance(value, list | tuple):
        return 8 + sum(map(_size, value))
    if isinstance(value, dict):
        return 8 + sum(_size(key) + _size(item) for key, item in value.items())
    return len(value) if isinstance(value, str | bytes) else 8


class Cleaned(NamedTuple):
    """What became of a chunk."""

    report: DataReport
    refused: list[dict[str, Any]]  # a line for the quarantine for each row that cannot be used
    kept: pa.Table  # the values by field, and _hash, _inputs (hashes), _split (index in SPLITS), _time, _file, _row


class Cleaner:
    """Step 1 of one chunk, in any process: a part file and what to say about it."""

    def __init__(self, config: Config, used: list[Used], folder: Path):
        self.config, self.folder = config, folder
        self.fields = [
            (field.name, field.config.type, field.output, field.column, dump(field.config)) for field in used
        ]

    @cached_property
    def used(self) -> list[Used]:
        return [restored(*field) for field in self.fields]

    @cached_property
    def read(self) -> list[Used]:
        return in_columns(self.used)

    def __call__(self, chunk: Chunk) -> Path:
        part = self.folder / f"part-{chunk.index:05d}.arrow"
        if part.exists():
            return part
        cleaned = self.clean(chunk)
        write_json(part.with_suffix(".json"), {"report": cleaned.report.to_json(), "refused": cleaned.refused})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, cleaned.kept.schema) as writer:
            writer.write_table(cleaned.kept)
        write_file(part, [memoryview(sink.getvalue())])  # last: where it is, all of the part is
        return part

    def clean(self, chunk: Chunk) -> Cleaned:
        """The rows of a chunk that can be used, what is to be said of them, and a line for each that cannot."""
        piece, report = chunk.rows, DataReport()
        report.read(len(piece.numbers) + len(piece.bad))
        found = cleaning.clean_rows(
            {field.name: piece.columns[field.column] for field in self.read},
            {field.name: field.config.type for field in self.read},
            self.config.cleaning,
        )
        report.changed.update({rule: len(rows) for rule, rows in found.changed.items()})
        columns = {field.name: field.column for field in self.read}
        bad = {row: f"column {shown(columns[name])}: {problem}" for row, (name, problem) in found.bad.items()}
        dropped = dict(found.dropped)
        values = self.parse(found.values, piece, bad, dropped)
        times = self.times(chunk, bad, dropped)
        refused = [quarantine.record(row.file, row.number, row.reason, row.raw, bad=True) for row in piece.bad]
        for row in sorted({*bad, *dropped}):
            raw = {name: column[row] for name, column in piece.columns.items()}
            reason = bad.get(row) or dropped[row]
            refused.append(quarantine.record(piece.file, piece.numbers[row], reason, raw, bad=row in bad))
        for record in refused:
            report.count_bad(record["reason"]) if record["bad"] else report.count_dropped(record["reason"], 1)
        refused.sort(key=lambda record: record["row"])
        left = [row for row in range(len(piece.numbers)) if row not in bad and row not in dropped]
        if len(left) < len(piece.numbers):
            values = {name: [column[row] for row in left] for name, column in values.items()}
        return Cleaned(
            report,
            refused,
            self.table(chunk, values, times[left], np.array(piece.numbers, dtype=np.int64)[left], report),
        )

    def times(self, chunk: Chunk, bad: dict[int, str], dropped: dict[int, str]) -> np.ndarray:
        """(N,) when each row was, where that says of which split it is; nan elsewhere. Rows without a time are bad."""
        column, times = self.config.by_time, np.full(len(chunk.rows.numbers), np.nan)
        if column is None or chunk.split != "train":
            return times
        for row, value in enumerate(chunk.rows.columns[column]):
            if row not in bad and row not in dropped:
                try:
                    times[row] = when(value)
                except ValueError as error:
                    bad[row] = f"column {column!r}: {error}"
        return times

    def parse(
        self, columns: dict[str, list[object]], piece: Piece, bad: dict[int, str], dropped: dict[int, str]
    ) -> dict[str, list[object]]:
        """The values as their types read them. What they refuse, and rows without an answer, go to `bad` and `dropped`."""
        result: dict[str, list[object]] = {}
        file = Path(piece.file)
        for field in self.read:
            parse, config, paths = field.module.Codec.parse, field.config, field.module.Codec.PATHS
            parsed: list[object] = []
            known: dict[object, object] = {}  # texts that stand in many rows, as categories do, are read once
            for row, value in enumerate(columns[field.name]):
                read = known.get(value) if isinstance(value, str) else None
                if read is None and row not in bad and row not in dropped:
                    try:
                        read = parse(named(file, value) if paths else value, config)
                    except ValueError as error:
                        bad[row] = f"column {field.column!r}: {error}"
                    else:
                        if read is None and field.output:
                            dropped[row] = f"missing {field.column}"
                        if len(known) < KNOWN and isinstance(value, str) and not paths:
                            known[value] = read
                parsed.append(read)
            result[field.name] = parsed
        self.check(result, bad, dropped)
        inputs = [(field.column, result[field.name]) for field in self.read if not field.output]
        if len(self.read) < len(self.used):  # what is made of the inputs is missing where one of them is
            for column, parsed in inputs:
                for row, value in enumerate(parsed):
                    if value is None and row not in bad and row not in dropped:
                        dropped[row] = f"missing {column}"
        return result

    def check(self, values: dict[str, list[object]], bad: dict[int, str], dropped: dict[int, str]) -> None:
        """Whether values that speak of another field's can do so (tags of words, answers); as that field has them told."""
        for field in self.used:
            of = getattr(field.config, "of", None)
            for row, pair in enumerate(zip(values[field.name], values[of], strict=True)) if of else ():
                if row in bad or row in dropped:
                    continue
                try:
                    values[field.name][row] = field.module.Codec.check(*pair)
                except ValueError as error:
                    bad[row] = f"column {field.column!r}: {error}"

    def table(
        self,
        chunk: Chunk,
        values: dict[str, list[object]],
        times: np.ndarray,
        numbers: np.ndarray,
        report: DataReport,
    ) -> pa.Table:
        hashes = {name: duplicates.value_hashes(column) for name, column in values.items()}
        inputs = {field.name: hashes[field.name] for field in self.used if not field.output}
        whole = duplicates.joined_hashes(hashes)
        # Of what is made from noise there is more than one right answer: a class has thousands of pictures.
        made = any(field.output and getattr(field.module.Head, "MADE", False) for field in self.used)
        asked = duplicates.joined_hashes(inputs) if inputs and not made else whole
        if chunk.split == "train":
            split = split_of(asked, self.config.fractions)
        else:
            split = np.full(len(numbers), SPLITS.index(chunk.split), dtype=np.uint8)
        counts = {
            name: int(count) for name, count in zip(SPLITS, np.bincount(split, minlength=3), strict=True) if count
        }
        report.rows(values, {field.name: field.config.type for field in self.read}, counts, hashes)
        hashed = np.stack([inputs[name] for name in sorted(inputs)], axis=1).tolist() if inputs else []
        values = values | {field.name: hashed for field in self.used if field not in self.read}
        arrays = {
            field.name: pa.array(values[field.name], type=field.module.Codec.RAW, from_pandas=False)
            for field in self.used
        }
        file = pa.DictionaryArray.from_arrays(np.zeros(len(numbers), dtype=np.int8), [chunk.rows.file])
        found = {"_hash": whole, "_inputs": asked, "_split": split, "_time": times}
        return pa.table({**arrays, **found, "_file": file, "_row": numbers})


def nothing_left() -> DataError:
    return DataError("data.train: no row is left to train on. Fix: look into the quarantine, or loosen data.cleaning.")


def one_class(field: Used, classes: list[str]) -> DataError:
    found = f"only {classes[0]!r}" if classes else "none"
    return DataError(
        f"outputs.{field.name}: at least two classes are needed, the training rows hold {found}. "
        f"Fix: check the column {field.column!r}."
    )


def named(file: Path, value: object) -> object:
    """A value of a column of files: a text is the path of one."""
    return beside(file, value.strip()) if isinstance(value, str) and value.strip() else value


def beside(file: Path, path: str) -> str:
    """The path that a row of a data file (or of a folder that is the table) names."""
    return str((file if file.is_dir() else file.parent) / path)
