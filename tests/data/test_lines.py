"""Lines: those of Python, for any text, encoding and line end, however the file is cut into chunks."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.data import lines


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)), st.integers(1, 9))
@settings(max_examples=60)
def test_lines_are_those_of_python_for_any_text_encoding_and_chunk(texts: list[str], chunk: int) -> None:
    text = "\n".join(texts) + "end"
    want = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]
    for encoding in ("utf-8", "utf-16-le", "utf-32-be"):
        width = {"utf-8": 1, "utf-16-le": 2, "utf-32-be": 4}[encoding]
        data = text.encode(encoding)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lines, "CHUNK", chunk)
            patch.setattr(lines, "_encoding", lambda file, head, e=encoding, w=width: (e, w, 0))
            patch.setattr(lines, "open_unpacked", lambda file, compression, d=data: io.BytesIO(d))
            found = list(lines.lines(Path("a.txt"), ""))
        assert b"".join(line.raw for line in found) == data
        assert [line.offset for line in found] == [sum(len(x.raw) for x in found[:i]) for i in range(len(found))]
        assert [got for line in found if (got := line.text().rstrip("\r\n"))] == want
