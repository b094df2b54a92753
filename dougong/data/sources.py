"""Files -> rows, streamed: csv, tsv, jsonl, parquet, arrow, txt, each also .gz or .zst, and folders of labelled files.

    for row in read_rows(Path("reviews.csv")):
        ...                   # Row(number=1, values={"review": "…", "label": "good"}, file="reviews.csv") or BadRow
    for block in read_blocks(Path("reviews.csv"), used={"review"}):
        ...                   # the same rows, many at once and as columns: several times faster

Every record of a file becomes exactly one Row or one BadRow; blank lines are no records. What makes a whole file
useless (no rows, two columns of one name, damaged compression) is a DataError. Memory is bounded by the caps below.
Values stay as the file has them: numbers of a csv are text, and a jsonl row has the keys of its own line only.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Collection, Iterator, Sequence, Set
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from dougong.core.errors import DataError, nearest, shown

Unit = Literal["paragraph", "line", "document"]

MAX_RECORD = 16 << 20  # bytes of one line, paragraph, document or field
MAX_COLUMNS = 10_000
MAX_DEPTH = 64  # of nested JSON
MAX_NODES = 1_000_000  # lists and objects of one JSON line: 16 MB of [] would become 450 MB
MAX_REREAD = 256 << 20  # bytes of csv read again after unclosed quotes: hostile ones would cost the square of the file
CHUNK = 1 << 20  # bytes read at once
BLOCK_ROWS = 1000  # rows of a block that come one by one
BATCH_ROWS = (
    64  # rows of a table made into Python values at once: few, because a dictionary may hide 1 MB behind each of them
)
KEPT = 4096  # bytes that are kept of a record too long to hold

IMAGES = {".png", ".jpg", ".jpeg", ".webp"}
FORMATS = {
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "txt": "txt",
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
MAGIC = {  # how files begin that only pretend to be text
    b"PK\x03\x04": "a zip archive or an Excel sheet",
    b"\xd0\xcf\x11\xe0": "an old Excel sheet",
    b"\x1f\x8b": "gzip data (its name lacks .gz)",
    b"\x28\xb5\x2f\xfd": "zstd data (its name lacks .zst)",
    b"BZh91AY": "bzip2 data",
    b"\xfd7zXZ": "xz data",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"PAR1\x15": "a parquet file",
    b"ARROW1\x00": "an Arrow file",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"SQLite format 3": "a database",
    b"%PDF-": "a PDF",
}
BOMS = (  # UTF-32 first: its little-endian mark begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le", 4),
    (codecs.BOM_UTF32_BE, "utf-32-be", 4),
    (codecs.BOM_UTF8, "utf-8", 1),
    (codecs.BOM_UTF16_LE, "utf-16-le", 2),
    (codecs.BOM_UTF16_BE, "utf-16-be", 2),
)


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

    A folder gives the data files in it; one that holds a folder for each label is itself the table, returned as such.
    """
    wanted = [paths] if isinstance(paths, str) else list(paths)
    if not wanted:
        raise DataError("data: an empty list of files. Fix: name at least one file, folder or pattern.")
    files = {file.resolve(): file for path in wanted for file in _matches(path, base)}
    return sorted(files.values())


def _matches(path: str, base: Path) -> list[Path]:
    if not path or "\0" in path or "://" in path:
        _refuse(shown(path), "not the path of a local file", "give a path, a folder or a pattern such as data/*.csv")
    target = base / path
    try:
        if target.is_dir():
            return _in_folder(target)
        if target.exists():
            _format(_readable(target))
            return [target]
        if not glob.has_magic(path):
            _no_such_file(path, target)
        found = [base / match for match in glob.iglob(path, root_dir=base, recursive=True)]
    except OSError as error:
        _refuse(path, error.strerror or str(error), "check the path and its permissions")
    files = [match for match in found if not match.is_dir()]
    if found and not files:
        _refuse(path, "matches folders only", f"give the folder that holds them: {os.path.dirname(path) or '.'}")
    if not files:
        _no_such_file(path, target)
    for file in files:
        _format(_readable(file))
    return files


