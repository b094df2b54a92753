"""Plain text: what a row of it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dougong.data import lines, plain_text
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


@given(
    st.lists(st.sampled_from(["a", "b c", "\n", "\n\n", " ", "\t", "\r\n", "\x1c", "\u3000", "\u2028"])).map("".join)
)
@example("\n\na\n\n\nb\n")
@example("a\n \nb")
def test_paragraphs_are_those_that_a_look_at_every_line_finds(text: str) -> None:
    run = lines.LineRun(0, text.encode(), False, "utf-8")
    found = plain_text._texts(run, "paragraph")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plain_text, "SPACES_ALONE", re.compile(""))
        assert found == plain_text._texts(run, "paragraph")
