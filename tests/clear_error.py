"""What every error about bad input must be: short, with its place and one fix, and nothing of the machine in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dougong.core.errors import DougongError


@contextmanager
def clear_error(*parts: str, error: type[DougongError] = DougongError) -> Iterator[None]:
    """The block must raise `error` with a clear message that holds all `parts` (file, row or key, value)."""
    with pytest.raises(error) as caught:
        yield
    check_clear(str(caught.value), *parts)


def check_clear(message: str, *parts: str) -> None:
    """At most five lines, every part named, a fix, no traceback, no memory address."""
    for part in parts:
        assert part in message, f"{part!r} is not named in: {message}"
    lines = message.splitlines()
    assert 1 <= len(lines) <= 5, f"{len(lines)} lines: {message}"
    assert all(len(line) <= 400 for line in lines), f"a line of more than 400 characters: {message}"
    assert "Fix: " in message, f"no fix in: {message}"
    assert "Traceback" not in message
    assert ", line " not in message or ".py" not in message, f"a place in our code: {message}"
    assert not re.search(r"\b0x[0-9a-fA-F]{6,}\b", message), f"a memory address in: {message}"
    assert not re.search(r"<[\w.]+ object at", message), f"the repr of an object in: {message}"
