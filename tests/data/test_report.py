"""The data report counts right, in fixed memory, and the same whether one worker counts or many."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.data.report import MAX_DISTINCT, MAX_REASONS, Column, DataReport, Histogram

KINDS = {"text": "text", "label": "category", "size": "number", "tags": "labels"}


def report_of(rows: list[dict[str, object]], kinds: dict[str, str] = KINDS) -> DataReport:
    report = DataReport()
    for row in rows:
        report.read(1)
        report.rows({name: [value] for name, value in row.items()}, kinds, {"train": 1})
    return report


def column_of(values: list[object], kind: str = "") -> Column:
    column = Column(kind)
    for value in values:
        column.add(value)
    return column


VALUE = st.one_of(
    st.none(), st.text(max_size=5), st.floats(-1e6, 1e6), st.integers(-9, 9), st.lists(st.text(max_size=2), max_size=3)
)


def same_but_for_rounding(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Of two columns as JSON. Of the difference of large numbers few digits are left."""
    large = max(map(abs, (one["low"] or 0.0, one["high"] or 0.0)))
    for number, size in (("mean", large), ("squares", large**2)):
        assert one.pop(number) == pytest.approx(two.pop(number), rel=1e-6, abs=1e-3 + 1e-9 * size)
    assert one == two


ROW = st.dictionaries(st.sampled_from(["text", "label", "size", "tags", "other"]), VALUE)


@given(st.lists(ROW, max_size=20), st.integers(0, 20))
@settings(max_examples=150)
def test_two_workers_count_what_one_counts(rows: list[dict[str, object]], cut: int) -> None:
    whole, first, second = report_of(rows), report_of(rows[:cut]), report_of(rows[cut:])
    first.merge(DataReport.from_json(json.loads(json.dumps(second.to_json(), allow_nan=False))))
    one, two = whole.to_json(), first.to_json()
    assert sorted(one["columns"]) == sorted(two["columns"])
    for name, column in one["columns"].items():
        other = two["columns"][name]
        same_but_for_rounding(column, other)
    assert one["rows_read"] == two["rows_read"] == len(rows)
    assert one["kept"] == two["kept"]


@given(
    st.sampled_from(["text", "category", "number", "labels", "image", ""]),
    st.one_of(
        st.lists(VALUE, max_size=8),
        st.lists(st.text(max_size=3), max_size=8),
        st.lists(st.one_of(st.none(), st.floats()), max_size=8),
        st.lists(st.binary(max_size=3), max_size=8),
    ),
)
@settings(max_examples=200)
def test_all_values_at_once_count_as_they_do_one_by_one(kind: str, values: list[object]) -> None:
    together = Column(kind)
    together.add_all(values)
    one, two = column_of(values, kind).to_json(), together.to_json()
    same_but_for_rounding(one, two)


def test_a_picture_is_never_written_out_as_text() -> None:
    class Picture(bytes):
        def __repr__(self) -> str:
            raise AssertionError("its bytes were written out")

    column = Column("image")
    column.add(Picture(b"x" * 100))
    assert len(column.hashes) == 1


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=50))
def test_numbers_are_summed_up_as_numpy_does(values: list[float]) -> None:
    column = column_of([*values, None], "number")
    assert column.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9 * max(map(abs, values)))
    assert column.std == pytest.approx(np.std(values), rel=1e-6, abs=1e-6 * max(map(abs, values)))
    assert (column.low, column.high, column.missing) == (min(values), max(values), 1)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=200))
def test_percentiles_of_lengths_are_within_6_percent(lengths: list[int]) -> None:
    histogram = Histogram()
    for length in lengths:
        histogram.add(length)
    for share in (0.5, 0.95):
        exact = sorted(lengths)[math.ceil(share * len(lengths)) - 1]
        assert histogram.percentile(share) == pytest.approx(exact, rel=0.06)
    assert histogram.summary()["min"] == min(lengths)
    assert histogram.summary()["max"] == max(lengths)
    assert len(histogram.bins) < 64 + 16 * 64


def test_memory_of_a_column_is_bounded() -> None:
    column = column_of([f"value {i}" for i in range(MAX_DISTINCT + 500)])
    assert len(column.hashes) == MAX_DISTINCT + 1
    assert len(column.classes) == MAX_DISTINCT + 1
    assert column.distinct() == "more than 10,000"
    assert column.classes.total() == MAX_DISTINCT + 500
    other = column_of([f"other {i}" for i in range(MAX_DISTINCT)])
    other.merge(column)
    assert len(other.hashes) == MAX_DISTINCT + 1
    assert len(other.classes) == MAX_DISTINCT + 1
    assert max(map(len, column_of(["x" * 10_000]).classes)) <= 101


def test_D1_reasons_are_grouped_and_bounded() -> None:
    report, other = DataReport(), DataReport()
    for i in range(MAX_REASONS + 50):
        report.count_bad(f"reason {'a' * (i % 150)} {'b' * (i // 150)}")
        other.count_bad(f"cause {'a' * (i % 150)} {'b' * (i // 150)}")
    report.count_bad("byte 5 (0xe9)")
    report.merge(other)
    assert len(report.bad) <= MAX_REASONS + 1
    assert report.bad.total() == 2 * (MAX_REASONS + 50) + 1


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1.5", "2", "7e3", "8", "9", "10"], "number"),
        (list(range(100)), "number"),
        ([0, 1] * 20, "category"),
        (["1", "0", "1"] * 20, "category"),
        (["0.5", "0.7"] * 20, "number"),
        ([-1, 1] * 20, "number"),
        (["good", "bad"] * 20, "category"),
        ([True, False] * 20, "category"),
        ([f"sentence number {i}" for i in range(100)], "text"),
        (["a long text " * 20, "another one " * 20] * 20, "text"),
        (["a/1.png", "b/2.JPG"] * 5, "image"),
        ([["a"], ["a", "b"], []], "labels"),
        (["2024-05-31", "31/05/2024 07:08", "May 31, 2024"] * 20, "date"),
        (["2024-05-31", "2024-05-32", "2024-05-33"], "text"),
        (["20240531", "20240601"], "number"),
        ([None, None], "text"),
        ([], "text"),
    ],
)
def test_the_type_of_a_column_is_guessed_from_its_values(values: list[object], kind: str) -> None:
    assert column_of(values).guess() == kind


