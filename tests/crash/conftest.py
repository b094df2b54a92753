"""The victims' server, and the one question after every kill: is the state that we find one that was committed?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.core.artefacts import read_json, repair_jsonl
from dougong.core.tensors import DTYPES
from dougong.training import checkpoint

ROOT = Path(__file__).parents[2]


class Victims:
    """Orders children to save and die, in one folder."""

    def __init__(self, folder: Path, server: subprocess.Popen[str]):
        self.folder, self.checkpoints, self.log, self._server = (
            folder,
            folder / "checkpoints",
            folder / "log.jsonl",
            server,
        )

    def order(self, **order: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps({"folder": str(self.folder), **order}) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def found_step(self) -> tuple[int, list[str]]:
        """The step of the newest good checkpoint, after proving that all of it is of that step."""
        path, refused = checkpoint.find_latest(self.checkpoints)
        assert path is not None
        step = checkpoint.read_state(path)["step"]
        assert path.name == f"step-{step:08d}"
        described = read_json(path / checkpoint.TENSORS)["tensors"]
        tensors = {name: torch.empty(entry["size"], dtype=DTYPES[entry["dtype"]]) for name, entry in described.items()}
        assert checkpoint.load(path, tensors) == {"step": step}
        assert len(tensors) == 6
        for tensor in tensors.values():
            assert (tensor == step).all()
        return step, refused

    def check(self, committed: int, answer: dict[str, Any], log: bool = True) -> int:
        """Nothing committed is lost, nothing found is damaged, the log has each step once; return the step found."""
        committed = max(committed, answer["committed"] if answer["committed"] is not None else 0)
        step, refused = self.found_step()
        assert not refused
        assert committed <= step <= max(committed, answer["begun"] or 0)
        best = checkpoint.best(self.checkpoints)
        assert best is not None
        assert checkpoint.read_state(best)["step"] == step - step % 5  # every fifth was saved as the best
        repair_jsonl(self.log, lambda record: record["step"] <= step)
        assert not log or [json.loads(line)["step"] for line in self.log.read_text().splitlines()] == list(
            range(step + 1)
        )
        return step


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[Victims]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = str(Path(__file__).with_name("saver.py"))
    folder = tmp_path / "run"
    folder.mkdir()
    server = subprocess.Popen(
        [sys.executable, script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    yield Victims(folder, server)
    assert server.stdin is not None
    server.stdin.close()
    server.wait(30)
