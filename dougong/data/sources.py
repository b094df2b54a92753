"""Files -> rows, streamed: csv, tsv, jsonl, parquet, arrow, txt, each also .gz or .zst; folders of files; archives; annotations.

    for row in read_rows(Path("reviews.csv")):
        ...                   # Row(number=1, values={"review": "…", "label": "good"}, file="reviews.csv") or BadRow
    for block in read_blocks(Path("reviews.csv"), used={"review"}):
        ...                   # the same rows, many at once and as columns: several times faster

Every record of a file becomes exactly one Row or one BadRow; blank lines are no records. What makes a whole file
useless (no rows, two columns of one name, damaged compression) is a DataError. Memory is bounded by the caps of
records.py and of the readers, one file a format. Values stay as the file has them: numbers of a csv are text, and a
jsonl row has the keys of its own line only.
"""

from __future__ import annotations

import glob
import os
import stat
import zlib
from collections.abc import Collection, Iterator, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import NamedTuple, NoReturn

import pyarrow as pa

from dougong.core.errors import DataError, nearest, shown
from dougong.data import annotated, archives, delimited, folders, json_lines, plain_text, tables
from dougong.data.media import kind_of
from dougong.data.records import CHUNK, MAX_COLUMNS, VALUE, Many, Reader, Record, Unit, Unreadable, refuse

BLOCK_ROWS = 1000  # rows of a block that come one by one
FORMATS = {
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "txt": "txt",
    "json": "coco",  # of a folder only those named .coco.json: others may be anything
}
READERS: dict[str, Reader] = {
    "csv": delimited.read_csv,
    "tsv": delimited.read_tsv,
    "jsonl": json_lines.read,
    "parquet": tables.read_parquet,
    "arrow": tables.read_arrow,
    "txt": plain_text.read,
    "coco": annotated.read_coco,
}
UNSAFE = {  # ending -> what to do instead: all of these can hold pickled objects, which run code when they are read
    "npy": "numpy.savetxt(…, delimiter=',') to a .csv, or write a .parquet",
    "npz": "write one .parquet with pyarrow",
    "pkl": "DataFrame.to_parquet, or json.dump one object a line to a .jsonl",
    "pickle": "DataFrame.to_parquet, or json.dump one object a line to a .jsonl",
    "joblib": "DataFrame.to_parquet",
    "h5": "export the table to .parquet",
    "hdf5": "export the table to .parquet",
    "pt": "save the tensor as a .parquet of lists",
    "pth": "save the tensor as a .parquet of lists",
    "ckpt": "export the data to .parquet or .jsonl",
    "bin": "export the data to .parquet or .jsonl",
}


class Row(NamedTuple):  # made millions of times: a frozen dataclass takes three times as long, and twice to send
    """One record as the file has it."""

    number: int  # from 1, the header not counted
    values: dict[str, object]
    file: str


class BadRow(NamedTuple):
    """A record that could not be read."""

    file: str
    number: int
    reason: str
    raw: bytes | str  # of an overlong record its beginning only


# --------------------------------------------------------------------------------------------------------------- files


def find_files(paths: str | Sequence[str], base: Path) -> list[Path]:
    """The data files that a recipe's path, glob, folder, or list of these means, each once, sorted.

    A folder gives the data files in it; one that holds a folder for each label, or Pascal VOC's annotations, is itself the
    table, returned as such.
    """
    wanted = [paths] if isinstance(paths, str) else list(paths)
    if not wanted:
        raise DataError("data: an empty list of files. Fix: name at least one file, folder or pattern.")
    files = {file.resolve(): file for path in wanted for file in _matches(path, base)}
    return sorted(files.values())


def _matches(path: str, base: Path) -> list[Path]:
    if not path or "\0" in path or "://" in path:
        refuse(shown(path), "not the path of a local file", "give a path, a folder or a pattern such as data/*.csv")
    target = base / path
    try:
        if target.is_dir():
            return _in_folder(target)
        if target.exists():
            return _in_file(target)
        if not glob.has_magic(path):
            _no_such_file(path, target)
        found = [base / match for match in glob.iglob(path, root_dir=base, recursive=True)]
    except OSError as error:
        refuse(path, error.strerror or str(error), "check the path and its permissions")
    files = [match for match in found if not match.is_dir()]
    if found and not files:
        refuse(path, "matches folders only", f"give the folder that holds them: {os.path.dirname(path) or '.'}")
    if not files:
        _no_such_file(path, target)
    return [each for file in files for each in _in_file(file)]