def _readable(file: Path) -> Path:
    try:
        mode = file.stat().st_mode
    except OSError as error:  # a link to nothing, say
        _refuse(file, error.strerror or str(error), "correct or remove it")
    if not stat.S_ISREG(mode):
        _refuse(file, "not a regular file", "save the data to a file: it is read more than once")
    return file


def _in_folder(folder: Path) -> list[Path]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.is_file() and _ending(entry)[0] in FORMATS]
    if files:
        return files
    if _labelled(folder):
        return [folder]
    if any(entry.suffix.lower() in IMAGES for entry in entries):
        _refuse(
            folder,
            "images without labels",
            "put them into one folder a label, or list them in a csv with an image column",
        )
    for entry in entries:
        if entry.is_file():
            _format(entry)  # says why this one cannot be read
    fix = f"give a pattern such as {folder.name}/**/*.csv, or another folder"
    _refuse(folder, "no data files in this folder", fix)


def _labelled(folder: Path) -> Literal["image", "text"] | None:
    """What the files are in a folder that holds one folder for each label."""
    for label in _visible(folder):
        if not label.is_dir():
            continue
        for file in _visible(label):
            suffix = file.suffix.lower()
            if suffix in IMAGES or suffix == ".txt":
                return "text" if suffix == ".txt" else "image"
    return None


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


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
    _refuse(path, "no file matches" if glob.has_magic(path) else "no such file", fix)


def _ending(file: Path) -> tuple[str, str]:
    """("csv", "gz") of x.csv.gz."""
    endings = [suffix.lower().removeprefix(".") for suffix in file.suffixes]
    compression = endings.pop() if endings and endings[-1] in ("gz", "zst") else ""
    return (endings[-1] if endings else ""), compression


def _format(file: Path) -> tuple[str, str]:
    """(format, compression) of a file by its name. A DataError if it is none of ours."""
    ending, compression = _ending(file)
    if ending in UNSAFE:
        _refuse(file, f".{ending} files can hold pickled objects, which run code when they are read", UNSAFE[ending])
    if ending == "json":
        _refuse(file, "one JSON value cannot be streamed", "write one object a line and name the file .jsonl")
    if ending not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        _refuse(
            file,
            f"{f'.{ending}' if ending else 'no ending'} is not a format that is read",
            f"convert it to one of {known} (also .gz, .zst)",
        )
    if FORMATS[ending] == "parquet" and compression:
        _refuse(
            file,
            "a parquet file cannot be read through compression",
            f"unpack it: parquet is compressed itself (.{compression} gains nothing)",
        )
    return FORMATS[ending], compression


def _refuse(file: object, found: str, fix: str) -> NoReturn:
    name = str(file)
    name = name if len(name) <= 200 else f"{name[:100]}…{name[-99:]}"
    raise DataError(f"{name}: {found}. Fix: {fix}.") from None


# ---------------------------------------------------------------------------------------------------------------- rows


