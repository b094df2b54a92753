"""Measure a model on the rows of a split: every output's metrics with intervals, and what the report shows."""

# N rows, C classes

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from dougong.core.artefacts import read_json, verify_folder, write_folder, write_json
from dougong.core.errors import DataError
from dougong.data.columns import Column, Columns, Ragged, concatenated
from dougong.data.loader import Plan, WindowPlan
from dougong.data.shards import Split, read_shard, write_shard
from dougong.evaluation import judging
from dougong.evaluation.importance import can_be_told, importance
from dougong.fields import Field
from dougong.inference import golden
from dougong.inference.predict import Autocast, losses, predictions
from dougong.metrics.classification import F1, CalibrationError, Confusion, LabelsF1
from dougong.metrics.intervals import Accumulator, Estimate
from dougong.metrics.metric import Metric
from dougong.metrics.writing import SacreBLEU
from dougong.model import Model

KIND = "evaluation"
MOST_CLASSES = 10_000  # that are told one by one
PART_ROWS, PART_BYTES = 50_000, 32 << 20  # of predictions kept in memory before they are written


@dataclass
class Measured:
    """The metrics of one split. `metrics` is keyed `<output>.<metric>`."""

    split: str
    rows: int
    metrics: dict[str, Estimate]
    losses: dict[str, float]  # of each output, as training counts it
    details: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # output -> classes, confusion matrix, golden replies …

    def to_json(self) -> dict[str, Any]:
        """As `evaluate --json` gives it. A metric that speaks of fewer rows than there are says of how many."""
        found = {name: estimate.to_json() for name, estimate in self.metrics.items()}
        for estimate in found.values():
            if estimate["rows"] == self.rows:
                del estimate["rows"]
        return {"split": self.split, "rows": self.rows, "metrics": found}

    def text(self) -> str:
        lines = [f"{self.split}: {self.rows:,} rows"]
        for name, estimate in self.metrics.items():
            lines.append(
                f"  {name:28} {estimate.value:.4f}   (95 % interval {estimate.low:.4f} to {estimate.high:.4f})"
            )
        for output, details in self.details.items():
            for name, told in details.get("inputs", {}).items():
                low, high = (math.nan if told[key] is None else told[key] for key in ("low", "high"))
                shuffled = f"{output}.{told['metric']} with {name} shuffled: {_number(told['shuffled']):.4f}"
                lines.append(f"  {shuffled}, {_number(told['difference']):+.4f} ({low:+.4f} to {high:+.4f})")
        return "\n".join(lines)


def measure(
    model: Model,
    plan: Plan,
    split: str,
    autocast: Autocast,
    *,
    replicates: int = 1000,
    seed: int = 0,
    keep: Path | None = None,
    write: bool = True,
) -> Measured:
    """Read the split once; memory does not grow with it. With `keep`, each row's prediction is written there.

    Without `write` a model that writes texts from inputs is asked only what the right ones would cost it.
    """
    metrics = {out.name: judging.all_metrics(out, model.inputs, answers=write) for out in model.outputs}
    judge = judging.Judge.of(model.made, model.inputs) if write and model.made is not None else None
    accumulators = {name: Accumulator(group, replicates, seed) for name, group in metrics.items()}
    sums = {out.name: np.zeros(2) for out in model.outputs}
    rows = 0
    kept = Kept(keep) if keep else None
    if judge is not None:
        judge.begin(plan.split, np.concatenate([plan.rows(0, index) for index in range(plan.batches(0))]))
    for predicted in predictions(model, plan, autocast, write=write):
        rows += len(predicted.rows)
        predicted = predicted if judge is None else judge.told(predicted)
        for name, accumulator in accumulators.items():
            accumulator.update(predicted.rows, predicted.predictions[name], predicted.targets[name])
            sums[name] += predicted.losses[name]
        if kept:
            kept.add(predicted.rows, predicted.predictions, predicted.targets)
    if kept:
        kept.flush()
    estimates = {
        f"{name}.{key}": value
        for name, accumulator in accumulators.items()
        for key, value in accumulator.results().items()
    }
    details = {
        out.name: _details(metrics[out.name], accumulators[out.name], getattr(out.codec, "classes", ()))
        for out in model.outputs
    }
    if judge is not None:
        details[judge.made.name]["judge"] = {"run": str(judge.run.folder), "weights": judge.run.weights}
    if write and model.written is not None and (replies := golden.replies(model, cast("Split", plan.split))):
        details[model.written.name]["golden"] = replies
    mean_losses = {name: float(total / count) if count else float("nan") for name, (total, count) in sums.items()}
    return Measured(split, rows, estimates, mean_losses, details)


def _details(metrics: list[Metric], accumulator: Accumulator, classes: Sequence[str]) -> dict[str, Any]:
    """What the sums of some metrics tell beyond their value: each class, the confusion matrix, the calibration curve."""
    result: dict[str, Any] = {}
    for metric in metrics:
        sums = accumulator.sums.get(metric.name)
        if sums is not None and isinstance(metric, F1 | LabelsF1) and metric.average == "macro":
            scores, result["unseen"] = metric.by_class(sums[0])
            if len(classes) <= MOST_CLASSES:
                result["classes"] = _classes(classes, scores)
        if sums is not None and isinstance(metric, Confusion):
            result["confusion"] = metric.matrix(sums[0]).astype(int).tolist()
        if sums is not None and isinstance(metric, CalibrationError):
            result["calibration"] = [part.tolist() for part in metric.curve(sums[0])]
        if isinstance(metric, SacreBLEU):
            result.setdefault("signatures", {})[metric.name] = metric.signature
    return result


