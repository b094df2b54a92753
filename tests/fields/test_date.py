"""Dates: one order of day and month for a column, circles as the wall clock shows them, a line that is a number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.core.config import read
from dougong.core.errors import DataError
from dougong.data.columns import Columns
from dougong.fields.date import Codec, Config, Encoder, Head
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from dougong.model import initialize

YEAR = [f"2023-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29)]


def fitted(texts: list[str], **keys: object) -> Codec:
    config = Config(column="when", **keys)  # type: ignore[arg-type]
    return Codec.fit(config, [Codec.parse(text, config) for text in texts])


def encoded(codec: Codec, *texts: str | None) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    columns, counts = codec.encode([Codec.parse(text, codec.config) for text in texts])
    return {name: np.asarray(column) for name, column in columns.items()}, counts


def days(codec: Codec, *texts: str) -> list[float]:
    return [float(day) for day in encoded(codec, *texts)[0]["value"]]


def test_one_row_that_leaves_no_doubt_decides_for_the_column_and_the_report_says_so() -> None:
    day_first = fitted(["05/06/2024", "07/06/2024", "31/05/2024"])
    month_first = fitted(["05/06/2024", "07/06/2024", "05/31/2024"])
    assert (day_first.order, month_first.order) == ("dmy", "mdy")
    assert day_first.decode(encoded(day_first, "05/06/2024")[0]) == ["2024-06-05"]
    assert month_first.decode(encoded(month_first, "05/06/2024")[0]) == ["2024-05-06"]
    _, counts = encoded(day_first, "05/06/2024", "31/05/2024", None)
    assert counts["read with the day first, as the training rows tell"] == 1
    assert counts["missing"] == 1


def test_where_no_row_tells_the_order_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"column 'when': no training row tells .*'05/06/2024'.*Fix: say order: dmy"):
        fitted(["05/06/2024", "01/02/2024"])
    assert fitted(["05/06/2024"], order="mdy").order == "mdy"
    assert fitted(["05/05/2024", "2024-05-31"]).order is None  # the same either way


def test_where_rows_tell_both_orders_nothing_is_guessed() -> None:
    with pytest.raises(DataError, match="2 training rows can only have the day first, 1 only the month"):
        fitted(["31/05/2024", "30/05/2024", "05/31/2024"])
    codec = fitted(["31/05/2024"] * 20 + ["05/31/2024"])
    columns, counts = encoded(codec, "05/31/2024", "31/05/2024")
    assert np.isnan(columns["value"]).tolist() == [True, False]
    assert counts["not read: there is no such day with the day first"] == 1
    assert counts["missing"] == 0


def test_an_order_that_is_said_refuses_the_row_that_contradicts_it() -> None:
    with pytest.raises(ValueError, match=r"expected the month first \(order: mdy\), found '31/05/2024'"):
        Codec.parse("31/05/2024", Config(order="mdy"))
    assert Codec.parse("31/05/2024", Config(order="dmy")) == "2024-05-31"


def test_later_rows_in_a_form_that_training_never_saw_are_counted_and_not_guessed() -> None:
    columns, counts = encoded(fitted(YEAR), "05/06/2024", "05/05/2024")
    assert np.isnan(columns["value"]).tolist() == [True, False]
    assert counts["not read: no training row says what comes first"] == 1


def test_circles_follow_the_wall_clock_and_the_line_follows_the_instant() -> None:
    codec = fitted([f"2024-05-{day:02}T{day % 24:02}:00:00+02:00" for day in range(1, 29)])
    columns, _ = encoded(codec, "2024-05-10T08:00:00+02:00", "2024-05-10T06:00:00Z", "2024-05-10T08:00:00-07:00")
    assert columns["value"][0] == columns["value"][1]
    assert columns["value"][2] - columns["value"][0] == pytest.approx(9 / 24)
    assert not np.allclose(columns["circles"][0], columns["circles"][1])
    assert np.allclose(columns["circles"][0], columns["circles"][2])
    assert codec.decode(columns)[0] == "2024-05-10T06:00:00Z"


def test_circles_close_and_those_that_nothing_moves_on_are_left_out() -> None:
    codec = fitted(YEAR)
    assert codec.circles == ["year", "month", "week"]
    columns, _ = encoded(codec, "2023-12-31", "2024-01-01", "2023-07-02")
    end, start, middle = columns["circles"][:, :8]  # of the year
    assert np.linalg.norm(end - start) < 0.2 < 1 < np.linalg.norm(end - middle)
    assert fitted(["2024-05-31"] * 5).circles == []
    assert fitted(["2024-05-31 07:00", "2024-05-31 08:30"]).circles == ["day", "hour"]


def test_weekdays_and_leap_years() -> None:
    codec = fitted([f"2024-02-{day:02}" for day in range(1, 30)])
    week = encoded(codec, "2024-02-29", "2024-02-22", "2024-02-28")[0]["circles"]
    names = codec.circles
    place = 4 * (names.index("week") > 0) + 2 * 4 * ("year" in names)
    of_week = week[:, place : place + 6] if names[:3] == ["year", "month", "week"] else week
    assert np.allclose(of_week[0], of_week[1], atol=1e-5)
    assert not np.allclose(of_week[0], of_week[2], atol=0.1)
    assert days(codec, "2024-03-01", "2024-02-29") == [19783.0, 19782.0]


@given(st.lists(st.datetimes() | st.none(), min_size=1, max_size=20).filter(any))
@settings(max_examples=60)
def test_D7_what_a_model_sees_is_finite_for_every_date_there_is(moments: list[object]) -> None:
    config = Config(column="when")
    values = [Codec.parse(moment, config) for moment in moments]
    codec = Codec.fit(config, values)
    columns, _ = codec.encode(values)
    assert (np.isnan(np.asarray(columns["normalized"])) == [value is None for value in values]).all()
    assert features_of(codec, columns).isfinite().all()


def features_of(codec: Codec, columns: Columns) -> torch.Tensor:
    encoder = Encoder(codec.config, codec, 8, 4)
    initialize(encoder, 0)
    batch = {f"x.{key}": torch.from_numpy(np.asarray(column)) for key, column in columns.items()}
    return encoder(batch, "x").values


def test_after_the_last_training_row_seasons_go_on_and_time_stands_still() -> None:
    codec = fitted(YEAR, line=True)
    columns, counts = encoded(codec, "2023-12-28", "2024-12-28", "2033-12-28")
    assert counts["outside the training range"] == 2
    columns["circles"][:] = columns["circles"][0]  # the same place on each circle
    last, next_year, later = features_of(codec, columns)
    assert torch.allclose(last, next_year, atol=1e-5)
    assert torch.allclose(last, later, atol=1e-5)


def test_without_the_line_years_are_alike() -> None:
    codec = fitted(YEAR, line=False)
    columns, _ = encoded(codec, "2023-03-05", "2023-11-05", None)
    first, second, missing = features_of(codec, columns)
    columns["normalized"][:] = 5
    assert torch.equal(features_of(codec, columns)[0], first)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, missing)
    _, problems = read(Config, {"line": False, "bins": 4})
    assert "none beside line: false" in str(problems[0])


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4, math.inf])
def test_D7_a_prediction_far_out_is_still_a_date(value: float) -> None:
    codec = fitted(["2024-05-31", "2024-06-30"])
    far = codec.line.restore(np.array([min(value, 1e30)]))
    assert len(codec.written(float(far[0]))) == 10


def test_D7_a_column_without_any_date_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"column 'when': no date in any training row\. Fix: leave the column out"):
        Codec.fit(Config(column="when"), [None, None])


def test_a_head_begins_with_the_mean_day() -> None:
    codec = fitted(["2024-05-01", "2024-05-03"])
    head = Head(codec.config, codec, 4, Loss())
    head.readout.reset_parameters()
    with torch.no_grad():
        found = head.predict(Features(torch.randn(1, 1, 4), torch.ones(1, 1, dtype=torch.bool)), {}, "x")
    assert codec.answers({"value": found["value"].numpy()}) == [{"value": "2024-05-02"}]
