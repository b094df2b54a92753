"""A small table, and a recipe for it that a test can change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROWS = "a,b,kind\n" + "".join(f"{row},{row % 7},{'odd' if row % 2 else 'even'}\n" for row in range(80))


def plain(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "table",
        "data": {"train": str(folder / "rows.csv"), "cache": str(folder / "cache")},
        "inputs": {"a": "number", "b": "number"},
        "outputs": {"kind": "category"},
        "model": {"kind": "mlp", "preset": "tiny"},
        "train": {"steps": 6, "batch_size": 16, "checkpoint_every": 2, "optimizer": {"kind": "adamw"}},
    } | changes
