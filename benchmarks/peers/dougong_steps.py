"""A run of dougong whose steps are handed on as they are logged, and whose folder is thrown away."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from typing import Any
from unittest import mock

from benchmarks.data import WORK
from dougong.training.monitors import Monitor


@contextmanager
def steps_of_a_run(each: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Within it every training calls `each` with the record of a step, once it stands in the log.

    There, and not where a step is timed: the figure in its record leaves out what comes between two steps.
    """
    logged = Monitor.step

    def step(monitor: Monitor, record: dict[str, Any], *more: Any) -> None:
        logged(monitor, record, *more)
        each(record)

    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder, chdir(folder), mock.patch.object(Monitor, "step", step):
        yield
