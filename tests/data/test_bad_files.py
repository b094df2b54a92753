"""Bad files, made by code, each with the message that it must lead to: D2, D3, D4 and D12 of the list of faults."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dougong.core.errors import DataError
from dougong.data import delimited, sources
from dougong.data.sources import BadRow, Row, find_files, read_rows
from tests.clear_error import check_clear, clear_error
from tests.data.sample_files import ipc, parquet

TABLE = pa.table({"text": ["one", "two", "three"] * 100, "label": [1, 2, 3] * 100})
EXTENSION = pa.schema([pa.field("x", pa.binary(), metadata={"ARROW:extension:name": "arrow.py_extension_type"})])
PICKLED = pa.Table.from_arrays([pa.array([b"cos\nsystem\n(S'true'\ntR."])], schema=EXTENSION)
NESTED = pa.table(
    {"x": pa.array([[b"a"]], pa.list_(pa.field("item", pa.binary(), metadata=EXTENSION.field(0).metadata)))}
)
TWICE = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
GZIPPED = gzip.compress(b"text,label\n" + b"".join(b"some words %d,1\n" % i for i in range(9999)), mtime=0)
WIDE = b",".join(b"c%d" % i for i in range(10_001)) + b"\n"

# file name, its bytes, what the message must hold
REFUSED: list[tuple[str, bytes, list[str]]] = [
    ("D3_empty.csv", b"", ["empty"]),
    ("D3_empty.jsonl", b"", ["empty"]),
    ("D3_empty.parquet", b"", ["empty"]),
    ("D3_empty.arrow", b"", ["empty"]),
    ("D3_empty.txt", b"", ["empty"]),
    ("D3_empty.csv.gz", gzip.compress(b""), ["empty"]),
    ("D3_only_mark.csv", b"\xef\xbb\xbf", ["no rows"]),
    ("D3_blank.txt", b"\n \n\n", ["no rows"]),
    ("D3_blank.csv", b"\n\n\r\n", ["no rows"]),
    ("D3_header_only.csv", b"text,label\n", ["no rows", "header"]),
    ("D3_header_only.tsv", b"text\tlabel\r\n", ["no rows", "header"]),
    ("D3_no_rows.parquet", parquet(TABLE.slice(0, 0)), ["no rows"]),
    ("D3_no_rows.arrow", ipc(TABLE.slice(0, 0)), ["no rows"]),
    ("D3_twice.csv", b"text,label,text\na,b,c\n", ["'text'", "twice"]),
    ("D3_twice_after_spaces.csv", b"text, text\na,b\n", ["'text'", "twice"]),
    ("D3_twice.parquet", parquet(TWICE), ["'a'", "twice"]),
    ("D3_twice.arrow", ipc(TWICE), ["'a'", "twice"]),
    ("D3_unnamed.csv", b"text,,label\na,b,c\n", ["column 2", "no name"]),
    ("D2_header_latin1.csv", b"text,pr\xe9nom\na,b\n", ["header", "byte 7", "0xe9", "UTF-8"]),
    ("D2_header_nul.csv", b"text,la\0bel\na,b\n", ["header", "NUL", "byte 7"]),
    ("D2_utf16_no_mark.csv", "text,label\nabc,1\n".encode("utf-16-le"), ["UTF-16", "byte order mark"]),
    ("D2_utf16_no_mark.txt", "some text that is long enough".encode("utf-16-be"), ["UTF-16"]),
    ("D4_columns.csv", WIDE + WIDE, ["10,001 columns", "10,000"]),
    ("D4_columns.parquet", parquet(pa.table({f"c{i}": [1] for i in range(10_001)})), ["10,001 columns"]),
    ("D4_long_header.csv", b"a" * (17 << 20), ["header", "16 MB"]),
    ("D4_open_quote_header.csv", b'"text,label\n' + b"a,b\n" * 3, ["header"]),
    ("D12_pickle.csv", b"\x80\x04\x95\x05\x00\x00\x00", ["pickle", "not text"]),
    ("D12_hdf5.txt", b"\x89HDF\r\n\x1a\n", ["HDF5"]),
    ("D12_numpy.jsonl", b"\x93NUMPY\x01\x00", ["NumPy"]),
    ("D12_excel.csv", b"PK\x03\x04xl/workbook.xml", ["Excel"]),
    ("D12_renamed.csv", GZIPPED, ["gzip", ".gz"]),
    ("D12_extension.arrow", ipc(PICKLED), ["'x'", "arrow.py_extension_type"]),
    ("D12_extension_stream.arrow", ipc(PICKLED, stream=True), ["'x'", "arrow.py_extension_type"]),
    ("D12_extension.parquet", parquet(PICKLED), ["'x'", "arrow.py_extension_type"]),
    ("D12_nested_extension.arrow", ipc(NESTED), ["arrow.py_extension_type"]),
    ("D1_truncated.csv.gz", GZIPPED[: len(GZIPPED) // 2], ["damaged", "after row"]),
    ("D1_not_gzip.csv.gz", b"text,label\na,b\n", ["damaged"]),
    ("D1_not_zstd.csv.zst", b"text,label\na,b\n", ["damaged"]),
    ("D1_not_parquet.parquet", b"text,label\na,b\n", ["damaged"]),
    ("D1_truncated.parquet", parquet(TABLE)[:-20], ["damaged"]),
    ("D1_not_arrow.arrow", b"hello, world and more", ["damaged"]),
    ("D1_truncated.arrow", ipc(TABLE)[:-300], ["damaged"]),
    ("D1_truncated_stream.arrow", ipc(TABLE, stream=True)[:-300], ["damaged"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_D2_D3_D4_D12_bad_file_is_refused_with_a_clear_error_at_once(
    tmp_path: Path, name: str, content: bytes, parts: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    began = time.perf_counter()
    with clear_error(name, *parts, error=DataError):
        for file in find_files(name, tmp_path):
            list(read_rows(file))
    assert time.perf_counter() - began < 5
    with clear_error(name, error=DataError):
        sources.columns(tmp_path / name)
        list(read_rows(tmp_path / name))  # damage far behind the first rows shows only here


# file name, its bytes, number of good rows, [(row number, what its reason must hold)]
PARTLY: list[tuple[str, bytes, int, list[tuple[int, list[str]]]]] = [
    ("D2_latin1.csv", b"t,l\ngood,1\ncaf\xe9,2\nok,3\n", 2, [(2, ["byte 14", "0xe9", "UTF-8"])]),
    ("D2_latin1.txt", b"good\n\ncaf\xe9\n\nok\n", 2, [(2, ["byte 9", "0xe9"])]),
    ("D2_latin1.jsonl", b'{"t":"a"}\n{"t":"caf\xe9"}\n{"t":"b"}', 2, [(2, ["byte 19"])]),
    ("D2_overlong_utf8.jsonl", b'{"t":"\xc0\xaf"}\n{"t":"b"}', 1, [(1, ["byte 6", "0xc0"])]),
    ("D2_surrogate_in_utf8.csv", b"t,l\n\xed\xa0\x80,1\nb,2\n", 1, [(1, ["byte 4", "UTF-8"])]),
    ("D2_surrogate.jsonl", b'{"t":"\\ud800"}\n{"t":"\\ud83d\\ude00"}\n', 1, [(1, ["lone surrogate"])]),
    ("D2_surrogate_key.jsonl", b'{"\\udc00":"a"}\n{"t":"b"}\n', 1, [(1, ["lone surrogate"])]),
    ("D2_nul.csv", b"t,l\na\0b,1\nc,2\n", 1, [(1, ["NUL", "byte 5"])]),
    ("D2_nul.txt", b"a\0b\n\nc\n", 1, [(1, ["NUL", "byte 1"])]),
    ("D2_nul_escaped.jsonl", b'{"t":"a\\u0000"}\n{"t":"b"}\n', 1, [(1, ["NUL"])]),
    ("D2_half_pair_utf16.txt", "\ufeffgood\n\n".encode("utf-16-le") + b"\x00\xd8\n\x00\n\x00", 1, [(2, ["byte 14"])]),
    ("D2_odd_utf16.txt", "\ufeffgood\n\nend".encode("utf-16-le") + b"a", 1, [(2, ["byte 20"])]),
    ("D2_bad_in_quotes.csv", b't,l\n"one\n\xfftwo\nthree",1\nb,2\n', 1, [(1, ["byte 9"])]),
    ("D1_fields.csv", b"t,l\na,1\nb\nc,2,3\nd,4\n", 2, [(2, ["1 field ", "has 2"]), (3, ["3 fields", "has 2"])]),
    ("D1_quote.csv", b't,l\n"a"b,1\nc,2\n', 1, [(1, ["quotes"])]),
    ("D1_open_quote.csv", b't,l\na,1\n"b,2\nc,3\nd,4\n', 3, [(2, ["quotes"])]),
    ("D1_not_json.jsonl", b'{"t":1}\n{"t":1\nhello\n{"t":2}\n', 2, [(2, ["not valid JSON"]), (3, ["column 1"])]),
    (
        "D1_not_object.jsonl",
        b'[1]\n"a"\n3\nnull\n{"t":1}',
        1,
        [(1, ["a list"]), (2, ["text"]), (3, ["a number"]), (4, ["null"])],
    ),
    ("D1_key_twice.jsonl", b'{"t":1,"t":2}\n{"t":2}\n', 1, [(1, ["'t'", "twice"])]),
    ("D7_nan.jsonl", b'{"t":NaN}\n{"t":-Infinity}\n{"t":2}', 1, [(1, ["NaN", "null"]), (2, ["-Infinity"])]),
    ("D7_huge.jsonl", b'{"t":1e999}\n{"t":1e308}', 1, [(1, ["1e999", "too large"])]),
    ("D4_digits.jsonl", b'{"t":' + b"9" * 5000 + b'}\n{"t":2}', 1, [(1, ["4,300 digits"])]),
    ("D4_deep.jsonl", b'{"t":' + b"[" * 100_000 + b"]" * 100_000 + b'}\n{"t":1}', 1, [(1, ["deeper than 64"])]),
    ("D4_deep_open.jsonl", b"[" * 1_000_000 + b'\n{"t":1}', 1, [(1, ["deeper than 64"])]),
    ("D4_brackets.jsonl", b'{"t":[' + b"[]," * 1_000_001 + b'0]}\n{"t":1}', 1, [(1, ["1,000,003 brackets"])]),
    ("D4_brackets_in_text.jsonl", b'{"t":"\\"' + b"[" * 100_000 + b'"}', 1, []),
    (
        "D4_keys.jsonl",
        json.dumps(dict.fromkeys(map(str, range(10_001)), 1)).encode() + b'\n{"t":1}',
        1,
        [(1, ["10,001 keys"])],
    ),
    ("D4_long.txt", b"good\n\n" + b"a" * (17 << 20) + b"\n\nend", 2, [(2, ["16 MB", "byte 6"])]),
    ("D4_long.csv", b"t,l\na,1\n" + b"a" * (17 << 20) + b",2\nb,3\n", 2, [(2, ["16 MB", "byte 8"])]),
    ("D4_long.jsonl.gz", gzip.compress(b'{"t":1}\n' + b" " * (40 << 20) + b'\n{"t":1}', 1), 2, [(2, ["16 MB"])]),
    (
        "D4_long_paragraph.txt",
        b"good\n\n" + (b"a line of text " * 100 + b"\n") * 12_000 + b"\nend",
        2,
        [(2, ["16 MB"])],
    ),
]


@pytest.mark.parametrize(("name", "content", "good", "bad"), PARTLY, ids=[name for name, *_ in PARTLY])
def test_D1_D2_D4_D7_bad_row_is_named_with_its_reason_and_the_rows_around_it_are_read(
    tmp_path: Path, name: str, content: bytes, good: int, bad: list[tuple[int, list[str]]]
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    rows = list(read_rows(file))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert sum(isinstance(row, Row) for row in rows) == good
    found = [row for row in rows if isinstance(row, BadRow)]
    assert [row.number for row in found] == [number for number, _ in bad], found
    for row, (_, parts) in zip(found, bad, strict=True):
        assert row.file == str(file)
        assert row.raw
        assert "object at" not in row.reason
        assert len(row.reason) < 200
        for part in parts:
            assert part in row.reason, row.reason


def test_D2_text_of_a_table_that_is_not_utf8_costs_its_row_only(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"good", b"caf\xe9", b"ok"]).buffers())
    table = pa.table({"text": broken, "label": [1, 2, 3]})
    for name, content in (("a.arrow", ipc(table)), ("b.parquet", parquet(table)), ("c.arrow", ipc(table, stream=True))):
        (tmp_path / name).write_bytes(content)
        first, second, third = read_rows(tmp_path / name)
        assert isinstance(first, Row)
        assert first.values == {"text": "good", "label": 1}
        assert isinstance(second, BadRow)
        assert "column 'text': byte 3" in second.reason
        assert isinstance(third, Row)


def test_D4_hostile_offsets_of_an_arrow_file_are_an_error_and_no_crash(tmp_path: Path) -> None:
    file = tmp_path / "hostile.arrow"
    good, hostile = (np.array([0, 1, end, end + 1], dtype=np.int32).tobytes() for end in (2, 2_000_000_000))
    content = ipc(pa.table({"text": pa.array(["a", "b", "c"])}))
    assert good in content
    file.write_bytes(content.replace(good, hostile))
    with clear_error("hostile.arrow", "damaged", error=DataError):
        list(read_rows(file))


def test_D4_unclosed_quotes_cannot_cost_the_square_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "MAX_REREAD", 1 << 20)
    file = tmp_path / "quotes.csv"
    file.write_bytes(b"a,b\n" + b'x","y\n' * 20_000)  # each line opens a quote, and goes on in the one before
    with clear_error("quotes.csv", "unclosed quotes", error=DataError):
        list(read_rows(file))


def test_D4_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    for name in ("pipe.csv", "zero.txt"):
        with clear_error(name, "not a regular file", error=DataError):
            find_files(name, tmp_path)
        with clear_error(name, "not a regular file", error=DataError):
            next(read_rows(tmp_path / name))


def test_D3_unreadable_file_is_a_clear_error(tmp_path: Path) -> None:
    with clear_error("gone.csv", error=DataError):
        list(read_rows(tmp_path / "gone.csv"))


def test_a_message_is_checked_for_what_makes_it_clear() -> None:
    check_clear("a.csv: empty. Fix: fill it.", "a.csv")
    for wrong in ("a.csv: empty.", "a\nb\nc\nd\ne\nFix: f.", "Fix: <Codec object at 0x7f0012345678>."):
        with pytest.raises(AssertionError):
            check_clear(wrong)
