"""A server of victims: imports torch once, then forks a child for each order, lets it save checkpoints, and kills it.

One order a line on standard input, one answer a line on standard output, both JSON. The child tells through a pipe
which steps it began and which are committed, so that the test knows what must have survived.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from dougong.core.artefacts import append_line
from dougong.core.errors import DougongError
from dougong.training import checkpoint

CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "close", "ftruncate")


def content(step: int) -> dict[str, torch.Tensor]:
    """The tensors of a step: every number in them is the step, so a mix of two steps shows."""
    return {
        "model.weight": torch.full((64, 48), float(step)),
        "model.bias": torch.full((48,), float(step), dtype=torch.bfloat16 if step < 256 else torch.float32),
        "optimizer.moment": torch.full((3000,), float(step), dtype=torch.float64),
    } | {f"model.{index}": torch.full((5,), step) for index in range(3)}


def save_step(folder: Path, step: int) -> None:
    append_line(folder / "log.jsonl", {"step": step, "loss": 1 / (step + 1)})
    checkpoint.save(folder / "checkpoints", step, content(step), {"step": step}, best=step % 5 == 0)


def main() -> None:
    torch.set_num_threads(1)
    save_step(Path(sys.argv[1]), 0)  # torch imports the last of itself on first use: once here, not in each child
    for line in sys.stdin:
        order = json.loads(line)
        answer = run_victim(order)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def run_victim(order: dict[str, Any]) -> dict[str, Any]:
    """Fork, kill as the order says, and report the steps begun and committed, the errors told, and how it ended."""
    read, write = os.pipe()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.close(go_write)
            victim(order, write, go_read)
            os._exit(0)
        except BaseException as error:
            os.write(2, f"victim: {error!r}\n".encode())
            os._exit(3)
    os.close(write)
    os.close(go_read)
    tracer = trace(pid, order["inject"]) if "inject" in order else None
    started = time.monotonic()
    os.write(go_write, b"g")
    if "delay" in order:
        select.select([read], [], [], 10)  # the first word from the child: it has begun
        time.sleep(order["delay"])
        os.kill(pid, signal.SIGKILL)
    words = b""
    while part := os.read(read, 1 << 16):
        words += part
    seconds = time.monotonic() - started
    os.close(read)
    os.close(go_write)
    _, status = os.waitpid(pid, 0)
    if tracer is not None:
        tracer.wait()
    told = words.decode().splitlines()
    steps = {mark: [int(word[1:]) for word in told if word[0] == mark] for mark in "bc"}
    return {
        "begun": max(steps["b"], default=None),
        "committed": max(steps["c"], default=None),
        "errors": [word[1:] for word in told if word[0] == "e"],
        "finished": os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0,
        "killed": os.WIFSIGNALED(status),
        "seconds": seconds,
    }


def victim(order: dict[str, Any], tell: int, go: int) -> None:
    tell_write = os.write  # the real one, whatever is wrapped below
    os.read(go, 1)
    if "kill_at" in order:
        kill_at_call(order["kill_at"], order["how"])
    steps: Iterator[int] = itertools.count(order["first"])
    for step in itertools.islice(steps, order.get("saves")):
        tell_write(tell, f"b{step}\n".encode())
        try:
            save_step(Path(order["folder"]), step)
        except DougongError as error:
            tell_write(tell, f"e{type(error).__name__}: {error}".replace("\n", " ").encode() + b"\n")
            continue
        tell_write(tell, f"c{step}\n".encode())


def kill_at_call(count: int, how: str) -> None:
    """Die before the call number `count` to the file system; `torn`: in it, with half of its bytes written."""
    calls = itertools.count(1)

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            mine = next(calls) == count
            if mine and how == "torn" and name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))


def trace(pid: int, inject: str) -> subprocess.Popen[str]:
    """Attach strace, which meddles with the n-th call of one kind; return when it holds the child."""
    tracer = subprocess.Popen(
        [
            "strace",
            "-p",
            str(pid),
            "-o",
            os.devnull,
            "-e",
            f"trace={inject.partition(':')[0]}",
            "-e",
            f"inject={inject}",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    if not re.search(r"attached", line):
        raise RuntimeError(f"strace did not attach: {line}")
    return tracer


if __name__ == "__main__":
    main()
