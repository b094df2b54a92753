"""How much each input matters is told by shuffling it: a run that looks at it loses, one that has none to shuffle says nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dougong import assembly
from dougong.data.loader import Plan, RowPlan
from dougong.evaluation import summary
from dougong.evaluation.importance import Shuffled, can_be_told, importance
from dougong.evaluation.measure import read_measured
from dougong.evaluation.report import ReportContent, render
from dougong.run import Run
from tests import small_runs


def plan_of(run: Run) -> Plan:
    return assembly.plan_of(run.recipe, run.prepared.split(run.held_out or ""), run.inputs, run.outputs)


def test_an_input_that_says_something_is_missed_and_the_numbers_stand_in_evaluation_and_report() -> None:
    run = small_runs.run("prices")
    measured = read_measured(run.folder / "evaluations" / str(run.held_out))
    told = measured.details["price"]["inputs"]
    assert sorted(told) == ["colour", "stars"]
    stars = told["stars"]
    assert stars["metric"] == "r2"
    assert stars["value"] == pytest.approx(measured.metrics["price.r2"].value, abs=1e-6)
    assert stars["difference"] == pytest.approx(stars["shuffled"] - stars["value"])
    assert stars["low"] <= stars["difference"] <= stars["high"] < 0
    assert abs(told["colour"]["difference"]) < abs(stars["difference"])
    assert "price.r2 with stars shuffled: " in measured.text()
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert '<section id="inputs">' in page
    assert "this input of another row" in page


def test_the_rows_of_a_shuffled_plan_have_one_input_of_another_row_whatever_its_length() -> None:
    run = small_runs.run("spans")
    plan = RowPlan(run.prepared.split("train"), limits=assembly.limits_of(run.inputs), batch_rows=20, shuffle=False)
    shuffled = Shuffled(plan, "passage", 7)
    seen = []
    for index in range(plan.batches(0)):
        rows = plan.rows(0, index)
        assert shuffled.rows(0, index).tolist() == rows.tolist()
        own, other = plan.collate(rows, 0), shuffled.collate(rows, 0)
        assert own.keys() == other.keys()
        assert shuffled.row_ids(other) == rows.tolist()
        assert all(torch.equal(own[key], other[key]) for key in own if not key.startswith("passage."))
        assert not torch.equal(own["passage.tokens"], other["passage.tokens"])
        for row, length in zip(other["passage.tokens"], other["passage.tokens.length"], strict=True):
            assert not row[length:].any()
        seen += other["passage.tokens.length"].tolist()
    assert sorted(seen) == sorted(plan.split.lengths("passage.tokens")[: len(seen)].clip(max=16).tolist())


@pytest.mark.parametrize("name", ["reviews", "spans", "poems"])
def test_nothing_is_told_where_there_is_one_input_or_none_or_they_are_not_read_whole(name: str) -> None:
    run = small_runs.run(name)
    assert not can_be_told(run.model, plan_of(run))
    assert '<section id="inputs">' not in (run.folder / "report.html").read_text(encoding="utf-8")


def test_it_is_the_same_each_time() -> None:
    run = small_runs.run("prices")
    first, again = (importance(run.model, plan_of(run), run.autocast) for _ in range(2))
    assert first == again


def test_the_report_tells_what_share_of_the_time_was_spent_on_waiting() -> None:
    run = small_runs.run("prices")
    log = summary.log_of(run.folder / "log.jsonl", "rows")
    shares = [record["wait_share"] for record in log if "wait_share" in record]
    assert shares
    assert np.all((np.array(shares) >= 0) & (np.array(shares) <= 1))
    page = render(ReportContent(name="x", log=[{"step": 1, "rows_per_second": 5.0, "wait_share": 0.021}]))
    assert "2.1 % of the time it waited for batches" in page
