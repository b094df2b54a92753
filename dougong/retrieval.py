"""Search with a run that has learnt a pairing, or words: the rows of a corpus whose embeddings are nearest to a row's.

corpus = Corpus.of(run, [{"passage": "a bridge of wood"}, …])
corpus.answer([{"query": "wooden bridges"}], Counter())    # [{"match": {"nearest": [{"row": 1, "score": 0.8, …}]}}]
Corpus.vocabulary(run).answer(["bridge"], Counter())       # of a run that has learnt words: the words nearest to it
"""

# N rows that ask, P rows of the corpus, E dim

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from dougong.core.errors import DataError, Note
from dougong.fields import Field
from dougong.inference.neighbours import Vectors, nearest, together
from dougong.run import PREDICT_ROWS, Notes, Run, listed, tell

TOP = 10


@dataclass(frozen=True)
class Corpus:
    """Embeddings of one input of the rows that are looked through, held in memory: 4 bytes a number."""

    run: Run
    side: Field  # what the corpus holds: an input, or words
    vectors: Vectors  # (P, E) of length 1, or of each row those of its positions
    rows: np.ndarray  # (P,) the number of each row, from 1
    values: Sequence[object]  # (P,) what stands in its column
    top: int = TOP
    lexicon: bool = False  # it holds all words that there are: those of a row itself are no answer to it

    @classmethod
    def vocabulary(cls, run: Run, top: int = TOP) -> Corpus:
        """All words that a run has learnt, the most frequent first: a row's number is its rank."""
        side = run.words
        assert side is not None
        vectors = run.model.arrival(side).encoder.table().detach().cpu().numpy()
        return cls(run, side, vectors, np.arange(1, len(vectors) + 1), side.codec.words, top, lexicon=True)

    @classmethod
    def of(cls, run: Run, rows: Iterable[Any], top: int = TOP) -> Corpus:
        """The corpus of a list of rows, each of which must have the same input."""
        numbered = ((number, row) for number, row in enumerate(listed(rows), 1))
        return cls.read(run, numbered, top)

    @classmethod
    def read(cls, run: Run, rows: Iterator[tuple[int, Mapping[str, Any]]], top: int = TOP) -> Corpus:
        """The corpus of numbered rows, a few at a time."""
        notes: Notes = Counter()
        vectors, numbers, values = list[np.ndarray](), list[int](), list[object]()
        side: Field | None = None
        lacking = 0
        while read := list(islice(rows, PREDICT_ROWS)):
            side = side or searched(run, side_of(run, read[0][1]))
            chunk = [(number, row) for number, row in read if run.words or row.get(side.column) is not None]
            lacking += len(read) - len(chunk)
            if not chunk:
                continue
            parsed = [run.read(row, number, [side]) for number, row in chunk]
            vectors.append(run.vectors(side, parsed, notes))
            numbers += [number for number, _ in chunk]
            values += [
                each[side.name] if run.words else row[side.column] for each, (_, row) in zip(parsed, chunk, strict=True)
            ]
        if side is None:
            raise DataError("corpus: it has no row that can be read. Fix: give one with rows to look through.")
        if lacking:
            warnings.warn(f"corpus: {lacking:,} rows have no {side.column!r} and are not searched", Note, stacklevel=3)
        tell(notes, len(numbers))
        return cls(
            run,
            side,
            together(vectors, getattr(run.space.config, "length_discount", 0.0)),
            np.array(numbers),
            values,
            top,
        )

    def answer(self, rows: Sequence[Any], notes: Notes) -> list[dict[str, Any]]:
        """For each row the `top` rows of the corpus that are nearest, best first, each with its score."""
        name = self.run.space.name
        result: list[dict[str, Any]] = []
        for start in range(0, len(rows), PREDICT_ROWS):
            chunk = list(enumerate(rows[start : start + PREDICT_ROWS], start))
            asking: dict[int, np.ndarray] = {}  # by place in the chunk: (1, E), or (1, T, E)
            sides = [self.asks(row, number) for number, row in chunk]
            own: list[set[str]] = [set() for _ in chunk]
            for field in self.run.sides:
                of_side = [place for place, side in enumerate(sides) if side == field]
                parsed = [self.run.read(chunk[place][1], chunk[place][0], [field]) for place in of_side]
                if parsed:
                    asking |= zip(of_side, self.run.vectors(field, parsed, notes)[:, None], strict=True)
                if self.lexicon:
                    own = [set(field.codec.cut(row[field.name])) for row in parsed]
            every = together([asking[place] for place in range(len(chunk))])
            found, scores = nearest(every, self.vectors, self.top + max(map(len, own)))
            told = zip(found, scores, own, strict=True)
            result += [{name: {"nearest": self.listed(rows, near, but)[: self.top]}} for rows, near, but in told]
        return result

    def asks(self, row: Any, number: int) -> Field:
        """The input of a row that is looked for: where it has both, the one that the corpus does not hold."""
        given = self.run.given(row, number)
        return next((field for field in given if field is not self.side), given[0])

    def listed(self, found: np.ndarray, scores: np.ndarray, but: set[str]) -> list[dict[str, Any]]:
        return [
            {"row": int(self.rows[place]), "score": float(score)}
            | ({"value": value} if isinstance(value := self.values[place], str | int | float) else {})
            for place, score in zip(found, scores, strict=True)
            if not but or self.values[place] not in but
        ]


def searched(run: Run, side: Field) -> Field:
    """The side itself, if it can be looked through: of a late interaction that which asks cannot."""
    config = run.space.config
    if getattr(config, "interaction", "") == "late" and side.name == config.asks:
        raise DataError(
            f"corpus: it has the column {side.column!r} alone, of {side.name!r}, which asks: with interaction: late "
            "only the other side is looked through. Fix: give its column, or train with interaction: pooled."
        )
    return side


def side_of(run: Run, row: Any) -> Field:
    """The input that a corpus holds, told by its first row: where it has both, the one that does not ask."""
    given = run.given(row, 1)
    if len(given) == 1:
        return given[0]
    asks = run.space.config.asks
    if asks is None:
        columns = " and ".join(repr(field.column) for field in given)
        raise DataError(f"corpus: it has both columns, {columns}: which is looked through? Fix: leave one of them out.")
    return next(field for field in given if field.name != asks)
