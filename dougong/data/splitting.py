"""Which split a row belongs to: a function of its content and the seed alone.

So a row stays where it is when others are added, removed or reordered, and equal rows never stand on both sides.

    split_of(row_hash(row, columns), {"validation": 0.1}, seed=0)      # "train" or "validation"
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

REST = "train"  # what the fractions leave over


def split_of(hash64: int, fractions: Mapping[str, float], seed: int) -> str:
    """The name of the split of a row, by its 64-bit hash. `fractions` (sum below 1) leave the rest to train."""
    digest = hashlib.blake2b(hash64.to_bytes(8, "little"), digest_size=8, salt=(seed % 2**64).to_bytes(8, "little"))
    place = (int.from_bytes(digest.digest(), "little") >> 11) / 2**53  # in [0, 1), exactly what a float64 holds
    for name in sorted(fractions):  # the order in the recipe must not matter
        place -= fractions[name]
        if place < 0:
            return name
    return REST
