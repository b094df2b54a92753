"""What a run shows and writes down while it trains: the live line, the log, and the wish to stop."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dougong.core.artefacts import append_line
from dougong.core.devices import memory_used, peak_flops
from dougong.data.loader import STOPPING

PLAIN_EVERY = 10.0  # seconds between lines where the output is not a terminal


class Interrupted(BaseException):  # as KeyboardInterrupt: nobody on its way may take it for a fault
    """A signal came within `Stop.interrupts`."""


class Stop:
    """Whether somebody asked to stop. The first signal lets the step end and saves; the second leaves at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.interrupting = False

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Here the first signal does not wait: it raises Interrupted, for work that can be done again."""
        self.interrupting = True
        try:
            if self:
                raise Interrupted
            yield
        finally:
            self.interrupting = False

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        return 128 + int(self.signal or signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGTERM, SIGINT and SIGUSR1 (which clusters send before they kill) into a request to stop after the step."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop:
            os._exit(128 + number)  # the second one: the last checkpoint is good, leave now
        stop.signal = number
        if stop.interrupting:
            raise Interrupted

    try:
        kept = {number: signal.signal(number, ask) for number in STOPPING}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        kept = {}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class Monitor:
    """Writes log.jsonl, one record a step, and shows how the run goes (on standard error)."""

    def __init__(self, log: Path, device: torch.device, dtype: torch.dtype, *, quiet: bool = False):
        self.log, self.device, self.dtype, self.quiet = log, device, dtype, quiet
        self.flops_per_row = 0.0
        self.loss = math.nan
        self.speed = Speed()
        self.live = not quiet and sys.stderr.isatty()
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.said = 0.0
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __enter__(self) -> Monitor:
        if self.live:
            self.bar = Progress(BarColumn(24), TextColumn("{task.description}"), console=self.console, transient=False)
            self.task = self.bar.add_task("", total=1.0)
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    @cached_property
    def peak(self) -> float:  # measured when first shown: the first step need not wait for it
        return peak_flops(self.device, self.dtype)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False)

    def record(self, record: dict[str, Any]) -> None:
        append_line(self.log, _finite(record))

    def step(self, record: dict[str, Any], done: float, seconds_left: float | None) -> None:
        """Log one step and refresh the live line. `done` is the share of the budget that is used."""
        self.record(record)
        loss = record["loss"]
        if math.isfinite(loss):
            self.loss = loss if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * loss
        self.speed.add(record["tokens"], record["rows"], record["step_seconds"], record.get("wait_seconds", 0.0))
        if self.quiet:
            return
        if self.bar:
            self.bar.update(self.task, completed=done, description=self.line(record, seconds_left))
        elif time.monotonic() - self.said > PLAIN_EVERY or done >= 1:
            self.said = time.monotonic()
            self.say(f"{done:4.0%}  {self.line(record, seconds_left)}")

    def line(self, record: dict[str, Any], seconds_left: float | None) -> str:
        flops = self.flops_per_row * self.speed.rows
        parts = [
            f"step {record['step']:,}",
            f"loss {self.loss:.3f}",
            f"{self.speed.tokens:,.0f} tokens/s",
            f"{flops / 1e9:,.0f} GFLOP/s ({flops / self.peak:.0%} of peak)" if flops else "",
            f"{self.speed.waiting:.0%} waiting for data" if self.speed.waiting >= 0.05 else "",
            f"{memory_used(self.device) / 1e9:.1f} GB",
            f"{_duration(seconds_left)} left" if seconds_left is not None else "",
        ]
        return "  ".join(part for part in parts if part)


class Speed:
    """Tokens and rows a second, and the share of the time that was spent on waiting for batches, over the last steps."""

    def __init__(self, memory: float = 0.95):
        self.memory = memory
        self.sums = [0.0, 0.0, 0.0, 0.0]

    def add(self, tokens: int, rows: int, seconds: float, waited: float = 0.0) -> None:
        new = (tokens, rows, seconds, waited)
        self.sums = [self.memory * old + each for old, each in zip(self.sums, new, strict=True)]

    @property
    def tokens(self) -> float:
        return self.sums[0] / max(self.sums[2], 1e-9)

    @property
    def rows(self) -> float:
        return self.sums[1] / max(self.sums[2], 1e-9)

    @property
    def waiting(self) -> float:
        return self.sums[3] / max(self.sums[2], 1e-9)


def _finite(value: Any) -> Any:
    """JSON has no NaN: a loss that was not finite is logged as null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
