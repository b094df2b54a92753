"""Prepare: files -> clean rows -> fitted fields -> shards, once for each combination of contents and settings.

    1  read and clean, chunk by chunk           -> rows/part-00000.arrow …       (on all cores)
    2  find duplicates and leaks by row hash    -> which rows are left out
    3  fit every field on the training rows     -> fields/NAME.json
    4  encode, part by part                     -> train/ validation/ test/part-00000.arrow …   (on all cores)

Every part is a file that is complete or absent, so that an interrupted preparation goes on where it was; when all is
there the folder is sealed and renamed. Memory holds a few chunks, whatever the size of the data.
"""

# N rows

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from dougong.core.artefacts import commit_folder, make_folder, read_json, read_manifest, write_file, write_json
from dougong.core.config import Fraction, config, dump
from dougong.core.errors import ArtefactError, DataError, MachineError, bad_field, nearest
from dougong.core.locks import lock
from dougong.data import cleaning, duplicates, quarantine, sources, splitting
from dougong.data.cleaning import Config as Cleaning
from dougong.data.columns import Columns
from dougong.data.report import DataReport
from dougong.data.shards import Split, write_shard

T = TypeVar("T")
R = TypeVar("R")
SPLITS = ("train", "validation", "test")
CHUNK_ROWS, CHUNK_BYTES = 20_000, 8 << 20  # a chunk ends at whichever comes first
PICTURE_BYTES = 8 << 10  # what an image counts for at least: its pixels are many times its file
PARALLEL_BYTES = 32 << 20  # smaller data is prepared in this process: starting others would take longer
KIND = "prepared"

Paths = str | tuple[str, ...]


@config
class Config:
    """Where the rows come from and how they are cleaned and split. Relative paths start at the recipe's folder."""

    train: Paths
    validation: Paths | None = None
    test: Paths | None = None
    split: dict[Literal["validation", "test"], Fraction] | None = None  # cut off train; 0.1 each where no file is named
    cleaning: Cleaning = Cleaning()
    text_rows: sources.Unit = "paragraph"  # what a row of a .txt file is
    cache: str = ".dougong/prepared"

    def __post_init__(self) -> None:
        for name in self.split or {}:
            if getattr(self, name) is not None:
                raise bad_field(
                    f"data.split.{name}",
                    self.split,
                    f"no file for {name} beside it",
                    f"remove data.{name} or data.split.{name}",
                )
        if sum(self.fractions.values()) >= 0.9:
            raise bad_field(
                "data.split", self.split, "shares that leave at least a tenth for training", "use {validation: 0.1}"
            )

    @property
    def fractions(self) -> dict[str, float]:
        """The share of the training files' rows that each split gets."""
        if self.split is not None:
            return {str(name): share for name, share in self.split.items()}
        return {name: 0.1 for name in ("validation", "test") if getattr(self, name) is None}


def rooted(config: Config, base: Path) -> Config:
    """The same with absolute paths, so that a resolved recipe means the same files from anywhere."""

    def absolute(paths: Paths | None) -> Paths | None:
        if paths is None:
            return None
        return str(base / paths) if isinstance(paths, str) else tuple(str(base / path) for path in paths)

    train = absolute(config.train)
    assert train is not None
    return dataclasses.replace(config, train=train, validation=absolute(config.validation), test=absolute(config.test))


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


