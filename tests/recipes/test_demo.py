"""The demo's recipe in bf16 learns what it learns in fp32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dougong

RECIPE = Path(__file__).parents[2] / "recipes" / "demo.yaml"
STEPS, PIECE = 200, 25


@pytest.mark.nightly
def test_losses_in_bf16_are_those_in_fp32_within_one_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    curves = {}
    for precision in ("bf16", "fp32"):
        told = [f"name={precision}", f"train.steps={STEPS}", f"train.precision={precision}", "train.validate_every=200"]
        dougong.train(RECIPE, overrides=told)
        lines = (tmp_path / "runs" / precision / "log.jsonl").read_text().splitlines()
        losses = [record["loss"] for record in map(json.loads, lines) if "loss" in record]
        curves[precision] = np.array(losses).reshape(-1, PIECE).mean(1)
    assert curves["fp32"][-1] < 0.8 * curves["fp32"][0]
    np.testing.assert_allclose(curves["bf16"], curves["fp32"], rtol=0.01)
