"""The language model's recipe, as it stands, against what a compressor and a table of 5-grams reach on the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dougong

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "language-model.yaml"


@pytest.mark.nightly  # it trains for as long as the recipe says
def test_the_language_model_needs_fewer_bits_than_xz_and_5_grams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "language_baselines.py"), str(RECIPE)]
    printed = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout
    baselines: dict[str, float] = json.loads(printed.splitlines()[-1])
    monkeypatch.chdir(tmp_path)
    run = dougong.train(RECIPE)
    reached = run.metrics()["test"]["text.bits_per_byte"]["value"]
    assert len(baselines) == 4
    assert reached < min(baselines.values())
