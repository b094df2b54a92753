"""D4: files larger than any memory, read by a process whose address space cannot grow by more than 256 MB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GB = 1 << 30
READ = """
import re, resource, sys
from pathlib import Path
from dougong.core.errors import DataError
from dougong.data.sources import Row, read_rows
list(read_rows(Path(sys.argv[1])))                      # what the modules need themselves
used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), used + (256 << 20)))
rows = bad = 0
try:
    for row in read_rows(Path(sys.argv[2])):
        rows, bad = rows + isinstance(row, Row), bad + (not isinstance(row, Row))
    print(rows, bad)
except DataError as error:
    print(error)
"""


def read(tmp_path: Path, file: Path, start: bytes) -> str:
    small = tmp_path / f"small{file.suffix}"
    small.write_bytes(start)
    command = [sys.executable, "-c", READ, str(small), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize(
    "size", [pytest.param(10 * GB, marks=pytest.mark.nightly, id="10GB"), pytest.param(GB, id="1GB")]
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_D4_a_line_larger_than_memory_costs_one_row_within_256_MB(tmp_path: Path, name: str, size: int) -> None:
    content = b'{"a":1}\n\n'
    file = tmp_path / name
    file.write_bytes(content * 2)
    with file.open("r+b") as stream:  # a hole: no disk is used
        stream.seek(size)
        stream.write(b"\n\n" + content)
    rows, bad = map(int, read(tmp_path, file, content * 2).split())
    assert bad == 1
    assert rows >= 2


@pytest.mark.parametrize("rows", [0, 3])
def test_D4_a_header_of_a_million_columns_is_refused_within_256_MB(tmp_path: Path, rows: int) -> None:
    file = tmp_path / "wide.csv"
    line = ",".join(f"c{index}" for index in range(1_000_000)) + "\n"
    file.write_text(line * (1 + rows))
    said = read(tmp_path, file, b"a,b\n1,2\n")
    assert "wide.csv: 1,000,000 columns: at most 10,000 are read. Fix: " in said
