"""Rows that repeat: exactly (by a 64-bit hash), nearly (MinHash), and rows of the test split that stand in train.

    repeats = find_duplicates([row_hashes({"text": texts, "size": sizes})])            # True: repeats an earlier row
    repeats = near_duplicates(np.stack([minhash(text) for text in texts]), threshold=0.8)

Among a billion rows the chance that any two different ones share a 64-bit hash is 3 %. A near duplicate is an estimate
from 128 samples (standard error 0.035 at 0.8), found with a probability of 99 % at the threshold, and more above it.
"""

# N rows, P permutations, S shingles

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from typing import cast

import numpy as np

from dougong.data.ordering import mix

PARTITION = 1 << 20  # hashes held at once: 8 MB, and several times that with their places and what sorts them
SHINGLE = 5  # characters
SHINGLES_AT_ONCE = 4096
NEIGHBOURS = 8  # rows that a row is compared with in each of its buckets


def row_hashes(columns: Mapping[str, Sequence[object]]) -> np.ndarray:  # N values of each -> (N,) uint64
    """64 bits for each row that stand for its values in these columns, whatever their order, on any machine."""
    return joined_hashes({name: value_hashes(values) for name, values in columns.items()})


def joined_hashes(columns: Mapping[str, np.ndarray]) -> np.ndarray:  # (N,) uint64 of each -> (N,) uint64
    """The hashes of rows of the `value_hashes` of their columns."""
    result = np.zeros(len(next(iter(columns.values()))), dtype=np.uint64)
    for name in sorted(columns):
        result = mix(result ^ mix(columns[name] ^ np.uint64(_hash(name.encode()))))
    return result


def value_hashes(values: Sequence[object]) -> np.ndarray:  # N values -> (N,) uint64
    """64 bits for each value: those of a text are of its UTF-8, those of a number of its float64."""
    kinds = set(map(type, values))
    if kinds <= {float, type(None)}:
        numbers = np.array(values, dtype=np.float64) + 0.0  # -0.0 is 0.0
        return np.where(np.isnan(numbers), NOTHING, mix(numbers.view(np.uint64)))
    if kinds <= {str, type(None)}:
        texts = cast("Sequence[str | None]", values)
        known = dict.fromkeys(texts, NOTHING_BYTES)  # each once: a category has few
        for text in known:
            if text is not None:
                known[text] = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return np.frombuffer(b"".join([known[text] for text in texts]), dtype="<u8")
    return np.array([_value_hash(value) for value in values], dtype=np.uint64)


def _value_hash(value: object) -> int:
    if isinstance(value, np.generic | np.ndarray):
        return _value_hash(value.tolist())
    if value is None or isinstance(value, str | float):
        plain = str(value) if isinstance(value, str) else value if value is None else float(value)
        return int(value_hashes([plain])[0])
    if isinstance(value, bytes):
        return _hash(value, person=b"bytes")
    return _hash(PLAIN.encode(value).encode("utf-8", "surrogatepass"), person=b"json")


def _hash(data: bytes, person: bytes = b"") -> int:
    return int.from_bytes(blake2b(data, digest_size=8, person=person).digest(), "little")


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return {"blake2b": blake2b(value).hexdigest()}
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)  # decimals, times


NOTHING = np.uint64(0x6E6F7468696E6721)
NOTHING_BYTES = int(NOTHING).to_bytes(8, "little")
PLAIN = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def find_duplicates(pieces: Iterable[np.ndarray]) -> np.ndarray:  # of (N,) uint64 -> (N,) bool
    """Which rows repeat an earlier one.

    Goes over the pieces (of any sizes) once for each PARTITION rows there are, and holds that many hashes at a time.
    """
    rows = sum(map(len, pieces))
    repeats = np.zeros(rows, dtype=bool)
    parts = np.uint64(math.ceil(rows / PARTITION) or 1)
    for part in range(int(parts)):
        hashes, places, start = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)], 0
        for piece in pieces:
            mine = np.flatnonzero(piece % parts == part)
            hashes.append(piece[mine])
            places.append(mine + start)
            start += len(piece)
        _, first = np.unique(np.concatenate(hashes), return_index=True)  # the first place of each
        found = np.concatenate(places)
        repeats[found] = True
        repeats[found[first]] = False
    return repeats


def leaked(train: Iterable[np.ndarray], test: np.ndarray) -> np.ndarray:  # pieces of (N,) uint64, (M,) -> (M,) bool
    """Which rows of test stand in train. Holds the test hashes and one piece of the train hashes."""
    unique = np.unique(test)
    found = np.zeros(len(unique), dtype=bool)
    for piece in train if len(unique) else ():
        places = np.minimum(np.searchsorted(unique, piece), len(unique) - 1)  # each of train is looked for, once
        found[places[unique[places] == piece]] = True
    return found[np.searchsorted(unique, test)]


