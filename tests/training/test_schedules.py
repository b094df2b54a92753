"""Schedules: fixed points, warmup, monotonic falls, and a plateau whose memory is plain JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from dougong.core.config import read
from dougong.training.schedules import (
    START,
    WSD,
    Constant,
    Cosine,
    InverseSqrt,
    Linear,
    Plateau,
    ScheduleConfig,
    factor,
    observe,
)


def at(config: Any, progress: float) -> float:
    return factor(config, round(progress * 1000), progress)


@pytest.mark.parametrize(
    ("config", "points"),
    [
        (Constant(warmup=0.0), {0.0: 1, 0.5: 1, 1.0: 1}),
        (Linear(warmup=0.0), {0.0: 1, 0.25: 0.75, 1.0: 0}),
        (Linear(warmup=0.0, floor=0.5), {0.0: 1, 0.5: 0.75, 1.0: 0.5}),
        (Cosine(warmup=0.0), {0.0: 1, 0.5: 0.5, 1.0: 0}),
        (Cosine(warmup=0.0, floor=0.1), {0.0: 1, 0.5: 0.55, 1.0: 0.1}),
        (WSD(warmup=0.0, decay=0.2, shape="linear"), {0.0: 1, 0.8: 1, 0.9: 0.5, 1.0: 0}),
        (WSD(warmup=0.0, decay=0.2, shape="sqrt"), {0.5: 1, 0.8: 1, 0.85: 0.5, 1.0: 0}),
        (InverseSqrt(warmup=0.25), {0.25: 1, 1.0: 0.5}),
        (Constant(warmup=0.1), {0.0: START, 0.05: (1 + START) / 2, 0.1: 1, 1.0: 1}),
        (Cosine(warmup=0.0), {-1.0: 1, 2.0: 0}),
    ],
)
def test_schedules_pass_through_fixed_points(config: Any, points: dict[float, float]) -> None:
    for progress, expected in points.items():
        assert at(config, progress) == pytest.approx(expected, abs=1e-9)


def test_warmup_in_steps_rises_in_a_line_and_ends_where_it_should() -> None:
    config = Constant(warmup=4)
    assert [factor(config, step, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_inverse_square_root_in_steps_is_that_of_the_paper() -> None:
    config = InverseSqrt(warmup=100)
    for step in (0, 10, 99, 100, 1000, 50_000):
        count = step + 1
        expected = 100**0.5 * min(count**-0.5, count * 100**-1.5)  # Vaswani et al. 2017, scaled to 1 at its peak
        assert factor(config, step, 0.3) == pytest.approx(expected)


@pytest.mark.parametrize("config", [Constant(), Linear(), Cosine(), WSD(), InverseSqrt(), Plateau()])
def test_every_schedule_rises_once_and_never_again(config: Any) -> None:
    values = [at(config, number / 1000) for number in range(1001)]
    assert all(0 <= value <= 1 for value in values)
    assert values[0] > 0, "the first step of a run must change something"
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


def test_plateau_lowers_after_patience_and_its_memory_survives_json() -> None:
    config = Plateau(warmup=0.0, factor=0.5, patience=2)
    memory: dict[str, Any] = {}
    factors = []
    for loss in (3.0, 2.0, 2.0, 2.1, 2.2, 2.0, 1.0, 1.0, 1.0, 1.0):
        memory = json.loads(json.dumps(observe(config, loss, memory)))
        factors.append(factor(config, 10, 0.5, memory))
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_plateau_stops_at_its_floor_and_ignores_a_loss_that_is_no_number() -> None:
    config = Plateau(warmup=0.0, factor=0.1, patience=1, floor=0.05)
    memory: dict[str, Any] = {}
    for _ in range(9):
        memory = observe(config, 1.0, memory)
    assert factor(config, 0, 0.0, memory) == 0.05
    assert observe(config, math.nan, memory) == memory


def test_the_other_schedules_remember_nothing() -> None:
    assert observe(Cosine(), 1.0, {}) == {}


def test_schedules_are_read_by_their_kind() -> None:
    assert read(ScheduleConfig, {"kind": "wsd", "warmup": "2k"}) == (WSD(warmup=2000), [])
    assert read(ScheduleConfig, {"kind": "cosine", "warmup": 0.05}) == (Cosine(warmup=0.05), [])
    assert read(ScheduleConfig, {"kind": "cosine", "warmup": 0}) == (Cosine(warmup=0), [])
    _, [problem] = read(ScheduleConfig, {"kind": "cosin"}, "train.schedule")
    assert "one of constant, linear, cosine, wsd, inverse_sqrt, plateau" in str(problem)
    assert "write 'cosine'" in str(problem)
    assert read(ScheduleConfig, {"kind": "cosine", "warmup": 1.5})[1]
