"""What this machine can do: device, precision, speed, memory."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from dougong.core.errors import MachineError

Precision = Literal["auto", "fp32", "bf16"]


def pick_device(wanted: str = "auto") -> torch.device:
    """cuda, mps or cpu: the wanted one, or the best there is."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    if not there[wanted]:
        usable = ", ".join(name for name, found in there.items() if found)
        raise MachineError(f"train.device = {wanted!r}: this machine has {usable}. Fix: use device: auto.")
    return torch.device(wanted)


def pick_dtype(wanted: Precision, device: torch.device, width: int) -> torch.dtype:
    """The dtype of matrix products. Weights stay fp32 either way.

    `auto` takes bf16 where the machine multiplies it faster, unless the model is so narrow that casting costs more.
    """
    if wanted == "auto":
        return torch.bfloat16 if width >= 128 and has_fast_bf16(device) else torch.float32
    return torch.bfloat16 if wanted == "bf16" else torch.float32


@cache
def has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Both multiply twice as fast as fp32, or faster, from 64 columns on (avx512_bf16 measured on an AMD EPYC of 2 cores:
    # 2.1 to 2.4 for products of 2,048 rows with their way back, casts of the weights included; convolutions 1.8 to 2.0).
    return device.type == "cpu" and not cpu_flags().isdisjoint({"amx_bf16", "avx512_bf16"})


@cache
def cpu_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = (line for line in info.read_text().splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").split())


@cache
def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


@cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second that one large matrix product reaches here, measured (about 0.2 s)."""
    size = 4096 if device.type == "cuda" else 1024
    own = torch.Generator(device).manual_seed(0)  # the global one belongs to training: a resumed run would go astray
    a = torch.randn(size, size, generator=own, device=device, dtype=dtype)
    best = float("inf")
    until = time.perf_counter() + 0.2
    while time.perf_counter() < until:
        start = time.perf_counter()
        a @ a
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


NO_FLOAT64 = {"mps"}  # types of device that refuse such tensors


def place(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch on a device. Where that knows no float64, such a tensor becomes float32: models compute in no more."""
    narrow = device.type in NO_FLOAT64
    return {
        key: (value.float() if narrow and value.dtype == torch.float64 else value).to(device, non_blocking=True)
        for key, value in batch.items()
    }


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory_used(device: torch.device) -> int:
    """Bytes in use: of the GPU, or this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return memory_peak()


def memory_peak() -> int:
    """The most resident memory this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_freed_memory(*, large: bool = True) -> bool:
    """Have glibc keep what is freed, for a training step asks for the same again; False where there is no glibc.

    Given back to the system and fetched anew, every page costs a fault: 30,000 to 60,000 in a step of the 6 × 384
    transformer on 4,096 tokens, and a sixth of that so. The most memory that is held at once stays the same, but blocks that
    come and go leave holes: with `large` False those of 32 MB and more (logits, the gradient of a large vocabulary) are
    fetched anew each time. A step of 12 layers × 768 in little memory then holds 2.4 GB, where it held 2.5 to 2.7.
    """
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # the numbers of malloc.h
    set_at_once = {mmap_threshold: 32 << 20, mmap_max: 0 if large else 65536, trim_threshold: 2**31 - 1}
    library = _glibc()
    return library is not None and all(library.mallopt(key, value) for key, value in set_at_once.items())


def give_back_freed_memory() -> None:
    """Give back to the system what glibc keeps free: once, after work whose memory no step asks for again (compiling)."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def memory_total(device: torch.device | None = None) -> int:
    """Bytes that a program can have at most: of the GPU, or of the machine (of the container, if it sets a limit)."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return min(machine, int(allowed)) if allowed.isdecimal() else machine


def require_memory(what: str, needed: int, device: torch.device, fix: str) -> None:
    """Refuse what cannot fit, before the machine begins to swap or kills the process."""
    total = memory_total(device)
    if needed > total:
        raise MachineError(
            f"{what} {needed / 1e9:,.1f} GB, {device_name(device)} has {total / 1e9:,.1f} GB. Fix: {fix}."
        )
