"""Dates and times as files write them -> one plain form: `2024-05-31`, `2024-05-31T07:08:09`, `…+02:00`.

Whether 05/06/2024 is a day of May or of June no row can say. Such a date stays `05/06/2024` here, also where only one way
is possible (31/05/2024), and whoever sees the whole column decides (`fields/date.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, time

from dougong.core.errors import shown

LONGEST = 64  # characters
MISSING = {"", "na", "n/a", "nan", "nat", "null", "none", "?", "-", "0000-00-00", "0000-00-00 00:00:00"}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
PIVOT = 69  # 69 is 1969, 68 is 2068, as in POSIX


def read(value: object) -> str | None:
    """The plain form of a date, None where it is missing. ValueError: it is no date, or no day of any calendar."""
    if value is None or value != value:
        return None
    if isinstance(value, date):  # datetime is one
        value = value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool) and 10_000_000 <= value <= 99_999_999:
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"expected a date as text, such as 2024-05-31, found {type(value).__name__}")
    text = value.strip()
    if text.lower() in MISSING:
        return None
    found = None if len(text) > LONGEST else next(matches(text), None)
    if found is None:
        raise ValueError(f"expected a date, such as 2024-05-31 or 2024-05-31 07:08, found {shown(text)}")
    try:
        return plain(found)
    except ValueError as error:
        raise ValueError(f"{shown(text)} is no day, or no time of one: {error}") from None


def looks_like_one(text: str) -> bool:
    """Whether nobody would take a text for anything but a date; a version such as 1.2.13 could be one."""
    if len(text) > LONGEST or not any(each.isdigit() for each in text):
        return False
    found = next(matches(text.strip()), None)
    if found is None or found["basic"] or (found["sep"] in (".", "-") and found["first"] and len(found["year"]) == 2):
        return False
    try:
        plain(found)
    except ValueError:
        return False
    return True


def matches(text: str) -> Iterator[dict[str, str]]:
    """The parts of a text, for each form that it has."""
    for form in FORMS:
        if found := form.fullmatch(text):
            parts = dict.fromkeys(PARTS, "") | {key: part or "" for key, part in found.groupdict().items()}
            yield parts


def plain(parts: dict[str, str]) -> str:
    """The parts of a date in the plain form. ValueError: there is no such day, or no such time."""
    year = int(parts["year"])
    if len(parts["year"]) == 2:
        year += 1900 if year >= PIVOT else 2000
    if parts["first"]:
        first, second = int(parts["first"]), int(parts["second"])
        if not is_day(year, second, first) and not is_day(year, first, second):
            raise ValueError(f"neither {first} nor {second} can be its month")
        day = f"{first:02}/{second:02}/{year:04}"
    elif parts["week"]:
        day = date.fromisocalendar(year, int(parts["week"]), int(parts["weekday"])).isoformat()
    else:
        name = parts["name"].lower()[:3]
        month = MONTHS.index(name) + 1 if name else int(parts["month"])
        day = date(year, month, int(parts["day"] or 1)).isoformat()
    return day + clock(parts)


def is_day(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def clock(parts: dict[str, str]) -> str:
    """`T07:08:09+02:00`, nothing where no time is told."""
    if not parts["hour"]:
        return ""
    hour, half = int(parts["hour"]), parts["half"].lower()[:1]
    if half:
        if not 1 <= hour <= 12:
            raise ValueError(f"there is no {hour} o'clock before or after noon")
        hour = hour % 12 + (12 if half == "p" else 0)
    microseconds = int((parts["fraction"] + "000000")[:6])
    told = time(hour, int(parts["minute"] or 0), int(parts["seconds"] or 0), microseconds)
    return f"T{told.isoformat()}{zone(parts['zone'])}"


def zone(text: str) -> str:
    """`+02:00` for what follows a time, "" for a time of no zone."""
    away = re.search(r"([+-])(\d\d):?(\d\d)?$", text)
    if away is None:
        return "+00:00" if text else ""
    if int(away[2]) > 23 or int(away[3] or 0) > 59:
        raise ValueError(f"no time zone is {away[0]} away")
    return f"{away[1]}{away[2]}:{away[3] or '00'}"


NAME = (
    r"(?P<name>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
WEEKDAY = r"(?:(?:mon|tue|tues|wed|wednes|thu|thur|thurs|fri|sat|satur|sun)(?:day)?\.?,?\s+)?"
TOLD = r"(?P<hour>\d\d?)(?::(?P<minute>\d\d)(?::(?P<seconds>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)"
HALF = r"(?:\s?(?P<half>[ap]\.?m\.?))?"
ZONE = r"(?:\s?(?P<zone>z|utc|gmt|(?:utc|gmt)?[+-]\d\d(?::?\d\d)?))?"
TIME = rf"(?:(?:t|,?\s+|,)(?:at\s)?{TOLD}{HALF}{ZONE})?"
DAYS = (
    r"(?P<year>\d{4})(?P<sep>[-/.])(?P<month>\d\d?)(?P=sep)(?P<day>\d\d?)",  # 2024-05-31, 2024/5/31
    r"(?P<first>\d\d?)(?P<sep>[-/.])(?P<second>\d\d?)(?P=sep)(?P<year>\d{4}|\d\d)",  # 31/05/2024, 5/31/24, 31.5.2024
    WEEKDAY + rf"(?P<day>\d\d?)(?:st|nd|rd|th)?[ -]{NAME},?[ -](?P<year>\d{{4}}|\d\d)",  # Fri, 31 May 2024; 31-May-24
    WEEKDAY + rf"{NAME} (?P<day>\d\d?)(?:st|nd|rd|th)?,? (?P<year>\d{{4}})",  # May 31, 2024
    r"(?P<year>\d{4})\s?年\s?(?P<month>\d\d?)\s?月\s?(?P<day>\d\d?)\s?[日号]",
    r"(?P<year>\d{4})-?W(?P<week>\d\d)-?(?P<weekday>[1-7])",  # 2024-W22-5
)
WHOLE = (
    *(rf"{day}{TIME}" for day in DAYS),
    r"(?P<year>\d{4})-(?P<month>\d\d)",  # 2024-05: its first day
    r"(?P<year>(?P<basic>\d{4}))(?P<month>\d\d)(?P<day>\d\d)(?:t(?P<hour>\d\d)(?P<minute>\d\d)(?P<seconds>\d\d)?"
    + ZONE
    + ")?",
    rf"{WEEKDAY}{NAME}\s+(?P<day>\d\d?)\s+{TOLD}\s+(?:utc\s+)?(?P<year>\d{{4}})",  # Fri May 31 07:08:09 2024
)
FORMS = tuple(re.compile(form, re.ASCII | re.IGNORECASE) for form in WHOLE)
PARTS = sorted({part for form in FORMS for part in form.groupindex})


def ways(text: str) -> tuple[str | None, str | None]:
    """A plain form with the day first, and with the month first; None where there is no such day. Equal where all is clear."""
    if text[2:3] != "/":
        return text, text
    first, second, year, rest = text[:2], text[3:5], text[6:10], text[10:]
    day_first, month_first = (
        f"{year}-{month}-{day}{rest}" if is_day(int(year), int(month), int(day)) else None
        for month, day in ((second, first), (first, second))
    )
    return day_first, month_first
