"""What is written down of a bad row, and when too many of them stop the work (D1)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from dougong.core.errors import DataError, shown
from dougong.data.quarantine import check, group, hopeless, record
from tests.clear_error import clear_error

PATH = Path("prepared/quarantine.jsonl")


def test_D1_a_record_names_file_row_reason_hash_and_beginning() -> None:
    raw = "caf\xe9 ".encode("latin-1") * 200
    line = record("a.csv", 7, "byte 3 (0xe9) is not UTF-8", raw, bad=True)
    assert line["sha256"] == hashlib.sha256(raw).hexdigest()
    assert line["begins"].startswith("caf\\xe9 caf")
    assert len(line["begins"]) == 200
    assert (line["file"], line["row"], line["bad"]) == ("a.csv", 7, True)
    assert json.loads(json.dumps(line)) == line


def test_D1_rows_that_could_be_read_are_recorded_by_their_values() -> None:
    line = record("a.csv", 1, "empty", {"b": "床", "a": 1}, bad=False)
    assert line["begins"] == '{"a": 1, "b": "床"}'
    assert record("a", 1, "r", "lone \ud800", bad=True)["begins"]


def test_D1_too_many_bad_rows_stop_with_the_top_reasons_the_place_and_a_fix() -> None:
    reasons = {f"{n} fields where the header has 3": 1 for n in range(4, 54)} | {"a NUL character at byte 7": 2}
    with clear_error(str(PATH), "52 of 1,000 rows (5.2%)", "1.0%", "50 × # fields", "max_bad: 0.06", error=DataError):
        check(1000, reasons, 0.01, PATH)


def test_D1_the_files_that_hold_them_are_named_and_a_list_only_where_there_is_one() -> None:
    files = {"a.csv": 2, f"{'long/' * 50}b.csv": 30, "c.csv": 1}
    with clear_error("data: 33 of 100 rows", "30 in …", "b.csv; 2 in a.csv; …", "prepare lists each", error=DataError):
        check(100, {"reason": 33}, 0.01, None, files)
    with clear_error(str(PATH), "3 in a.csv", "each is listed in that file", error=DataError):
        check(100, {"reason": 3}, 0.01, PATH, {"a.csv": 3})


@pytest.mark.parametrize(("read", "bad", "stops"), [(1000, 10, False), (1000, 11, True), (0, 0, False), (10, 1, True)])
def test_D1_the_limit_is_a_share_of_the_rows_read(read: int, bad: int, stops: bool) -> None:
    if stops:
        with clear_error("max_bad", error=DataError):
            check(read, {"reason": bad}, 0.01, PATH)
    else:
        check(read, {"reason": bad}, 0.01, PATH)


def test_D1_a_limit_of_zero_stops_at_the_first_bad_row_and_none_is_proposed_where_all_are_bad() -> None:
    with clear_error(error=DataError):
        check(10**6, {"reason": 1}, 0.0, PATH)
    with pytest.raises(DataError) as caught:
        check(3, {"reason": 3}, 0.01, PATH)
    assert "max_bad: " not in str(caught.value)


def test_reasons_that_differ_in_numbers_and_values_are_one() -> None:
    assert group("byte 14 (0xe9) is not UTF-8") == group("byte 99,120 (0xff) is not UTF-8") == "byte # (#) is not UTF-8"
    assert group("column 'a': 'x' is not a number") == group("column 'a': \"y's\" is not a number")
    assert group("column 'a': 'x' is not a number") != group("column 'b': 'x' is not a number")


def test_a_long_value_that_a_message_cuts_is_left_out_of_its_group() -> None:
    short, long = ("column 'a': " + shown(letter * 1000) + " is not a number" for letter in ("x", "y'"))
    assert group(short) == group(long) == group("column 'a': 'x' is not a number")


def test_D1_only_a_file_that_is_clearly_wrong_is_given_up_early() -> None:
    assert hopeless(10_000, 5_001, 0.01)
    assert not hopeless(9_999, 9_999, 0.01)
    assert not hopeless(10_000, 5_000, 0.01)
    assert not hopeless(10_000, 6_000, 0.7)
