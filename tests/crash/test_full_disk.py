"""T2: a disk that is full, read-only or broken, at every call and many sizes: a clear error, nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.core.errors import ArtefactError, MachineError
from dougong.training import checkpoint

SHARE = int(os.environ.get("DOUGONG_NIGHTLY", "1"))  # `make nightly` multiplies every count of these tests
CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir", "rmdir", "unlink")
CODES = [pytest.param(getattr(errno, name), id=name) for name in ("ENOSPC", "EIO")]
CODES += [pytest.param(getattr(errno, name), id=name, marks=pytest.mark.nightly) for name in ("EROFS", "EDQUOT")]


def save(folder: Path, step: int) -> None:
    checkpoint.save(folder, step, {"w": torch.full((2000,), float(step)), "v": torch.ones(3)}, {"step": step})


def newest(folder: Path) -> int:
    path, refused = checkpoint.find_latest(folder)
    assert path is not None
    assert not refused
    target = torch.zeros(2000)
    step = checkpoint.load(path, {"w": target, "v": torch.zeros(3)})["step"]
    assert (target == step).all()
    return step


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size`: the kernel cuts the write there, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_t2_a_save_cut_at_any_of_64_sizes_names_the_file_and_the_bytes_and_keeps_the_last_good_one(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1)
    largest = max(file.stat().st_size for file in (tmp_path / "step-00000001").iterdir())
    for size in range(0, largest, max(1, largest // (64 * SHARE))):
        with largest_file(size), pytest.raises(MachineError) as caught:
            save(tmp_path, 2)
        message = str(caught.value)
        assert ".safetensors" in message or ".json" in message
        assert "File too large" in message
        assert "bytes needed" in message
        assert "bytes free" in message
        assert "Fix: raise the limit on file sizes" in message
        assert len(message.splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
        assert newest(tmp_path) == 1
    save(tmp_path, 2)
    assert newest(tmp_path) == 2


@pytest.mark.parametrize("code", CODES)
def test_t2_a_failure_of_each_single_call_of_a_save_is_a_clear_error_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    start, folder = tmp_path / "start", tmp_path / "run"
    for step in (1, 2, 3):
        save(start, step)
    failures = 0
    for fail_at in range(1, 1000):
        shutil.copytree(start, folder)
        with monkeypatch.context() as patch:
            calls = fail_one_call(patch, fail_at, code)
            told = None
            try:
                save(folder, 4)
            except (MachineError, ArtefactError) as error:  # the latter where a file just written cannot be read again
                told = str(error)
        if told is not None:
            failures += 1
            assert str(folder) in told
            assert "Fix: " in told
        assert newest(folder) in ((4,) if told is None else (3, 4))
        save(folder, 5)  # and the run can go on once there is room again
        assert newest(folder) == 5
        shutil.rmtree(folder)
        if len(calls) < fail_at:
            assert failures > 30
            return
    raise AssertionError("the save never ended")


def fail_one_call(patch: pytest.MonkeyPatch, fail_at: int, code: int) -> list[str]:
    """Make the call number `fail_at` to the file system fail; return the list that the calls are noted in."""
    calls: list[str] = []

    def wrap(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == fail_at:
                raise OSError(code, os.strerror(code), str(args[0]))
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(os, name, wrap(name, getattr(os, name)))
    return calls


@pytest.mark.nightly
@pytest.mark.parametrize("code", ["ENOSPC", "EIO", "EROFS"])
@pytest.mark.parametrize("call", ["openat", "write", "fsync", "rename", "mkdir"])
def test_t2_failures_from_the_kernel_at_every_system_call_lose_nothing(victims: Any, call: str, code: str) -> None:
    assert shutil.which("strace"), "install strace: this sweep is the proof, and it does not pass by being left out"
    assert victims.order(first=1, saves=3)["finished"]
    step = 3
    for count in range(1, 1000):
        answer = victims.order(first=step + 1, saves=1, inject=f"{call}:error={code}:when={count}")
        if answer["errors"]:
            assert answer["errors"][0].startswith(("MachineError: ", "ArtefactError: "))
            assert str(victims.folder) in answer["errors"][0]
        if call != "write":  # the child's words to us are writes too: one may be lost, and with it the count
            assert answer["finished"]
        failed = bool(answer["errors"]) or answer["committed"] is None
        step = victims.check(step, answer)
        if not failed and count > 40:
            return
    raise AssertionError("the save never ended")
