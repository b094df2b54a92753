"""The order of training rows: a function of (seed, epoch, index), so that workers, ranks and resumed runs agree."""

from __future__ import annotations

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
ROUNDS = 6  # with 4 a handful of rows would land in some places a tenth more often


Key = int | np.ndarray
"""One for all, or one for each number, (N,) uint64."""


def permuted(index: np.ndarray, size: int, key: Key) -> np.ndarray:
    """Where a keyed permutation of 0..size-1 sends each index, without holding the permutation.

    A Feistel network over the next even number of bits (Luby & Rackoff 1988), walked until it lands inside: a shuffle
    of any number of rows in constant memory, of which any slice can be computed alone.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    result = index.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        result[outside] = _feistel(result[outside], half, key if isinstance(key, int) else key[outside])
        outside = result >= size
    return result.astype(np.int64)


def _feistel(value: np.ndarray, half: int, key: Key) -> np.ndarray:
    low = np.uint64((1 << half) - 1)
    left, right = value >> np.uint64(half), value & low
    for turn in range(ROUNDS):
        turned = key + turn if isinstance(key, int) else key + np.uint64(turn)
        left, right = right, left ^ (mixed(right, turned) & low)
    return (left << np.uint64(half)) | right


def mixed(value: np.ndarray, key: Key) -> np.ndarray:
    """SplitMix64 of value and key: uint64 that looks random."""
    if not isinstance(key, int):
        with np.errstate(over="ignore"):
            return mix(value + (key - np.uint64(1)) * np.uint64(GOLDEN) + np.uint64(0x632BE59BD9B4E019))
    return mix(value + np.uint64(((key - 1) * GOLDEN + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF))


def mix(value: np.ndarray) -> np.ndarray:  # uint64 -> uint64, every bit of the input moves half the bits of the output
    """One step of SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014)."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(GOLDEN)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def uniform(index: np.ndarray, key: int) -> np.ndarray:
    """A number in [0, 1) for each index, float32: the 24 highest bits, which is what one holds exactly."""
    return (mixed(index.astype(np.uint64), key) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def key_of(*parts: int) -> int:
    """One key of several numbers (seed, epoch, …)."""
    key = 0
    for part in parts:
        key = int(mixed(np.array([part & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64), key)[0])
    return key
