"""What a contestant of `benchmarks.translation` is told, the rows that it reads, and the line that it answers with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers.job import threads

Pair = tuple[str, str]  # English, and what it is in the other language


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the recipe says of its model and its training, and the peer takes over."""

    layers: int  # of the encoder, and of the decoder
    width: int
    heads: int
    feedforward: int
    dropout: float
    vocab_size: int  # of both languages together
    longest: int  # tokens of one text
    beams: int
    batch_tokens: int  # of a step, padding included
    label_smoothing: float


@dataclass(frozen=True, kw_only=True)
class Job:
    contestant: str
    recipe: str
    rows: str  # a folder: train.jsonl, validation.jsonl, test.jsonl
    written: str  # the file for the translations of the test rows
    shape: Shape
    lr: float  # of the peer
    seed: int
    minutes: float  # the budget: of training, or
    steps: int | None = None  # as many steps


def read_job() -> Job:
    told = json.loads(sys.argv[1])
    return Job(**told | {"shape": Shape(**told["shape"])})


def write_lines(path: Path, values: Iterable[object]) -> None:
    """Pairs of a split, or translations: one JSON value a line."""
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), "utf-8")


def read_pairs(job: Job, split: str) -> list[Pair]:
    with Path(job.rows, f"{split}.jsonl").open(encoding="utf-8") as file:
        return [(english, other) for english, other in map(json.loads, file)]


def answer(translations: list[str], job: Job, packages: list[str], **more: object) -> None:
    """Write the translations of the test rows, and print the result."""
    write_lines(Path(job.written), translations)
    result = {"threads": threads(), "versions": {name: version(name) for name in ["torch", *packages]}}
    sys.stdout.flush()
    print(json.dumps(more | result), flush=True)