class Prepared:
    """A finished preparation: splits of encoded rows, the fitted codecs, the data report."""

    def __init__(self, folder: Path):
        self.folder = folder
        manifest = read_manifest(folder)
        self.rows: dict[str, dict[str, int]] = manifest.meta["rows"]  # split -> part file -> rows
        self.key: str = manifest.meta["key"]
        self.contents: str = manifest.meta["contents"]
        for (
            name,
            expected,
        ) in manifest.files.items():  # the bytes are checked by `verify`: here an epoch must start at once
            path = folder / name
            if not path.exists() or path.stat().st_size != expected.bytes:
                raise ArtefactError(
                    f"{path}: missing, or not of the size it was written with. "
                    f"Fix: delete {folder}; it is prepared again."
                )

    def split(self, name: str) -> Split:
        parts = self.rows.get(name, {})
        return Split(name, [self.folder / name / part for part in parts], list(parts.values()))

    def codec_json(self, field: str) -> dict[str, Any]:
        saved: dict[str, Any] = read_json(self.folder / "fields" / f"{field}.json")
        return saved

    @cached_property
    def report(self) -> DataReport:
        return DataReport.from_json(read_json(self.folder / "report.json"))


def prepare(
    config: Config,
    used: list[Used],
    *,
    seed: int,
    known: str | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """The prepared data of a recipe, made now unless it is there. Raises DataError for data that cannot be used.

    `known` is the key that an interrupted run began with: if that was made of the same contents by an older dougong, it
    is what the run goes on with.
    """
    cleaning.check_packages(config.cleaning)
    files = find_files(config)
    check_columns(files, used)
    cache = Path(config.cache)
    contents = content_hash(config, files, used, seed)
    key = key_of(contents, used)
    if known and known != key and (cache / known).is_dir():
        earlier = Prepared(cache / known)
        if earlier.contents == contents:
            return earlier
    final = cache / key
    if not final.is_dir():
        with lock(cache / f"{key}.lock"):
            if not final.is_dir():
                partial = cache / f"{key}.partial"
                Preparation(config, files, used, seed, partial, workers, say).run(final, key, contents)
    return Prepared(final)


def check_columns(files: dict[str, list[Path]], used: list[Used]) -> None:
    """Every column that a field names stands in every file that tells its columns, and its own files exist."""
    problems = [
        f"{path}: no such file, named by {field.name}. Fix: correct the path."
        for field in used
        for path in own_files(field)
        if not path.is_file()
    ]
    for file in sorted({file for group in files.values() for file in group}):
        present = sources.columns(file)
        for field in used:
            if present and field.column not in present:
                near = nearest(field.column, present)
                side = "outputs" if field.output else "inputs"
                fix = f"write column: {near}" if near else "set column: to one of them"
                problems.append(
                    f"{file}: no column {field.column!r} for {side}.{field.name}; "
                    f"it has {', '.join(present[:20])}. Fix: {fix}."
                )
    if problems:
        raise DataError("\n".join(problems[:5]))


def content_hash(config: Config, files: dict[str, list[Path]], used: list[Used], seed: int) -> str:
    """What the prepared data is made of, hashed: contents and settings."""
    digest = hashlib.sha256()
    fields = [[field.name, field.output, dump(field.config)] for field in used]
    settings = {
        "cleaning": dump(config.cleaning),
        "fractions": config.fractions,
        "unit": config.text_rows,
        "seed": seed,
        "fields": fields,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for name, group in files.items():
        for file in group:
            digest.update(f"{name}:{file.name}".encode())
            for path in (file, *named_files(file, used, config.text_rows)):
                digest.update(file_hash(path).encode())
    for path in (path for field in used for path in own_files(field)):
        digest.update(file_hash(path).encode())
    return digest.hexdigest()[:24]


def key_of(contents: str, used: list[Used]) -> str:
    """The name of a preparation: what it is made of, and the code that makes it."""
    digest = hashlib.sha256(contents.encode())
    folder = Path(__file__).parent
    code = [*sorted(folder.glob("*.py")), *sorted({Path(str(field.module.__file__)) for field in used})]
    for path in code:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def own_files(field: Used) -> list[Path]:
    """Files that a field's config names: a finished tokenizer."""
    files: list[Path] = field.module.files(field.config) if hasattr(field.module, "files") else []
    return files


def named_files(file: Path, used: list[Used], unit: sources.Unit) -> Iterator[Path]:
    """The files that a table's rows name (images): other contents are other data. A folder is hashed as a whole."""
    columns = [field.column for field in used if field.module.Codec.PATHS]
    if not columns or file.is_dir():
        return
    if not any(isinstance(row.values.get(column), str) for row in sources.peek(file, unit=unit) for column in columns):
        return  # a table that holds the images themselves need not be read twice
    for row in sources.read_rows(file, unit=unit):
        values = [row.values.get(column) for column in columns] if isinstance(row, sources.Row) else []
        for value in values:
            if isinstance(value, str) and os.path.isfile(path := _beside(file, value.strip())):
                yield Path(path)


def file_hash(file: Path) -> str:
    """sha256 of a file, or of the names and contents in a folder."""
    if file.is_dir():
        inner = sorted(path for path in file.rglob("*") if path.is_file())
        listing = "".join(f"{path.relative_to(file)}:{file_hash(path)}" for path in inner)
        return hashlib.sha256(listing.encode()).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def inspect(config: Config, used: list[Used], *, seed: int) -> DataReport:
    """Read, clean and split all rows as `prepare` would, and keep only the report. Raises DataError as it does."""
    cleaning.check_packages(config.cleaning)
    files = find_files(config)
    check_columns(files, used)
    cleaner = Cleaner(config, used, seed, Path())
    report = DataReport()
    bad: Counter[str] = Counter()
    classes: dict[str, set[object]] = {
        field.name: set() for field in used if field.output and field.config.type == "category"
    }
    for split, rows in chunked(files, config.text_rows, used):
        part, refused, kept = cleaner.rows(Chunk(0, split, rows))
        report.merge(part)
        bad.update(record["reason"] for record in refused if record["bad"])
        for name, seen in classes.items():
            seen.update(row.values[name] for row in kept if row.split == 0 and len(seen) < 2)
    quarantine.check(report.rows_read, bad, config.cleaning.max_bad, Path("data.train"))
    if not report.kept["train"]:
        raise nothing_left()
    for name, seen in classes.items():
        if len(seen) < 2:
            raise one_class(next(field for field in used if field.name == name), sorted(map(str, seen)))
    return report


def nothing_left() -> DataError:
    return DataError("data.train: no row is left to train on. Fix: look into the quarantine, or loosen data.cleaning.")


def one_class(field: Used, classes: list[str]) -> DataError:
    found = f"only {classes[0]!r}" if classes else "none"
    return DataError(
        f"outputs.{field.name}: at least two classes are needed, the training rows hold {found}. "
        f"Fix: check the column {field.column!r}."
    )


def find_files(config: Config) -> dict[str, list[Path]]:
    """The files of each split that is named."""
    return {
        name: sources.find_files(paths, Path.cwd()) for name in SPLITS if (paths := getattr(config, name)) is not None
    }


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


class Preparation:
    """One run of the four steps, in a folder that survives an interruption."""

    def __init__(
        self,
        config: Config,
        files: dict[str, list[Path]],
        used: list[Used],
        seed: int,
        folder: Path,
        workers: int | None,
        say: Callable[[str], None],
    ):
        self.config, self.files, self.used, self.seed, self.folder, self.say = config, files, used, seed, folder, say
        size = sum(_size(file) for group in files.values() for file in group)
        self.workers = workers if workers is not None else (os.cpu_count() or 1) if size > PARALLEL_BYTES else 0
        self.report = DataReport()
        self.listing = folder / "quarantine.jsonl"

    def run(self, final: Path, key: str, contents: str) -> None:
        for name in ("rows", "fields", *SPLITS):
            make_folder(self.folder / name)
        parts = self.clean_rows()
        keep = self.choose(parts)
        codecs = self.fit(parts, keep)
        rows = self.encode(parts, keep, codecs)
        write_json(self.folder / "report.json", self.report.to_json())
        for part in parts:  # the clean rows are in the shards now; the sources still have them as they were
            part.unlink()
            part.with_suffix(".json").unlink()
        commit_folder(self.folder, final, KIND, {"key": key, "contents": contents, "rows": rows})
        self.say(self.report.text())

    # ------------------------------------------------------------------------------------------------ 1 read and clean

    def clean_rows(self) -> list[Path]:
        """Step 1: rows/part-*.arrow with clean values, row hash and split; what is refused goes to quarantine.jsonl."""
        cleaner = Cleaner(self.config, self.used, self.seed, self.folder / "rows")
        chunks = (
            Chunk(index, split, rows)
            for index, (split, rows) in enumerate(chunked(self.files, self.config.text_rows, self.used))
        )
        parts: list[Path] = []
        bad: Counter[str] = Counter()
        with self.listing.open("wb") as stream:  # written anew from the parts, whatever an interrupted run left
            for part in spread(cleaner, chunks, self.workers):
                parts.append(part)
                said = read_json(part.with_suffix(".json"))
                self.report.merge(DataReport.from_json(said["report"]))
                bad.update(record["reason"] for record in said["refused"] if record["bad"])
                stream.writelines(_line(record) for record in said["refused"])
        quarantine.check(self.report.rows_read, bad, self.config.cleaning.max_bad, self.listing)
        return parts

    # ------------------------------------------------------------------------------------------------ 2 choose the rows

    def choose(self, parts: list[Path]) -> dict[Path, np.ndarray]:
        """Step 2: for each part which rows stay. Duplicates and leaks are counted; the recipe may drop duplicates."""
        tables = {part: read_rows(part, ["_hash", "_split"]) for part in parts}
        hashes = {part: table.column("_hash").to_numpy() for part, table in tables.items()}
        split = {part: table.column("_split").to_numpy() for part, table in tables.items()}
        keep = {part: np.ones(len(hashes[part]), dtype=bool) for part in parts}
        by_split = {name: [hashes[part][split[part] == i] for part in parts] for i, name in enumerate(SPLITS)}
        joined = {
            name: np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint64)
            for name, pieces in by_split.items()
        }
        settings = self.config.cleaning
        repeated = duplicates.find_duplicates(joined["train"])
        self.report.count_duplicates(exact=int(repeated.sum()))
        if settings.duplicates == "drop":
            self.drop("duplicates", keep, split, repeated)
        if settings.near_duplicates != "off":
            near = duplicates.near_duplicates(self.signatures(parts, split), settings.near_threshold) & ~repeated
            self.report.count_duplicates(near=int(near.sum()))
            if settings.near_duplicates == "drop":
                self.drop("near_duplicates", keep, split, near | repeated)
        for name in ("validation", "test"):
            if len(joined[name]):
                self.report.count_leaks(
                    name, int(duplicates.leaked(joined["train"], joined[name]).sum()), len(joined[name])
                )
        if settings.outliers:
            self.drop_outliers(parts, keep, split, settings.outliers)
        return keep

    def drop(
        self, rule: str, keep: dict[Path, np.ndarray], split: dict[Path, np.ndarray], train_rows: np.ndarray
    ) -> None:
        """Leave out the training rows marked in `train_rows` (in the order of the parts), and list them."""
        start = 0
        with self.listing.open("ab") as stream:
            for part, mask in keep.items():
                train = np.flatnonzero(split[part] == 0)
                marked = train[train_rows[start : start + len(train)]]
                dropped = marked[mask[marked]]
                mask[dropped] = False
                start += len(train)
                self.report.count_dropped(rule, len(dropped))
                for row in read_rows(part, None).take(pa.array(dropped)).to_pylist():
                    values = {field.column: row[field.name] for field in self.used}
                    stream.write(_line(quarantine.record(row["_file"], row["_row"], rule, values, bad=False)))

    def signatures(self, parts: list[Path], split: dict[Path, np.ndarray]) -> np.ndarray:  # (training rows, 128) uint32
        texts = [field for field in self.used if field.config.type == "text"]
        if not texts:
            raise bad_field(
                "data.cleaning.near_duplicates",
                self.config.cleaning.near_duplicates,
                "a text among the fields",
                "write near_duplicates: off",
            )
        rows = [
            duplicates.minhash("\n".join(value or "" for value in values))
            for part in parts
            for values in zip(*(_train_values(part, field.name, split[part]) for field in texts), strict=True)
        ]
        return np.stack(rows) if rows else np.zeros((0, 128), dtype=np.uint32)

    def drop_outliers(
        self, parts: list[Path], keep: dict[Path, np.ndarray], split: dict[Path, np.ndarray], threshold: float
    ) -> None:
        kinds = {field.name: field.config.type for field in self.used if field.config.type == "number"}
        if not kinds:
            raise bad_field("data.cleaning.outliers", threshold, "a number among the fields", "remove it")
        train = (row for part in parts for row in _train_rows(part, list(kinds), split[part]))
        normal = cleaning.fit_outliers(train, kinds, threshold)
        marks = [normal.found(row) is not None for part in parts for row in _train_rows(part, list(kinds), split[part])]
        self.drop("outliers", keep, split, np.array(marks, dtype=bool))

    # --------------------------------------------------------------------------------------------------------- 3 fit

    def fit(self, parts: list[Path], keep: dict[Path, np.ndarray]) -> dict[str, Any]:
        """Step 3: every field's codec, fitted on the training rows that stay."""
        codecs = {}
        for field in self.used:
            path = self.folder / "fields" / f"{field.name}.json"
            if path.exists():
                codecs[field.name] = field.module.Codec.from_json(field.config, read_json(path))
                continue
            self.say(f"fitting {field.name} ({field.config.type}) on the training rows")
            codec = field.module.Codec.fit(field.config, self.values(field, parts, keep))
            classes = getattr(codec, "classes", None)
            if field.output and classes is not None and len(classes) < (2 if field.config.type == "category" else 1):
                raise one_class(field, list(classes))
            write_json(path, codec.to_json(), field.name)
            codecs[field.name] = codec
        return codecs

    def values(self, field: Used, parts: list[Path], keep: dict[Path, np.ndarray]) -> Iterator[Any]:
        empty = True
        for part in parts:
            table = read_rows(part, [field.name, "_split"])
            wanted = keep[part] & (table.column("_split").to_numpy() == 0)
            for value in table.column(field.name).filter(pa.array(wanted)).to_pylist():
                empty = False
                yield value
        if empty:
            raise nothing_left()

    # -------------------------------------------------------------------------------------------------------- 4 encode

    def encode(
        self, parts: list[Path], keep: dict[Path, np.ndarray], codecs: dict[str, Any]
    ) -> dict[str, dict[str, int]]:
        """Step 4: the shards of every split. Returns split -> file name -> rows."""
        encoder = Encode(self.used, {name: codec.to_json() for name, codec in codecs.items()}, self.folder)
        rows: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
        for part, written, counts in spread(encoder, ((part, keep[part]) for part in parts), self.workers):
            for name, count in written.items():
                rows[name][part.name] = count
                self.report.count_used(name, count)
            for (field, what), count in counts.items():
                self.report.count_note(f"{field}: {what}", count)
        return rows


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
                value = _beside(file, value)
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


class Encode:
    """Step 4 of one part, in any process."""

    def __init__(self, used: list[Used], codecs: dict[str, dict[str, Any]], folder: Path):
        self.fields = [
            (field.name, field.config.type, field.output, field.column, dump(field.config)) for field in used
        ]
        self.saved, self.folder = codecs, folder

    @cached_property
    def codecs(self) -> dict[str, Any]:
        used = [restored(*field) for field in self.fields]
        return {field.name: field.module.Codec.from_json(field.config, self.saved[field.name]) for field in used}

    def __call__(self, task: tuple[Path, np.ndarray]) -> tuple[Path, dict[str, int], dict[tuple[str, str], int]]:
        part, keep = task
        table = read_rows(part, None)
        split = table.column("_split").to_numpy()
        written: dict[str, int] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for index, name in enumerate(SPLITS):
            chosen = table.filter(pa.array(keep & (split == index)))
            if not chosen.num_rows:
                continue
            columns: Columns = {}
            for field, codec in self.codecs.items():
                encoded, notes = codec.encode(chosen.column(field).to_pylist())
                for array, limit in (
                    codec.limits().items() if len(self.codecs) > 1 else ()
                ):  # a lone text is read as a stream
                    notes[f"cut to {limit:,} {array}"] = int((encoded[array].lengths > limit).sum())
                columns |= {f"{field}.{array}": column for array, column in encoded.items()}
                counts.update({(f"{name}.{field}", what): count for what, count in notes.items() if count})
            path = self.folder / name / part.name
            if not path.exists():  # the fields were fitted on the same rows: what an interrupted run wrote is the same
                write_shard(path, columns)
            written[name] = chosen.num_rows
        return part, written, dict(counts)


def restored(name: str, kind: str, output: bool, column: str, plain: dict[str, Any]) -> Used:
    """A Used in another process; modules do not travel, their names do."""
    from importlib import import_module

    from dougong.core.config import read

    module = import_module(f"dougong.fields.{kind}")
    config, _ = read(module.Config, plain)
    return Used(name, config, output, module)


def read_rows(part: Path, columns: list[str] | None) -> pa.Table:
    """The clean rows of a part (only the named columns), mapped from the file."""
    with pa.memory_map(str(part)) as source:
        table = pa.ipc.open_file(source).read_all()
    return table if columns is None else table.select(columns)


def _train_values(part: Path, column: str, split: np.ndarray) -> list[Any]:
    values: list[Any] = read_rows(part, [column]).column(column).filter(pa.array(split == 0)).to_pylist()
    return values


def _train_rows(part: Path, columns: list[str], split: np.ndarray) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_rows(part, columns).filter(pa.array(split == 0)).to_pylist()
    return rows


def _size(file: Path) -> int:
    return (
        sum(path.stat().st_size for path in file.rglob("*") if path.is_file()) if file.is_dir() else file.stat().st_size
    )


def _row_size(row: sources.Row | sources.BadRow, file: Path, pictures: frozenset[str]) -> int:
    if isinstance(row, sources.BadRow):
        return len(row.raw)
    size = sum(len(value) if isinstance(value, str | bytes) else 8 for value in row.values.values())
    for value in (row.values.get(column) for column in pictures):
        path = _beside(file, value.strip()) if isinstance(value, str) else ""
        size += max(PICTURE_BYTES, os.path.getsize(path) if os.path.isfile(path) else 0)
    return size


def _beside(file: Path, named: str) -> str:
    """The path that a row of a data file (or of a folder that is the table) names."""
    return str((file if file.is_dir() else file.parent) / named)


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


# ------------------------------------------------------------------------------------------------------------ all cores


def spread(function: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """`map` over processes, in order, holding no more tasks than keep them busy; in this process where workers = 0."""
    if not workers:
        yield from map(function, tasks)
        return
    waiting: deque[Future[R]] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            for task in tasks:
                with _without_main():
                    waiting.append(pool.submit(function, task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise MachineError(
                "a process that prepares data died (killed, or out of memory). "
                "Fix: run it again; it goes on where it was."
            ) from None


def _end_with_parent() -> None:
    """A pool's process that waits for work does not notice that a kill -9 took the one which would send it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _without_main:  # noqa: N801 - reads as what it does
    """A spawned process imports the caller's main script again, and so starts the job a second time; ours need not."""

    def __enter__(self) -> None:
        self.main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")

    def __exit__(self, *_: object) -> None:
        sys.modules["__main__"] = self.main
