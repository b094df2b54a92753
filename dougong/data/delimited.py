"""csv and tsv: records by RFC 4180. A stray quote costs one row, not all that follow it."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator
from io import StringIO
from itertools import chain
from pathlib import Path

from dougong.data.lines import Line, LineRun, line_runs
from dougong.data.records import MAX_RECORD, Many, Record, Unit, Unreadable, check_names, refuse

MAX_REREAD = 256 << 20  # bytes of csv read again after unclosed quotes: hostile ones would cost the square of the file


def read_csv(
    file: Path, compression: str, unit: Unit, used: Collection[str] | None, delimiter: str = ","
) -> Iterator[Record]:
    """Records of csv by RFC 4180. A comma separates, unless the header has none and has one of ; tab | instead."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD))  # its own limit of 128 kB refuses long texts
    runs = line_runs(file, compression)
    feed = _Feed(runs)
    try:
        first = next((line for line in feed if line.strip("\r\n")), "")
        feed.rewind(keep=len(feed.taken) - 1)
        delimiter = delimiter if delimiter != "," else _delimiter(first)
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
        if feed.fault:
            raise feed.fault
    except (csv.Error, Unreadable) as error:
        said = getattr(error, "reason", error)
        refuse(file, f"the header cannot be read: {said}", "write one header line with the column names, in UTF-8")
    check_names(file, header)
    wanted = {name: place for place, name in enumerate(header) if used is None or name in used}
    feed.runs = runs = chain(feed.unread(), runs)
    rest: LineRun | None = None  # of a run that ended within a record
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
                    yield Many(
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
        except (csv.Error, Unreadable) as error:
            reason = getattr(error, "reason", None) or f"wrong quotes: {error}"
            yield Unreadable(reason, feed.taken[0].raw)
            feed.rewind(keep=1)  # a stray quote must cost one row, not all that follow it
            if feed.reread > MAX_REREAD:
                refuse(
                    file,
                    f"unclosed quotes; the last: {reason}",
                    "quote every field that holds a quote, as RFC 4180 says",
                )
            continue
        if feed.fault:
            yield Unreadable(feed.fault.reason, feed.raw())
        elif len(fields) == len(header):
            yield {name: fields[place] for name, place in wanted.items()}
        elif fields:
            yield Unreadable(f"{_many(len(fields), 'field')} where the header has {len(header)}", feed.raw())


def read_tsv(file: Path, compression: str, unit: Unit, used: Collection[str] | None) -> Iterator[Record]:
    return read_csv(file, compression, unit, used, delimiter="\t")


def _delimiter(header: str) -> str:
    bare = re.sub(r'"[^"]*"', "", header)
    counts = {mark: bare.count(mark) for mark in ";\t|"}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] and "," not in bare else ","


def _whole_records(run: LineRun) -> tuple[LineRun | None, LineRun | None]:
    """A run cut where an even number of quotes lies before a line's end; where the file is in order, a record ends there."""
    end, odd = len(run.raw), run.raw.count(b'"') % 2
    while odd and end > 0:
        begin = max(run.raw.rfind(b"\n", 0, end - 1) + 1, 0)
        odd, end = (odd + run.raw.count(b'"', begin, end)) % 2, begin
    if end == len(run.raw):
        return run, None
    whole, rest = run.split(end)
    return whole if whole.raw else None, rest


def _parsed(run: LineRun, delimiter: str, width: int) -> list[list[str]] | None:
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

    def __init__(self, runs: Iterator[LineRun]):
        self.runs = runs
        self.waiting: list[Line] = []  # lines to read (once more), the next one last
        self.reread = 0
        self.start()

    def wait_for(self, *runs: LineRun) -> None:
        self.waiting = [line for run in runs for line in run.lines()][::-1]

    def start(self) -> None:
        self.taken: list[Line] = []
        self.size = 0
        self.fault: Unreadable | None = None

    def unread(self) -> list[LineRun]:
        """What waits, as it came."""
        lines, self.waiting = self.waiting[::-1], []
        if any(line.cut for line in lines):
            return [LineRun(*line) for line in lines]
        return (
            [LineRun(lines[0].offset, b"".join(line.raw for line in lines), False, lines[0].encoding)] if lines else []
        )

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
            raise Unreadable(f"a quote that is not closed within {MAX_RECORD >> 20} MB")
        try:
            return line.text()
        except Unreadable as fault:
            if line.cut:
                raise
            self.fault = self.fault or fault
            return line.raw.decode(line.encoding, "replace")  # only to find where the record ends: it is bad as a whole


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
