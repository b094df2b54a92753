"""Signals become a wish to stop, the second one leaves at once; the log is JSON whatever the loss was."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from dougong.core.devices import peak_flops
from dougong.training.monitors import Monitor, Speed, _duration, stop_on_signals

CPU = torch.device("cpu")


def monitor(folder: Path) -> Monitor:
    return Monitor(folder / "log.jsonl", CPU, torch.float32, quiet=True)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 128 + signal.SIGUSR1)]
)
def test_t7_a_signal_is_a_wish_that_the_loop_may_ask_for(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.exit_code == code
    assert signal.getsignal(number) is before


def test_t7_the_second_signal_leaves_at_once() -> None:
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        with stop_on_signals() as stop:
            os.write(tell, b"r")
            while not stop:
                time.sleep(0.001)
            os.write(tell, b"s")
            time.sleep(60)  # a save that hangs, say
        os._exit(1)
    assert os.read(ready, 1) == b"r"
    os.kill(pid, signal.SIGTERM)
    assert os.read(ready, 1) == b"s"
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    os.close(ready)
    os.close(tell)


def test_outside_the_main_thread_signals_stay_with_whoever_runs_us() -> None:
    found: list[bool] = []

    def run() -> None:
        with stop_on_signals() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_loss_that_is_not_finite_is_logged_as_null_at_any_depth(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    monitor(tmp_path).record({"step": 1, "loss": nan, "validation": {"loss": inf, "accuracy": 0.5}})
    record = json.loads((tmp_path / "log.jsonl").read_text())
    assert record == {"step": 1, "loss": None, "validation": {"loss": None, "accuracy": 0.5}}


def test_the_line_shows_step_loss_speed_memory_and_what_is_left(tmp_path: Path) -> None:
    shown = monitor(tmp_path)
    record = {"step": 1200, "loss": 0.5, "tokens": 4096, "rows": 8, "step_seconds": 0.5}
    shown.step(record, 0.5, 3725.0)
    line = shown.line(record, 3725.0)
    assert line.startswith("step 1,200  loss 0.500  8,192 tokens/s")
    assert line.endswith("1:02:05 left")
    shown.step({**record, "loss": float("nan")}, 0.5, None)
    assert "loss 0.500" in shown.line(record, None)  # a skipped step does not wipe out what is known


def test_measuring_the_peak_draws_no_random_number() -> None:
    """Else a resumed run, which measures again, would go on with other dropout than the undisturbed one."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    peak_flops.cache_clear()
    assert peak_flops(CPU, torch.float32) > 1e8
    assert torch.equal(torch.get_rng_state(), before)


def test_speed_is_of_the_last_steps() -> None:
    speed = Speed(memory=0.5)
    for _ in range(20):
        speed.add(tokens=100, rows=10, seconds=1.0)
    for _ in range(20):
        speed.add(tokens=100, rows=10, seconds=0.1)
    assert speed.tokens == pytest.approx(1000, rel=0.01)
    assert speed.rows == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (65, "1:05"), (3600, "1:00:00")])
def test_durations_read_as_clocks_do(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


def test_the_live_line_tells_of_waiting_where_it_costs() -> None:
    speed = Speed()
    for _ in range(10):
        speed.add(100, 10, 2.0, 0.5)
    assert speed.waiting == pytest.approx(0.25)
    assert speed.tokens == pytest.approx(50)
