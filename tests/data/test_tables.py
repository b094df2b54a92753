"""Tables: typed values become plain ones."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.data.sample_files import ipc, parquet, values


def test_typed_values_of_tables_become_plain_ones(tmp_path: Path) -> None:
    nanoseconds = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))
    columns = {
        "time": nanoseconds,
        "day": pa.array([19000], pa.date32()),
        "span": pa.array([5], pa.duration("ns")),
        "list": pa.array([["a", "b"]]),
        "coded": pa.array(["x"]).dictionary_encode(),
        "none": pa.array([None], pa.float64()),
    }
    want = {
        "time": "2023-11-14 22:13:20.123456789",
        "day": "2022-01-08",
        "span": 5,
        "list": ["a", "b"],
        "coded": "x",
        "none": None,
    }
    for name, content in (("a.parquet", parquet(pa.table(columns))), ("a.arrow", ipc(pa.table(columns), stream=False))):
        (tmp_path / name).write_bytes(content)
        assert values(tmp_path / name) == [want]
