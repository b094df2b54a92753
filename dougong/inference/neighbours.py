"""Exact search among vectors of length 1: at which place the right one stands, and which are nearest.

All scores are plain matrix products, a few rows at a time: memory holds the vectors, and at most SCORES scores.
"""

# N rows that ask, P vectors that are looked through, E dim

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SCORES = 1 << 23  # of one product: 32 MB


def ranks(asking: np.ndarray, found: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """(N, E) rows that ask, (N, E) what each shall find, (N, 2) hashes of both -> (N,) the place of what is right.

    What is looked through are the different values among what is found, each once. Right is each that stands in a row
    with an equal value that asks; the best of them counts. A wrong one with an equal score goes before it: who gives all
    the same score has found nothing.
    """
    _, rows, place = np.unique(hashes[:, 1], return_index=True, return_inverse=True)  # (P,) a row of each, (N,)
    _, question = np.unique(hashes[:, 0], return_inverse=True)  # (N,)
    answers = np.unique(np.stack([question, place], axis=1), axis=0)  # (A, 2) each right answer of each question, once
    starts = np.searchsorted(answers[:, 0], np.arange(answers[-1, 0] + 2 if len(answers) else 1))
    pool = found[rows]  # (P, E)
    result = np.zeros(len(asking), dtype=np.int64)
    for rows_ in _pieces(len(asking), len(pool)):
        scores = asking[rows_] @ pool.T  # (n, P)
        first, last = starts[question[rows_]], starts[question[rows_] + 1]  # (n,) of its right answers
        row = np.repeat(np.arange(len(scores)), last - first)
        right = answers[np.concatenate([np.arange(*ends) for ends in zip(first, last, strict=True)]), 1]
        best = np.full(len(scores), -np.inf, dtype=scores.dtype)
        np.maximum.at(best, row, scores[row, right])
        scores[row, right] = -np.inf
        result[rows_] = 1 + (scores >= best[:, None]).sum(1)
    return result


def nearest(asking: np.ndarray, corpus: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, E), (P, E) -> the rows of the corpus that are nearest, best first, and their scores: (N, top) each.

    Of equal scores the one that comes first in the corpus goes first.
    """
    top = min(top, len(corpus))
    rows = np.zeros((len(asking), top), dtype=np.int64)
    scores = np.zeros((len(asking), top), dtype=np.float32)
    for piece in _pieces(len(asking), len(corpus)):
        product = asking[piece] @ corpus.T  # (n, P)
        edge = -np.partition(-product, top - 1, axis=1)[:, top - 1 : top]  # (n, 1) the score of the last that is kept
        for row, (said, least) in enumerate(zip(product, edge, strict=True), piece.start):
            near = np.flatnonzero(said >= least)  # as many as are equal to the last, in the order of the corpus
            near = near[np.argsort(-said[near], kind="stable")][:top]
            rows[row], scores[row] = near, said[near]
    return rows, scores


def _pieces(rows: int, pool: int) -> Iterator[slice]:
    """Rows whose scores are at hand at once."""
    step = max(1, SCORES // max(pool, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
