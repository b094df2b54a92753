"""Plain text: what a row of it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from dougong.data import lines
from tests.data.sample_files import values


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_units_of_plain_text_whatever_the_line_ends_and_the_chunks(
    tmp_path: Path, end: bytes, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CHUNK", chunk)
    file = tmp_path / "a.txt"
    file.write_bytes(b"\n\none\n two\n\n \n\nthree".replace(b"\n", end))
    monkeypatch.setattr(lines, "_encoding", lambda file, head: ("utf-8", 1, 0))  # needs more than one byte to look at
    assert [row["text"] for row in values(file)] == ["one\n two", "three"]
    assert [row["text"] for row in values(file, "line")] == ["one", " two", "three"]
    assert [row["text"] for row in values(file, "document")] == ["one\n two\n\n \n\nthree"]
