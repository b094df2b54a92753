"""dougong: `dougong.train` of the recipe benchmarks/learning.yaml, validated on the same windows as the plain loop.

Its own validation during training looks at a part of the text: here all of it is looked at instead, and the best weights
are chosen by that. Neither that nor saving counts as training.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
import torch

import dougong
from benchmarks.data import PREPARED, ROOT
from benchmarks.peers.dougong_steps import steps_of_a_run
from benchmarks.peers.learning_job import Curve, Job, read_job, validated
from dougong.data.loader import WindowPlan
from dougong.evaluation import measure
from dougong.model import Model
from dougong.training.fit import Session
from dougong.training.monitors import Monitor

RECIPE = ROOT / "benchmarks" / "learning.yaml"
Autocast = Callable[[], AbstractContextManager[Any]]


def main() -> None:
    job, curve = read_job(), Curve()
    entered, saved = Monitor.__enter__, Session.save
    counted = 0

    def step(record: dict[str, Any]) -> None:
        curve.step = record["step"]

    def enter(monitor: Monitor) -> Monitor:  # what follows is training
        monitor = entered(monitor)
        curve.start()
        return monitor

    def save(session: Session, *arguments: Any, **options: Any) -> None:
        with curve.standing():
            saved(session, *arguments, **options)

    def validation(model: Model, plan: WindowPlan, autocast: Autocast, weights: object) -> dict[str, float]:
        nonlocal counted
        with curve.standing():
            tokens = plan.stream.read(0, len(plan.stream) - 1)  # without the end token, which is no character
            counted = len(tokens) - 1
            curve.validated(loss_of(model, tokens, plan, autocast))
        return {"loss": curve.points[-1][2]}

    with (
        steps_of_a_run(step),
        mock.patch.object(Monitor, "__enter__", enter),
        mock.patch.object(Session, "save", save),
        mock.patch.object(measure, "validation", validation),
    ):
        run = dougong.train(RECIPE, overrides=overrides(job))
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
        characters = len(run.prepared.split("train").stream("text.tokens")) - 1
    curve.answer(job, ["dougong"], parameters=parameters, characters=characters, validated=counted)


def overrides(job: Job) -> list[str]:
    """What the benchmark sets beside the recipe; a budget in minutes takes the place of the recipe's own."""
    shared = [f"data.cache={PREPARED}", f"data.train={job.train}", f"data.validation={job.validation}"]
    budget = [f"train.minutes={job.minutes}"] if job.minutes else []
    return [*shared, f"seed={job.seed}", *job.overrides, *budget]


@torch.inference_mode()
def loss_of(model: Model, tokens: np.ndarray, plan: WindowPlan, autocast: Autocast) -> float:
    """Nats a character; windows of the recipe's context. `model` is in evaluation mode."""
    device = next(model.parameters()).device

    def nats(rows: np.ndarray) -> float:  # (B, T + 1)
        batch = {
            "row": torch.arange(len(rows)),
            f"{plan.field}.tokens": torch.from_numpy(rows[:, 1:].copy()),
            f"{plan.field}.tokens.length": torch.full((len(rows),), rows.shape[1] - 1),
            f"{plan.field}.before": torch.from_numpy(rows[:, 0].copy()),
        }
        with autocast():
            _, losses = model.evaluate({key: value.to(device) for key, value in batch.items()})
        return float(losses[plan.field])

    return validated(tokens, plan.context, nats)


if __name__ == "__main__":
    main()
