"""A server of trainings that get a signal in a phase of theirs: forks one for each order, for imports take longer.

signalled.py FOLDER: recipe.yaml lies there. One order a line on standard input, one answer a line on standard output:
{"phase": "save", "visit": 2, "delay": 0.001} sends SIGTERM so many seconds after that phase has begun for the second
time, without "delay" the training sends it to itself at once; {"kill_at": 7} is kill -9 in the seventh call to the file
system after the last step; {} trains to the end. The answer is {"code", "hit"}: how the training ended, and the phase
that the signal found it in.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo
import torch.distributed.checkpoint
import torch.utils.flop_counter

import dougong.evaluation.measure as measure
import dougong.lifecycle as lifecycle
import dougong.training.fit as fit
from dougong import backbones, fields
from dougong import run as runs
from dougong.core.artefacts import write_file
from dougong.core.devices import peak_flops
from dougong.training import checkpoint
from tests.crash.saver import kill_at_call

PHASES = ("step", "validation", "save", "prune")


def main() -> None:
    os.chdir(sys.argv[1])
    torch.set_num_threads(1)
    for registry in (backbones, fields):
        for name in registry.names():
            registry.load(name)
    peak_flops(torch.device("cpu"), torch.float32)
    lifecycle.report = lambda run: write_file(run.folder / "report.html", b"no charts")  # type: ignore[assignment]
    for line in sys.stdin:
        sys.stdout.write(json.dumps(serve(json.loads(line))) + "\n")
        sys.stdout.flush()


def serve(order: dict[str, Any]) -> dict[str, Any]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.close(read)
            Phases(order, write).watch()
            if "kill_at" in order:
                runs.finish = killed_within(runs.finish, order["kill_at"])
            lifecycle.train("recipe.yaml")
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        finally:
            os._exit(code)
    os.close(write)
    words = b""
    if "delay" in order and select.select([read], [], [], 60)[0] and (words := os.read(read, 100)):
        time.sleep(order["delay"])
        os.kill(pid, signal.SIGTERM)
    while part := os.read(read, 100):
        words += part
    os.close(read)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    hits = [word[4:] for word in words.decode().splitlines() if word.startswith("hit ")]
    return {"code": code, "hit": hits[0] if hits else None}


def killed_within(finish: Callable[..., Any], count: int) -> Callable[..., Any]:
    def finished(*arguments: Any) -> Any:
        kill_at_call(count, "torn")
        return finish(*arguments)

    return finished


class Phases:
    """Knows in which phase the training is, tells when the ordered one begins, and in which one the signal comes."""

    def __init__(self, order: dict[str, Any], tell: int):
        self.order, self.tell = order, tell
        self.current = ["between"]
        self.visits = dict.fromkeys(PHASES, 0)

    def watch(self) -> None:
        real_signal, real_steps = signal.signal, fit.train_steps

        def noted(number: Any, handler: Any) -> Any:
            def handle(got: int, frame: Any) -> None:
                os.write(self.tell, f"hit {self.current[-1]}\n".encode())
                handler(got, frame)

            return real_signal(number, handle if callable(handler) else handler)

        def steps(*arguments: Any, **options: Any) -> Iterator[Any]:
            source = real_steps(*arguments, **options)
            while True:
                with self.phase("step"):
                    numbers = next(source)
                yield numbers

        signal.signal = noted  # type: ignore[assignment]
        fit.train_steps = steps  # type: ignore[assignment]
        measure.validation = self.within("validation", measure.validation)
        checkpoint.save = self.within("save", checkpoint.save)
        checkpoint.prune = self.within("prune", checkpoint.prune)

    def within(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self.phase(name):
                return real(*arguments, **options)

        return call

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.current.append(name)
        self.visits[name] += 1
        if self.order.get("phase") == name and self.visits[name] == self.order["visit"]:
            if "delay" in self.order:
                os.write(self.tell, b"begun\n")
            else:
                os.kill(os.getpid(), signal.SIGTERM)
        try:
            yield
        finally:
            self.current.pop()


if __name__ == "__main__":
    main()
