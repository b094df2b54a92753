"""The lines of a text file, whatever its Unicode encoding and its line ends, in bounded memory.

Lines come in runs of about CHUNK bytes, which a reader takes at once where all is in order, and line by line where not.
"""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dougong.data.records import CHUNK, KEPT, MAX_RECORD, Unreadable, refuse

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


class Line(NamedTuple):
    offset: int  # bytes from the beginning of the (unpacked) file
    raw: bytes  # with its line end; the beginning only where `cut`
    cut: bool = False
    encoding: str = "utf-8"

    def text(self) -> str:
        if self.cut:
            raise Unreadable(f"longer than {MAX_RECORD >> 20} MB, at byte {self.offset}", self.raw)
        try:
            text = self.raw.decode(self.encoding)
        except UnicodeDecodeError as error:
            name = self.encoding.upper()
            where = f"byte {self.offset + error.start} (0x{self.raw[error.start]:02x})"
            raise Unreadable(f"{where} is not {name}: convert the file to UTF-8", self.raw) from None
        if "\0" in text:
            place = self.offset + len(text[: text.index("\0")].encode(self.encoding))
            raise Unreadable(f"a NUL character at byte {place}", self.raw)
        return text


class LineRun(NamedTuple):
    """Consecutive whole lines."""

    offset: int
    raw: bytes
    cut: bool = False  # then it is the beginning of a single line
    encoding: str = "utf-8"

    def lines(self) -> Iterator[Line]:
        if self.cut:
            yield Line(*self)
            return
        start = 0
        width = {"utf-16": 2, "utf-32": 4}.get(self.encoding[:6], 1)
        unit = np.dtype(f"{'>' if self.encoding.endswith('be') else '<'}u{width}")
        for end in [*_line_ends(self.raw, unit, final=True).tolist(), len(self.raw)]:
            if end > start:
                yield Line(self.offset + start, self.raw[start:end], False, self.encoding)
            start = end

    def plain(self) -> str | None:
        """Its text, None if that takes a closer look line by line."""
        if self.cut or self.encoding != "utf-8" or len(self.raw) > MAX_RECORD or b"\0" in self.raw:
            return None
        try:
            return self.raw.decode()
        except UnicodeDecodeError:
            return None

    def followed(self, other: LineRun) -> LineRun:
        return self._replace(raw=self.raw + other.raw)

    def split(self, end: int) -> tuple[LineRun, LineRun]:
        return self._replace(raw=self.raw[:end]), self._replace(offset=self.offset + end, raw=self.raw[end:])


def lines(file: Path, compression: str) -> Iterator[Line]:
    """The lines of a text file, ending in \\n, \\r\\n or \\r, whatever its Unicode encoding, in bounded memory."""
    for run in line_runs(file, compression):
        yield from run.lines()


def line_runs(file: Path, compression: str) -> Iterator[LineRun]:
    """The lines of a text file, about CHUNK bytes of them at once."""
    with open_unpacked(file, compression) as stream:
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
                yield LineRun(begin, (overlong or pending[:first])[:KEPT], True, encoding)
                begin, start = begin + skipped + first, first
            if start < last:
                yield LineRun(begin, pending[start:last], False, encoding)
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


def open_unpacked(file: Path, compression: str) -> Any:
    if compression == "gz":
        return gzip.open(file, "rb")
    if compression == "zst":
        return pa.CompressedInputStream(pa.OSFile(str(file), "rb"), "zstd")
    return open(file, "rb")


def _encoding(file: Path, head: bytes) -> tuple[str, int, int]:
    """(name, bytes of its unit, length of its byte order mark). A DataError if the file is no text at all."""
    if not head:
        refuse(file, "the file is empty", "put rows into it, or take it out of the data")
    for bom, name, width in BOMS:
        if head.startswith(bom):
            return name, width, len(bom)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            refuse(
                file,
                f"this is {kind}, not text",
                "give the file its true ending, or export the data to csv, jsonl or parquet",
            )
    sample = head[:4096]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) > 0.3 * len(sample) / 2 and min(even, odd) < 0.05 * len(sample) / 2:
        refuse(
            file,
            "every second byte is zero: this looks like UTF-16 without a byte order mark",
            "save the file as UTF-8",
        )
    return "utf-8", 1, 0