def _in_file(file: Path) -> list[Path]:
    """The file itself, or what an archive holds."""
    if archives.is_archive(_readable(file)):
        return _in_folder(_unwrapped(archives.unpacked(file)))
    _format(file)
    return [file]


def _unwrapped(folder: Path) -> Path:
    """The one folder in which an archive keeps everything, unless that is a label."""
    entries = folders.visible(folder)
    if len(entries) != 1 or not entries[0].is_dir():
        return folder
    tables = any(_ending(entry)[0] in FORMATS for entry in folders.visible(entries[0]))
    return entries[0] if tables or not folders.labelled(folder) else folder


def _readable(file: Path) -> Path:
    try:
        mode = file.stat().st_mode
    except OSError as error:  # a link to nothing, say
        refuse(file, error.strerror or str(error), "correct or remove it")
    if not stat.S_ISREG(mode):
        refuse(file, "not a regular file", "save the data to a file: it is read more than once")
    return file


def _in_folder(folder: Path) -> list[Path]:
    entries = folders.visible(folder)
    files = [entry for entry in entries if entry.is_file() and _is_data(entry)]
    if files:
        return files
    if annotated.voc_files(folder) or folders.labelled(folder):
        return [folder]
    if kind := next(filter(None, (kind_of(entry.name) for entry in entries)), None):
        fix = f"put them into one folder a label, or list them in a csv with a column of type {kind}"
        refuse(folder, f"files of {kind} without labels", fix)
    for entry in entries:
        if entry.is_file():
            _format(entry)  # says why this one cannot be read
    fix = f"give a pattern such as {folder.name}/**/*.csv, or another folder"
    refuse(folder, "no data files in this folder", fix)


def _no_such_file(path: str, target: Path) -> NoReturn:
    """Name the first part of the path that does not exist, and what stands there instead."""
    missing = target
    while not missing.parent.exists():
        missing = missing.parent
    names = sorted(entry.name for entry in islice(missing.parent.iterdir(), 1000) if not entry.name.startswith("."))
    near = nearest(missing.name, names)
    if near and not glob.has_magic(path):
        rest = target.relative_to(missing)
        start = path[: len(path) - len(str(Path(missing.name) / rest))]
        fix = f"write {str(Path(start) / near / rest)!r}"
    elif names:
        fix = f"the folder {missing.parent} holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
    else:
        fix = f"the folder {missing.parent} is empty: put the file there, or correct the path"
    refuse(path, "no file matches" if glob.has_magic(path) else "no such file", fix)


def _ending(file: Path) -> tuple[str, str]:
    """("csv", "gz") of x.csv.gz."""
    endings = [suffix.lower().removeprefix(".") for suffix in file.suffixes]
    compression = endings.pop() if endings and endings[-1] in ("gz", "zst") else ""
    return (endings[-1] if endings else ""), compression


def _is_data(file: Path) -> bool:
    """Whether a file of a folder is taken for data."""
    ending = _ending(file)[0]
    return ending in FORMATS and (ending != "json" or ".coco.json" in file.name.lower())


def _format(file: Path) -> tuple[str, str]:
    """(format, compression) of a file by its name. A DataError if it is none of ours."""
    ending, compression = _ending(file)
    if ending in UNSAFE:
        refuse(file, f".{ending} files can hold pickled objects, which run code when they are read", UNSAFE[ending])
    if ending not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS if name != "json")
        refuse(
            file,
            f"{f'.{ending}' if ending else 'no ending'} is not a format that is read",
            f"convert it to one of {known} (also .gz, .zst)",
        )
    if FORMATS[ending] == "parquet" and compression:
        refuse(
            file,
            "a parquet file cannot be read through compression",
            f"unpack it: parquet is compressed itself (.{compression} gains nothing)",
        )
    return FORMATS[ending], compression


# ---------------------------------------------------------------------------------------------------------------- rows


def read_rows(file: Path, *, unit: Unit = "paragraph") -> Iterator[Row | BadRow]:
    """The records of one file of `find_files`, in order. `unit` is what a row of a txt file is."""
    name = str(file)
    for number, record in _records(file, unit, None):
        if isinstance(record, Unreadable):
            yield BadRow(name, number, record.reason, record.raw)
        elif isinstance(record, dict):
            yield Row(number, record, name)
        else:
            for place, values in enumerate(zip(*record.columns.values(), strict=True), number):
                yield Row(place, dict(zip(record.columns, values, strict=True)), name)


