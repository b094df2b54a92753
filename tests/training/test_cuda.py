"""On a GPU, where there is one: the same losses as on the CPU, compiled or not, and the same each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dougong
from tests.small_runs import recipe_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none")
SHORT = {"steps": 20, "batch_size": 16, "validate_every": 10}


def losses(folder: Path, name: str, **train: Any) -> list[float]:
    dougong.train(recipe_of("poems") | {"name": name, "train": SHORT | train})
    lines = (folder / "runs" / name / "log.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def test_a_gpu_learns_what_a_cpu_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cpu = losses(tmp_path, "cpu", device="cpu", precision="fp32")
    gpu = losses(tmp_path, "gpu", device="cuda", precision="fp32")
    assert gpu == pytest.approx(cpu, rel=1e-3)
    assert losses(tmp_path, "half", device="cuda", precision="bf16") == pytest.approx(cpu, rel=0.03)
    assert losses(tmp_path, "compiled", device="cuda", precision="fp32", compile=True) == pytest.approx(cpu, rel=1e-3)


def test_a_gpu_learns_the_same_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert losses(tmp_path, "first", device="cuda") == losses(tmp_path, "again", device="cuda")
