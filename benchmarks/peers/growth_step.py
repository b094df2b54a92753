"""dougong: some steps of the recipe benchmarks/growth.yaml in another size; its data has been prepared before."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import dougong
from benchmarks.data import PREPARED, ROOT
from benchmarks.peers.dougong_steps import steps_of_a_run
from benchmarks.peers.job import Clock, peak_memory, threads

RECIPE = ROOT / "benchmarks" / "growth.yaml"


@dataclass(frozen=True, kw_only=True)
class Job:
    overrides: tuple[str, ...]
    steps: int
    warmup: int  # the first steps, not timed
    device: str = "cpu"


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    overrides = [*job.overrides, f"data.cache={PREPARED}", f"train.steps={job.steps}", f"train.device={job.device}"]
    clock, before = Clock(job.device), peak_memory(job.device)  # what the imports take, torch's too
    tokens = 0

    def step(record: dict[str, Any]) -> None:
        nonlocal tokens
        clock.step(record["loss"])
        tokens = record["tokens"]

    with steps_of_a_run(step):
        run = dougong.train(RECIPE, overrides=overrides)
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
    seconds = [after - earlier for earlier, after in pairwise(clock.stamps[job.warmup - 1 :])]
    result = {
        "seconds": statistics.median(seconds),
        "memory": clock.peak - before,
        "peak_memory": clock.peak,
        "tokens": tokens,
        "parameters": parameters,
        "threads": threads(),
        "versions": {name: version(name) for name in ("torch", "dougong")},
    }
    sys.stdout.flush()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
