"""A registry is a folder: the file name is the public name, so there is no second list to edit."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from dougong.core.errors import bad_field, nearest


class Registry:
    """The modules of one folder by name: `Registry("dougong.fields", __file__, "type")`."""

    def __init__(self, package: str, init_file: str, key: str):
        self.package, self.folder, self.key = package, Path(init_file).parent, key

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.py") if not path.stem.startswith("_"))

    def having(self, part: str) -> list[str]:
        """The names of those that offer a part."""
        return [name for name in self.names() if hasattr(self.load(name), part)]

    def load(self, name: str, part: str = "") -> ModuleType:
        """The module of that name; where there is none, those that have `part` are told."""
        if name not in self.names():
            names = self.having(part) if part else self.names()
            near = nearest(name, names)
            where = f"{self.package.replace('.', '/')}/{name}.py"
            raise bad_field(
                self.key,
                name,
                f"one of {', '.join(names)}",
                f"write {near!r}" if near else f"use one of them, or add {where}",
            )
        return import_module(f"{self.package}.{name}")
