"""Exact search among vectors of length 1: at which place the right one stands, and which are nearest.

All scores are plain matrix products, a few rows at a time: memory holds the vectors, and at most SCORES scores. A row may
also be a bag of vectors (`Bags`), as a pairing with a late interaction gives them.
"""

# N rows that ask, P rows that are looked through, E dim, U different vectors, V vectors of all rows

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

SCORES = 1 << 23  # of one product: 32 MB


@dataclass(frozen=True)
class Bags:
    """Several vectors a row, each different one held once: words that no context changes are met again and again."""

    vectors: np.ndarray  # (U, E) float32
    place: np.ndarray  # (V,) int32 which of them each vector of each row is
    starts: np.ndarray  # (N + 1,) int64 where the vectors of a row begin
    length_discount: float = 0.0  # of rows that are found: as `fields/pairing.late_scores` takes it

    @classmethod
    def of(cls, parts: Iterable[np.ndarray], length_discount: float = 0.0) -> Bags:
        """Of arrays (n, T, E), one below the other; vectors of zeros only pad."""
        kept, counts = [np.zeros((0, 0), dtype=np.float32)], [np.zeros(1, dtype=np.int64)]
        for part in parts:
            real = part.any(2)  # (n, T)
            kept.append(np.ascontiguousarray(part[real], dtype=np.float32))
            counts.append(real.sum(1))
        every = np.concatenate(kept[1:]) if len(kept) > 1 else kept[0]  # (V, E)
        starts = np.concatenate(counts).cumsum()
        if not every.size:
            return cls(every, np.zeros(0, dtype=np.int32), starts, length_discount)
        bits = every.view(np.dtype((np.void, every.itemsize * every.shape[1]))).ravel()
        _, first, place = np.unique(bits, return_index=True, return_inverse=True)
        return cls(every[first], place.astype(np.int32), starts, length_discount)

    @property
    def mean(self) -> float:
        """Vectors of a row."""
        return len(self.place) / max(len(self), 1)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: np.ndarray) -> Bags:
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], counts.cumsum()])
        which = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return replace(self, place=self.place[which], starts=starts)


Vectors = np.ndarray | Bags


def together(parts: Sequence[np.ndarray], length_discount: float = 0.0) -> Vectors:
    """Rows below each other: (n, E) of one vector each, or (n, T, E) of several."""
    if not parts:
        return np.zeros((0, 0), dtype=np.float32)
    return Bags.of(parts, length_discount) if parts[0].ndim == 3 else np.concatenate(parts)


def ranks(asking: Vectors, found: Vectors, hashes: np.ndarray) -> np.ndarray:
    """N rows that ask, N rows, what each shall find, (N, 2) hashes of both -> (N,) the place of what is right.

    What is looked through are the different values among what is found, each once. Right is each that stands in a row
    with an equal value that asks; the best of them counts. A wrong one with an equal score goes before it: who gives all
    the same score has found nothing.
    """
    _, rows, place = np.unique(hashes[:, 1], return_index=True, return_inverse=True)  # (P,) a row of each, (N,)
    _, question = np.unique(hashes[:, 0], return_inverse=True)  # (N,)
    answers = np.unique(np.stack([question, place], axis=1), axis=0)  # (A, 2) each right answer of each question, once
    starts = np.searchsorted(answers[:, 0], np.arange(answers[-1, 0] + 2 if len(answers) else 1))
    pool = found[rows]  # of P rows
    result = np.zeros(len(asking), dtype=np.int64)
    for rows_, scores in _scores(asking, pool):
        first, last = starts[question[rows_]], starts[question[rows_] + 1]  # (n,) of its right answers
        row = np.repeat(np.arange(len(scores)), last - first)
        right = answers[np.concatenate([np.arange(*ends) for ends in zip(first, last, strict=True)]), 1]
        best = np.full(len(scores), -np.inf, dtype=scores.dtype)
        np.maximum.at(best, row, scores[row, right])
        scores[row, right] = -np.inf
        result[rows_] = 1 + (scores >= best[:, None]).sum(1)
    return result


def nearest(asking: Vectors, corpus: Vectors, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the corpus that are nearest to each that asks, best first, and their scores: (N, top) each.

    Of equal scores the one that comes first in the corpus goes first.
    """
    top = min(top, len(corpus))
    rows = np.zeros((len(asking), top), dtype=np.int64)
    scores = np.zeros((len(asking), top), dtype=np.float32)
    for piece, product in _scores(asking, corpus):
        edge = -np.partition(-product, top - 1, axis=1)[:, top - 1 : top]  # (n, 1) the score of the last that is kept
        for row, (said, least) in enumerate(zip(product, edge, strict=True), piece.start):
            near = np.flatnonzero(said >= least)  # as many as are equal to the last, in the order of the corpus
            near = near[np.argsort(-said[near], kind="stable")][:top]
            rows[row], scores[row] = near, said[near]
    return rows, scores


def _scores(asking: Vectors, pool: Vectors) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows whose scores are at hand at once, and those: (n, P)."""
    if isinstance(asking, Bags) and isinstance(pool, Bags):
        step = max(1, int(SCORES // max(len(pool) * asking.mean, 1)))
    else:
        step = max(1, SCORES // max(len(pool), 1))
    for start in range(0, len(asking), step):
        piece = slice(start, min(start + step, len(asking)))
        if isinstance(asking, Bags) and isinstance(pool, Bags):
            yield piece, _late(asking[np.arange(piece.start, piece.stop)], pool)
        else:
            assert isinstance(asking, np.ndarray)
            assert isinstance(pool, np.ndarray)
            yield piece, asking[piece] @ pool.T


def _late(asking: Bags, pool: Bags) -> np.ndarray:
    """(n, P), as `fields/pairing.late_scores` has them: the mean of each vector's best match, by how much it counts."""
    asked, each = np.unique(asking.place, return_inverse=True)  # (u,) vectors of these rows, (v,) which of them
    best = np.zeros((len(asked), len(pool)), dtype=np.float32)  # how well each of them is matched in each row
    full = np.flatnonzero(np.diff(pool.starts))  # where no vectors are nothing is matched
    step = max(1, SCORES // max(len(pool.place), 1))
    for start in range(0, len(asked) if len(full) else 0, step):
        some = asking.vectors[asked[start : start + step]] @ pool.vectors.T  # (s, U)
        best[start : start + step, full] = np.maximum.reduceat(some[:, pool.place], pool.starts[full], axis=1)
    best = np.maximum(best, 0.0, out=best)
    counts = np.linalg.norm(asking.vectors, axis=1)[asked][each]  # (v,)
    scores = np.zeros((len(asking), len(pool)), dtype=np.float32)
    for row, (start, end) in enumerate(zip(asking.starts[:-1], asking.starts[1:], strict=True)):
        if start < end:
            scores[row] = best[each[start:end]].sum(0) / max(counts[start:end].sum(), 1e-12)
    long = np.maximum(np.diff(pool.starts), 1).astype(np.float32)  # (P,)
    return scores / long ** np.float32(pool.length_discount)
