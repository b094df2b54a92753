"""Date: a day, or a moment of one, as files write them.

Going in, a date becomes its place on the circles that the training rows go round (year, month, week, day, hour), as the
clock on the wall showed it, and its place on the line of time, which is a `number` of days. Coming out it is that number.
"""

# N rows, B batch, D width, P sines and cosines

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Fraction, config
from dougong.core.errors import DataError, bad_field
from dougong.data import dates
from dougong.data.columns import Columns
from dougong.fields import FieldConfig, number
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from dougong.layers.pooling import PoolKind
from dougong.metrics.metric import Metric

EPOCH = datetime(1970, 1, 1)
DAY = 86_400.0  # seconds
FIRST, LAST = -719_162.0, 2_932_896.0  # days from 1970 to the years 1 and 9999
MOST_OTHERS = 0.1  # of the rows that tell an order of day and month, those that may tell the other one
# What goes round, and how many waves it takes to tell the seven days of a week, or the shape of a year or a day.
WAVES = {"year": 4, "month": 2, "week": 3, "day": 4, "hour": 1}
ORDERS = {"dmy": "the day", "mdy": "the month"}  # what comes first


@config
class Config(FieldConfig):
    """A date. `order` says what 05/06/2024 means; `auto`: the training rows tell, or are asked about."""

    type: Literal["date"] = "date"
    order: Literal["auto", "dmy", "mdy"] = "auto"
    line: bool = True  # of an input: its place on the line of time as well, or on the circles alone
    bins: Annotated[int, Field(ge=0, le=256)] = 16  # of that line, as those of a number
    pool: PoolKind = "mean"
    dropout: Fraction = 0.0
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if not self.line and self.bins != 16:
            raise bad_field("date.bins", self.bins, "none beside line: false", "remove it")


ONLY_IN = ("line", "bins")
ONLY_OUT = ("pool", "dropout")


class Codec:
    """Text <-> days since 1970 in float64, normalized as a number is, nan where missing; and the places on the circles."""

    RAW = pa.large_string()
    PATHS = False
    CHECKED: ClassVar[bool] = True  # `check` fits it as well: it is quick, and finds what it cannot read
    SAMPLE: ClassVar[int | None] = 200_000  # rows to be fitted on: the order has to be known before the days are

    def __init__(self, config: Config, order: str | None, circles: Sequence[str], zoned: bool, line: number.Codec):
        self.config, self.order, self.circles, self.zoned, self.line = config, order, list(circles), zoned, line

    @staticmethod
    def parse(value: object, config: Config | None = None) -> str | None:
        """The plain form of `data/dates.py`, in which day and month of 05/06/2024 wait for the rest of the column."""
        text = dates.read(value)
        if text is None or config is None or config.order == "auto":
            return text
        if (known := _resolved(text, config.order)) is None:
            first = ORDERS[config.order]
            raise ValueError(f"expected {first} first (order: {config.order}), found {value!r}")
        return known

    @classmethod
    def fit(cls, config: Config, values: Iterable[str | None]) -> Codec:
        """The order of day and month, which circles the column goes round, and the line of its days."""
        texts = [value for value in values if value is not None]
        if not texts:
            raise DataError(f"column {config.column!r}: no date in any training row. Fix: leave the column out.")
        order = _order(config, texts)
        seen = np.array([each for each in _clocks(texts, order) if each is not None])  # (N, 3) wall, zone, told
        if not len(seen):
            raise DataError(f"column {config.column!r}: no date in any training row. Fix: write other dates, or order.")
        line = number.Codec.fit(number.Config(column=config.column), ((seen[:, 0] - seen[:, 1]) / DAY).tolist())
        turns = _turns(seen[:, 0])
        circles = [name for name, turn in turns.items() if np.ptp(turn) > 0]
        return cls(config, order, circles, bool((~np.isnan(seen[:, 2])).any()), line)

    def encode(self, values: Sequence[str | None]) -> tuple[Columns, dict[str, int]]:
        """{"normalized": (N,) float32, "value": (N,) float64 days, "circles": (N, P + 1) float32}; nan where missing, circles 0.

        The last of the circles says whether the date is missing.
        """
        clocks = list(_clocks(values, self.order))
        wrong = sum(clock is None and value is not None for clock, value in zip(clocks, values, strict=True))
        told = np.array([clock or (math.nan,) * 3 for clock in clocks]).reshape(-1, 3)
        days = (told[:, 0] - told[:, 1]) / DAY
        columns, counts = self.line.encode([None if math.isnan(day) else day for day in days])
        around = [_circles(told[:, 0], self.circles), np.isnan(days)[:, None]]
        circles = np.nan_to_num(np.concatenate(around, axis=1)).astype(np.float32)
        counts["missing"] -= wrong
        if wrong:
            first = (
                f"there is no such day with {ORDERS[self.order]} first"
                if self.order
                else "no training row says what comes first"
            )
            counts[f"not read: {first}"] = wrong
        if self.order and (read := sum(_in_doubt(value) for value in values if value)):
            counts[f"read with {ORDERS[self.order]} first, as the training rows tell"] = read
        return {**columns, "circles": circles}, counts

    def decode(self, columns: Columns) -> list[str | None]:
        return [None if math.isnan(day) else self.written(float(day)) for day in np.asarray(columns["value"])]

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        return [{"value": self.written(float(day))} for day in np.asarray(prediction["value"])]

    def written(self, day: float) -> str:
        """In the form 2024-05-31, with the time where the training rows had one; in UTC where they had a zone."""
        whole = EPOCH + timedelta(milliseconds=round(min(max(day, FIRST), LAST) * DAY * 1000))
        if not self.timed:
            return (whole + timedelta(hours=12)).date().isoformat()  # the nearest midnight
        return whole.isoformat(timespec="auto") + ("Z" if self.zoned else "")

    @property
    def timed(self) -> bool:
        return "day" in self.circles or "hour" in self.circles

    def limits(self) -> dict[str, int]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"order": self.order, "circles": self.circles, "zoned": self.zoned, "line": self.line.to_json()}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        line = number.Codec.from_json(number.Config(column=config.column), saved["line"])
        return cls(config, saved["order"], saved["circles"], saved["zoned"], line)


