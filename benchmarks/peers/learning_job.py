"""What a contestant of `benchmarks.learning` is told, the curve that it answers with, and how all are validated."""

# B windows, T context, N tokens of the file

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from benchmarks.peers.job import peak_memory, threads

VALIDATIONS = 20  # of a run, evenly over its budget, as dougong's are
TOGETHER = 8192  # tokens that are validated at once


@dataclass(frozen=True, kw_only=True)
class Job:
    contestant: str
    train: str  # the file to learn from
    validation: str
    seed: int
    shape_name: str = ""  # of the plain loop
    precision: str = "fp32"
    steps: int | None = None  # its budget: as many steps, or as many minutes of training
    minutes: float | None = None
    overrides: tuple[str, ...] = ()  # of dougong's recipe


def read_job() -> Job:
    return Job(**json.loads(sys.argv[1]))


class Curve:
    """Validation losses over seconds of training. While it is validated, or saved, the clock stands still."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float, float]] = []  # (step, seconds, nats a character)
        self.step = 0
        self.before, self.since = 0.0, time.perf_counter()

    def start(self) -> None:
        self.since = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.since

    @contextmanager
    def standing(self) -> Iterator[None]:
        self.before = self.seconds
        yield
        self.start()

    def validated(self, loss: float) -> None:
        """A loss measured while the clock stands."""
        self.points.append((self.step, self.before, loss))

    def answer(self, job: Job, packages: list[str], **more: object) -> None:
        result = {
            "contestant": job.contestant,
            "seed": job.seed,
            "points": [(step, round(seconds, 3), round(loss, 5)) for step, seconds, loss in self.points],
            "peak_memory": peak_memory("cpu"),
            "threads": threads(),
            "versions": {name: version(name) for name in ["torch", *packages]},
        }
        sys.stdout.flush()
        print(json.dumps(result | more), flush=True)


def validated(tokens: np.ndarray, context: int, nats: Callable[[np.ndarray], float]) -> float:
    """Nats a token over all tokens but the first; `nats` sums those of some windows (B, T + 1), the first token given."""
    return sum(nats(rows) for rows in windows_once(tokens, context)) / (len(tokens) - 1)


def windows_once(tokens: np.ndarray, context: int) -> Iterator[np.ndarray]:  # (N,) -> (B, T + 1) int64
    """Windows side by side, each with the token before it, so that all tokens but the first stand in one to predict."""
    tokens = tokens.astype(np.int64)
    whole = (len(tokens) - 1) // context
    starts = np.arange(whole) * context
    for some in np.split(starts, range(max(TOGETHER // context, 1), whole, max(TOGETHER // context, 1))):
        if len(some):
            yield tokens[some[:, None] + np.arange(context + 1)]
    if whole * context < len(tokens) - 1:
        yield tokens[None, whole * context :]
