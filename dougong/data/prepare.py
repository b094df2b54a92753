"""Prepare: files -> clean rows -> fitted fields -> shards, once for each combination of contents and settings.

`prepare` finds the data of a recipe that is already prepared, or has it made (preparation.py); `inspect` only looks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from dougong.core.artefacts import read_json, read_manifest
from dougong.core.config import Fraction, config, dump
from dougong.core.errors import ArtefactError, DataError, bad_field, nearest
from dougong.core.locks import lock
from dougong.data import cleaning, quarantine, sources
from dougong.data.cleaning import Config as Cleaning
from dougong.data.preparation import Preparation
from dougong.data.report import DataReport
from dougong.data.rows import SPLITS, Chunk, Cleaner, Used, beside, chunked, nothing_left, one_class
from dougong.data.shards import Split

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
            if isinstance(value, str) and os.path.isfile(path := beside(file, value.strip())):
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


def find_files(config: Config) -> dict[str, list[Path]]:
    """The files of each split that is named."""
    return {
        name: sources.find_files(paths, Path.cwd()) for name in SPLITS if (paths := getattr(config, name)) is not None
    }