class Encoder(nn.Module):
    """A date -> one feature (B, 1, D): its place on the circles, and on the line as far as the training rows reach.

    Dates that are asked about mostly lie behind those. There time stands still: a trend that went on would lead anywhere.
    """

    ends: Tensor

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        self.positions: int | None = 1
        self.known = codec.line.normalize(codec.line.quantiles[[0, -1]]).tolist()
        self.register_buffer("ends", torch.empty(2), persistent=False)
        self.line = number.Encoder(number.Config(bins=config.bins), codec.line, width, patch) if config.line else None
        waves = 2 * sum(WAVES[name] for name in codec.circles)
        self.circles = nn.Linear(waves + 1, width)

    def reset_parameters(self) -> None:
        self.ends.copy_(torch.tensor(self.known))
        nn.init.normal_(self.circles.weight, std=0.5)
        nn.init.zeros_(self.circles.bias)

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        values = self.circles(batch[f"{name}.circles"])[:, None]  # (B, 1, D)
        if self.line is not None:
            within = batch[f"{name}.normalized"].clamp(self.ends[0], self.ends[1])  # (B,); nan stays nan
            values = values + self.line({f"{name}.normalized": within}, name).values
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))


class Head(number.Head):
    """Pooled features -> a number of days."""

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        days = number.Config(pool=config.pool, dropout=config.dropout)
        super().__init__(days, codec.line, width, loss)


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    return number.METRICS(number.Config(), codec.line)  # in days


# ------------------------------------------------------------------------------------------------------- day and month


def _order(config: Config, texts: Sequence[str]) -> str | None:
    """What comes first in 05/06/2024, day or month: one answer for the whole column, from the rows that leave no doubt."""
    if config.order != "auto":
        return config.order
    counts: Counter[str] = Counter()
    for text in texts:
        day_first, month_first = dates.ways(text)
        counts["dmy"] += month_first is None
        counts["mdy"] += day_first is None
        counts["doubt"] += _in_doubt(text)
    told = counts["dmy"] + counts["mdy"]
    if not told and not counts["doubt"]:
        return None  # there are none, or they are the same either way: 05/05/2024
    fix = "say order: dmy, or order: mdy"
    if not told:
        why = f"no training row tells whether day or month comes first in dates such as {texts[0]!r}"
        raise DataError(f"column {config.column!r}: {why}. Fix: {fix}.")
    order = "dmy" if counts["dmy"] >= counts["mdy"] else "mdy"
    if told - counts[order] > MOST_OTHERS * told:
        why = f"{counts['dmy']:,} training rows can only have the day first, {counts['mdy']:,} only the month"
        raise DataError(f"column {config.column!r}: {why}. Fix: write all dates in one way (2024-05-31), or {fix}.")
    return order


def _in_doubt(text: str) -> bool:
    first, second = dates.ways(text)
    return first is not None and second is not None and first != second


def _resolved(text: str, order: str | None) -> str | None:
    """A plain form without doubt; None where the order makes no day of it."""
    day_first, month_first = dates.ways(text)
    if order is None:
        return day_first if day_first == month_first else None
    return day_first if order == "dmy" else month_first


# ------------------------------------------------------------------------------------------------------------- circles


def _clocks(texts: Iterable[str | None], order: str | None) -> Iterator[tuple[float, float, float] | None]:
    """(seconds since 1970 on the wall's clock, seconds that its zone is ahead, the same or nan where it tells no zone)."""
    for text in texts:
        known = None if text is None else _resolved(text, order)
        if known is None:
            yield None
            continue
        wall = datetime.fromisoformat(known)
        ahead = None if wall.tzinfo is None else wall.utcoffset()
        seconds = (wall.replace(tzinfo=None) - EPOCH).total_seconds()
        away = 0.0 if ahead is None else ahead.total_seconds()
        yield seconds, away, math.nan if ahead is None else away


def _turns(wall: np.ndarray) -> dict[str, np.ndarray]:  # (N,) seconds -> (N,) each, from 0 up to 1: once round
    days = np.floor(wall / DAY)
    whole = np.where(np.isnan(days), 0, days).astype("datetime64[D]")
    month, year = whole.astype("datetime64[M]"), whole.astype("datetime64[Y]")

    def share(unit: np.ndarray) -> np.ndarray:
        start = unit.astype("datetime64[D]")
        size = ((unit + 1).astype("datetime64[D]") - start).astype(np.float64)
        return (whole - start).astype(np.float64) / size

    turns = {
        "year": share(year),
        "month": share(month),
        "week": (days + 3) % 7 / 7,  # 1970 began on a Thursday
        "day": wall / DAY - days,
        "hour": wall % 3600 / 3600,
    }
    return {name: np.where(np.isnan(wall), math.nan, turn) for name, turn in turns.items()}


def _circles(wall: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(N,) seconds -> (N, P): sine and cosine of each wave of each circle."""
    turns = _turns(wall)
    waves = [2 * math.pi * wave * turns[name] for name in names for wave in range(1, WAVES[name] + 1)]
    parts = [part for angle in waves for part in (np.sin(angle), np.cos(angle))]
    return np.stack(parts, axis=1) if parts else np.zeros((len(wall), 0))
