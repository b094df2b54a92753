"""Rows that are not used: what is written down of each, and too many bad ones stop the work.

Rows read = rows used + rows in quarantine.jsonl, always. A line of that file is

    {"file": "a.csv", "row": 17, "reason": "3 fields where the header has 2", "bad": true, "sha256": …, "begins": …}

`bad` rows could not be read or understood; the others were dropped by a rule of data.cleaning and do not count as bad.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dougong.core.errors import DataError

ENOUGH = 10_000  # rows after which it can be seen that a whole file is wrong
SHOWN = 200  # characters of a row that are written down
FILES = 2  # named in an error


def record(
    file: str, number: int, reason: str, raw: bytes | str | Mapping[str, object], *, bad: bool
) -> dict[str, Any]:
    """The line for one row. `raw` is what the source gave: its bytes, or its values where those could be read."""
    if not isinstance(raw, bytes | str):
        raw = json.dumps(dict(raw), ensure_ascii=False, sort_keys=True, default=_named)
    data = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")
    begins = data[: 4 * SHOWN].decode("utf-8", "backslashreplace")[:SHOWN]
    sha256 = hashlib.sha256(data).hexdigest()
    return {"file": file, "row": number, "reason": reason, "bad": bad, "sha256": sha256, "begins": begins}


def _named(value: object) -> str:
    """A value that JSON does not know; of a picture's millions of bytes their hash says as much."""
    return f"{len(value):,} bytes, {hashlib.sha256(value).hexdigest()}" if isinstance(value, bytes) else str(value)


def hopeless(read: int, bad: int, max_bad: float) -> bool:
    """Whether so many of the first rows are bad that the others need not be read."""
    return read >= ENOUGH and bad > max(0.5, max_bad) * read


def check(
    read: int, reasons: Mapping[str, int], max_bad: float, path: Path | None, files: Mapping[str, int] | None = None
) -> None:
    """Stop when more than `max_bad` (data.cleaning.max_bad) of the rows read are bad.

    `path`: where they are listed, if they are. `files`: how many each file has.
    """
    bad = sum(reasons.values())
    if bad <= max_bad * read:
        return
    top: Counter[str] = Counter()
    for reason, count in reasons.items():
        top[group(reason)] += count
    enough = -(-bad * 100 // read) / 100  # rounded up to whole per cents
    leave_out = f", or leave them out: data.cleaning.max_bad: {enough:.2f}" if enough < 1 else ""
    most = Counter(files or {}).most_common(FILES)
    where = "; ".join(f"{count:,} in {name if len(name) < 100 else f'…{name[-99:]}'}" for name, count in most)
    lines = [
        f"{path or 'data'}: {bad:,} of {read:,} rows ({bad / read:.1%}) cannot be used, at most {max_bad:.1%} may be"
        + (f": {where}" if where else "")
        + ("; …" if len(files or ()) > FILES else ""),
        *(f"  {count:,} × {reason}" for reason, count in top.most_common(3)),
        f"Fix: correct the rows ({'each is listed in that file' if path else 'dougong prepare lists each'}){leave_out}.",
    ]
    raise DataError("\n".join(lines))


def group(reason: str) -> str:
    """A reason without its numbers and quoted values, so that the same mistake in many rows counts as one."""
    short = CUT.sub(": '…'", QUOTED.sub(": '…'", reason))
    return re.sub(r"0x[0-9a-f]+|(?<![\w-])\d[\d,.]*", "#", short)[:SHOWN]


QUOTED = re.compile(r": (?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
CUT = re.compile(r": b?['\"\[{(].*… \([\d,]+ characters\)", re.DOTALL)  # as `shown` cuts a long value
