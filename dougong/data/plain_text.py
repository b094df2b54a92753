"""txt: a row is a paragraph (a block between blank lines), a line, or the whole document."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from dougong.data.lines import Line, LineRun, line_runs
from dougong.data.records import MAX_RECORD, Many, Record, Unit, Unreadable

SPACES_ALONE = re.compile(r"\n[^\S\n]+(?:\n|$)")  # a line that looks empty and is not


def read(file: Path, compression: str, unit: Unit, used: Collection[str] | None = None) -> Iterator[Record]:
    """Rows of plain text: its paragraphs (blocks between blank lines), its lines, or all of it."""
    block = _Block(unit)
    rest: LineRun | None = None  # of a run that ended within a paragraph
    for run in line_runs(file, compression):
        if unit == "document" or run.cut or not block.empty:
            for part in (rest, run):
                yield from block.records(part.lines() if part else iter(()))
            rest = None
            continue
        whole, rest = _whole_blocks(run if rest is None else rest.followed(run), unit)
        if whole and (texts := _texts(whole, unit)) is not None:
            if texts:
                yield Many({"text": texts}, len(texts))
        elif whole:  # it ends behind a blank line: afterwards no block is open
            yield from block.records(whole.lines())
        elif rest and len(rest.raw) > MAX_RECORD:
            yield from block.records(rest.lines())
            rest = None
    yield from block.records(rest.lines() if rest else iter(()), last=True)


def _whole_blocks(run: LineRun, unit: Unit) -> tuple[LineRun | None, LineRun | None]:
    """A run cut behind a blank line."""
    if unit == "line":
        return run, None
    end = max((place + len(blank) for blank in (b"\n\n", b"\n\r\n") if (place := run.raw.rfind(blank)) >= 0), default=0)
    if end == len(run.raw):
        return run, None
    return run.split(end) if end else (None, run)


def _texts(run: LineRun, unit: Unit) -> list[str] | None:
    """The rows of whole blocks, None if they take a closer look."""
    text = run.plain()
    if text is None:
        return None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if unit == "line":
        return [line for line in text.split("\n") if line.strip()]
    if not SPACES_ALONE.search(f"\n{text}"):  # as nearly always: four times as fast as line by line
        return [whole for piece in text.split("\n\n") if (whole := piece.strip("\n"))]
    lines = text.split("\n")
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
        self.fault: Unreadable | None = None

    def records(self, lines: Iterator[Line], last: bool = False) -> Iterator[Record]:
        """The rows that end in these lines; the `last` one ends with them."""
        for line in lines:
            blank = self.add(line)
            if self.unit == "line" or (self.unit == "paragraph" and blank):
                yield from self.record()
        if last:
            yield from self.record()

    def add(self, line: Line) -> bool:
        """Take a line; say whether it is blank."""
        self.empty = False
        try:
            text = line.text().rstrip("\r\n")
        except Unreadable as fault:
            self.fault = self.fault or fault
            text = "unreadable"
        self.size += len(line.raw)
        if self.size > MAX_RECORD:
            self.fault = self.fault or Unreadable(f"longer than {MAX_RECORD >> 20} MB, at byte {line.offset}")
        else:
            self.texts.append(text)
            self.raws.append(line.raw)
        return not text.strip()

    def record(self) -> Iterator[Record]:
        fault, text, raws = self.fault, "\n".join(self.texts).strip("\n"), self.raws
        self.start()
        if fault:
            yield Unreadable(fault.reason, b"".join(raws))
        elif text.strip():
            yield {"text": text}
