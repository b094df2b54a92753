"""How much each input matters: what is lost where its values are shuffled among the rows, the others staying as they are.

Permutation importance (Breiman 2001; Fisher et al. 2019, arXiv:1801.01489). An input whose loss another one makes good for
looks as if it did not matter: of two that say the same, neither does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dougong.data.loader import Batch, Plan, RowPlan
from dougong.data.ordering import key_of, permuted
from dougong.data.shards import Split
from dougong.data.windows import Windows
from dougong.fields import metrics_of
from dougong.inference.predict import Autocast, predictions
from dougong.metrics.intervals import Accumulator, interval
from dougong.model import Model

REPLICATES = 1000


def can_be_told(model: Model, plan: Plan) -> bool:
    """Where rows have several inputs that are read together, and whole, to tell something and not to make it."""
    together = model.paired is None and model.quoting is None and model.made is None
    return len(model.inputs) > 1 and together and isinstance(plan, RowPlan)


def importance(model: Model, plan: Plan, autocast: Autocast, *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Of each output, for each input: its first metric, its value as the rows are and with the input shuffled, and the
    difference with a 95 % interval, of paired bootstrap replicates."""
    own = _values(model, plan, autocast, seed)
    told: dict[str, dict[str, Any]] = {output.name: {} for output in model.outputs}
    for place, field in enumerate(model.inputs):
        shuffled = _values(model, Shuffled(plan, field.name, key_of(seed, place, 4)), autocast, seed)
        for name, (metric, values) in shuffled.items():
            before = own[name][1]
            difference = values - before  # (1 + R,)
            low, high = interval(float(difference[0]), difference[1:])
            numbers = {"value": before[0], "shuffled": values[0], "difference": difference[0], "low": low, "high": high}
            told[name][field.name] = {"metric": metric} | {
                key: float(number) if np.isfinite(number) else None for key, number in numbers.items()
            }
    return told


def _values(model: Model, plan: Plan, autocast: Autocast, seed: int) -> dict[str, tuple[str, np.ndarray]]:
    """The first metric of each output: its name, its value and those of the replicates (1 + R,)."""
    accumulators = {
        output.name: Accumulator(metrics_of(output, answers=False)[:1], REPLICATES, seed) for output in model.outputs
    }
    for predicted in predictions(model, plan, autocast):
        for name, accumulator in accumulators.items():
            accumulator.update(predicted.rows, predicted.predictions[name], predicted.targets[name])
    return {
        name: (metric, accumulator.values(metric))
        for name, accumulator in accumulators.items()
        for metric in accumulator.metrics
    }


@dataclass(frozen=True)
class Shuffled:
    """A plan whose rows each have one input of another row."""

    plan: Plan
    field: str
    key: int

    @property
    def split(self) -> Split | Windows:
        return self.plan.split

    def batches(self, epoch: int) -> int:
        return self.plan.batches(epoch)

    def rows(self, epoch: int, index: int) -> np.ndarray:
        return self.plan.rows(epoch, index)

    def row_ids(self, batch: Batch) -> list[int]:
        return self.plan.row_ids(batch)

    def collate(self, rows: np.ndarray, epoch: int) -> Batch:
        others = self.plan.collate(permuted(rows, self.plan.split.rows, self.key), epoch)
        mine = f"{self.field}."
        kept = {key: value for key, value in self.plan.collate(rows, epoch).items() if not key.startswith(mine)}
        return kept | {key: value for key, value in others.items() if key.startswith(mine)}