def read_blocks(file: Path, *, unit: Unit = "paragraph", used: Collection[str] | None = None) -> Iterator[Block]:
    """What `read_rows` reads, many rows at once, only the `used` columns. A row that lacks one has None there."""
    waiting = Block({name: [] for name in used or ()}, [], [])
    for number, record in _records(file, unit, used):
        if isinstance(record, Unreadable):
            waiting.bad.append(BadRow(str(file), number, record.reason, record.raw))
        elif isinstance(record, dict):
            waiting.add(number, record, every=used is None)
        else:
            if len(waiting):  # those before it
                yield waiting
                waiting = Block({name: [] for name in used or ()}, [], [])
            names = record.columns if used is None else used
            missing = [None] * record.rows
            columns = {name: list(record.columns.get(name, missing)) for name in names}
            yield Block(columns, list(range(number, number + record.rows)), [])
        if len(waiting) >= BLOCK_ROWS or waiting.weight > CHUNK:
            yield waiting
            waiting = Block({name: [] for name in used or ()}, [], [])
    if len(waiting):
        yield waiting


class Block:
    """Rows of one file as columns, with the number of each, and the bad rows that stood between them."""

    def __init__(self, columns: dict[str, list[object]], numbers: list[int], bad: list[BadRow]):
        self.columns, self.numbers, self.bad = columns, numbers, bad
        self.weight = 0  # about how many bytes were added one by one

    def __len__(self) -> int:
        return len(self.numbers) + len(self.bad)

    def add(self, number: int, values: dict[str, object], every: bool) -> None:
        if every:
            for name in values:
                self.columns.setdefault(name, [None] * len(self.numbers))
        self.numbers.append(number)
        for name, column in self.columns.items():
            value = values.get(name)
            column.append(value)
            self.weight += len(value) if isinstance(value, str | bytes) else 8


def _records(file: Path, unit: Unit, used: Collection[str] | None) -> Iterator[tuple[int, Record]]:
    """(number of its first row, one record or many at once)."""
    number = 0
    try:
        if file.is_dir():
            reader = annotated.read_voc(file) if annotated.voc_files(file) else folders.read(file)
        else:
            kind, compression = _format(_readable(file))
            if not file.stat().st_size:
                refuse(file, "the file is empty", "put rows into it, or take it out of the data")
            reader = READERS[kind](file, compression, unit, used)
        for record in reader:
            yield number + 1, record
            number += record.rows if isinstance(record, Many) else 1
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        said = shown(str(getattr(error, "strerror", None) or error).split("\n")[0][:VALUE])
        refuse(file, f"damaged or unreadable after row {number:,}: {said}", "get the file anew, or repair it")
    if not number:
        refuse(file, "no rows, at most a header", "put rows into it, or take it out of the data")


def peek(file: Path, rows: int = 200, *, unit: Unit = "paragraph") -> list[Row]:
    """The first rows that can be read: enough to guess types from."""
    found: list[Row] = []
    first_bad: BadRow | None = None
    for row in islice(read_rows(file, unit=unit), 10 * rows):
        if isinstance(row, Row):
            found.append(row)
        else:
            first_bad = first_bad or row
        if len(found) == rows:
            break
    if first_bad and not found:
        refuse(
            file,
            f"no row can be read; row {first_bad.number}: {first_bad.reason}",
            "correct the file, or convert it to UTF-8 csv or jsonl",
        )
    return found


def columns(file: Path, *, unit: Unit = "paragraph", wanted: Set[str] = frozenset()) -> list[str]:
    """The column names of a file; of jsonl, whose lines may differ, of as many rows as it takes to find all `wanted`."""
    names = dict.fromkeys(name for row in peek(file, unit=unit) for name in row.values)
    if not file.is_dir() and _format(file)[0] == "jsonl":
        for row in () if wanted <= names.keys() else read_rows(file):
            found = row.values if isinstance(row, Row) else ()
            names |= dict.fromkeys(name for name in found if name in wanted or len(names) < MAX_COLUMNS)
            if wanted <= names.keys():
                break
    return list(names)
