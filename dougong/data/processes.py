"""Work on all cores: `map` over processes, in order, in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import ModuleType
from typing import Any, TypeVar

from dougong.core import torchless
from dougong.core.errors import MachineError

T = TypeVar("T")
R = TypeVar("R")


def spread(function: Callable[[T], R], tasks: Iterable[T], workers: int) -> Iterator[R]:
    """`map` over processes, in order, holding few more tasks than they work at; in this process where workers = 0.

    New processes and no forks: those would inherit the locks of this one's threads. They have no torch (core/torchless.py).
    """
    if not workers:
        yield from map(function, tasks)
        return
    waiting: deque[Future[R]] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(function,)) as pool:
        try:
            for task in tasks:
                with _without_main():
                    waiting.append(pool.submit(_work, task))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise MachineError(
                "a process that prepares data died (killed, or out of memory). "
                "Fix: run it again; it goes on where it was."
            ) from None


_function: Callable[[Any], Any]


def _begin(function: Callable[[Any], Any]) -> None:
    """What a process of the pool does first: take the function, which would be long to send with each task."""
    global _function
    _function = function
    torchless.install()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # each of us has a core, and no more
    _end_with_parent()


def _work(task: Any) -> Any:
    return _function(task)


def _end_with_parent() -> None:
    """A pool's process that waits for work does not notice that a kill -9 took the one which would send it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _without_main:  # noqa: N801 - reads as what it does
    """A spawned process imports the caller's main script again, and so starts the job a second time; ours need not."""

    def __enter__(self) -> None:
        self.main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")

    def __exit__(self, *_: object) -> None:
        sys.modules["__main__"] = self.main
