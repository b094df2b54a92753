from __future__ import annotations

import json
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dougong.core import doctoring


def test_doctor_tells_what_the_machine_can_do():
    found = doctoring.examine()
    json.dumps(found, allow_nan=False)
    assert found["device"]["kind"] in ("cpu", "cuda", "mps")
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 1 << 28
    assert found["free_disk_bytes"] > 0
    assert found["precision"] in ("fp32", "bf16")
    assert all(flops > 0 for flops in found["peak_flops"].values())
    assert None not in found["packages"].values()


def test_doctor_looks_at_every_dependency():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    needed = [line.partition(">")[0].partition("[")[0] for line in project["dependencies"]]
    assert sorted(doctoring.CORE) == sorted(needed)
    extras = set(project["optional-dependencies"]) - {"dev"}
    assert set(doctoring.EXTRAS) == extras


def test_what_is_missing_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    def without_pillow(name: str, *arguments: Any) -> Any:
        return None if name == "PIL" else find_spec(name, *arguments)

    monkeypatch.setattr(doctoring.importlib.util, "find_spec", without_pillow)
    assert "for PIL (images): pip install 'dougong[data]'" in doctoring.examine()["advice"]


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch):
    class Usage:
        free = 1_000_000_000

    monkeypatch.setattr(doctoring.shutil, "disk_usage", lambda path: Usage())
    assert "only 1.0 GB are free on this disk: checkpoints may not fit" in doctoring.examine()["advice"]


def test_a_package_that_is_not_installed_has_no_version():
    assert doctoring._version("no-such-package-at-all") is None
