"""The windows that every peer reads, in the same order, for those that take a torch Dataset."""

# T context

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.peers.job import Job
from benchmarks.shapes import window


class Windows(Dataset[Tensor]):
    """As many windows as the job's steps take, each with the token after it."""

    def __init__(self, job: Job):
        self.tokens, self.shape, self.size = job.tokens(), job.shape, job.steps * job.shape.batch

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(window(self.tokens, self.shape, index))  # (T + 1,)
