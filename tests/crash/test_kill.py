"""T1, T15, T16: kill -9 at any moment of saving, pruning and logging, and find a committed state, whole, every time."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from dougong.training import checkpoint

SHARE = int(os.environ.get("DOUGONG_NIGHTLY", "1"))  # `make nightly` multiplies every count of these tests


def test_t1_t15_t16_kills_at_random_moments_lose_no_commit_and_tear_no_log(victims: Any) -> None:
    rng = random.Random(1)
    answer = victims.order(first=1, saves=10)
    step = victims.check(0, answer)
    longest = min(0.2, 3 * answer["seconds"] / 10)  # about three saves, on this machine, as busy as it is now
    for _ in range(200 * SHARE):
        answer = victims.order(first=step + 1, delay=rng.random() * longest)
        assert answer["killed"]
        step = victims.check(step, answer)
    assert step > 40 * SHARE, "the victims must get on between kills, else this shows nothing"
    assert victims.order(first=step + 1, saves=1)[
        "finished"
    ]  # an undisturbed save sweeps what all the dead left behind
    names = [path.name for path in victims.checkpoints.iterdir()]
    assert not [name for name in names if name.startswith(".")]
    assert len(names) <= 3  # the newest two, and the best


@pytest.mark.parametrize("how", ["torn", pytest.param("before", marks=pytest.mark.nightly)])
def test_t1_t15_a_kill_at_each_single_call_of_a_save_loses_no_commit(victims: Any, how: str) -> None:
    assert victims.order(first=1, saves=5)["finished"]
    kills = kill_at_each_call(victims, first=6, how=how)
    assert kills > 40


def test_t1_a_kill_at_each_single_call_of_replacing_a_checkpoint_keeps_one_of_both(victims: Any) -> None:
    """As after a fall-back to an older one: the run comes to the same step again. The log is another test's matter."""
    assert victims.order(first=1, saves=6)["finished"]
    kills = kill_at_each_call(victims, first=6, how="before", log=False)
    assert kills > 40


def kill_at_each_call(victims: Any, first: int, how: str, log: bool = True) -> int:
    """From the same start each time, kill the save of step `first` at its first call, its second …, till it lives."""
    start = victims.folder.with_name("start")
    shutil.copytree(victims.folder, start)
    for count in range(1, 1000):
        shutil.rmtree(victims.folder)
        shutil.copytree(start, victims.folder)
        answer = victims.order(first=first, saves=1, kill_at=count, how=how)
        if answer["finished"]:
            return count - 1
        assert answer["killed"]
        step = victims.check(5, answer, log)
        if count % 4 == 0 or SHARE > 1:
            again = victims.order(first=step + 1, saves=1)  # whatever was left lying about, the next save works
            assert again["finished"]
            assert victims.check(step, again, log) == step + 1
    raise AssertionError("the save never ended")


STRACED = ("openat", "write", "fsync", "rename", "mkdir", "unlinkat", "close")
QUICK = (("write", 3), ("fsync", 2), ("fsync", 9), ("rename", 1), ("rename", 4))


def test_t1_kills_by_the_kernel_at_a_handful_of_system_calls(victims: Any) -> None:
    """Where there is no strace the process kills itself at these calls; the nightly sweep insists on strace."""
    assert victims.order(first=1, saves=5)["finished"]
    step = 5
    for call, count in QUICK:
        kill = (
            {"inject": f"{call}:signal=KILL:when={count}"}
            if shutil.which("strace")
            else {"kill_at": count, "how": "before"}
        )
        answer = victims.order(first=step + 1, saves=1, **kill)
        assert answer["killed"]
        step = victims.check(step, answer)


@pytest.mark.nightly
@pytest.mark.parametrize("call", STRACED)
def test_t1_kills_by_the_kernel_at_every_system_call_of_a_kind(victims: Any, call: str) -> None:
    assert shutil.which("strace"), "install strace: this sweep is the proof, and it does not pass by being left out"
    assert victims.order(first=1, saves=5)["finished"]
    step = 5
    for count in range(1, 1000):
        answer = victims.order(first=step + 1, saves=1, inject=f"{call}:signal=KILL:when={count}")
        step = victims.check(step, answer)
        if answer["finished"]:
            assert count > 1
            return
    raise AssertionError("the save never ended")


def test_t1_the_server_itself_reports_a_mix(victims: Any, tmp_path: Path) -> None:
    """The check must be able to fail: a checkpoint whose files are of two steps is refused."""
    assert victims.order(first=1, saves=2)["finished"]
    newest, older = (victims.checkpoints / f"step-{step:08d}" for step in (2, 1))
    shutil.copy(older / "rank-0000.safetensors", newest / "rank-0000.safetensors")
    path, refused = checkpoint.find_latest(victims.checkpoints)
    assert path == older
    assert "rank-0000.safetensors" in refused[0]
