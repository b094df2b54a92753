"""A server of whole trainings: imports torch once, then forks a child for each `dougong …` that it is told to run.

One order a line on standard input, one answer a line on standard output, both JSON: {"start": arguments, "cwd": folder,
"errors": file} gives {"pid"}, {"wait": pid} gives {"code"}. The test itself sends the signals; with "group": true the
child leads a process group of its own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

import matplotlib.backends.backend_svg  # noqa: F401 - as all that stands here
import torch
import torch._dynamo
import torch.distributed.checkpoint
import torch.utils.flop_counter

import dougong.lifecycle
from dougong import backbones, cli, fields
from dougong.core.artefacts import write_file
from dougong.core.devices import peak_flops


def main() -> None:
    torch.set_num_threads(1)
    for registry in (backbones, fields):
        for name in registry.names():
            registry.load(name)
    with torch.device("meta"):
        torch.nn.Embedding(2, 2)  # what is imported or built on first use: once here, not in each child
    dougong.lifecycle.schema()
    peak_flops(torch.device("cpu"), torch.float32)
    for line in sys.stdin:
        order = json.loads(line)
        answer = {"pid": start(order)} if "start" in order else {"code": wait(order["wait"])}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def start(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = run(order)
    finally:
        os._exit(code)


def run(order: dict[str, Any]) -> int:
    """What `python -m dougong.cli` does, in this process; its exit code."""
    if order.get("group"):
        os.setsid()
    os.chdir(order["cwd"])
    handle = os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(handle, 2)
    os.dup2(handle, 1)
    if limit := order.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if not order.get("charts"):
        dougong.lifecycle.report = lambda run: write_file(run.folder / "report.html", b"no charts")  # type: ignore
    try:
        cli.main(order["start"], prog_name="dougong", standalone_mode=True)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
