"""Errors that a user can cause. Each names field, value, what was expected and the fix, and has an exit code.

`ValueError` stays the base class, so that callers of the Python functions need no import to catch one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

MISSING = object()  # the value of a key that should be there and is not
NO_SUCH_KEY = "no such key"  # what is expected of a key that means nothing
VALUE_LIMIT = 80  # characters of a value shown in a message: enough to find it, too few to flood a terminal


class DougongError(ValueError):
    """Base of every error that a user can cause; `exit_code` is what the command line ends with."""

    exit_code = 2


class Note(UserWarning):
    """What a caller should know though nothing went wrong; the command line prints it."""


class FieldError(DougongError):
    """One setting or argument is wrong. Made by `bad_field`."""

    def __init__(self, field: str, value: object, expected: str, fix: str):
        self.field, self.value, self.expected, self.fix = field, value, expected, fix
        super().__init__(f"{field} = {shown(value)}: expected {expected}. Fix: {fix}.")

    def __reduce__(self) -> tuple[type[FieldError], tuple[str, object, str, str]]:
        return type(self), (self.field, self.value, self.expected, self.fix)  # it must cross to other processes


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe, with its place."""

    key: str
    value: object
    expected: str
    fix: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        if self.value is MISSING:
            return f"{place}{self.key} is missing: expected {self.expected}. Fix: {self.fix}."
        plain = self.value is None or isinstance(self.value, bool)
        value = str(self.value).lower().replace("none", "null") if plain else shown(self.value)  # as YAML has it
        if self.expected == NO_SUCH_KEY:
            return f"{place}{self.key}: there is no such key. Fix: {self.fix}."
        return f"{place}{self.key} = {value}: expected {self.expected}. Fix: {self.fix}."


class RecipeError(DougongError):
    """All mistakes of one recipe, listed at once (exit code 2)."""

    def __init__(self, file: str, problems: Sequence[Problem]):
        self.file, self.problems = file, list(problems)
        count = "1 mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        super().__init__("\n".join([f"{file}: {count}", *(f"  {problem}" for problem in self.problems)]))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[str, list[Problem]]]:
        return type(self), (self.file, self.problems)


class DataError(DougongError):
    """The data cannot be used as the recipe asks (exit code 3)."""

    exit_code = 3


class ArtefactError(DougongError):
    """A run, checkpoint or prepared folder is damaged, unsafe, or in use (exit code 4)."""

    exit_code = 4


class Diverged(ArtefactError):  # noqa: N818 - the name says what was found
    """A model answers with what is no number: its weights are damaged, or its training has diverged."""


class MachineError(DougongError):
    """The job does not fit this machine: memory, disk, device (exit code 5)."""

    exit_code = 5


def bad_field(field: str, value: object, expected: str, fix: str) -> FieldError:
    """One wrong setting: `raise bad_field("model.width", 100, "a multiple of heads (12)", "use width: 108")`."""
    return FieldError(field, value, expected, fix)


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The valid name that a misspelt one most likely meant, if any is close."""
    near = get_close_matches(name, list(names), n=1, cutoff=0.55)
    return near[0] if near else None


def missing_extra(package: str, extra: str, purpose: str) -> DougongError:
    """The error for an optional package that is not installed: it is the line that installs it."""
    return MachineError(f"{purpose} needs the package {package!r}. Fix: pip install 'dougong[{extra}]'.")


def shown(value: object) -> str:
    """A value as it appears in a message: its repr, cut so that a 10 MB text cannot flood a terminal."""
    text = repr(value)
    return text if len(text) <= VALUE_LIMIT else f"{text[:VALUE_LIMIT]}… ({len(text):,} characters)"
