"""What a contestant of `benchmarks.finetuning` is told, and the line that it answers with."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.metadata import version

from benchmarks.peers.job import Clock, threads

# The model and how it is trained; benchmarks/finetuning.yaml says the same to dougong.
LAYERS, WIDTH, HEADS, LONGEST = 4, 256, 4, 512
BATCH, LR, WARMUP, WEIGHT_DECAY = 32, 5e-4, 20, 0.01


@dataclass(frozen=True, kw_only=True)
class Job:
    contestant: str
    rows_file: str
    tokenizer: str
    rows: int
    warmup: int  # the first steps, not timed
    precision: str
    grouped: bool  # by length
    dropout: float
    seed: int = 0
    device: str = "cpu"


def read_job() -> Job:
    return Job(**json.loads(sys.argv[1]))


def answer(job: Job, clock: Clock, tokens: list[int], packages: list[str], **more: object) -> None:
    """Print the result; `tokens` are the real ones of each step.

    Rows a second are tokens a second by the mean length of all rows: the steps that are not timed may hold longer ones.
    """
    seconds = clock.stamps[-1] - clock.stamps[job.warmup - 1]
    speed = sum(tokens[job.warmup : len(clock.stamps)]) / seconds
    result = {
        "contestant": job.contestant,
        "precision": job.precision,
        "rows": job.rows,
        "steps": len(clock.stamps),
        "tokens": sum(tokens[: len(clock.stamps)]),
        "tokens_per_second": speed,
        "rows_per_second": speed * job.rows / sum(tokens[: len(clock.stamps)]),
        "peak_memory": clock.peak,
        "losses": [round(loss, 4) for loss in clock.losses],
        "threads": threads(),
        "versions": {name: version(name) for name in ["torch", *packages]},
    }
    sys.stdout.flush()
    print(json.dumps(result | more), flush=True)
