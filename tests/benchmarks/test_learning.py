"""The learning benchmark: all are validated on the same characters, and its figures follow from the curves."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks import learning, table
from benchmarks.peers.learn_plain import LEARNERS, WARMUP, factor, windows
from benchmarks.peers.learning_job import Curve, Job, validated, windows_once

TOLD = {"parameters": 10, "characters": 900, "validated": 99, "threads": 2, "versions": {"torch": "2.13.0"}}


def answer(*points: tuple[int, float, float], **more: Any) -> dict[str, Any]:
    return {**TOLD, "points": points, "peak_memory": 1e9, **more}


@pytest.mark.parametrize("count", [2, 8, 9, 10, 1000])
def test_each_token_but_the_first_is_predicted_once_from_the_token_before_it(count: int) -> None:
    tokens = np.arange(count, dtype=np.uint16)
    rows = [row for some in windows_once(tokens, 8) for row in some]
    assert np.concatenate([row[1:] for row in rows]).tolist() == list(range(1, count))
    assert all(np.array_equal(row[:-1] + 1, row[1:]) for row in rows)
    assert max(len(row) for row in rows) <= 9


def test_a_validation_loss_is_the_mean_over_all_those_tokens() -> None:
    assert validated(np.arange(100), 8, lambda rows: 2.0 * rows[:, 1:].size) == pytest.approx(2.0)


def test_the_clock_stands_while_it_is_validated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 10.0, 15.0, 100.0, 103.0])
    monkeypatch.setattr("benchmarks.peers.learning_job.time.perf_counter", lambda: next(now))
    curve = Curve()
    curve.start()  # at 10
    with curve.standing():  # from 15 to 100
        curve.validated(1.5)
    assert curve.seconds == 8
    curve.answer(Job(contestant="plain", train="", validation="", seed=3), [], characters=7)
    told = json.loads(capsys.readouterr().out)
    assert told["points"] == [[0, 5.0, 1.5]]
    assert (told["seed"], told["characters"]) == (3, 7)


def test_the_plain_rate_rises_over_a_twentieth_and_falls_to_a_tenth() -> None:
    rates = [factor(step / 2000, 1 / 2000) for step in range(2001)]
    assert rates[0] == pytest.approx(1 / 101)
    assert np.argmax(rates) == WARMUP * 2000
    assert max(rates) == 1
    assert rates[-1] == pytest.approx(0.1)


def test_the_plain_loop_draws_windows_that_lie_within_the_text() -> None:
    shape, draw = LEARNERS["nano"], np.random.default_rng(0)
    rows = windows(np.arange(shape.context + 1), shape, draw)
    assert rows.shape == (12, 65)
    assert np.array_equal(rows[5], np.arange(65))


def test_when_a_loss_was_reached_is_read_from_the_line_between_two_validations() -> None:
    points = [(1, 10.0, 3.0), (2, 20.0, 2.0), (3, 30.0, 1.0)]
    assert learning.seconds_to(points, 1.5) == 25
    assert learning.seconds_to(points, 3.5) == 10
    assert learning.seconds_to(points, 0.5) is None


def test_sooner_compares_seed_by_seed_with_the_loss_at_which_plain_ended() -> None:
    plain = {0: answer((1, 50.0, 3.0), (2, 100.0, 2.0)), 1: answer((2, 100.0, 2.5))}
    dougong = {0: answer((1, 10.0, 3.0), (2, 20.0, 2.0)), 1: answer((1, 50.0, 2.5))}
    first, ours = learning.sooner({"plain": plain, "dougong": dougong})
    assert (first["times_sooner"], first["loss"], first["seconds_to_loss"]) == (1, 2.25, 100)
    assert (ours["rounds"], ours["times_sooner"], ours["seconds_to_loss"]) == ([5, 2], 3.5, 35)
    missed = learning.sooner({"plain": plain, "dougong": {0: answer((1, 10.0, 2.1))}})[1]
    assert (missed["seconds_to_loss"], missed["times_sooner"]) == (None, 0)


def test_minutes_take_the_lowest_loss_and_the_best_plain_loop() -> None:
    answers = {
        "plain": {0: answer((1, 9.0, 2.0), (2, 9.0, 2.2))},
        "plain baby bf16": {0: answer((1, 9.0, 4.0))},
        "dougong": {0: answer((1, 9.0, 1.8))},
    }
    assert [result["share_of_plain"] for result in learning.within_minutes(answers)] == [1, 2, 0.9]


def test_learners_of_other_texts_and_losses_that_rise_are_called_wrong() -> None:
    results = learning.within_minutes(
        {"plain": {0: answer((1, 1, 2.0))}, "dougong": {0: answer((1, 1, 1), validated=1)}}
    )
    assert "plain 900 and 99; dougong 900 and 1" in learning.unequal(results)[0]
    assert learning.unequal(results[:1]) == []
    assert "does not fall" in learning.bad({"points": [(1, 1.0, 2.0), (2, 2.0, 2.1)]})[0]


def test_both_parts_have_their_tables() -> None:
    shared = {"machine": "a machine", "commit": "abc1234", "benchmark": "learning", "run": "2026-01-01"}
    plain, ours = {0: answer((2000, 100.0, 2.0))}, {0: answer((300, 20.0, 1.8))}
    parts = (
        learning.sooner({"plain": plain, "dougong": ours}),
        learning.within_minutes({"plain": plain, "dougong": ours}),
    )
    results = [
        shared | {"budget": budget} | one for budget, part in zip((2000, 2.0), parts, strict=True) for one in part
    ]
    text = table.tables(results)
    assert "### Learning: seconds to the loss of the plain loop's 2,000 steps" in text
    assert "| dougong | 1.8000 | 20.0 | 5.00 | 10 | 300 | 20.0 | 1.00 GB | 5.000 |" in text
    assert "### Learning: the lowest loss within 2 minutes of training" in text
    assert "| dougong | 1.8000 | 0.900 | 10 |" in text
