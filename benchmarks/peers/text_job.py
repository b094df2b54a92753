"""What a contestant of `benchmarks.tokenization` is told, and the line that it answers with."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, kw_only=True)
class Job:
    text: str  # the file; rows are paragraphs
    tokenizer: str  # tokenizer.json
    folder: str  # empty, for what it writes
    vocab_size: int  # of a tokenizer that is to be trained
    end: int  # the token that closes a row


def read_job() -> Job:
    os.environ["HF_HUB_OFFLINE"] = "1"
    return Job(**json.loads(sys.argv[1]))


class Stopwatch:
    seconds = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def answer(watch: Stopwatch, packages: list[str], **found: object) -> None:
    sys.stdout.flush()
    print(json.dumps({"seconds": watch.seconds, "versions": {name: version(name) for name in packages}, **found}))
