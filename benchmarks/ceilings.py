"""What this machine can do at most: the rate of a large matrix product in bf16 and fp32, and of a large copy in memory.

python -m benchmarks.ceilings
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each of the three")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.device, seconds=arguments.seconds)))


def measure(
    device: str = "cpu", *, size: int = 2048, copied: int = 256 << 20, seconds: float = 2.0
) -> dict[str, float]:
    """FLOP/s of a product of (size, size) matrices by precision, bytes/s of a copy of `copied` bytes (read and written)."""
    if device == "cuda":
        size, copied = 4 * size, 4 * copied
    found: dict[str, float] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * size**3 / best(partial(torch.mm, a, b, out=torch.empty_like(a)), device, seconds)
    source = torch.ones(copied // 4, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * copied / best(lambda: target.copy_(source), device, seconds)
    return found


def best(work: Callable[[], object], device: str, seconds: float) -> float:
    """The shortest of as many turns as fit into `seconds`, at least three: the others were disturbed."""
    shortest, until, turns = float("inf"), time.perf_counter() + seconds, 0
    while turns < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        shortest = min(shortest, time.perf_counter() - started)
        turns += 1
    return shortest


if __name__ == "__main__":
    main()
