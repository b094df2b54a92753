"""Every format gives the same rows; files are found or the error says what to write; memory stays where it is."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dougong.core.errors import DataError
from dougong.data import sources
from dougong.data.lines import LineRun
from dougong.data.sources import Row, columns, find_files, peek, read_rows
from tests.clear_error import clear_error
from tests.data.sample_files import ipc, parquet, values

ROWS = [
    {"text": "so good", "label": "1"},
    {"text": 'she said "hi"\nand left', "label": "0"},
    {"text": "床前明月光, 疑是地上霜", "label": "1"},
]


def as_csv(delimiter: str = ",", end: str = "\n") -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["text", "label"], delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(ROWS)
    return stream.getvalue()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


TABLE = pa.Table.from_pylist(ROWS)
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CONTENTS = {
    "a.csv": as_csv().encode(),
    "a.tsv": as_csv("\t").encode(),
    "semicolon.csv": as_csv(";").encode(),
    "bar.csv": as_csv("|").encode(),
    "blank_lines.csv": b"\n\r\n" + as_csv().encode().replace(b"label\n", b"label\n\n") + b"\n\n",
    "windows.csv": as_csv(end="\r\n").encode(),
    "old_mac.csv": as_csv(end="\r").encode(),
    "mark.csv": as_csv().encode("utf-8-sig"),
    "utf16.csv": as_csv().encode("utf-16"),
    "utf16be.csv": ("\ufeff" + as_csv(end="\r\n")).encode("utf-16-be"),
    "utf32.csv": as_csv().encode("utf-32"),
    "no_last_end.csv": as_csv().encode().rstrip(b"\n"),
    "a.jsonl": JSONL,
    "mark.jsonl": b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n\r\n"),
    "a.ndjson": JSONL,
    "a.parquet": parquet(TABLE, 2),
    "file.arrow": ipc(TABLE, stream=False),
    "stream.arrow": ipc(TABLE, stream=True),
    "b.feather": ipc(TABLE, stream=False),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_every_format_and_compression_gives_the_same_rows(tmp_path: Path, name: str, compression: str) -> None:
    content = CONTENTS[name]
    file = tmp_path / f"{name}{compression}"
    file.write_bytes({"": content, ".gz": gzip.compress(content), ".zst": zstd(content)}[compression])
    if name.endswith(".parquet") and compression:
        with clear_error(name, "unpack", error=DataError):
            values(file)
    else:
        assert values(file) == ROWS
        assert columns(file) == ["text", "label"]
        assert find_files(file.name, tmp_path) == [file]


@given(st.data())
@settings(max_examples=150)
def test_D1_no_mutation_of_a_file_loses_a_row_without_a_word(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever one line becomes, the other rows are read, and numbers count on without a gap."""
    count = data.draw(st.integers(6, 9))
    hurt = data.draw(st.integers(1, count - 1))
    garbage = data.draw(st.binary(min_size=1, max_size=8))
    for name, header, line in (("a.csv", b"t,l\n", b"row %d,1\n"), ("a.jsonl", b"", b'{"t": "row %d", "l": "1"}\n')):
        lines = [line % i for i in range(count)]
        place = data.draw(st.integers(0, len(lines[hurt]) - 1))
        lines[hurt] = lines[hurt][:place] + garbage + lines[hurt][place:]
        file = tmp_path_factory.getbasetemp() / name
        file.write_bytes(header + b"".join(lines))
        rows = list(read_rows(file))
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
        good = [row.values.get("t") for row in rows if isinstance(row, Row)]
        if b'"' not in garbage:  # a quote may well make two lines into one record
            for i in range(count):
                assert i == hurt or f"row {i}" in good
        text = " ".join(str(row.values) if isinstance(row, Row) else repr(row.raw) for row in rows)
        for i in range(count):
            assert i == hurt or f"row {i}" in text


@given(
    st.lists(st.sampled_from(["a,1", '"a, ""b""",2', '"two\nlines",3', "", 'in"side,4', '"open,5', "x", "a\r\nb,6"]))
)
@example(["", "x", "a longer line"])  # a run that is one line of two bytes
@settings(max_examples=100)
def test_D1_many_rows_at_once_are_the_rows_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    """Whatever the reader may take at a time, and whichever lines take a closer look."""
    for name, start in (("blocks.csv", "text,label\nfirst,0\n"), ("blocks.txt", "first\n\n")):
        file = tmp_path_factory.getbasetemp() / name
        file.write_bytes((start + "\n".join(lines)).encode())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LineRun, "plain", lambda run: None)  # all line by line
            rows = list(read_rows(file))
        want = [(row.number, row.values["text"]) for row in rows if isinstance(row, Row)]
        for chunk in (9, 40, 1 << 20):
            with pytest.MonkeyPatch.context() as patch:
                for part in ("lines", "sources"):
                    patch.setattr(f"dougong.data.{part}.CHUNK", chunk)
                patch.setattr("dougong.data.lines._encoding", lambda file, head: ("utf-8", 1, 0))
                assert list(read_rows(file)) == rows
                blocks = list(sources.read_blocks(file, used={"text", "none"}))
            got = [pair for block in blocks for pair in zip(block.numbers, block.columns["text"], strict=True)]
            assert got == want
            assert [row for block in blocks for row in block.bad] == [row for row in rows if not isinstance(row, Row)]
            assert all(set(block.columns["none"]) <= {None} for block in blocks)


def test_columns_of_jsonl_are_those_of_its_first_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"b": 2, "a": 1}\n')
    assert columns(tmp_path / "a.jsonl") == ["a", "b"]


