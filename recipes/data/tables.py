"""Write the recipes' tables to `recipes/data/prepared/`, whole or not at all; split them alike on every machine."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import fetch
import pyarrow as pa
import pyarrow.parquet as pq

from dougong.data import archives

PREPARED = fetch.HERE / "prepared"
TEST_SHARE = 0.2


def split_csv(
    stem: str, header: Sequence[str], rows: Sequence[Sequence[str]], key: Callable[[Sequence[str]], str]
) -> None:
    """STEM.csv, and its rows once more in STEM-train.csv and STEM-test.csv: a row's side is a hash of its `key`."""
    write_csv(f"{stem}.csv", header, rows)
    write_csv(f"{stem}-train.csv", header, [row for row in rows if not in_test(key(row))])
    write_csv(f"{stem}-test.csv", header, [row for row in rows if in_test(key(row))])


def write_csv(name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with writing(name) as path, path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    tell(name, len(rows))


def write_jsonl(name: str, rows: Iterable[Mapping[str, object]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    with writing(name) as path:
        path.write_text("".join(lines), encoding="utf-8")
    tell(name, len(lines))


def write_parquet(name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Pictures among other values; rows are read in groups of 1,000."""
    with writing(name) as path:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, row_group_size=1_000)
    tell(name, len(rows))


def read_jsonl(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (PREPARED / name).read_text(encoding="utf-8").split("\n") if line]


def split_jsonl(stem: str, rows: Sequence[dict[str, str]], key: Callable[[dict[str, str]], str]) -> None:
    """STEM-train.jsonl and STEM-test.jsonl: a row's side is a hash of its `key`."""
    write_jsonl(f"{stem}-train.jsonl", (row for row in rows if not in_test(key(row))))
    write_jsonl(f"{stem}-test.jsonl", (row for row in rows if in_test(key(row))))


def in_test(text: str, share: float = TEST_SHARE) -> bool:
    """Whether a row belongs to the test rows: by a hash of its text, so that equal texts fall on the same side."""
    return place(text) < share


def place(text: str) -> float:
    """From 0 up to 1, by a hash of the text: the same on every machine, whatever other texts there are."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def few(rows: Sequence[dict[str, str]], each: int, *, text: str, label: str) -> list[dict[str, str]]:
    """So many rows of each label, those whose texts' hashes come first."""
    found: Counter[str] = Counter()
    chosen = []
    for row in sorted(rows, key=lambda row: (place(row[text]), row[text])):
        found[row[label]] += 1
        if found[row[label]] <= each:
            chosen.append(row)
    return chosen


@contextmanager
def writing(name: str) -> Iterator[Path]:
    """A temporary path that becomes `prepared/NAME` if the block ends well."""
    PREPARED.mkdir(parents=True, exist_ok=True)
    part = PREPARED / f".{name}.{os.getpid()}"
    try:
        yield part
        part.replace(PREPARED / name)
    finally:
        part.unlink(missing_ok=True)


def tell(name: str, rows: int) -> None:
    """Print what was written: rows, sha256, path."""
    path = PREPARED / name
    print(f"{rows:>7,} rows  sha256 {archives.sha256_of(path)}  {os.path.relpath(path)}")