def read_rows(file: Path, *, unit: Unit = "paragraph") -> Iterator[Row | BadRow]:
    """The records of one file of `find_files`, in order. `unit` is what a row of a txt file is."""
    name = str(file)
    for number, record in _records(file, unit, None):
        if isinstance(record, _Unreadable):
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
        if isinstance(record, _Unreadable):
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
            reader = _folder(file)
        else:
            kind, compression = _format(_readable(file))
            if not file.stat().st_size:
                _refuse(file, "the file is empty", "put rows into it, or take it out of the data")
            reader = READERS[kind](file, compression, unit, used)
        for record in reader:
            yield number + 1, record
            number += record.rows if isinstance(record, _Many) else 1
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        said = shown(str(getattr(error, "strerror", None) or error).split("\n")[0][:VALUE])
        _refuse(file, f"damaged or unreadable after row {number:,}: {said}", "get the file anew, or repair it")
    if not number:
        _refuse(file, "no rows, at most a header", "put rows into it, or take it out of the data")


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
        _refuse(
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


VALUE = 100  # characters of another library's message that are passed on


class _Unreadable(Exception):  # noqa: N818
    """Why one record is bad, and its bytes. Never leaves this file, where it is a value as often as an error."""

    def __init__(self, reason: str, raw: bytes | str = b""):
        self.reason, self.raw = reason, raw


class _Many(NamedTuple):
    """Consecutive good records as columns of equal length."""

    columns: dict[str, Sequence[object]]
    rows: int


Record = dict[str, object] | _Unreadable | _Many


class _Reader(Protocol):
    """`used`: the only columns that are wanted, None for all."""

    def __call__(
        self, file: Path, compression: str, unit: Unit, used: Collection[str] | None, /
    ) -> Iterator[Record]: ...


# --------------------------------------------------------------------------------------------------------------- lines


class _Line(NamedTuple):
    offset: int  # bytes from the beginning of the (unpacked) file
    raw: bytes  # with its line end; the beginning only where `cut`
    cut: bool = False
    encoding: str = "utf-8"

    def text(self) -> str:
        if self.cut:
            raise _Unreadable(f"longer than {MAX_RECORD >> 20} MB, at byte {self.offset}", self.raw)
        try:
            text = self.raw.decode(self.encoding)
        except UnicodeDecodeError as error:
            name = self.encoding.upper()
            where = f"byte {self.offset + error.start} (0x{self.raw[error.start]:02x})"
            raise _Unreadable(f"{where} is not {name}: convert the file to UTF-8", self.raw) from None
        if "\0" in text:
            place = self.offset + len(text[: text.index("\0")].encode(self.encoding))
            raise _Unreadable(f"a NUL character at byte {place}", self.raw)
        return text


class _Run(NamedTuple):
    """Consecutive whole lines."""

    offset: int
    raw: bytes
    cut: bool = False  # then it is the beginning of a single line
    encoding: str = "utf-8"

    def lines(self) -> Iterator[_Line]:
        if self.cut:
            yield _Line(*self)
            return
        start = 0
        width = {"utf-16": 2, "utf-32": 4}.get(self.encoding[:6], 1)
        unit = np.dtype(f"{'>' if self.encoding.endswith('be') else '<'}u{width}")
        for end in [*_line_ends(self.raw, unit, final=True).tolist(), len(self.raw)]:
            if end > start:
                yield _Line(self.offset + start, self.raw[start:end], False, self.encoding)
            start = end

    def plain(self) -> str | None:
        """Its text, None if that takes a closer look line by line."""
        if self.cut or self.encoding != "utf-8" or len(self.raw) > MAX_RECORD or b"\0" in self.raw:
            return None
        try:
            return self.raw.decode()
        except UnicodeDecodeError:
            return None

    def followed(self, other: _Run) -> _Run:
        return self._replace(raw=self.raw + other.raw)

    def split(self, end: int) -> tuple[_Run, _Run]:
        return self._replace(raw=self.raw[:end]), self._replace(offset=self.offset + end, raw=self.raw[end:])


def _lines(file: Path, compression: str) -> Iterator[_Line]:
    """The lines of a text file, ending in \\n, \\r\\n or \\r, whatever its Unicode encoding, in bounded memory."""
    for run in _runs(file, compression):
        yield from run.lines()


def _runs(file: Path, compression: str) -> Iterator[_Run]:
    """The lines of a text file, about CHUNK bytes of them at once."""
    with _open(file, compression) as stream:
        head = stream.read(CHUNK)
        encoding, width, begin = _encoding(file, head)  # begin: where the current line begins
        unit = np.dtype(f"{'>' if encoding.endswith('be') else '<'}u{width}")
        pending, skipped, overlong = head[begin:], 0, b""  # of a line too long, `overlong` is kept and the rest skipped
        while True:
            chunk = stream.read(CHUNK)
            ends = _line_ends(pending, unit, final=not chunk)
            last = int(ends[-1]) if len(ends) else 0
            first = int(ends[0]) if len(ends) else 0
            if not chunk and last < len(pending):  # the last line has no end
                first, last = first or len(pending), len(pending)
            start = 0
            if last and skipped + first > MAX_RECORD:
                yield _Run(begin, (overlong or pending[:first])[:KEPT], True, encoding)
                begin, start = begin + skipped + first, first
            if start < last:
                yield _Run(begin, pending[start:last], False, encoding)
                begin += last - start
            if last:
                skipped, overlong = 0, b""
            if not chunk:
                return
            pending = pending[last:]
            if skipped + len(pending) > MAX_RECORD:
                overlong = overlong or pending[:KEPT]
                held = width + len(pending) % width  # the last unit may be the \r of a \r\n
                skipped, pending = skipped + len(pending) - held, pending[-held:]
            pending += chunk


def _line_ends(data: bytes, unit: np.dtype, final: bool) -> np.ndarray:
    """Where lines end in `data`, in bytes. A \\r at its very end waits for what follows, unless the data are final."""
    units = np.frombuffer(data, unit, count=len(data) // unit.itemsize)
    ends = units == 10
    if b"\r" in data:
        returns = units == 13
        returns[:-1] &= units[1:] != 10
        if not final:
            returns[-1:] = False
        ends |= returns
    return (np.flatnonzero(ends) + 1) * unit.itemsize


def _open(file: Path, compression: str) -> Any:
    if compression == "gz":
        return gzip.open(file, "rb")
    if compression == "zst":
        return pa.CompressedInputStream(pa.OSFile(str(file), "rb"), "zstd")
    return open(file, "rb")


def _encoding(file: Path, head: bytes) -> tuple[str, int, int]:
    """(name, bytes of its unit, length of its byte order mark). A DataError if the file is no text at all."""
    if not head:
        _refuse(file, "the file is empty", "put rows into it, or take it out of the data")
    for bom, name, width in BOMS:
        if head.startswith(bom):
            return name, width, len(bom)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            _refuse(
                file,
                f"this is {kind}, not text",
                "give the file its true ending, or export the data to csv, jsonl or parquet",
            )
    sample = head[:4096]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) > 0.3 * len(sample) / 2 and min(even, odd) < 0.05 * len(sample) / 2:
        _refuse(
            file,
            "every second byte is zero: this looks like UTF-16 without a byte order mark",
            "save the file as UTF-8",
        )
    return "utf-8", 1, 0


# ------------------------------------------------------------------------------------------------------ csv, jsonl, txt


def _csv(
    file: Path, compression: str, unit: Unit, used: Collection[str] | None, delimiter: str = ","
) -> Iterator[Record]:
    """Records of csv by RFC 4180. A comma separates, unless the header has none and has one of ; tab | instead."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD))  # its own limit of 128 kB refuses long texts
    runs = _runs(file, compression)
    feed = _Feed(runs)
    try:
        first = next((line for line in feed if line.strip("\r\n")), "")
        feed.rewind(keep=len(feed.taken) - 1)
        delimiter = delimiter if delimiter != "," else _delimiter(first)
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
        if feed.fault:
            raise feed.fault
    except (csv.Error, _Unreadable) as error:
        said = getattr(error, "reason", error)
        _refuse(file, f"the header cannot be read: {said}", "write one header line with the column names, in UTF-8")
    _check_columns(file, header)
    wanted = {name: place for place, name in enumerate(header) if used is None or name in used}
    feed.runs = runs = chain(feed.unread(), runs)
    rest: _Run | None = None  # of a run that ended within a record
    while True:
        if not feed.waiting:  # at the end of a run and of a record: what is in order can be read at once
            for run in runs:
                if run.cut or run.encoding != "utf-8":
                    odd = [rest, run]
                else:
                    whole, rest = _whole_records(run if rest is None else rest.followed(run))
                    records = _parsed(whole, delimiter, len(header)) if whole else []
                    odd = [whole, rest] if records is None or (rest and len(rest.raw) > MAX_RECORD) else []
                if odd:
                    feed.wait_for(*(part for part in odd if part))
                    rest = None
                    break
                if records:
                    yield _Many(
                        {name: [record[place] for record in records] for name, place in wanted.items()}, len(records)
                    )
            else:
                if rest is None:
                    return
                feed.wait_for(rest)
                rest = None
        feed.start()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (csv.Error, _Unreadable) as error:
            reason = getattr(error, "reason", None) or f"wrong quotes: {error}"
            yield _Unreadable(reason, feed.taken[0].raw)
            feed.rewind(keep=1)  # a stray quote must cost one row, not all that follow it
            if feed.reread > MAX_REREAD:
                _refuse(
                    file,
                    f"unclosed quotes; the last: {reason}",
                    "quote every field that holds a quote, as RFC 4180 says",
                )
            continue
        if feed.fault:
            yield _Unreadable(feed.fault.reason, feed.raw())
        elif len(fields) == len(header):
            yield {name: fields[place] for name, place in wanted.items()}
        elif fields:
            yield _Unreadable(f"{_many(len(fields), 'field')} where the header has {len(header)}", feed.raw())


def _whole_records(run: _Run) -> tuple[_Run | None, _Run | None]:
    """A run cut where an even number of quotes lies before a line's end; where the file is in order, a record ends there."""
    end, odd = len(run.raw), run.raw.count(b'"') % 2
    while odd and end > 0:
        begin = max(run.raw.rfind(b"\n", 0, end - 1) + 1, 0)
        odd, end = (odd + run.raw.count(b'"', begin, end)) % 2, begin
    if end == len(run.raw):
        return run, None
    whole, rest = run.split(end)
    return whole if whole.raw else None, rest


def _parsed(run: _Run, delimiter: str, width: int) -> list[list[str]] | None:
    """The records of a run, None if any of them takes a closer look."""
    text = run.plain()
    if text is None:
        return None
    try:
        records = list(csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    found = set(map(len, records))
    if 0 in found and width:
        records = [record for record in records if record]
    return records if found <= {0, width} else None


class _Feed:
    """Lines for csv.reader, which pulls several for a record with quoted line ends; remembers those of this record."""

    def __init__(self, runs: Iterator[_Run]):
        self.runs = runs
        self.waiting: list[_Line] = []  # lines to read (once more), the next one last
        self.reread = 0
        self.start()

    def wait_for(self, *runs: _Run) -> None:
        self.waiting = [line for run in runs for line in run.lines()][::-1]

    def start(self) -> None:
        self.taken: list[_Line] = []
        self.size = 0
        self.fault: _Unreadable | None = None

    def unread(self) -> list[_Run]:
        """What waits, as it came."""
        lines, self.waiting = self.waiting[::-1], []
        if any(line.cut for line in lines):
            return [_Run(*line) for line in lines]
        return [_Run(lines[0].offset, b"".join(line.raw for line in lines), False, lines[0].encoding)] if lines else []

    def rewind(self, keep: int) -> None:
        self.waiting += reversed(self.taken[keep:])
        self.reread += self.size
        self.start()

    def raw(self) -> bytes:
        return b"".join(line.raw for line in self.taken)

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if not self.waiting:
            self.wait_for(next(self.runs))
        line = self.waiting.pop()
        self.taken.append(line)
        self.size += len(line.raw)
        if self.size > MAX_RECORD and len(self.taken) > 1:
            raise _Unreadable(f"a quote that is not closed within {MAX_RECORD >> 20} MB")
        try:
            return line.text()
        except _Unreadable as fault:
            if line.cut:
                raise
            self.fault = self.fault or fault
            return line.raw.decode(line.encoding, "replace")  # only to find where the record ends: it is bad as a whole


def _delimiter(header: str) -> str:
    bare = re.sub(r'"[^"]*"', "", header)
    counts = {mark: bare.count(mark) for mark in ";\t|"}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] and "," not in bare else ","


def _tsv(file: Path, compression: str, unit: Unit, used: Collection[str] | None) -> Iterator[Record]:
    return _csv(file, compression, unit, used, delimiter="\t")


def _jsonl(file: Path, compression: str, unit: Unit, used: Collection[str] | None) -> Iterator[Record]:
    for line in _lines(file, compression):
        try:
            text = line.text()
            if text.strip():
                yield _json_object(text)
        except _Unreadable as bad:
            yield _Unreadable(bad.reason, line.raw)


def _json_object(text: str) -> dict[str, object]:
    brackets = text.count("[") + text.count("{")
    if brackets > MAX_NODES:
        raise _Unreadable(f"{brackets:,} brackets: at most {MAX_NODES:,} are read")
    if brackets > MAX_DEPTH:
        _check_depth(text)
    try:
        value = JSON.decode(text.strip())
    except json.JSONDecodeError as error:
        raise _Unreadable(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except ValueError:  # Python's own limit on the digits of a whole number
        raise _Unreadable("a number with more than 4,300 digits") from None
    if not isinstance(value, dict):
        raise _Unreadable(f"a JSON object was expected, this is {JSON_NAMES.get(type(value), 'a number')}")
    if len(value) > MAX_COLUMNS:
        raise _Unreadable(f"{len(value):,} keys: at most {MAX_COLUMNS:,} are read")
    if "\\u" in text:  # an escape can bring in what the encoding kept out
        flat = json.dumps(value, ensure_ascii=False)
        if re.search("[\ud800-\udfff]", flat):
            raise _Unreadable("a lone surrogate (\\ud800 to \\udfff without its pair) is no character")
        if "\\u0000" in flat:
            raise _Unreadable("a NUL character (\\u0000)")
    return value


def _check_depth(text: str) -> None:
    depth, inside, skip = 0, False, -1
    for token in re.finditer(r'["\\\[\]{}]', text):
        mark = token[0]
        if token.start() == skip:  # escaped by the backslash before it
            continue
        if mark == "\\":
            skip = token.start() + 1
        elif mark == '"':
            inside = not inside
        elif not inside:
            depth += 1 if mark in "[{" else -1
            if depth > MAX_DEPTH:
                raise _Unreadable(f"nested deeper than {MAX_DEPTH} levels")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Unreadable(f"the number {text[:20]} is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _Unreadable(f"{name} is not JSON: write null for a missing number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Unreadable(f"the key {shown(_repeated([name for name, _ in pairs]))} stands twice")
    return value


JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
JSON_NAMES = {list: "a list", str: "text", bool: "true or false", type(None): "null"}


def _txt(file: Path, compression: str, unit: Unit, used: Collection[str] | None = None) -> Iterator[Record]:
    """Rows of plain text: its paragraphs (blocks between blank lines), its lines, or all of it."""
    block = _Block(unit)
    rest: _Run | None = None  # of a run that ended within a paragraph
    for run in _runs(file, compression):
        if unit == "document" or run.cut or not block.empty:
            for part in (rest, run):
                yield from block.records(part.lines() if part else iter(()))
            rest = None
            continue
        whole, rest = _whole_blocks(run if rest is None else rest.followed(run), unit)
        if whole and (texts := _texts(whole, unit)) is not None:
            if texts:
                yield _Many({"text": texts}, len(texts))
        elif whole:  # it ends behind a blank line: afterwards no block is open
            yield from block.records(whole.lines())
        elif rest and len(rest.raw) > MAX_RECORD:
            yield from block.records(rest.lines())
            rest = None
    yield from block.records(rest.lines() if rest else iter(()), last=True)


def _whole_blocks(run: _Run, unit: Unit) -> tuple[_Run | None, _Run | None]:
    """A run cut behind a blank line."""
    if unit == "line":
        return run, None
    end = max((place + len(blank) for blank in (b"\n\n", b"\n\r\n") if (place := run.raw.rfind(blank)) >= 0), default=0)
    if end == len(run.raw):
        return run, None
    return run.split(end) if end else (None, run)


def _texts(run: _Run, unit: Unit) -> list[str] | None:
    """The rows of whole blocks, None if they take a closer look."""
    text = run.plain()
    if text is None:
        return None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    if unit == "line":
        return [line for line in lines if line.strip()]
    texts: list[str] = []
    block: list[str] = []
    for line in lines:
        block.append(line)
        if not line.strip():
            if len(block) > 1:
                texts.append("\n".join(block).strip("\n"))
            block = []
    return texts if not block else [*texts, "\n".join(block).strip("\n")]


class _Block:
    """The lines of one row of plain text after another."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.start()

    def start(self) -> None:
        self.empty = True
        self.texts: list[str] = []
        self.raws: list[bytes] = []
        self.size = 0
        self.fault: _Unreadable | None = None

    def records(self, lines: Iterator[_Line], last: bool = False) -> Iterator[Record]:
        """The rows that end in these lines; the `last` one ends with them."""
        for line in lines:
            blank = self.add(line)
            if self.unit == "line" or (self.unit == "paragraph" and blank):
                yield from self.record()
        if last:
            yield from self.record()

    def add(self, line: _Line) -> bool:
        """Take a line; say whether it is blank."""
        self.empty = False
        try:
            text = line.text().rstrip("\r\n")
        except _Unreadable as fault:
            self.fault = self.fault or fault
            text = "unreadable"
        self.size += len(line.raw)
        if self.size > MAX_RECORD:
            self.fault = self.fault or _Unreadable(f"longer than {MAX_RECORD >> 20} MB, at byte {line.offset}")
        else:
            self.texts.append(text)
            self.raws.append(line.raw)
        return not text.strip()

    def record(self) -> Iterator[Record]:
        fault, text, raws = self.fault, "\n".join(self.texts).strip("\n"), self.raws
        self.start()
        if fault:
            yield _Unreadable(fault.reason, b"".join(raws))
        elif text.strip():
            yield {"text": text}


# ------------------------------------------------------------------------------------------------------- parquet, arrow


def _parquet(file: Path, compression: str, unit: Unit, used: Collection[str] | None) -> Iterator[Record]:
    with pa.parquet.ParquetFile(file, buffer_size=CHUNK, pre_buffer=False) as table:
        _check_schema(file, table.schema_arrow)
        names = None if used is None else [name for name in table.schema_arrow.names if name in used]
        yield from _table_rows(file, table.iter_batches(batch_size=BATCH_ROWS, columns=names, use_threads=False))


def _arrow(file: Path, compression: str, unit: Unit, used: Collection[str] | None) -> Iterator[Record]:
    """IPC in its file form or its stream form, mapped into memory where it is not compressed."""
    with _arrow_source(file, compression) as source:
        is_file = source.read(8).startswith(b"ARROW1")
        if is_file and not compression:
            reader: Any = pa.ipc.open_file(source)
            batches: Any = (reader.get_batch(index) for index in range(reader.num_record_batches))
        elif is_file:  # what follows these 8 bytes is the stream form
            batches = reader = pa.ipc.open_stream(source)
        else:
            source.close()
            source = _arrow_source(file, compression)
            batches = reader = pa.ipc.open_stream(source)
        with source:
            _check_schema(file, reader.schema)
            names = [name for name in reader.schema.names if used is None or name in used]
            chosen = (batch.select(names) for batch in batches)
            starts = ((batch, start) for batch in chosen for start in range(0, batch.num_rows, BATCH_ROWS))
            yield from _table_rows(file, (batch.slice(start, BATCH_ROWS) for batch, start in starts))


def _arrow_source(file: Path, compression: str) -> Any:
    return _open(file, compression) if compression else pa.memory_map(str(file))


def _check_schema(file: Path, schema: Any) -> None:
    _check_columns(file, schema.names)
    fields = list(schema)
    while fields:
        field = fields.pop()
        name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
        if name or isinstance(field.type, pa.BaseExtensionType):
            name = name or field.type.extension_name
            _refuse(
                file,
                f"column {shown(field.name)} has the extension type {shown(name)}, which other code would have to read",
                "store its plain type (cast the column)",
            )
        fields += [field.type.field(index) for index in range(field.type.num_fields)]


def _table_rows(file: Path, batches: Iterator[Any]) -> Iterator[Record]:
    for batch in batches:
        batch = pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], names=batch.schema.names)
        try:
            batch.validate(
                full=True
            )  # offsets out of a hostile file would be read beyond the buffer; also checks UTF-8
            columns: dict[str, Sequence[object]] = {
                name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
        except ValueError:
            for row in _decoded(file, batch):
                yield row if isinstance(row, _Unreadable) else _checked(row)
            continue
        if columns and all(map(_fits, columns.values())):
            yield _Many(columns, batch.num_rows)
        elif columns:
            for values in zip(*columns.values(), strict=True):
                yield _checked(dict(zip(columns, values, strict=True)))
        else:
            yield from ({} for _ in range(batch.num_rows))


def _fits(column: Sequence[object]) -> bool:
    """Whether `_checked` would pass every value."""
    return not any(
        isinstance(value, str | bytes) and (len(value) > MAX_RECORD or (isinstance(value, str) and "\0" in value))
        for value in column
    )


def _plain(column: Any) -> Any:
    """Times become ISO text: Python's own types hold no nanoseconds."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return column.cast(pa.string())
    return column.cast(pa.int64()) if pa.types.is_duration(kind) else column


def _decoded(file: Path, batch: Any) -> list[Any]:
    """The rows of a batch of which some text is not UTF-8: those rows are bad, the others are not."""
    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    arrays = [column.cast(binary.get(column.type, column.type)) for column in batch.columns]
    raw = pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
    raw.validate(full=True)  # raises what `read_rows` calls damaged
    try:
        rows = raw.to_pylist()
    except (ValueError, OverflowError) as error:
        _refuse(
            file, f"a value that has no plain form: {shown(str(error)[:VALUE])}", "cast that column to text or numbers"
        )
    texts = [field.name for field in batch.schema if field.type in binary]
    return [_decoded_row(row, texts) for row in rows]


def _decoded_row(row: dict[str, Any], texts: list[str]) -> Record:
    for name in texts:
        value = row[name]
        try:
            row[name] = value if value is None else value.decode()
        except UnicodeDecodeError as error:
            where = f"byte {error.start} of the value (0x{value[error.start]:02x})"
            return _Unreadable(f"column {shown(name)}: {where} is not UTF-8", value)
    return row


def _checked(row: dict[str, object]) -> Record:
    for name, value in row.items():
        if isinstance(value, str | bytes) and len(value) > MAX_RECORD:
            return _Unreadable(f"column {shown(name)}: longer than {MAX_RECORD >> 20} MB", value[:KEPT])
        if isinstance(value, str) and "\0" in value:
            return _Unreadable(f"column {shown(name)}: a NUL character", value)
    return row


def _check_columns(file: Path, names: Sequence[str]) -> None:
    if len(names) > MAX_COLUMNS:
        _refuse(
            file,
            f"{len(names):,} columns: at most {MAX_COLUMNS:,} are read",
            "keep the columns that you need, or store long vectors as one list column",
        )
    if "" in names:
        _refuse(file, f"column {list(names).index('') + 1} has no name", "name every column in the header")
    if len(set(names)) != len(names):
        _refuse(file, f"the column {shown(_repeated(names))} stands twice", "rename one of the two in the header")


def _repeated(names: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


# ----------------------------------------------------------------------------------------------------- labelled folders


def _folder(folder: Path) -> Iterator[Record]:
    """`<label>/*.png` -> image (its path within the folder), label; `<label>/*.txt` -> text, label. No hidden files."""
    kind = _labelled(folder)
    if not kind:
        _refuse(folder, "no folders of images or texts in it", "put the files into one folder a label")
    for label in _visible(folder):
        if not label.is_dir():
            yield _Unreadable("a file beside the folders of the labels", label.name)
            continue
        for file in _visible(label):
            place = f"{label.name}/{file.name}"
            wanted = IMAGES if kind == "image" else {".txt"}
            if file.suffix.lower() not in wanted or not file.is_file():
                yield _Unreadable(f"{place}: not one of {', '.join(sorted(wanted))}", place)
            elif kind == "image":
                yield {"image": place, "label": label.name}
            else:
                yield _labelled_text(file, label.name, place)


def _labelled_text(file: Path, label: str, place: str) -> Record:
    if not file.stat().st_size:
        return _Unreadable(f"{place}: empty", place)
    record = next(_txt(file, "", "document"), None)
    if isinstance(record, _Unreadable):
        return _Unreadable(f"{place}: {record.reason}", record.raw)
    return {**record, "label": label} if isinstance(record, dict) else _Unreadable(f"{place}: blank", place)


READERS: dict[str, _Reader] = {
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "arrow": _arrow,
    "txt": _txt,
}
