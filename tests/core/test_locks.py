"""T12: two processes in one folder, and what is left of one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dougong.core.errors import ArtefactError
from dougong.core.locks import OWNER, lock

IMPORTS = "import sys, time; from pathlib import Path; from dougong.core.locks import lock\n"
HOLD = IMPORTS + "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
TRY = f"""{IMPORTS}
try:
    with lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()
except ValueError as error: print(error)
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_t12_the_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    holder = start(HOLD, tmp_path)
    try:
        assert first_line(holder) == "held"
        with (
            pytest.raises(ArtefactError, match=rf"in use by process {holder.pid} on .* since 2.*Fix: wait for it"),
            lock(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("left", ["", '{"host": "x", "pi', "dead"])
def test_t12_a_holder_that_has_not_yet_written_its_name_is_waited_for(tmp_path: Path, left: str) -> None:
    """What stands in the file until then is nothing, torn, or the name of one that was killed."""
    if left == "dead":
        killed = start(HOLD, tmp_path)
        assert first_line(killed) == "held"
        killed.kill()
        killed.wait()
        left = (tmp_path / OWNER).read_text()
    with lock(tmp_path):
        name = (tmp_path / OWNER).read_text()
        (tmp_path / OWNER).write_text(left)
        second = start(TRY, tmp_path)
        time.sleep(0.5)
        (tmp_path / OWNER).write_text(name)
        assert f"in use by process {os.getpid()} " in first_line(second)
        second.communicate("")


def test_t12_a_holder_that_never_writes_its_name_is_another_process(tmp_path: Path) -> None:
    with lock(tmp_path):
        (tmp_path / OWNER).write_text("")
        with pytest.raises(ArtefactError, match="in use by another process"), lock(tmp_path):
            pass


def test_t12_a_killed_holder_frees_the_folder_and_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holder = start(HOLD, tmp_path)
    assert first_line(holder) == "held"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock(tmp_path):
        assert f"taken over from process {holder.pid}" in caplog.text
        assert str(os.getpid()) in (tmp_path / OWNER).read_text()
    caplog.clear()
    with lock(tmp_path):  # given back in order: no word of a takeover
        assert caplog.text == ""


def test_t12_of_twenty_that_start_at_once_exactly_one_holds_the_folder(tmp_path: Path) -> None:
    started = [start(TRY, tmp_path) for _ in range(20)]
    said = [first_line(process) for process in started]
    assert said.count("held") == 1
    holder = started[said.index("held")].pid
    assert sum(f"in use by process {holder} " in line for line in said) == 19
    for process in started:
        process.communicate("")
    with lock(tmp_path):
        pass


def test_t12_an_orphaned_worker_of_a_killed_holder_does_not_keep_the_folder(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from dougong.core.locks import lock\n"
        "with lock(Path(sys.argv[1])):\n"
        "    pid = os.fork()\n"
        "    if pid == 0: time.sleep(30)\n"
        "    print(pid, flush=True); time.sleep(30)\n"
    )
    holder = start(code, tmp_path)
    worker = int(first_line(holder))
    time.sleep(0.05)  # the child closes its copy right after the fork
    holder.kill()
    holder.wait()
    try:
        with lock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_the_same_process_cannot_hold_a_folder_twice(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(ArtefactError, match=f"in use by process {os.getpid()} "), lock(tmp_path):
        pass


def test_a_torn_owner_file_does_not_lock_anyone_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / OWNER).write_text('{"host": "x", "pi')
    with lock(tmp_path):
        assert "taken over from an unknown process" in caplog.text


def test_the_folder_is_free_again_after_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock(tmp_path / "new"):
        raise RuntimeError
    with lock(tmp_path / "new"):
        pass
