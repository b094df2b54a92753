"""csv: what is written is read back; quotes and lengths are those of RFC 4180, not of Python's own limits."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.sample_files import values

FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=12))
@settings(max_examples=60)
def test_D1_what_csv_writes_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "round_trip.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b"), *rows])
    assert [tuple(row.values()) for row in values(file)] == rows


def test_a_quote_within_a_field_is_text(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('item,price\n5" pipe,2\n7" pipe,3\n')
    assert values(file) == [{"item": '5" pipe', "price": "2"}, {"item": '7" pipe', "price": "3"}]


def test_fields_of_more_than_128_kB_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label\n" + "a" * 500_000 + ",1\n")
    assert len(str(values(file)[0]["text"])) == 500_000
