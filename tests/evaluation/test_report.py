"""The report: one file, safe with hostile text, offline, the same bytes for the same content."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from dougong.evaluation.charts import Line, line_chart, moving_average, thinned
from dougong.evaluation.report import (
    MOST_CHARACTERS,
    CalibrationCurve,
    ConfusionMatrix,
    ReportContent,
    number,
    render,
    write_report,
)

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
LOG = [
    {
        "step": step,
        "loss": 8.0 / step,
        "lr": 1e-3,
        "tokens_per_second": 1000.0 + step,
        "memory_bytes": 2**30,
        "grad_norm": 1.0,
    }
    for step in range(1, 61)
]
FULL = ReportContent(
    name="poems 唐诗",
    summary="A small transformer that writes verse.",
    parent="base",
    parent_report="../base/report.html",
    metrics={"test": {"label.accuracy": {"value": 0.8801, "low": 0.861, "high": 0.9, "rows": 872}}},
    log=[*LOG, {"step": 60, "val_loss": 0.25}],
    samples=[{"prompt": "床前", "text": "床前明月光"}, {"input": "good", "prediction": "bad", "target": "good"}],
    confusion={"label": ConfusionMatrix(["好", "坏"], [[9, 1], [2, 8]])},
    calibration={"label": CalibrationCurve([0.6, 0.9], [0.5, 0.95], [20, 80])},
    data={
        "rows": 1000,
        "warnings": ["12 rows of test stand in train"],
        "columns": {"review": {"type": "text", "missing": 3}},
    },
    parameters={"backbone": 900, "outputs.label": 100},
    recipe="name: poems\n",
    receipt={"seed": 0, "versions": {"torch": "2.13.0"}, "deterministic": True},
)


@cache
def full() -> str:
    return render(FULL)


class Page(HTMLParser):
    """The tags, attributes and visible text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text += data


def test_a_full_report_has_every_section_and_is_well_formed():
    page = Page(full())
    assert page.open == []
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for section in ("results", "training", "confusion", "calibration", "samples", "data", "model", "recipe", "receipt"):
        assert section in ids
        assert ("href", f"#{section}") in page.attributes
    assert page.tags.count("svg") == 6  # loss, lr, speed, memory, gradient norm, calibration


def test_references_within_charts_resolve():
    page = Page(full())
    ids = {value for name, value in page.attributes if name == "id"}
    used = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    used |= {match for _, value in page.attributes for match in re.findall(r"url\(#([^)]*)\)", value or "")}
    assert used <= ids


HOSTILE_MATRIX = ConfusionMatrix([f"{HOSTILE}{index}" for index in range(31)], np.ones((31, 31), int).tolist())
HOSTILE_SAMPLES = [{"prompt": HOSTILE, "text": HOSTILE}, {"input": {HOSTILE: HOSTILE}, HOSTILE: [HOSTILE]}]
HOSTILE_CONTENTS = {
    "head": ReportContent(name=HOSTILE, summary=HOSTILE, parent=HOSTILE, parent_report=HOSTILE, recipe=HOSTILE),
    "samples": ReportContent(name="x", samples=HOSTILE_SAMPLES),
    "matrix": ReportContent(name="x", confusion={HOSTILE: ConfusionMatrix([HOSTILE, "b"], [[1, 2], [3, 4]])}),
    "outputs": ReportContent(name="x", confusion={HOSTILE: HOSTILE_MATRIX, "two": HOSTILE_MATRIX}),
    "calibration": ReportContent(
        name="x", calibration=dict.fromkeys([HOSTILE, "b"], CalibrationCurve([0.5], [0.5], [1]))
    ),
    "metrics": ReportContent(name="x", metrics={HOSTILE: {HOSTILE: {"value": 1.0}}}, parameters={HOSTILE: 1}),
    "data": ReportContent(name="x", data={HOSTILE: {HOSTILE: {HOSTILE: HOSTILE}}, "warnings": [HOSTILE]}),
    "receipt": ReportContent(name="x", receipt={HOSTILE: HOSTILE, "parts": [{HOSTILE: HOSTILE}]}),
}


@pytest.mark.parametrize("content", HOSTILE_CONTENTS.values(), ids=HOSTILE_CONTENTS.keys())
def test_hostile_text_is_shown_and_never_becomes_markup(content):
    html = render(content)
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "alert(1)" in html