# -------------------------------------------------------------------------------------------------------------- near


def minhash(text: str, permutations: int = 128) -> np.ndarray:  # -> (P,) uint32
    """A signature whose share of equal entries estimates the Jaccard similarity of two texts' 5-character shingles.

    Broder, On the resemblance and containment of documents (1997). Case and spacing do not count.
    """
    multiply, add = _permutations(permutations)
    shingles = _shingles(" ".join(text.casefold().split()))
    smallest = np.full(permutations, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(shingles), SHINGLES_AT_ONCE):
        part = shingles[start : start + SHINGLES_AT_ONCE]
        hashed = (part * multiply[:, None] + add[:, None]) >> np.uint64(32)  # (P, S)
        np.minimum(smallest, hashed.min(1).astype(np.uint32), out=smallest)
    return smallest


def _shingles(text: str) -> np.ndarray:  # -> (S,) uint64, each once
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    if not len(points):
        return points
    points = np.pad(points, (0, max(0, SHINGLE - len(points))))
    mixed = np.zeros(len(points) - SHINGLE + 1, dtype=np.uint64)
    for place in range(SHINGLE):
        mixed = mix(mixed ^ points[place : place + len(mixed)])
    return np.unique(mixed)


@cache
def _permutations(count: int) -> tuple[np.ndarray, np.ndarray]:  # -> (P,) uint64 odd, (P,) uint64
    numbers = mix(np.arange(2 * count, dtype=np.uint64))  # not from numpy.random: its streams may change with a version
    return numbers[:count] | np.uint64(1), numbers[count:]


def near_duplicates(
    signatures: np.ndarray, threshold: float, others: np.ndarray | None = None
) -> np.ndarray:  # (N, P) uint32, (N,) uint64 -> (N,) bool
    """Which rows resemble an earlier row that is kept, by at least `threshold`.

    Rows that agree in a whole band of their signatures are compared (locality-sensitive hashing); in a bucket of many
    rows each is compared with the first and with its nearest neighbours only. `others`: a hash of what else the rows
    hold; where it differs they are not compared.
    """
    others = np.zeros(len(signatures), dtype=np.uint64) if others is None else others
    repeats = find_duplicates([_bucket(signatures, 0, signatures.shape[1], others)])  # equal ones need no comparison
    kept = np.flatnonzero(~repeats)
    found = [np.zeros((0, 2), dtype=np.int64), *_pairs(signatures, kept, threshold, others)]
    for later, earlier in np.unique(np.concatenate(found), axis=0):
        if not repeats[earlier]:  # in the order of the later row, so that whether the earlier one is kept is known
            repeats[later] = True
    return repeats


def _pairs(signatures: np.ndarray, kept: np.ndarray, threshold: float, others: np.ndarray) -> Iterator[np.ndarray]:
    """(later row, earlier row) of every pair that shares a bucket and is found to be similar."""
    rows = _band_rows(threshold, signatures.shape[1])
    for start in range(0, signatures.shape[1] - rows + 1, rows):
        buckets = _bucket(signatures, start, rows, others)[kept]
        order = np.argsort(buckets, kind="stable")
        buckets, members = buckets[order], kept[order]  # within a bucket rows stay in order
        new = np.concatenate([[True], buckets[1:] != buckets[:-1]]) if len(buckets) else np.zeros(0, dtype=bool)
        first = np.flatnonzero(new)[np.cumsum(new) - 1]
        position = np.arange(len(members))
        yield _similar(signatures, members[position], members[first], threshold)
        for lag in range(1, NEIGHBOURS + 1):
            same = position[lag:][first[lag:] <= position[:-lag]]
            if not len(same):
                break
            yield _similar(signatures, members[same], members[same - lag], threshold)


def _similar(signatures: np.ndarray, later: np.ndarray, earlier: np.ndarray, threshold: float) -> np.ndarray:
    differ = np.flatnonzero(later != earlier)
    later, earlier = later[differ], earlier[differ]
    share = np.zeros(len(later))
    for start in range(0, len(later), 1 << 14):
        part = slice(start, start + (1 << 14))
        share[part] = (signatures[later[part]] == signatures[earlier[part]]).mean(1)
    return np.stack([later, earlier], axis=1)[share >= threshold]  # (pairs, 2)


def _bucket(signatures: np.ndarray, start: int, rows: int, others: np.ndarray) -> np.ndarray:  # (N, P), (N,) -> (N,)
    bucket = mix(others)
    for column in range(start, start + rows):
        bucket = mix(bucket ^ signatures[:, column].astype(np.uint64))
    return bucket


def _band_rows(threshold: float, permutations: int) -> int:
    """The widest band (fewest false candidates) that still finds 99 % of the pairs at the threshold."""
    for rows in range(permutations, 1, -1):
        if (1 - threshold**rows) ** (permutations // rows) <= 0.01:
            return rows
    return 1
