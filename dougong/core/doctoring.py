"""What this machine can do, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dougong.core.devices import device_name, has_fast_bf16, memory_total, peak_flops, pick_device

CORE = ("torch", "numpy", "safetensors", "tokenizers", "pydantic", "pyyaml", "click", "rich", "pyarrow", "matplotlib")
EXTRAS = {
    "data": {"PIL": "images", "ftfy": "repair of wrongly decoded text", "py3langid": "language filters"},
    "text": {"sacrebleu": "BLEU and chrF"},
    "audio": {"soundfile": "sound files", "soxr": "resampling", "jiwer": "errors of words and characters"},
    "video": {"av": "video files"},
    "spm": {"sentencepiece": "sentencepiece models"},
    "eval": {"faster_coco_eval": "mean average precision of boxes"},
}


def examine() -> dict[str, Any]:
    """Versions, device, measured speed, memory, disk, extras; `advice` lists what to do."""
    device = pick_device()
    missing = {
        extra: [
            f"{module} ({purpose})" for module, purpose in modules.items() if importlib.util.find_spec(module) is None
        ]
        for extra, modules in EXTRAS.items()
    }
    advice = [f"for {', '.join(found)}: pip install 'dougong[{extra}]'" for extra, found in missing.items() if found]
    free = shutil.disk_usage(".").free
    if free < 5 << 30:
        advice.append(f"only {free / 1e9:.1f} GB are free on this disk: checkpoints may not fit")
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return {
        "dougong": _version("dougong"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in CORE},
        "device": {"kind": device.type, "name": device_name(device)},
        "cores": os.cpu_count(),
        "memory_bytes": memory_total(),
        "free_disk_bytes": free,
        "peak_flops": {name: round(peak_flops(device, dtype)) for name, dtype in precisions.items()},
        "precision": "bf16" if has_fast_bf16(device) else "fp32",
        "advice": advice,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
