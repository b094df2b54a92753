"""A stand-in for torch in processes that only prepare data.

They need a field's Codec, which is numpy, and not the modules that stand beside it in the same file. torch takes two
seconds to import, and 130 MB of every process. What is defined with the stand-in is never run; who tries is told.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def install() -> None:
    """From now on `import torch` gives the stand-in, unless this process has torch already."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torch" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent


class _Anything(type):
    """A class that has every attribute, is generic, and decorates functions, which is all that definitions ask for."""

    def __getattr__(cls, name: str) -> Any:
        if cls is not Absent or name.startswith("__"):  # what is derived from it has only what it says
            raise AttributeError(f"{cls.__name__} has no {name!r}")
        return Absent

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __iter__(cls) -> Any:  # or it would go on forever, by __getitem__
        raise not_here(cls)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        decorates = len(args) == 1 and callable(args[0])
        if cls is Absent and not kwargs and (not args or decorates):
            return Absent
        raise not_here(cls)


def not_here(cls: type) -> RuntimeError:
    return RuntimeError(
        f"{cls.__name__} of torch was asked for in a process that prepares data. "
        "Fix: a Codec computes with numpy; what needs torch belongs to the Encoder or the Head."
    )


class Absent(metaclass=_Anything):
    """What stands for everything in torch."""
