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

SHOWN = 200  # characters of a row that are written down


def record(
    file: str, number: int, reason: str, raw: bytes | str | Mapping[str, object], *, bad: bool
) -> dict[str, Any]:
    """The line for one row. `raw` is what the source gave: its bytes, or its values where those could be read."""
    if not isinstance(raw, bytes | str):
        raw = json.dumps(dict(raw), ensure_ascii=False, sort_keys=True, default=str)
    data = raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass")
    begins = data[: 4 * SHOWN].decode("utf-8", "backslashreplace")[:SHOWN]
    sha256 = hashlib.sha256(data).hexdigest()
    return {"file": file, "row": number, "reason": reason, "bad": bad, "sha256": sha256, "begins": begins}


def check(read: int, reasons: Mapping[str, int], max_bad: float, path: Path) -> None:
    """Stop when more than `max_bad` (data.cleaning.max_bad) of the rows read are bad. `path`: where they are listed."""
    bad = sum(reasons.values())
    if bad <= max_bad * read:
        return
    top: Counter[str] = Counter()
    for reason, count in reasons.items():
        top[group(reason)] += count
    enough = -(-bad * 100 // read) / 100  # rounded up to whole per cents
    leave_out = f", or leave them out: data.cleaning.max_bad: {enough:.2f}" if enough < 1 else ""
    lines = [
        f"{path}: {bad:,} of {read:,} rows ({bad / read:.1%}) cannot be used, at most {max_bad:.1%} may be",
        *(f"  {count:,} × {reason}" for reason, count in top.most_common(3)),
        f"Fix: correct the rows (each is listed in that file){leave_out}.",
    ]
    raise DataError("\n".join(lines))


def group(reason: str) -> str:
    """A reason without its numbers and quoted values, so that the same mistake in many rows counts as one."""
    short = re.sub(r": '[^']*'|: \"[^\"]*\"", ": '…'", reason)
    return re.sub(r"0x[0-9a-f]+|(?<![\w-])\d[\d,.]*", "#", short)[:SHOWN]
