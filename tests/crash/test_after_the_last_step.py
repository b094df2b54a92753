"""T1: kill -9 in each call to the file system after the last step: model, receipt, seal, evaluation, report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dougong import lifecycle
from tests.crash.test_signals import Signalled, workplace
from tests.crash.trainings import SHARE

EVERY = 4 if SHARE == 1 else 1  # of the calls; `make nightly` kills in each


def test_t1_t15_a_kill_in_any_call_after_the_last_step_leaves_a_run_that_the_same_command_finishes(
    tmp_path: Path,
) -> None:
    folder = workplace(tmp_path / "work", steps=6)
    training, start = Signalled(folder), tmp_path / "start"
    try:
        assert training.train(kill_at=1)["code"] == -9
        shutil.copytree(training.run, start)
        assert training.train()["code"] == 0
        whole = contents(training.run)
        assert {"model/model.safetensors", "receipt.json", "manifest.json", "report.html"} < whole.keys()
        for count in range(1, 1000, EVERY):
            shutil.rmtree(training.run, ignore_errors=True)
            shutil.copytree(start, training.run)
            if training.train(kill_at=count)["code"] == 0:
                assert count > 100
                break
            assert training.train()["code"] == 0, f"after a kill in call {count}"
            assert contents(training.run) == whole, f"after a kill in call {count}"
            lifecycle.verify(training.run)
    finally:
        training.close()


def contents(run: Path) -> dict[str, Any]:
    """Every file of a run, hidden ones too; without clocks, and what is a hash of them."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        found[name] = path.read_bytes()
        if name == "log.jsonl" or name.endswith(("receipt.json", "state.json", "manifest.json")):
            found[name] = [without_times(json.loads(text)) for text in texts(path)]
    return found


def texts(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: without_times(item)
            for key, item in value.items()
            if key not in ("finished", "sha256") and "seconds" not in key
        }
    return [without_times(item) for item in value] if isinstance(value, list) else value
