"""D2: files in odd and broken encodings: each row is read right, or it is listed with its place; never changed.

Where the first bytes say the encoding (a byte order mark) the text must come out as it was; where nothing says it, what
is not UTF-8 is refused by row, byte and fix. Rows read and rows listed are together the rows that were written.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from dougong.core.errors import DataError
from dougong.data.sources import BadRow, Row, read_rows
from tests.clear_error import clear_error

TEXTS = ["plain", "café", "詩 𝄞", "last"]


class Case(NamedTuple):
    name: str
    data: bytes
    read: list[str]  # the texts of the good rows
    listed: dict[int, str] = {}  # row number -> what its reason must hold  # noqa: RUF012 - never changed


def csv(texts: list[str], end: str = "\n") -> str:
    return f"text,n{end}" + "".join(f"{text},1{end}" for text in texts)


def jsonl(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def lines(texts: list[str]) -> str:
    return "\n\n".join(texts) + "\n"


WRITTEN = {"csv": csv(TEXTS), "jsonl": jsonl(TEXTS), "txt": lines(TEXTS)}
MARKED = [
    Case(f"{name}.{ending}", mark + text.encode(name), TEXTS)
    for ending, text in WRITTEN.items()
    for name, mark in (
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
    )
]

H, T = b"text,n\n", b"last,1\n"
LISTED = [  # the second row is bad, the first and third are not
    Case(name, H + b"first,1\n" + bad + b",1\n" + T, ["first", "last"], {2: reason})
    for name, bad, reason in (
        ("cp1252.csv", "café “x”".encode("cp1252"), "byte 18 (0xe9) is not UTF-8: convert the file to UTF-8"),
        ("gb18030.csv", "床前明月光".encode("gb18030"), "(0xb4) is not UTF-8"),
        ("shift-jis.csv", "日本語".encode("shift-jis"), "(0x93) is not UTF-8"),
        ("euc-kr.csv", "한국어".encode("euc-kr"), "is not UTF-8"),
        ("koi8-r.csv", "привет".encode("koi8-r"), "is not UTF-8"),
        ("big5.csv", "漢字".encode("big5"), "is not UTF-8"),
        (
            "cesu-8.csv",
            b"\xed\xa0\xb4\xed\xb4\x9e",
            "byte 15 (0xed) is not UTF-8",
        ),  # a pair of surrogates, each encoded
        ("lone-surrogate.csv", b"\xed\xb0\x80", "(0xed) is not UTF-8"),
        ("overlong-slash.csv", b"a\xc0\xaf", "byte 16 (0xc0)"),
        ("overlong-nul.csv", b"\xc0\x80", "(0xc0)"),
        ("overlong-three.csv", b"\xe0\x80\xaf", "(0xe0)"),
        ("overlong-four.csv", b"\xf0\x80\x80\xaf", "(0xf0)"),
        ("five-bytes.csv", b"\xf8\x88\x80\x80\x80", "(0xf8)"),
        ("six-bytes.csv", b"\xfc\x84\x80\x80\x80\x80", "(0xfc)"),
        ("beyond-unicode.csv", b"\xf4\x90\x80\x80", "(0xf4)"),
        ("lone-continuation.csv", b"\x80\xbf", "(0x80)"),
        ("cut-character.csv", "詩".encode()[:2], "is not UTF-8"),
        ("nul.csv", b"a\0b", "a NUL character at byte 16"),
    )
]
ODD = [
    Case("mark-in-mid-file.csv", H + b"first,1\n\xef\xbb\xbfsecond,1\n" + T, ["first", "\ufeffsecond", "last"]),
    Case("mark-in-mid-file.txt", b"first\n\n\xef\xbb\xbfsecond\n", ["first", "\ufeffsecond"]),
    Case("two-marks.txt", codecs.BOM_UTF8 * 2 + b"first\n", ["\ufefffirst"]),
    # line ends of Unicode's that are none of a file's: they belong to the text
    Case("nel.csv", csv(["a\x85b", "c"]).encode(), ["a\x85b", "c"]),
    Case("u2028.csv", csv(["a\u2028b\u2029c", "d"]).encode(), ["a\u2028b\u2029c", "d"]),
    Case("vertical.csv", csv(["a\x0bb\x0cc\x1cd"]).encode(), ["a\x0bb\x0cc\x1cd"]),
    Case("nel.jsonl", jsonl(["a\x85b", "c"]).encode(), ["a\x85b", "c"]),
    Case("u2028.jsonl", jsonl(["a\u2028b", "c"]).encode(), ["a\u2028b", "c"]),
    Case("u2028.txt", lines(["a\u2028b", "c\x85d"]).encode(), ["a\u2028b", "c\x85d"]),
    Case("crlf.csv", csv(TEXTS, "\r\n").encode(), TEXTS),
    Case("cr.csv", csv(TEXTS, "\r").encode(), TEXTS),
    Case("mixed-ends.csv", b"text,n\r\na,1\nb,1\rc,1\r\n", ["a", "b", "c"]),
    Case("mixed-ends-in-quotes.csv", b'text,n\r\n"a\nb\r\nc\rd",1\ne,1\n', ["a\nb\r\nc\rd", "e"]),
    Case("utf-7.csv", H + b"+AGkAbg-,1\n" + T, ["+AGkAbg-", "last"]),  # plain ASCII too, and never guessed at
    Case("cut-at-the-end.csv", H + b"first,1\nlast\xe8\xa9", ["first"], {2: "byte 19 (0xe8) is not UTF-8"}),
    Case("cut-at-the-end.txt", b"first\n\nlast\xf0\x9d", ["first"], {2: "(0xf0) is not UTF-8"}),
    Case("cut-at-the-end.jsonl", b'{"text":"first"}\n{"text":"\xe8\xa9', ["first"], {2: "is not UTF-8"}),
    Case("tail-of-zeros.csv", H + b"first,1\n" + bytes(512), ["first"], {2: "NUL"}),
    Case("tail-of-zeros.jsonl", b'{"text":"first"}\n' + bytes(512), ["first"], {2: "NUL"}),
    Case("tail-of-zeros.txt", b"first\n\n" + bytes(512), ["first"], {2: "NUL"}),
    Case(
        "two-encodings.txt",
        "één\n\n".encode() + "twée\n\n".encode("cp1252") + b"three\n",
        ["één", "three"],
        {2: "0xe9"},
    ),
    Case(
        "two-encodings.jsonl",
        jsonl(["één"]).encode() + jsonl(["twée"]).encode("cp1252") + jsonl(["three"]).encode(),
        ["één", "three"],
        {2: "0xe9"},
    ),
    Case("utf-8-in-utf-16.txt", "\ufeffgood\n\n".encode("utf-16-le") + b"odd", ["good"], {2: "UTF-16-LE"}),
    Case("half-pair.txt", "\ufeffgood\n\n".encode("utf-16-be") + b"\xd8\x34\0\n", ["good"], {2: "UTF-16-BE"}),
    Case("beyond-unicode-32.txt", "\ufeffgood\n\n".encode("utf-32-le") + b"\0\0\x11\0", ["good"], {2: "UTF-32-LE"}),
]
CASES = [*MARKED, *LISTED, *ODD]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_D2_a_file_in_an_odd_encoding_is_read_right_or_listed_with_its_place(tmp_path: Path, case: Case) -> None:
    file = tmp_path / case.name
    file.write_bytes(case.data)
    rows = list(read_rows(file))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert [row.values["text"] for row in rows if isinstance(row, Row)] == case.read
    found = {row.number: row for row in rows if isinstance(row, BadRow)}
    assert found.keys() == case.listed.keys()
    assert len(rows) == len(case.read) + len(case.listed)
    for number, reason in case.listed.items():
        assert reason in found[number].reason
        assert found[number].raw


UNMARKED = [(name, ending) for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be") for ending in WRITTEN]


@pytest.mark.parametrize(("name", "ending"), UNMARKED)
def test_D2_two_or_four_bytes_a_character_without_a_mark_are_refused_or_listed(
    tmp_path: Path, name: str, ending: str
) -> None:
    file = tmp_path / f"{name}.{ending}"
    file.write_bytes(WRITTEN[ending].encode(name))
    with clear_error(file.name, error=DataError):
        rows = list(read_rows(file))
        assert not [row for row in rows if isinstance(row, Row)]
        raise DataError(f"{file.name}: {rows[0].reason}. Fix: convert it.")  # type: ignore[union-attr]
