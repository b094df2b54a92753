"""Breakages of our own code, each of which must turn a named quick test red: else that test guards nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARTEFACTS, RECORDS, CHECKPOINT = "core/artefacts.py", "data/records.py", "training/checkpoint.py"
POWER = "tests/crash/test_power_loss.py"
BREAKAGES = [  # file, what stands there, what stands there instead, a test that must fail
    (
        ARTEFACTS,
        "                _fsync(handle)\n            finally",
        "                pass\n            finally",
        POWER,
    ),
    (
        ARTEFACTS,
        "            os.replace(hidden, path)",
        "            shutil.copy(hidden, path)",
        "tests/core/test_artefacts.py",
    ),
    (
        ARTEFACTS,
        "        _fsync_folder(path.parent)\n    return written",
        "    return written",
        "tests/core/test_artefacts.py",
    ),
    (ARTEFACTS, "        _fsync_folder(final.parent)\n", "", POWER),
    (
        ARTEFACTS,
        "            if _fingerprint(file) != expected:",
        "            if False:",
        "tests/crash/test_damage.py",
    ),
    (ARTEFACTS, "    if value != sealed or data", "    if False and data", "tests/core/test_artefacts.py"),
    (ARTEFACTS, "        if size != expected.bytes:", "        if False:", "tests/core/test_artefacts.py"),
    (ARTEFACTS, "            if size > limit:", "            if False:", "tests/core/test_artefacts.py"),
    ("core/strict_json.py", "            if depth > limit:", "            if False:", "tests/core/test_strict_json.py"),
    ("core/strict_json.py", "    if len(value) != len(pairs):", "    if False:", "tests/core/test_strict_json.py"),
    (ARTEFACTS, "os.ftruncate(handle, before.st_size)", "pass", "tests/core/test_artefacts.py"),
    ("core/locks.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", "tests/core/test_locks.py"),
    ("core/locks.py", "        os.close(handle)\n    _held.clear()", "        pass", "tests/core/test_locks.py"),
    ("core/tensors.py", "            if entry.start != at:", "            if False:", "tests/core/test_tensors.py"),
    (
        "core/tensors.py",
        "        if length > min(HEADER_BYTES, size - 8):",
        "        if False:",
        "tests/core/test_tensors.py",
    ),
    (CHECKPOINT, "        if good == keep:", "        if good == 1:", "tests/training/test_checkpoint.py"),
    (CHECKPOINT, "int(path.name[5:]), reverse=True)", "int(path.name[5:]))", "tests/training/test_checkpoint.py"),
    ("data/sources.py", "    if ending in UNSAFE:", "    if False:", "tests/data/test_pickles.py"),
    ("data/lines.py", '        if "\\0" in text:', "        if False:", "tests/data/test_encodings.py"),
    (RECORDS, "    if len(names) > MAX_COLUMNS:", "    if False:", "tests/data/test_bad_files.py"),
    (RECORDS, "    if len(set(names)) != len(names):", "    if False:", "tests/data/test_bad_files.py"),
    (
        "data/pictures.py",
        "    if picture.width * picture.height > MAX_PIXELS:",
        "    if False:",
        "tests/fields/test_image.py",
    ),
    ("data/pictures.py", " > MAX_SCANS:", " > 10**9:", "tests/data/test_bad_pictures.py"),
]


@pytest.mark.parametrize(("file", "old", "new", "test"), BREAKAGES)
def test_every_breakage_has_its_place_in_the_code(file: str, old: str, new: str, test: str) -> None:
    assert (ROOT / "dougong" / file).read_text(encoding="utf-8").count(old) == 1
    assert (ROOT / test).is_file()


@pytest.mark.nightly
@pytest.mark.parametrize(("file", "old", "new", "test"), BREAKAGES)
def test_a_breakage_turns_its_test_red(tmp_path: Path, file: str, old: str, new: str, test: str) -> None:
    for folder in ("dougong", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    broken = tmp_path / "dougong" / file
    broken.write_text(broken.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not nightly", test]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "DOUGONG_NIGHTLY": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 1, f"{test} does not notice:\n{done.stdout[-2000:]}"
    assert "1 failed" in done.stdout or "FAILED" in done.stdout
