"""Errors of a transcript: words or characters put in, left out or exchanged, over those of the right text, by jiwer.

Over all rows at once: a long text counts for more than a short one, as is usual. Above 1 where more is put in than was said.
"""

# N rows

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from dougong.core.errors import missing_extra
from dougong.data.columns import Columns
from dougong.metrics.metric import Metric, ratio
from dougong.metrics.writing import Read, texts


class ErrorRate(Metric):
    """Edits over units of the right text. `read` gives the texts of N rows."""

    higher_is_better = False
    share = True
    unit: ClassVar[str]

    def __init__(self, read: Read = texts):
        self.read, self.process = read, getattr(_jiwer(), f"process_{self.unit}")

    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        """(N, 2): edits, and units of the right text."""
        pairs = zip(self.read(target), self.read(prediction), strict=True)
        return np.array([self.row(*pair) for pair in pairs], dtype=np.float64).reshape(-1, 2)

    def row(self, right: str, said: str) -> tuple[float, float]:
        if not right.strip():  # jiwer has no word for it: all that is said is put in
            return float(len(said.split() if self.unit == "words" else said.strip())), 0.0
        found: Any = self.process(right, said)
        edits = found.substitutions + found.deletions + found.insertions
        return float(edits), float(found.hits + found.substitutions + found.deletions)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class WordErrorRate(ErrorRate):
    """wer: words as white space parts them, as they are written: case and punctuation count."""

    name = "wer"
    unit = "words"


class CharacterErrorRate(ErrorRate):
    """cer: characters, spaces between words included."""

    name = "cer"
    unit = "characters"


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError:
        raise missing_extra("jiwer", "audio", "the metrics wer and cer") from None
    return jiwer
