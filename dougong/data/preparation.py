"""The four steps of a preparation, in a folder that survives an interruption.

    1  read and clean, chunk by chunk           -> rows/part-00000.arrow …       (on all cores; rows.py)
    2  find duplicates and leaks by row hash    -> which rows are left out
    3  fit every field on the training rows     -> fields/NAME.json
    4  encode, part by part                     -> train/ validation/ test/part-00000.arrow …   (on all cores)

Every part is a file that is complete or absent, so that an interrupted preparation goes on where it was; when all is
there the folder is sealed and renamed. Memory holds a few chunks, whatever the size of the data.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dougong.core.artefacts import commit_folder, make_folder, read_json, write_json
from dougong.core.config import dump
from dougong.core.errors import bad_field
from dougong.data import cleaning, duplicates, quarantine
from dougong.data.columns import Columns
from dougong.data.processes import spread
from dougong.data.report import DataReport
from dougong.data.rows import SPLITS, Chunk, Cleaner, Used, chunked, nothing_left, one_class, restored
from dougong.data.shards import write_shard

if TYPE_CHECKING:
    from dougong.data.prepare import Config

PARALLEL_BYTES = 32 << 20  # smaller data is prepared in this process: starting others would take longer
KIND = "prepared"


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


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()
