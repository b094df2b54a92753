"""JSON as dougong writes it: plain values in, the same bytes each time; and, read again, nothing deep, doubled or infinite."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from dougong.core.errors import ArtefactError, bad_field, shown

JSON_DEPTH = 64
JSON_NODES = 4_000_000  # lists and objects: 512 MB of [] would become 10 GB
RESTORE = "go back to the version before it, or copy it again from where it came"


def render_json(value: Any) -> bytes:
    """The one way in which we write JSON: the same value always gives the same bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def parse_json(data: bytes, source: str, depth: int = JSON_DEPTH) -> Any:
    """Strict JSON from bytes; `source` names them in the error."""
    try:
        text = data.decode("utf-8")
        _check_nesting(text, depth)  # before parsing: the parser's own stack and appetite are not ours to trust
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ArtefactError(
            f"{source}: not the JSON that dougong writes ({shown(str(error))}). Fix: {RESTORE}."
        ) from None


_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


def _check_nesting(text: str, limit: int) -> None:
    """Refuse text whose brackets, strings passed over, nest deeper than `limit` or are too many."""
    depth = nodes = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[0] in "[{":
            depth, nodes = depth + 1, nodes + 1
            if depth > limit:
                raise ValueError(f"nested deeper than {limit} levels")
            if nodes > JSON_NODES:
                raise ValueError(f"more than {JSON_NODES:,} lists and objects")
        elif match[0] in "]}":
            depth -= 1


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(again)} stands twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def check_plain(value: Any, name: str) -> None:
    """Refuse what JSON would change or cannot hold, by its place: state['loss'] = nan."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise bad_field(f"{name} key", key, "text", "use text as keys: JSON has no others")
            check_plain(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{name}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise bad_field(name, value, "a finite number", "write None or text for it")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise bad_field(name, value, "a number, text, list or mapping", "turn it into plain values first")
