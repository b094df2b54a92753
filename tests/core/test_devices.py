from __future__ import annotations

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
