"""What a metric is: statistics of each row, and a value computed from their sums.

Everything follows from that one shape: streaming in constant memory (add the sums), 95 % intervals (sums under the
random weights of a Poisson bootstrap), paired comparison of two runs (the same weights for both), and merging over ranks
(add the sums once more).
"""

# N rows, K statistics

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from dougong.data.columns import Columns


class Metric(ABC):
    """`statistics` looks at rows, `value` at sums over rows; neither keeps any state."""

    name: ClassVar[str]  # as it stands in results: accuracy, f1_macro, …
    higher_is_better: ClassVar[bool] = True

    @abstractmethod
    def statistics(self, prediction: Columns, target: Columns) -> np.ndarray:
        """(N, K) float64: what each row adds to the sums.

        `prediction` is what the field's Head predicts for N rows (e.g. {"probabilities": (N, C)}), `target` the field's
        encoded columns of the same rows (e.g. {"index": (N,)}).
        """

    @abstractmethod
    def value(self, sums: np.ndarray) -> np.ndarray:
        """(..., K) sums -> (...) values; nan where the sums say nothing (no rows, one class only)."""