def test_peek_stops_early_and_passes_over_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1\n" + "1,2\n" * 1000)
    assert [row.number for row in peek(tmp_path / "a.csv", 3)] == [2, 3, 4]
    (tmp_path / "b.csv").write_text("a,b\n" + "1\n" * 1000)
    with clear_error("b.csv", "no row can be read", "row 1", "1 field", error=DataError):
        peek(tmp_path / "b.csv")


# -------------------------------------------------------------------------------------------------------- finding files


def make(base: Path, *names: str) -> None:
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("text,label\na,1\n")


def test_paths_globs_lists_and_folders_name_files_once_and_sorted(tmp_path: Path) -> None:
    make(tmp_path, "d/b.csv", "d/a.csv.gz", "d/c/d.csv", "d/README.md", "[1].csv")
    a, b, deep = tmp_path / "d/a.csv.gz", tmp_path / "d/b.csv", tmp_path / "d/c/d.csv"
    assert find_files("d", tmp_path) == [a, b]
    assert find_files("d/*.csv", tmp_path) == [b]
    assert find_files("d/**/*.csv", tmp_path) == [b, deep]
    assert find_files(["d/b.csv", "d/*.csv", str(b)], Path(tmp_path)) == [b]
    assert find_files("[1].csv", tmp_path) == [tmp_path / "[1].csv"]
    assert find_files(str(tmp_path / "d/*.gz"), Path("/")) == [a]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("data/reviws.csv", ["data/reviws.csv", "no such file", "'data/reviews.csv'"]),
        ("dato/reviews.csv", ["dato/reviews.csv", "'data/reviews.csv'"]),
        ("data/qqq.csv", ["data/qqq.csv", "holds", "reviews.csv"]),
        ("data/*.parquet", ["data/*.parquet", "no file matches", "reviews.csv"]),
        ("data/*", ["notes.md", ".md is not a format", ".csv"]),
        ("data/notes.md", ["notes.md", "not a format"]),
        ("data/noending", ["noending", "no ending"]),
        ("empty", ["empty", "no data files"]),
        ("links/*.csv", ["nothing.csv", "No such file"]),
        ("images", ["images", "without labels"]),
        ("empty/x.csv", ["empty/x.csv", "is empty"]),
        ("ima*", ["ima*", "folders only"]),
        ("", ["local file"]),
        ("a\0b.csv", ["local file"]),
        ("https://example.org/a.csv", ["https://example.org/a.csv", "local file"]),
        ("x" * 5000 + ".csv", ["File name too long"]),
    ],
)
def test_D3_a_path_that_means_no_data_says_what_to_write(tmp_path: Path, path: str, parts: list[str]) -> None:
    make(tmp_path, "data/reviews.csv", "data/notes.md", "data/noending", "images/1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "links/nothing.csv").symlink_to(tmp_path / "gone")
    with clear_error(*parts, error=DataError):
        find_files(path, tmp_path)


def test_no_files_at_all_is_an_error(tmp_path: Path) -> None:
    with clear_error("data", error=DataError):
        find_files([], tmp_path)


# -------------------------------------------------------------------------------------------------------------- memory

READ = """
import resource, sys
from pathlib import Path
from dougong.data.sources import Row, read_rows
list(read_rows(Path(sys.argv[1])))                      # what the modules need themselves
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = bad = 0
for row in read_rows(Path(sys.argv[2])):
    rows, bad = rows + isinstance(row, Row), bad + (not isinstance(row, Row))
print(rows, bad, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def read_in_child(small: Path, large: Path) -> tuple[int, int, int]:
    """Rows, bad rows, and by how many MB the memory of a fresh process grew."""
    command = [sys.executable, "-c", READ, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    rows, bad, growth = map(int, done.stdout.split())
    return rows, bad, growth


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.jsonl.gz"])
def test_D4_memory_does_not_grow_with_200_MB(tmp_path: Path, name: str) -> None:
    line = json.dumps({"text": "words " * 6000}).encode() if "jsonl" in name else b"words " * 6000 + b",1"
    file, small = tmp_path / name, tmp_path / f"small_{name}"
    repeat_to(small, line, 1 << 16)
    repeat_to(file, line, 200 << 20)
    rows, bad, growth = read_in_child(small, file)
    assert (rows, bad) == ((200 << 20) // (len(line) + 2), 0)
    assert growth < 60


def repeat_to(file: Path, line: bytes, size: int) -> None:
    header = b"text,label\n" if file.suffix == ".csv" else b""
    block = (line + b"\n\n") * 100
    with gzip.open(file, "wb", 1) if file.suffix == ".gz" else file.open("wb") as stream:
        stream.write(header)
        count = size // (len(line) + 2)
        for _ in range(count // 100):
            stream.write(block)
        stream.write((line + b"\n\n") * (count % 100))


def test_D4_memory_does_not_grow_with_a_parquet_file(tmp_path: Path) -> None:
    table = pa.table({"text": [f"{i} " + "words " * 100 for i in range(20_000)]})
    pq.write_table(table.slice(0, 10), tmp_path / "small.parquet")
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for _ in range(10):
            writer.write_table(table)
    rows, bad, growth = read_in_child(tmp_path / "small.parquet", tmp_path / "a.parquet")
    assert (rows, bad) == (200_000, 0)
    assert growth < 100


@pytest.mark.nightly
def test_D4_memory_does_not_grow_with_2_GB(tmp_path: Path) -> None:
    repeat_to(tmp_path / "small.csv", b"some words,1", 1 << 16)
    repeat_to(tmp_path / "a.csv", b"some words " * 10 + b",1", 2 << 30)
    rows, bad, growth = read_in_child(tmp_path / "small.csv", tmp_path / "a.csv")
    assert bad == 0
    assert rows > 15_000_000
    assert growth < 60
