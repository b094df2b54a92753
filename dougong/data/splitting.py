"""Which split a row belongs to: a function of its inputs alone.

So a row stays where it is when others are added, removed or reordered, runs of other seeds are measured on the same
rows, and one input never stands on both sides, whatever its answers say.

    split_of(row_hashes({"review": texts}), {"validation": 0.1})      # (N,) indices into SPLITS
"""

# N rows

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
