from __future__ import annotations

from pathlib import Path

import pytest

from dougong import backbones, fields
from dougong.core.errors import FieldError
from dougong.core.registry import Registry


def test_the_file_name_is_the_public_name():
    for registry, package in ((fields.registry, "fields"), (backbones.registry, "backbones")):
        folder = Path(registry.folder)
        assert registry.names() == sorted(path.stem for path in folder.glob("[!_]*.py"))
        assert [registry.load(name).__name__ for name in registry.names()] == [
            f"dougong.{package}.{name}" for name in registry.names()
        ]


def test_an_unknown_name_is_told_the_nearest_one():
    with pytest.raises(FieldError, match=r"model.kind = 'transfomer': expected one of .*Fix: write 'transformer'"):
        backbones.load("transfomer")
    with pytest.raises(
        FieldError, match=r"type = 'zzz': expected one of .*use one of them, or add dougong/fields/zzz.py"
    ):
        fields.load("zzz")


@pytest.mark.parametrize("name", ["", ".", "..", "__init__", "../run", "text.py", "os", "text/../number", "text\0"])
def test_no_name_reaches_another_file(name: str):
    with pytest.raises(FieldError):
        fields.load(name)


def test_a_new_file_is_found_unasked(tmp_path: Path):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "_hidden.py").write_text("")
    (tmp_path / "novel.py").write_text("")
    assert Registry("somewhere", str(tmp_path / "__init__.py"), "kind").names() == ["novel"]
