"""Files that tests of several formats write, and the rows that they must read back."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dougong.data.records import Unit
from dougong.data.sources import Row, read_rows


def values(file: Path, unit: Unit = "paragraph") -> list[dict[str, object]]:
    rows = list(read_rows(file, unit=unit))
    assert all(isinstance(row, Row) for row in rows), rows
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return [row.values for row in rows if isinstance(row, Row)]


def ipc(table: pa.Table, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: pa.Table, group: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group)
    return sink.getvalue()
