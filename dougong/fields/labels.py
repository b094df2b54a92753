"""Labels: any number of names at once, from a closed set."""

# N rows, B batch, D width, C classes

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, config
from dougong.core.errors import Note, bad_field
from dougong.data import class_names
from dougong.data.columns import Columns
from dougong.fields import FieldConfig
from dougong.layers.features import Features
from dougong.layers.losses import Loss, binary_cross_entropy_sum
from dougong.layers.pooling import PoolKind, Readout
from dougong.metrics.classification import LabelsAccuracy, LabelsAUC, LabelsF1
from dougong.metrics.metric import Metric
from dougong.metrics.thresholds import best_thresholds


@config
class Config(FieldConfig):
    """A set of labels: a list, a JSON list as text, or names joined by `separator`."""

    type: Literal["labels"] = "labels"
    classes: tuple[str, ...] | None = None
    min_count: Count = 1
    separator: Annotated[str, Field(min_length=1)] = "|"
    threshold: Literal["auto", "per_label"] | Fraction = 0.5  # a label is given when its probability reaches this
    pool: PoolKind = "mean"
    dropout: Fraction = 0.0
    loss: Loss | None = None

    def __post_init__(self) -> None:
        class_names.check_listed(self, least=1)


ONLY_OUT = ("threshold", "pool", "dropout")


class Codec(class_names.NamesCodec):
    """Names <-> indicators; labels that the training rows did not hold are counted for each row."""

    CALLED = "labels"
    MOST = 10_000  # a row takes a byte for each, and as many scores

    @staticmethod
    def parse(value: object, config: Config | None = None) -> list[str] | None:
        if value is None:
            return None
        if isinstance(value, str) and not value.startswith("["):
            value = value.split((config or Config()).separator)
        json = "expected a JSON list of names, or names joined by the separator"
        return sorted({name for name in class_names.listed(value, "expected a list of names", json) if name})

    def encode(self, values: Sequence[list[str] | None]) -> tuple[Columns, dict[str, int]]:
        """{"indicators": (N, C) uint8, "unseen": (N,) int32}; and how many values were missing, and how many labels unseen."""
        indicators = np.zeros((len(values), len(self.classes)), dtype=np.uint8)
        unseen = np.zeros(len(values), dtype=np.int32)  # labels of a row that no indicator stands for
        for row, value in enumerate(values):
            for name in value or ():
                if name in self.index:
                    indicators[row, self.index[name]] = 1
                else:
                    unseen[row] += 1
        counts = {"missing": sum(value is None for value in values), "unseen values": int(unseen.sum())}
        return {"indicators": indicators, "unseen": unseen}, counts

    def decode(self, columns: Columns) -> list[list[str]]:
        return [[self.classes[i] for i in np.flatnonzero(row)] for row in np.asarray(columns["indicators"])]

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        """Probabilities (N, C) and thresholds (N, 1 or C) -> the labels that reach theirs, all probabilities, the thresholds."""
        return [
            {
                "value": [self.classes[i] for i in np.flatnonzero(row >= threshold)],
                "probabilities": {name: float(p) for name, p in zip(self.classes, row, strict=True)},
                **self.told(threshold),
            }
            for row, threshold in zip(
                np.asarray(prediction["probabilities"]), np.asarray(prediction["threshold"]), strict=True
            )
        ]

    def told(self, threshold: np.ndarray) -> dict[str, Any]:
        """What there is to say of thresholds (1,) or (C,): the one, or each by its label."""
        if self.config.threshold != "per_label":
            return {"threshold": float(threshold[0])}
        return {"thresholds": {name: float(each) for name, each in zip(self.classes, threshold, strict=True)}}


class Encoder(nn.Module):
    """Indicators -> one feature (B, 1, D): the sum of the labels' embeddings."""

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        self.positions: int | None = 1
        self.linear = nn.Linear(len(codec.classes), width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.linear.weight, std=1.0)
        nn.init.zeros_(self.linear.bias)

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        values = self.linear(batch[f"{name}.indicators"].to(self.linear.weight.dtype))[:, None]  # (B, 1, D)
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))


class Head(nn.Module):
    """Pooled features -> an independent probability for each label."""

    AUTOREGRESSIVE: ClassVar[bool] = False
    threshold: Tensor

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in ("auto", "cross_entropy"):
            raise bad_field("train.loss", loss.kind, "cross_entropy for labels", "remove it")
        self.smoothing = loss.label_smoothing
        self.readout = Readout(config.pool, width, len(codec.classes), config.dropout)  # (B, C)
        self.codec, self.each = codec, config.threshold == "per_label"
        self.first = 0.5 if isinstance(config.threshold, str) else config.threshold
        first = torch.full((len(codec.classes) if self.each else 1,), self.first)
        # what the recipe says need not be saved
        self.register_buffer("threshold", first, persistent=isinstance(config.threshold, str))

    def reset_parameters(self) -> None:
        self.threshold.fill_(self.first)

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return torch.tensor(batch[f"{name}.indicators"].shape[0], device=batch[f"{name}.indicators"].device)

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        indicators = batch[f"{name}.indicators"]
        return binary_cross_entropy_sum(self.readout(features), indicators, label_smoothing=self.smoothing)

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"probabilities": (B, C), "threshold": (B, 1), or (B, C) where each label has its own}."""
        probabilities = self.readout(features).float().sigmoid()
        return {"probabilities": probabilities, "threshold": self.threshold.expand(len(probabilities), -1)}

    @torch.no_grad()
    def settle(self, rows: Iterable[tuple[Columns, Columns]]) -> dict[str, Any]:
        """Choose the threshold with the best F1 on rows that it was not trained on: of all labels together, or of each."""
        thresholds, right = best_thresholds(rows, len(self.codec.classes), each=self.each)
        self.threshold.copy_(torch.from_numpy(thresholds))
        silent = [name for name, count in zip(self.codec.classes, right, strict=False) if not count]
        if silent and self.each:
            named = ", ".join(silent[:5]) + (" …" if len(silent) > 5 else "")
            what = f"{len(silent):,} of {len(right):,} labels stand in no validation row and keep 0.5: {named}"
            warnings.warn(f"threshold of {self.codec.config.column}: {what}.", Note, stacklevel=2)
        return self.codec.told(thresholds)


def SETTLED(config: Config) -> tuple[str, ...]:  # noqa: N802 - a constant but for its argument
    return ("threshold",) if isinstance(config.threshold, str) else ()


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    return [LabelsF1("micro"), LabelsF1("macro"), LabelsAccuracy(), LabelsAUC(len(codec.classes))]
