"""The four steps of a preparation, in a folder that survives an interruption.

    1  read and clean, chunk by chunk           -> rows/part-00000.arrow …       (on all cores; rows.py)
    2  find duplicates and leaks by row hash    -> which rows are left out
    3  fit every field on the training rows     -> fields/NAME.json
    4  encode, part by part                     -> train/ validation/ test/part-00000.arrow …   (on all cores)

Every part is a file that is complete or absent, so that an interrupted preparation goes on where it was; when all is
there the folder is sealed and renamed. Memory holds a few chunks, and about ten bytes for each row (docs/data.md has it measured).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dougong.core.artefacts import commit_folder, make_folder, read_json, write_json
from dougong.core.config import dump
from dougong.core.errors import bad_field
from dougong.data import cleaning, duplicates, quarantine, sources
from dougong.data.columns import Columns, cut
from dougong.data.ordering import mixed
from dougong.data.processes import Spread, processes
from dougong.data.records import Unit
from dougong.data.report import DataReport
from dougong.data.rows import Chunk, Cleaner, Used, chunked, in_columns, named, nothing_left, one_class, restored
from dougong.data.shards import write_shard
from dougong.data.splitting import SPLITS, borders, by_time

if TYPE_CHECKING:
    from dougong.data.prepare import Config

PARALLEL_BYTES = 32 << 20  # smaller data is prepared in this process: starting others would take longer
SAMPLE_KEY = 0x5A3  # of the rows that codecs are fitted on
KIND = "prepared"


class Preparation:
    """One run of the four steps, in a folder that survives an interruption."""

    def __init__(
        self,
        config: Config,
        files: dict[str, list[Path]],
        used: list[Used],
        folder: Path,
        workers: int | None,
        say: Callable[[str], None],
        codecs: dict[str, Any] | None = None,  # what those of all fields said of themselves, fitted before
    ):
        self.config, self.files, self.used, self.folder, self.say = config, files, used, folder, say
        self.codecs = codecs or {}
        size = sum(_size(file, used, config.text_rows) for group in files.values() for file in group)
        self.workers = workers if workers is not None else _cores() if size > PARALLEL_BYTES else 0
        self.splits = Splits({})
        self.report = DataReport()
        self.listing = folder / "quarantine.jsonl"

    def run(self, final: Path, made_of: dict[str, str], unchanged: Callable[[], None]) -> None:
        for name in ("rows", "fields", *SPLITS):
            make_folder(self.folder / name)
        with processes(self.workers) as spread:
            parts = self.clean_rows(self.listing, spread)
            keep = self.choose(parts)
            codecs = self.fit(self.used, parts, keep)
            rows = self.encode(parts, keep, codecs, spread)
        write_json(self.folder / "report.json", self.report.to_json())
        for part in parts:  # the clean rows are in the shards now; the sources still have them as they were
            part.unlink()
            part.with_suffix(".json").unlink()
        unchanged()  # what was read is what was hashed
        commit_folder(self.folder, final, KIND, made_of | {"rows": rows})
        self.say(self.report.text())

    def look(self) -> DataReport:
        """What a run would find, short of encoding, and of fitting what takes long (tokenizers)."""
        for name in ("rows", "fields"):
            make_folder(self.folder / name)
        with processes(self.workers) as spread:
            parts = self.clean_rows(None, spread)  # its own listing goes with the folder
        keep = self.choose(parts)
        if not self.report.kept["train"]:
            raise nothing_left()
        self.fit([field for field in self.used if is_checked(field)], parts, keep)
        return self.report

    # ------------------------------------------------------------------------------------------------ 1 read and clean

    def clean_rows(self, listed: Path | None, spread: Spread) -> list[Path]:
        """Step 1: rows/part-*.arrow with clean values, row hash and split; what is refused goes to quarantine.jsonl.

        `listed` is where an error about too many says that they are listed.
        """
        cleaner = Cleaner(self.config, self.used, self.folder / "rows")
        chunks = (
            Chunk(index, split, rows)
            for index, (split, rows) in enumerate(
                chunked(self.files, self.config.text_rows, self.used, self.config.by_time)
            )
        )
        parts: list[Path] = []
        files: Counter[str] = Counter()
        with self.listing.open("wb") as stream:  # written anew from the parts, whatever an interrupted run left
            for part in spread(cleaner, chunks):
                parts.append(part)
                said = read_json(part.with_suffix(".json"))
                self.report.merge(DataReport.from_json(said["report"]))
                files.update(record["file"] for record in said["refused"] if record["bad"])
                stream.writelines(_line(record) for record in said["refused"])
                if quarantine.hopeless(self.report.rows_read, self.report.bad.total(), self.config.cleaning.max_bad):
                    break
        quarantine.check(self.report.rows_read, self.report.bad, self.config.cleaning.max_bad, listed, files)
        if self.config.by_time:
            self.cut_by_time(parts)
        return parts

    def cut_by_time(self, parts: list[Path]) -> None:
        """Which rows are the newest is known when all are read."""
        times = np.concatenate([read_array(part, "_time") for part in parts] or [np.zeros(0)])
        self.splits = Splits(borders(times[~np.isnan(times)], self.config.fractions))
        for part in parts:
            before, after = (
                np.bincount(each, minlength=len(SPLITS)) for each in (read_array(part, "_split"), self.splits(part))
            )
            for name, change in zip(SPLITS, (after - before).tolist(), strict=True):
                self.report.kept[name] += change
        self.report.kept = +self.report.kept
        for name, start in self.splits.borders.items():
            self.report.count_note(f"{name}: {self.config.by_time} from {start:.15g} on", self.report.kept[name])

    # ------------------------------------------------------------------------------------------------ 2 choose the rows

    def choose(self, parts: list[Path]) -> dict[Path, np.ndarray]:
        """Step 2: for each part which rows stay. Duplicates and leaks are counted; the recipe may drop duplicates."""
        split = {part: self.splits(part) for part in parts}
        keep = {part: np.ones(len(split[part]), dtype=bool) for part in parts}
        settings = self.config.cleaning
        hashes = TrainColumn("_hash", split)
        repeated = duplicates.find_duplicates(hashes)
        self.report.count_duplicates(exact=int(repeated.sum()))
        if settings.duplicates == "drop":
            self.drop("duplicates", keep, split, repeated)
        if settings.near_duplicates != "off":
            near = self.near_duplicates(parts, split, repeated, hashes)
            self.report.count_duplicates(near=int(near.sum()))
            if settings.near_duplicates == "drop":
                self.drop("near_duplicates", keep, split, near)
        for index, name in enumerate(SPLITS[1:], 1):
            held = [read_array(part, "_inputs")[split[part] == index] for part in parts]
            if rows := sum(map(len, held)):
                leaks = duplicates.leaked(TrainColumn("_inputs", split), np.concatenate(held))
                self.report.count_leaks(name, int(leaks.sum()), rows)
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
                    values = {field.column: row[field.name] for field in in_columns(self.used)}
                    stream.write(_line(quarantine.record(row["_file"], row["_row"], rule, values, bad=False)))

    def near_duplicates(
        self, parts: list[Path], split: dict[Path, np.ndarray], repeated: np.ndarray, hashes: TrainColumn
    ) -> np.ndarray:  # -> (training rows,) bool
        """Rows whose texts resemble those of an earlier row with the same other inputs. Blank texts resemble nothing.

        Exact copies (`repeated`) are another rule's business; those of a near duplicate share its fate.
        """
        texts = [field.name for field in self.used if field.config.type in cleaning.TEXTS]
        if not texts:
            raise bad_field(
                "data.cleaning.near_duplicates",
                self.config.cleaning.near_duplicates,
                "a text among the fields",
                "write near_duplicates: off",
            )
        beside = [field.name for field in self.used if field.name not in texts and not field.output]
        places: list[int] = []
        signatures: list[np.ndarray] = []
        others: list[int] = []
        place = 0
        for part in parts:
            values = {name: _train_values(part, name, split[part]) for name in [*texts, *beside]}
            rest = duplicates.row_hashes({name: values[name] for name in beside}) if beside else None
            for row, said in enumerate(zip(*(values[name] for name in texts), strict=True)):
                text = "\n".join(value or "" for value in said)
                if not repeated[place] and not text.isspace() and text:
                    places.append(place)
                    signatures.append(duplicates.minhash(text))
                    others.append(0 if rest is None else int(rest[row]))
                place += 1
        near = np.zeros(len(repeated), dtype=bool)
        if places:
            threshold = self.config.cleaning.near_threshold
            found = duplicates.near_duplicates(np.stack(signatures), threshold, np.array(others, dtype=np.uint64))
            near[np.array(places)[found]] = True
        every = np.concatenate(list(hashes))
        return near | (repeated & np.isin(every, every[near]))

    def drop_outliers(
        self, parts: list[Path], keep: dict[Path, np.ndarray], split: dict[Path, np.ndarray], threshold: float
    ) -> None:
        names = [field.name for field in self.used if field.config.type == "number"]
        if not names:
            raise bad_field("data.cleaning.outliers", threshold, "a number among the fields", "remove it")
        columns = [TrainColumn(name, split) for name in names]

        def train() -> Iterator[dict[str, np.ndarray]]:
            return (dict(zip(names, piece, strict=True)) for piece in zip(*columns, strict=True))

        normal = cleaning.fit_outliers(train(), threshold)
        marks = [normal.found(piece) for piece in train()]
        self.drop("outliers", keep, split, np.concatenate(marks))

    # --------------------------------------------------------------------------------------------------------- 3 fit

    def fit(self, used: list[Used], parts: list[Path], keep: dict[Path, np.ndarray]) -> dict[str, Any]:
        """Step 3: every field's codec, fitted on the training rows that stay."""
        codecs: dict[str, Any] = {}
        for field in used:
            path = self.folder / "fields" / f"{field.name}.json"
            if field.name in self.codecs and not path.exists():
                write_json(path, self.codecs[field.name], field.name)
            first = together(field, used)[0]
            if first.name in codecs and not path.exists():  # the same values give the same codec
                write_json(path, codecs[first.name].to_json(), field.name)
            if path.exists():
                codecs[field.name] = field.module.Codec.from_json(field.config, read_json(path))
                continue
            self.say(f"fitting {field.name} ({field.config.type}) on the training rows")
            values = (self.values(each, parts, keep) for each in together(field, used))
            config = dataclasses.replace(field.config, column=field.column)  # so that an error can name it
            codec = field.module.Codec.fit(config, chain.from_iterable(values))
            classes = getattr(codec, "classes", None)
            if field.output and classes is not None and len(classes) < (2 if field.config.type == "category" else 1):
                raise one_class(field, list(classes))
            write_json(path, codec.to_json(), field.name)
            codecs[field.name] = codec
        return codecs

    def values(self, field: Used, parts: list[Path], keep: dict[Path, np.ndarray]) -> Iterator[Any]:
        """A field's training values; of more than its codec wants to see a sample that is spread over all of them."""
        train = {part: keep[part] & (self.splits(part) == 0) for part in parts}
        if not any(mask.any() for mask in train.values()):
            raise nothing_left()
        share = self.share(field, train)
        start = 0
        chosen: dict[Path, np.ndarray] = {}
        for part, mask in train.items():
            # By place and not by content: copies of a row must not all come, or all stay away.
            place = mixed(np.arange(start, start + len(mask), dtype=np.uint64), SAMPLE_KEY)
            chosen[part] = mask & (place / 2.0**64 < share)
            start += len(mask)
        for part, mask in chosen.items() if any(mask.any() for mask in chosen.values()) else train.items():
            yield from read_rows(part, [field.name]).column(field.name).filter(pa.array(mask)).to_pylist()

    def share(self, field: Used, train: dict[Path, np.ndarray]) -> float:
        """Of the training rows, how many a field's codec wants to see."""
        codec = field.module.Codec
        if (rows := getattr(codec, "SAMPLE", None)) is not None:
            return rows / max(sum(int(mask.sum()) for mask in train.values()), 1)
        if (wanted := getattr(codec, "SAMPLE_CHARACTERS", None)) is None:
            return 1.0
        columns = (read_rows(part, [field.name]).column(field.name).filter(pa.array(train[part])) for part in train)
        return wanted / max(sum(pc.sum(pc.utf8_length(column)).as_py() or 0 for column in columns), 1)

    # -------------------------------------------------------------------------------------------------------- 4 encode

    def encode(
        self, parts: list[Path], keep: dict[Path, np.ndarray], codecs: dict[str, Any], spread: Spread
    ) -> dict[str, dict[str, int]]:
        """Step 4: the shards of every split. Returns split -> file name -> rows."""
        encoder = Encode(self.used, {name: codec.to_json() for name, codec in codecs.items()}, self.folder, self.splits)
        rows: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
        for part, written, counts in spread(encoder, ((part, keep[part]) for part in parts)):
            for name, count in written.items():
                rows[name][part.name] = count
                self.report.count_used(name, count)
            for (field, what), count in counts.items():
                self.report.count_note(f"{field}: {what}", count)
        return rows


