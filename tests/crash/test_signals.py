"""T7: SIGTERM in every phase of a training, again and again, loses no step; SIGINT and SIGUSR1 too."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from dougong.training import checkpoint
from tests.crash.signalled import PHASES
from tests.crash.trainings import ENVIRONMENT, SHARE

SIGNALS = 60 if SHARE == 1 else 50 * SHARE
LEAST = 10  # times that each phase is hit
STEPS = 4 * SIGNALS


def workplace(folder: Path, steps: int = STEPS) -> Path:
    """A table of 96 rows, and a recipe that validates and saves every few steps."""
    folder.mkdir()
    rows = [f"{row},{row % 7},{'odd' if row % 2 else 'even'}" for row in range(96)]
    (folder / "rows.csv").write_text("a,b,kind\n" + "\n".join(rows) + "\n")
    train = {"steps": steps, "batch_size": 16, "validate_every": 3, "checkpoint_every": 2, "device": "cpu"}
    recipe = {
        "name": "table",
        "data": {"train": "rows.csv"},
        "inputs": {"a": "number", "b": "number"},
        "outputs": {"kind": "category"},
        "model": {"kind": "mlp", "preset": "tiny", "dropout": 0.2},
        "train": {**train, "ema": 0.9},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


class Signalled:
    """The server of one workplace."""

    def __init__(self, folder: Path):
        self.run = folder / "runs" / "table"
        script = str(Path(__file__).with_name("signalled.py"))
        self.server = subprocess.Popen(
            [sys.executable, script, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def train(self, **order: Any) -> dict[str, Any]:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return dict(json.loads(self.server.stdout.readline()))

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(30)


def records(run: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if "seconds" not in key} for record in found]


def saved_step(run: Path) -> int:
    """The step of the newest checkpoint, after proving that it is the last one of the log, and none is missing there."""
    path, refused = checkpoint.find_latest(run / "checkpoints")
    assert path is not None
    assert not refused
    step = int(checkpoint.read_state(path)["progress"]["step"])
    assert [record["step"] for record in records(run) if "validation" not in record] == list(range(1, step + 1))
    return step


def test_t7_sigterm_in_every_phase_ends_with_143_loses_no_step_and_changes_no_weight(tmp_path: Path) -> None:
    draw, hits, step = random.Random(7), Counter(dict.fromkeys(PHASES, 0)), 0
    stopped, whole = Signalled(workplace(tmp_path / "stopped")), Signalled(workplace(tmp_path / "whole"))
    try:
        for number in range(SIGNALS):
            order = {"phase": min(PHASES, key=lambda name: hits[name]), "visit": draw.randint(1, 2)}
            if number % 2:  # at any moment of it; else where it begins
                order["delay"] = draw.random() * 0.003
            answer = stopped.train(**order)
            assert answer["code"] == 143, (order, answer)
            hits[answer["hit"]] += 1
            before, step = step, saved_step(stopped.run)
            assert step >= before  # equal where the run stopped in a validation that it owed
        assert all(hits[name] >= LEAST for name in PHASES), hits
        assert stopped.train() == {"code": 0, "hit": None}
        assert whole.train() == {"code": 0, "hit": None}
    finally:
        stopped.close()
        whole.close()
    assert saved_step(stopped.run) == STEPS
    assert records(stopped.run) == records(whole.run)
    weights = [each.run / "model" / "model.safetensors" for each in (stopped, whole)]
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}) == 1


def test_t7_sigint_ends_with_130_and_sigusr1_with_138_and_both_runs_are_saved(tmp_path: Path) -> None:
    """As a terminal and a cluster send them, to `dougong train` as a process of its own."""
    started = {}
    for number in (signal.SIGINT, signal.SIGUSR1):
        folder = workplace(tmp_path / number.name, steps=1_000_000)
        command = [sys.executable, "-m", "dougong.cli", "train", "recipe.yaml", "--quiet"]
        with (folder / "said.txt").open("w") as said:
            started[number] = (subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=said), folder)
    for number, (process, folder) in started.items():
        log, until = folder / "runs" / "table" / "log.jsonl", time.monotonic() + 120
        while (not log.exists() or log.read_bytes().count(b"\n") < 5) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(process.pid, number)
        assert process.wait(60) == 128 + number, (folder / "said.txt").read_text()
        assert saved_step(folder / "runs" / "table") >= 3
