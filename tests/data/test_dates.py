"""Dates are read in the forms that files have, and nothing else is taken for one."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.data import dates

FORMS = {
    "2024-05-31": "2024-05-31",
    "2024-5-1": "2024-05-01",
    "2024/05/31 7:08": "2024-05-31T07:08:00",
    "2024-05-31T07:08:09.123456789Z": "2024-05-31T07:08:09.123456+00:00",
    "2024-05-31 07:08:09+0230": "2024-05-31T07:08:09+02:30",
    "2024-05-31 07:08:09 -05": "2024-05-31T07:08:09-05:00",
    "20240531": "2024-05-31",
    "20240531T070809Z": "2024-05-31T07:08:09+00:00",
    "2024-W22-5": "2024-05-31",
    "2024-05": "2024-05-01",
    "31/05/2024": "31/05/2024",
    "05/06/2024 12:08 AM": "05/06/2024T00:08:00",
    "5.6.24": "05/06/2024",
    "5-6-70": "05/06/1970",
    "31-May-24": "2024-05-31",
    "Fri, 31 May 2024 07:08:09 +0200": "2024-05-31T07:08:09+02:00",
    "Fri May 31 07:08:09 2024": "2024-05-31T07:08:09",
    "September 3rd, 2020": "2020-09-03",
    "2024年5月31日": "2024-05-31",
}


@pytest.mark.parametrize("text", FORMS)
def test_common_forms_have_one_plain_form(text: str) -> None:
    assert dates.read(text) == FORMS[text]
    assert dates.read(f"  {text} ") == FORMS[text]


@pytest.mark.parametrize("value", [None, float("nan"), "", "NA", "NaT", "null", "?", "0000-00-00"])
def test_what_stands_for_nothing_is_missing(value: object) -> None:
    assert dates.read(value) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("2024-02-30", "is no day"),
        ("2024-13-01", "is no day"),
        ("13/13/2024", "neither 13 nor 13 can be its month"),
        ("31/02/2024", "neither 31 nor 2 can be its month"),
        ("2024-05-31 24:30", "is no day, or no time"),
        ("2024-05-31 13:00 pm", "no 13 o'clock"),
        ("2024-05-31T07:08-99", "no time zone"),
        ("yesterday", "expected a date"),
        ("2024", "expected a date"),
        ("2024-05-31" + " " * 5 + "x" * 100_000, "expected a date"),
        ("٢٠٢٤-٠٥-٣١", "expected a date"),
        (1717113600, "found int"),
        (True, "found bool"),
        ([2024, 5, 31], "found list"),
    ],
)
def test_what_is_no_day_is_refused_with_its_reason(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        dates.read(value)


@given(st.datetimes(), st.integers(-14 * 60, 14 * 60))
def test_what_python_writes_is_read_back(moment: datetime, minutes: int) -> None:
    away = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert datetime.fromisoformat(str(dates.read(away.isoformat()))) == away
    assert datetime.fromisoformat(str(dates.read(moment))) == moment
    assert dates.read(moment.date()) == moment.date().isoformat()


@given(st.dates())
def test_both_ways_of_a_date_are_the_days_that_there_are(day: date) -> None:
    text = dates.read(f"{day.day}/{day.month}/{day.year:04}")
    assert text is not None
    day_first, month_first = dates.ways(text)
    assert day_first == day.isoformat()
    assert (month_first is None) == (day.day > 12)


def test_a_column_is_guessed_only_where_nobody_would_doubt_it() -> None:
    assert all(map(dates.looks_like_one, ("2024-05-31", "31/05/24", "May 31, 2024", "2024-05-31T07:08Z")))
    assert not any(map(dates.looks_like_one, ("20240531", "1.2.13", "10-11-12", "2024-02-30", "3.5", "May", "")))
