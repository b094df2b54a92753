"""The plain loop's model by nanoGPT's recipe for characters on a CPU, as its description gives it.

4 layers of width 128, 4 heads, context 64, 12 windows a step drawn anywhere, 2,000 steps, no dropout; AdamW with betas 0.9 and
0.99, the rate up to 1e-3 over the first 100 steps, then along a cosine down to a tenth of it at the end; fp32, eager. With
a budget in minutes all of this is stretched to that time, the first steps too: they take a twentieth of it.
"""

# B batch, T context

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.learning_job import VALIDATIONS, Curve, Job, read_job, validated
from benchmarks.peers.plain import Model, autocast, optimizer_of, train_step
from benchmarks.shapes import SHAPES, Shape

LEARNERS = {
    "nano": Shape(layers=4, width=128, heads=4, context=64, batch=12, vocab_size=0, lr=1e-3),
    "baby": SHAPES["baby"],
}
WARMUP = 0.05  # of the budget: 100 of 2,000 steps
FLOOR = 0.1  # of the rate, at the end


def main() -> None:
    job = read_job()
    train, validation, vocabulary = characters(job)
    shape = replace(LEARNERS[job.shape_name], vocab_size=len(vocabulary))
    torch.manual_seed(job.seed)
    draw = np.random.default_rng(job.seed)
    model = Model(shape)
    optimizer = optimizer_of(model, shape.lr, "cpu", betas=(0.9, 0.99))
    curve, done, due = Curve(), 0.0, 1
    one = 1 / job.steps if job.steps else WARMUP / 10  # a step's share: the first is not to change nothing
    curve.start()
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = shape.lr * factor(done, one)
        rows = torch.from_numpy(windows(train, shape, draw))  # (B, T + 1)
        train_step(model, optimizer, rows, autocast("cpu", job.precision))
        curve.step += 1
        done = curve.step / job.steps if job.steps else curve.seconds / (60 * (job.minutes or 0))
        if done * VALIDATIONS >= due:
            due = int(done * VALIDATIONS) + 1
            with curve.standing():
                curve.validated(loss_of(model, validation, shape, autocast("cpu", job.precision)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    curve.answer(job, [], parameters=parameters, characters=len(train), validated=len(validation) - 1)


def characters(job: Job) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Both texts as places in their common alphabet, and the alphabet."""
    texts = [Path(path).read_text("utf-8") for path in (job.train, job.validation)]
    vocabulary = sorted(set("".join(texts)))
    places = {character: index for index, character in enumerate(vocabulary)}
    train, validation = (np.array([places[character] for character in text]) for text in texts)
    return train, validation, vocabulary


def factor(done: float, one: float) -> float:
    """What the next step's rate is multiplied by: the share `done` of the budget is used, a step takes `one` of it."""
    if done < WARMUP:
        return (done + one) / (WARMUP + one)
    fallen = (done - WARMUP) / (1 - WARMUP)
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * fallen)) / 2


def windows(tokens: np.ndarray, shape: Shape, draw: np.random.Generator) -> np.ndarray:  # (N,) -> (B, T + 1) int64
    starts = draw.integers(len(tokens) - shape.context, size=(shape.batch, 1))
    return tokens[starts + np.arange(shape.context + 1)]


@torch.no_grad()
def loss_of(model: Model, tokens: np.ndarray, shape: Shape, precision: AbstractContextManager[object]) -> float:
    model.eval()

    def nats(rows: np.ndarray) -> float:  # (B, T + 1)
        given = torch.from_numpy(rows)
        with precision:
            mean = model(given[:, :-1].contiguous(), given[:, 1:].contiguous())
        return float(mean) * given[:, 1:].numel()

    loss = validated(tokens, shape.context, nats)
    model.train()
    return loss


if __name__ == "__main__":
    main()
