"""What a contestant is told, how its steps are timed, and the one line that it answers with.

Imported by every contestant in an environment of its own: torch and numpy are all that it may need.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.shapes import SHAPES, Shape, read_tokens


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one contestant."""

    contestant: str
    shape_name: str
    precision: str  # bf16, fp32, or auto where the contestant chooses
    compile: bool | None  # None: as the contestant chooses
    steps: int
    warmup: int  # the first steps, not timed
    tokens_file: str
    device: str = "cpu"
    seed: int = 0

    @property
    def shape(self) -> Shape:
        return SHAPES[self.shape_name]

    def tokens(self) -> np.ndarray:
        return read_tokens(Path(self.tokens_file))


def read_job() -> Job:
    return Job(**json.loads(sys.argv[1]))


class Clock:
    """Stamps the end of each step. Between two stamps lies all of a step: its batch, its logging, its bookkeeping."""

    def __init__(self, device: str):
        self.device = device
        self.stamps: list[float] = []
        self.losses: list[float] = []
        self.peak = 0

    def step(self, loss: float | None = None) -> None:
        self.stamps.append(time.perf_counter())
        self.peak = peak_memory(self.device)  # after the last step; what comes then is no part of training
        if loss is not None:
            self.losses.append(float(loss))

    def answer(self, job: Job, packages: list[str], **more: object) -> None:
        """Print the result, as one JSON line on standard output."""
        seconds = np.diff(self.stamps)[max(job.warmup - 1, 0) :]  # the first stamp is the end of step 1
        if len(seconds) == 0:
            sys.exit(f"{len(self.stamps)} steps of which {job.warmup} are warm-up leave none to time")
        median = float(np.median(seconds))
        result = {
            "contestant": job.contestant,
            "shape": job.shape_name,
            "precision": job.precision,
            "compile": job.compile,
            "device": job.device,
            "steps": len(self.stamps),
            "tokens_per_second": job.shape.tokens_per_step / median,
            "step_seconds": median,
            "peak_memory": self.peak,
            "losses": [round(loss, 4) for loss in self.losses],
            "threads": threads(),
            "versions": {name: version(name) for name in ["torch", *packages]},
        }
        sys.stdout.flush()
        print(json.dumps(result | more), flush=True)


def peak_memory(device: str) -> int:
    """Bytes: the most that was allocated on the GPU, or the most resident memory that this process has held."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():  # VmHWM: ru_maxrss begins with what the parent held when it forked
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def threads() -> int:
    import torch

    return torch.get_num_threads()


def quiet() -> None:
    """No telemetry, no hub, no progress bars: standard output is for the one line."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
