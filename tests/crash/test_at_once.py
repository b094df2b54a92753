"""T12: five trainings of one recipe at once, two of them with --fresh: one trains, the others say which one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from dougong.training import checkpoint
from tests.clear_error import check_clear
from tests.crash.trainings import Trainings, recipe, serve


def test_t12_of_five_trainings_at_once_one_trains_and_the_others_name_it(tmp_path: Path) -> None:
    server = serve()
    try:
        training = Trainings(tmp_path / "work", server, recipe("reviews", steps=100_000))
        assert training.interrupt(3, "--quiet") == 143  # so that --fresh has something to set aside
        before = training.lines()
        ways = [(), ("--fresh",), (), ("--fresh",), ()]
        pids = [training.start("--quiet", *way, errors=f"{number}.txt") for number, way in enumerate(ways)]
        first = next(number for number, pid in enumerate(pids) if f"process {pid} " in told(training, len(pids)))
        for number, pid in enumerate(pids):
            if number != first:
                assert training.wait(pid) == 4, training.said(f"{number}.txt")
                check_clear(training.error(f"{number}.txt"), "in use by", f"process {pids[first]} ")
        fresh = "--fresh" in ways[first]
        assert training.wait_for_lines(pids[first], 3 if fresh else before + 3), training.said(f"{first}.txt")
        os.kill(pids[first], signal.SIGTERM)
        assert training.wait(pids[first]) == 143, training.said(f"{first}.txt")
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(30)
    assert training.run.with_name("reviews~1").exists() == fresh
    assert not training.run.with_name("reviews~2").exists()
    lines = [json.loads(line) for line in (training.run / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "validation" not in line]
    path, refused = checkpoint.find_latest(training.run / "checkpoints")
    assert path is not None
    assert not refused
    assert steps == list(range(1, checkpoint.read_state(path)["progress"]["step"] + 1))


def told(training: Trainings, processes: int) -> str:
    """What they have said, once all but one have."""
    until = time.monotonic() + 60
    while True:
        said = [training.folder / f"{number}.txt" for number in range(processes)]
        words = [path.read_text() for path in said if path.exists()]
        if sum("in use by" in word and "Fix: " in word for word in words) == processes - 1:
            return "".join(words)
        assert time.monotonic() < until, words
        time.sleep(0.01)