def is_checked(field: Used) -> bool:
    """Whether fitting the field is quick, and may find what is wrong with its column."""
    return getattr(field.module.Codec, "CHECKED", hasattr(field.config, "classes"))


def together(field: Used, used: list[Used]) -> list[Used]:
    """The fields that are fitted on each other's values; the field alone, where it has a vocabulary of its own."""
    return [each for each in used if each.vocabulary == field.vocabulary] if field.vocabulary else [field]


class TrainColumn:
    """A column of numbers of the training rows, part by part: read anew whenever one goes over it, never held."""

    def __init__(self, name: str, split: dict[Path, np.ndarray]):
        self.name, self.split = name, split

    def __iter__(self) -> Iterator[np.ndarray]:
        return (read_array(part, self.name)[split == 0] for part, split in self.split.items())


@dataclass(frozen=True)
class Splits:
    """The split of each row of a part: what its hash said, unless its time does, by borders that are known when all is read."""

    borders: dict[str, float]

    def __call__(self, part: Path) -> np.ndarray:  # (N,) uint8
        split = read_array(part, "_split")
        if self.borders:
            times = read_array(part, "_time")
            known = ~np.isnan(times)
            split[known] = by_time(times[known], self.borders)
        return split


class Encode:
    """Step 4 of one part, in any process."""

    def __init__(self, used: list[Used], codecs: dict[str, dict[str, Any]], folder: Path, splits: Splits):
        self.fields = [
            (field.name, field.config.type, field.output, field.column, dump(field.config)) for field in used
        ]
        self.saved, self.folder, self.splits = codecs, folder, splits

    @cached_property
    def codecs(self) -> dict[str, Any]:
        used = [restored(*field) for field in self.fields]
        return {field.name: field.module.Codec.from_json(field.config, self.saved[field.name]) for field in used}

    def __call__(self, task: tuple[Path, np.ndarray]) -> tuple[Path, dict[str, int], dict[tuple[str, str], int]]:
        part, keep = task
        table = read_rows(part, list(self.codecs))
        split = self.splits(part)
        written: dict[str, int] = {}
        counts: Counter[tuple[str, str]] = Counter()
        for index, name in enumerate(SPLITS):
            chosen = table.filter(pa.array(keep & (split == index)))
            if not chosen.num_rows:
                continue
            columns: Columns = {}
            for field, codec in self.codecs.items():
                encoded, notes = codec.encode(chosen.column(field).to_pylist())
                if len(self.codecs) > 1:  # a lone text is read as a stream
                    notes |= cut(codec, encoded)
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


def read_array(part: Path, column: str) -> np.ndarray:
    """A column of numbers of a part, copied: a view would keep the whole part mapped, and in memory."""
    array: np.ndarray = read_rows(part, [column]).column(column).to_numpy()
    return array.copy()


def _train_values(part: Path, column: str, split: np.ndarray) -> list[Any]:
    values: list[Any] = read_rows(part, [column]).column(column).filter(pa.array(split == 0)).to_pylist()
    return values


def _size(file: Path, used: list[Used], unit: Unit) -> int:
    """Bytes of a table and of the pictures that its rows name, those estimated from its first rows."""
    if file.is_dir():
        return sum(path.stat().st_size for path in file.rglob("*") if path.is_file())
    size = file.stat().st_size
    columns = [field.column for field in used if field.module.Codec.PATHS]
    if not columns or not size:
        return size
    rows = sources.peek(file, unit=unit)
    written = sum(len(str(value)) + 1 for row in rows for value in row.values.values())
    paths = (named(file, row.values.get(column)) for row in rows for column in columns)
    beside = sum(os.path.getsize(path) for path in paths if isinstance(path, str) and os.path.isfile(path))
    return size + size * beside // max(written, 1)


def _cores() -> int:
    """Those that this process may use: in a container not all that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()
