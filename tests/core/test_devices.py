from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from dougong.core import devices

CPU, META = torch.device("cpu"), torch.device("meta")
BATCH = {
    "n.value": torch.tensor([1.5, float("nan")], dtype=torch.float64),
    "n.normalized": torch.zeros(2),
    "row": torch.arange(2),
}


def test_a_batch_is_placed_as_it_is() -> None:
    placed = devices.place(BATCH, CPU)
    assert all(placed[key] is value for key, value in BATCH.items())  # nothing to do costs nothing
    assert {value.device for value in devices.place(BATCH, META).values()} == {META}


def test_a_device_without_float64_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "mps" in devices.NO_FLOAT64
    monkeypatch.setattr(devices, "NO_FLOAT64", {"meta"})
    placed = devices.place(BATCH, META)
    assert {key: value.dtype for key, value in placed.items()} == {
        "n.value": torch.float32,
        "n.normalized": torch.float32,
        "row": torch.int64,
    }
    assert devices.place(BATCH, CPU)["n.value"].dtype == torch.float64


def test_freed_memory_is_kept_where_there_is_glibc() -> None:
    """In a process of its own: pages are asked for once, not for every tensor."""
    measure = (
        "import resource, sys, torch\n"
        "from dougong.core.devices import keep_freed_memory\n"
        "kept = sys.argv[1] == 'keep' and keep_freed_memory()\n"
        "for turn in range(30):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt if turn == 1 else 0 if turn == 0 else before\n"
        "    torch.ones(16 << 20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, int(kept))\n"
    )
    found = {}
    for how in ("keep", "plain"):
        done = subprocess.run([sys.executable, "-c", measure, how], capture_output=True, text=True, check=True)
        found[how], kept = map(int, done.stdout.split())
        assert bool(kept) == (how == "keep" and platform.libc_ver()[0] == "glibc")
    assert platform.libc_ver()[0] != "glibc" or found["keep"] < found["plain"] / 4