def _classes(names: Sequence[str], scores: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A record for each class: its name, precision, recall, f1 (None: nothing to be right about) and support."""
    counted = scores["support"].astype(int).tolist()
    shares = zip(*(scores[key].tolist() for key in ("precision", "recall", "f1")), strict=True)
    return [
        {"class": name}
        | {
            key: share if math.isfinite(share) else None
            for key, share in zip(("precision", "recall", "f1"), each, strict=True)
        }
        | {"support": rows}
        for name, each, rows in zip(names, shares, counted, strict=True)
    ]


def validation(model: Model, plan: Plan, autocast: Autocast, weights: dict[str, float]) -> dict[str, float]:
    """The values alone, without intervals, and "loss": the weighted sum that training lowers."""
    if isinstance(plan, WindowPlan):  # windows cut from documents say nothing of the documents
        found = losses(model, plan, autocast)
        return {"loss": sum(weights[name] * loss for name, loss in found.items())}
    if model.made is not None and not model.backbone.COMPARES:
        return {}  # what its losses are today is nothing to what they were: nobody can tell by them which model is better
    measured = measure(model, plan, "validation", autocast, replicates=0, write=False)
    total = sum(weights[name] * loss for name, loss in measured.losses.items())
    values = {name: estimate.value for name, estimate in measured.metrics.items()}
    return {"loss": total} | {name: value for name, value in values.items() if not name.endswith(".loss")}


class Kept:
    """Predictions and targets of every row, in parts of a bounded size; what is padded is left out."""

    def __init__(self, folder: Path):
        self.folder, self.parts, self.bytes = folder, 0, 0
        self.rows: list[np.ndarray] = []
        self.columns: dict[str, list[Column]] = {}

    def add(self, rows: np.ndarray, predictions: dict[str, Columns], targets: dict[str, Columns]) -> None:
        self.rows.append(rows)
        for side, group in (("prediction", predictions), ("target", targets)):
            for name, columns in group.items():
                for key, column in columns.items():
                    if f"{key}.length" in columns or key.endswith(".length"):
                        continue
                    self.columns.setdefault(f"{name}.{side}.{key}", []).append(column)
                    self.bytes += column.values.nbytes if isinstance(column, Ragged) else column.nbytes
        if self.bytes >= PART_BYTES or sum(map(len, self.rows)) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            columns: Columns = {"row": np.concatenate(self.rows)}
            columns |= {name: concatenated(pieces) for name, pieces in self.columns.items()}
            write_shard(self.folder / f"part-{self.parts:05d}.arrow", columns)
            self.parts, self.bytes, self.rows, self.columns = self.parts + 1, 0, [], {}


def write_measured(
    folder: Path,
    model: Model,
    plan: Plan,
    split: str,
    autocast: Autocast,
    *,
    made_of: dict[str, Any],
    some: Plan | None = None,
) -> Measured:
    """Measure, and keep result and predictions as an artefact of their own, which says of what data and weights.

    `some` reads rows enough to tell how much each input matters, where there are several.
    """
    with write_folder(folder, KIND, {"split": split, **made_of}) as temporary:
        measured = measure(model, plan, split, autocast, keep=temporary)
        if some is not None and can_be_told(model, some):
            for name, inputs in importance(model, some, autocast).items():
                measured.details[name]["inputs"] = inputs
        metrics = {name: estimate.to_json() for name, estimate in measured.metrics.items()}
        losses = {name: loss if math.isfinite(loss) else None for name, loss in measured.losses.items()}
        result = {"split": split, "rows": measured.rows, "metrics": metrics, "order": list(metrics), "losses": losses}
        write_json(temporary / "result.json", result | {"details": measured.details})
    return measured


def read_measured(folder: Path) -> Measured:
    verify_folder(folder, KIND)
    saved = read_json(folder / "result.json")
    metrics = {
        name: Estimate(_number(value["value"]), _number(value["low"]), _number(value["high"]), value["rows"])
        for name in saved["order"]  # the first is the one that says most; JSON keeps no order
        for value in [saved["metrics"][name]]
    }
    losses = {name: _number(loss) for name, loss in saved["losses"].items()}
    return Measured(saved["split"], saved["rows"], metrics, losses, saved["details"])


def _number(saved: float | None) -> float:
    return math.nan if saved is None else saved


def read_predictions(folder: Path, output: Field) -> list[tuple[np.ndarray, Columns, Columns]]:
    """(row ids, prediction, target) batches of one output, as `compare` takes them."""
    result = []
    for path in sorted(folder.glob("part-*.arrow")):
        columns = read_shard(path)
        sides = [
            {key.split(".", 2)[2]: value for key, value in columns.items() if key.startswith(f"{output.name}.{side}.")}
            for side in ("prediction", "target")
        ]
        if not sides[0]:
            fix = "compare runs that have the same outputs"
            raise DataError(f"{folder}: no predictions of {output.name!r}. Fix: {fix}.")
        result.append((np.asarray(columns["row"]), sides[0], sides[1]))
    return result
