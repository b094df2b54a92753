"""One process or many: what all ranks of a job must do together. With one process all of it is plain calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def many() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if many() else 0


def on_first_rank(run: Callable[[], T]) -> T:
    """Run on the first rank alone; every rank gets its result, or raises its error: none goes on where one stopped."""
    if not many():
        return run()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = run()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def gather(value: dict[str, Any]) -> list[dict[str, Any]]:
    if not many():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