def test_it_loads_nothing_and_its_policy_forbids_it():
    html = full()
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\((?!#)", html)
    page = Page(html)
    (policy,) = [value for name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(page.tags)


def test_a_url_in_the_recipe_stays_text():
    page = Page(render(replace(FULL, recipe="# see https://example.org/a")))
    assert "https://example.org/a" in page.text
    assert not any("example.org" in (value or "") for _, value in page.attributes)


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://example.org", "//example.org", ""])
def test_a_parent_is_linked_by_relative_path_only(link):
    page = Page(render(ReportContent(name="x", parent="base", parent_report=link)))
    assert "Started from base" in page.text
    assert not any(name == "href" for name, _ in page.attributes)
    assert ("href", "../base/report.html") in Page(full()).attributes


def test_equal_content_gives_equal_bytes_whatever_the_settings_of_matplotlib():
    first = full()
    with matplotlib.rc_context(
        {"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}
    ):
        assert render(FULL) == first


def test_it_is_written_whole(tmp_path):
    write_report(tmp_path / "report.html", FULL)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == full()
    write_report(tmp_path / "report.html", ReportContent(name="torn \ud800"))  # a lone surrogate is no reason to fail
    assert "torn ?" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_minimal_content_has_no_empty_sections():
    page = Page(render(ReportContent(name="only a name")))
    assert "only a name" in page.text
    assert not {"section", "svg", "table"} & set(page.tags)
    assert "svg" not in Page(render(ReportContent(name="x", log=[{"step": 1}], metrics={"test": {}}))).tags


def test_captions_state_numbers():
    text = Page(full()).text
    assert "Training loss went from 8 at step 1 to 0.1356 at step 60 (mean of the last 3 records)." in text
    assert "Validation loss was lowest at step 60: 0.2500" in text
    assert "Median 1,031 tokens per second, between 1,001 and 1,060." in text
    assert "At most 1 GiB." in text
    assert "17 of 20 rows are right. Most often confused: 坏 is taken for 好 in 2 of 10 rows." in text
    assert "Expected calibration error 0.06 on 100 rows" in text


def test_results_show_as_many_digits_as_the_interval_leaves_meaningful():
    text = Page(full()).text
    assert "label.accuracy0.8800.861 to 0.900872" in text
    unknown = {"test": {"label.auc": {"value": None, "low": None, "high": None, "rows": 5}}}
    assert "label.auc––5" in Page(render(ReportContent(name="x", metrics=unknown))).text


def test_losses_that_are_not_finite_are_counted_not_drawn():
    log = [*LOG, {"step": 61, "loss": float("nan")}, {"step": 62, "loss": float("inf")}]
    assert "2 records without a finite loss are not drawn." in Page(render(ReportContent(name="x", log=log))).text


def test_many_classes_are_told_by_their_most_confused_pairs():
    matrix = np.eye(40, dtype=int) * 5
    matrix[3, 7] = 4
    content = ReportContent(name="x", confusion={"y": ConfusionMatrix([f"c{i}" for i in range(40)], matrix.tolist())})
    text = Page(render(content)).text
    assert "c3c7444.4%" in text
    assert "40 classes are too many for a matrix: these are the 1 most confused of 1 pairs." in text


def test_classes_never_seen_in_training_have_a_row_only_if_there_are_any():
    def text(last: list[int]) -> str:
        content = ReportContent(name="x", confusion={"y": ConfusionMatrix(["a", "b"], [[2, 0], [0, 2], last])})
        return Page(render(content)).text

    assert "(not seen in training)3" in text([3, 0])
    assert "(not seen in training)" not in text([0, 0])


def test_long_text_is_cut_with_the_number_of_characters_left():
    page = Page(render(ReportContent(name="x", samples=[{"text": "a" * (MOST_CHARACTERS + 1234)}])))
    assert "1,234 characters more" in page.text


def test_long_lists_say_how_many_they_leave_out():
    page = Page(
        render(
            ReportContent(name="x", samples=[{"text": "a"}] * 60, data={"classes": {f"c{i}": i for i in range(300)}})
        )
    )
    assert "The first 50 of 60." in page.text
    assert "The first 200 of 300." in page.text


def test_numbers_are_short():
    values = [None, float("nan"), float("inf"), 0, 0.0, 0.5, 0.000123456, 3.14159, 123456, 123456.7]
    assert [number(value) for value in values] == [
        "–",
        "–",
        "inf",
        "0",
        "0",
        "0.5000",
        "0.0001235",
        "3.142",
        "123,456",
        "123,457",
    ]


def test_long_logs_are_thinned_to_means_of_neighbours():
    x, y = thinned(np.arange(1001.0), np.arange(1001.0) * 2)
    assert len(x) == 334
    assert np.array_equal(y, 2 * x)
    assert (x[0], x[-1]) == (1.0, 999.5)
    assert moving_average(np.array([1.0, 2.0, 3.0, 4.0]), 2).tolist() == [1.5, 2.0, 3.0, 3.5]


def test_charts_take_their_colours_and_fonts_from_the_page():
    svg = line_chart("loss", [Line("a", [1, 2], [1, 2]), Line("b", [1, 2], [2, 3])], "step", "loss")
    assert svg.startswith("<svg")
    assert "font-family" not in svg
    assert not re.search(r"(fill|stroke): #", svg.replace("#ffffff", ""))
    for variable in ("--ink", "--muted", "--line", "--first", "--second"):
        assert f"var({variable})" in svg
