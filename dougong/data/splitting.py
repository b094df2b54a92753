"""Which split a row belongs to: a function of its inputs alone, or of its time and that of all others.

By its inputs a row stays where it is when others are added, removed or reordered, runs of other seeds are measured on the same
rows, and one input never stands on both sides, whatever its answers say. Where an output is made from noise the whole row
counts: of one input there are many right answers.

    split_of(row_hashes({"review": texts}), {"validation": 0.1})      # (N,) indices into SPLITS

By time the newest rows are held out, as they will be when the model is used; what is new moves the borders.

    by_time(times, borders(times, {"validation": 0.1}))
"""

# N rows

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from dougong.data import dates
from dougong.data.ordering import mixed

SPLITS = ("train", "validation", "test")  # the fractions leave the rest to the first
KEY = 0x5711  # a hash decides on more than the split: each takes other bits of it


def split_of(hashes: np.ndarray, fractions: Mapping[str, float]) -> np.ndarray:  # (N,) uint64 -> (N,) uint8
    """The split of rows, as indices into SPLITS, by the 64-bit hashes of their inputs. `fractions` sum up to below 1."""
    place = (mixed(hashes, KEY) >> np.uint64(11)).astype(np.float64) / 2**53  # in [0, 1), exactly what a float64 holds
    split = np.zeros(len(hashes), dtype=np.uint8)
    start = 0.0
    for name in sorted(fractions):  # the order in the recipe must not matter
        split[(place >= start) & (place < start + fractions[name])] = SPLITS.index(name)
        start += fractions[name]
    return split


def when(value: object) -> float:
    """A time as a number that orders as time does: a number as it is, a date in seconds. ValueError: it is neither."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    text = dates.read(value)
    if text is None:
        raise ValueError("expected a time, found none")
    if "/" in text:
        raise ValueError(f"expected a time that reads in one way only, such as 2024-05-31, found {text!r}")
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def borders(times: np.ndarray, fractions: Mapping[str, float]) -> dict[str, float]:  # (N,) float64
    """From which time on rows are of which split, in the order of time: validation before test."""
    ordered, left = np.sort(times), len(times)
    found: dict[str, float] = {}
    for name in reversed(SPLITS[1:]):
        count = round(len(times) * fractions.get(name, 0.0))
        if count and left:
            left = max(0, left - count)
            found[name] = float(ordered[left])
            left = int(np.searchsorted(ordered, ordered[left]))  # what has the same time stays together
    return dict(reversed(found.items()))


def by_time(times: np.ndarray, borders: Mapping[str, float]) -> np.ndarray:  # (N,) float64 -> (N,) uint8
    """The split of rows, as indices into SPLITS."""
    split = np.zeros(len(times), dtype=np.uint8)
    for name, start in borders.items():
        split[times >= start] = SPLITS.index(name)
    return split
