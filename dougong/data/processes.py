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
from contextlib import contextmanager
from itertools import count
from types import ModuleType
from typing import Any, Protocol, TypeVar

from dougong.core import torchless
from dougong.core.errors import MachineError

T = TypeVar("T")
R = TypeVar("R")


class Spread(Protocol):
    """`map` over processes."""

    def __call__(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]: ...


@contextmanager
def processes(workers: int) -> Iterator[Spread]:
    """`map` over processes, in order, holding few more tasks than they work at; in this process where workers = 0.

    New processes and no forks: those would inherit the locks of this one's threads. They have no torch (core/torchless.py).
    They stay for the next function: to start them and to load what they need takes a second.
    """
    if not workers:
        yield lambda function, tasks: map(function, tasks)
        return
    numbers = count()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin) as pool:

        def spread(function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
            number = next(numbers)
            waiting: deque[Future[R]] = deque()
            for task in tasks:
                with _without_main():
                    waiting.append(pool.submit(_work, number, function, task))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield spread
        except BrokenProcessPool:
            raise MachineError(
                "a process that prepares data died (killed, or out of memory). "
                "Fix: run it again; it goes on where it was."
            ) from None


def _begin() -> None:
    """What a process of the pool does first."""
    torchless.install()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # each of us has a core, and no more
    _end_with_parent()


_kept: tuple[int, Callable[[Any], Any]] = (-1, id)


def _work(number: int, function: Callable[[T], R], task: T) -> R:
    """One object for all of a function's tasks: what it works out for itself it keeps."""
    global _kept
    if _kept[0] != number:
        _kept = number, function
    result: R = _kept[1](task)
    return result


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