def test_a_column_that_appears_late_was_missing_before() -> None:
    report = report_of([{"a": 1}, {"a": 2}, {"b": "x"}], {})
    assert (report.columns["b"].rows, report.columns["b"].missing) == (3, 2)
    assert (report.columns["a"].rows, report.columns["a"].missing) == (3, 1)


def test_D7_infinite_numbers_are_counted_and_never_in_the_mean() -> None:
    column = column_of([1.0, math.inf, math.nan, 1e308, 3.0], "number")
    assert (column.mean, column.not_finite, column.missing) == (2.0, 2, 1)


def warnings_of(rows: list[dict[str, object]], kinds: dict[str, str] = KINDS) -> str:
    return "\n".join(report_of(rows, kinds).warnings())


def test_D3_D7_columns_that_cannot_help_are_warned_of() -> None:
    assert "Column 'label': every value is the same" in warnings_of([{"label": "a"}] * 5)
    assert "Column 'size': every value is the same" in warnings_of([{"size": 3.0}] * 5)
    assert "Column 'size': every value is missing" in warnings_of([{"size": None, "label": c} for c in "ab"])
    assert "3 of 5 values are missing" in warnings_of([{"size": x} for x in (None, None, None, 1.0, 2.0)])


def test_imbalance_and_far_values_are_warned_of() -> None:
    rows: list[dict[str, object]] = [{"label": "common", "size": float(i % 7)} for i in range(1000)]
    assert warnings_of([*rows, {"label": "rare", "size": 1.0}]).startswith(
        "Column 'label': 'common' stands in 1,000 rows, 'rare' in 1"
    )
    assert "'size': 10000 lies" in warnings_of([*rows, {"label": "common", "size": 10_000.0}])
    assert "size" not in warnings_of(rows)
    assert warnings_of([{"label": c} for c in "aabbb"]) == ""


def test_D5_leaks_duplicates_and_heavy_dropping_are_warned_of() -> None:
    report = report_of([{"text": t} for t in "abc"])
    report.count_leaks("test", 2, 40)
    report.count_leaks("validation", 0, 40)
    report.count_duplicates(exact=3)
    report.count_duplicates(near=4)
    report.count_dropped("empty", 2)
    said = report.warnings()
    assert said[0].startswith("2 of 40 rows of test stand in train")
    assert said[1].startswith("3 rows of train repeat")
    assert said[2].startswith("4 rows of train nearly repeat")
    assert said[3] == "2 of 3 rows were dropped, 2 of them by the rule 'empty'."
    assert len(said) == 4


def test_the_text_says_all_that_happened() -> None:
    rows: list[dict[str, object]] = [
        {"text": f"text {i}", "label": "ab"[i % 2], "size": float(i), "tags": ["x"]} for i in range(10)
    ]
    report = report_of(rows)
    report.count_used("train", 9)
    report.count_used("test", 1)
    report.count_bad("3 fields where the header has 2")
    report.count_dropped("max_length", 1)
    report.count_changed(("unicode", "spaces"))
    report.count_note("label: unseen", 3)
    text = report.text()
    for part in (
        "10 rows read: train 9, test 1; 1 dropped, 1 bad",
        "dropped by max_length: 1",
        "changed by unicode: 1",
        "bad: 1 × # fields where the header has #",
        "label: unseen: 3",
        "category; 2 distinct; 'a' 5, 'b' 5",
        "number; 10 distinct; 0 to 9, mean 4.5, std 2.872",
        "text; 10 distinct; length 6 to 6, median 6, p95 6",
        "labels; 1 distinct; length 1 to 1",
    ):
        assert part in text, text


def test_the_summary_is_plain_and_short() -> None:
    report = report_of([{"text": f"text {i}", "label": "ab"[i % 2], "size": float(i)} for i in range(10)])
    report.count_bad("x")
    summary = report.summary()
    assert {name: value for name, value in summary.items() if name != "columns"} == {
        "rows_read": 10,
        "kept": {"train": 10},
        "bad": {"x": 1},
        "warnings": [],
    }
    assert summary["columns"]["label"] == {
        "type": "category",
        "missing": 0,
        "distinct": "2",
        "classes": {"a": 5, "b": 5},
    }
    assert summary["columns"]["text"]["length"] == {"min": 6, "median": 6, "p95": 6, "max": 6}
    assert (summary["columns"]["size"]["min"], summary["columns"]["size"]["max"]) == (0.0, 9.0)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_report_survives_json_whole() -> None:
    report = report_of([{"text": "a", "size": 1.0}, {"text": None, "size": math.inf}])
    report.count_bad("x")
    again = DataReport.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False)))
    assert again.to_json() == report.to_json()
    assert DataReport.from_json(DataReport().to_json()).text() == "0 rows read: none; 0 dropped, 0 bad"
