"""Labels: any number of names at once, from a closed set."""

# N rows, B batch, D width, C classes

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, config
from dougong.core.errors import DataError, bad_field
from dougong.data.columns import Columns
from dougong.fields import FieldConfig, category
from dougong.layers.features import Features
from dougong.layers.losses import Loss, binary_cross_entropy_sum
from dougong.layers.pooling import PoolKind, Readout
from dougong.metrics.classification import LabelsAccuracy, LabelsAUC, LabelsF1
from dougong.metrics.metric import Metric

MAX_LABELS = 10_000  # a row takes a byte for each, and as many scores


@config
class Config(FieldConfig):
    """A set of labels: a list, a JSON list as text, or names joined by `separator`."""

    type: Literal["labels"] = "labels"
    classes: tuple[str, ...] | None = None
    min_count: Count = 1
    separator: Annotated[str, Field(min_length=1)] = "|"
    threshold: Fraction = 0.5  # a label is given when its probability reaches this
    pool: PoolKind = "mean"
    dropout: Fraction = 0.0
    loss: Loss | None = None

    def __post_init__(self) -> None:
        category.check_classes(self, least=1)


ONLY_OUT = ("threshold", "pool", "dropout")


class Codec:
    """Names <-> indicators; labels that the training rows did not hold are left out and counted."""

    RAW = pa.list_(pa.large_string())
    PATHS = False
    SAMPLE: ClassVar[int | None] = None  # rows to be fitted on: all

    def __init__(self, config: Config, classes: Sequence[str]):
        self.config, self.classes = config, list(classes)
        self.index = {name: index for index, name in enumerate(self.classes)}

    @staticmethod
    def parse(value: object, config: Config | None = None) -> list[str] | None:
        if value is None:
            return None
        if isinstance(value, str):
            value = _from_json(value) if value.startswith("[") else value.split((config or Config()).separator)
        if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
            raise ValueError("expected a list of names")
        return sorted({name for item in value if (name := category.Codec.parse(item))})

    @classmethod
    def fit(cls, config: Config, values: Iterable[list[str] | None]) -> Codec:
        names = (name for value in values if value is not None for name in value)
        classes = list(category.counted(config, names, least=1))
        if len(classes) > MAX_LABELS:
            raise DataError(
                f"column {config.column!r}: {len(classes):,} labels; expected at most {MAX_LABELS:,}. "
                "Fix: raise min_count, which leaves out the rare ones, or list the classes."
            )
        return cls(config, classes)

    def encode(self, values: Sequence[list[str] | None]) -> tuple[Columns, dict[str, int]]:
        """{"indicators": (N, C) uint8}; and how many values were missing, and how many labels unseen."""
        indicators = np.zeros((len(values), len(self.classes)), dtype=np.uint8)
        unseen = 0
        for row, value in enumerate(values):
            for name in value or ():
                if name in self.index:
                    indicators[row, self.index[name]] = 1
                else:
                    unseen += 1
        return {"indicators": indicators}, {"missing": sum(value is None for value in values), "unseen values": unseen}

    def decode(self, columns: Columns) -> list[list[str]]:
        return [[self.classes[i] for i in np.flatnonzero(row)] for row in np.asarray(columns["indicators"])]

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        """Probabilities (N, C) -> the labels at or above the threshold, each with its probability."""
        return [
            {
                "value": [self.classes[i] for i in np.flatnonzero(row >= self.config.threshold)],
                "probabilities": {name: float(p) for name, p in zip(self.classes, row, strict=True)},
            }
            for row in np.asarray(prediction["probabilities"])
        ]

    def limits(self) -> dict[str, int]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"classes": self.classes}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config, saved["classes"])


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("expected a JSON list of names, or names joined by the separator") from None


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

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in ("auto", "cross_entropy"):
            raise bad_field("train.loss", loss.kind, "cross_entropy for labels", "remove it")
        self.smoothing = loss.label_smoothing
        self.readout = Readout(config.pool, width, len(codec.classes), config.dropout)  # (B, C)

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return torch.tensor(batch[f"{name}.indicators"].shape[0], device=batch[f"{name}.indicators"].device)

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        indicators = batch[f"{name}.indicators"]
        return binary_cross_entropy_sum(self.readout(features), indicators, label_smoothing=self.smoothing)

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        return {"probabilities": self.readout(features).float().sigmoid()}


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    classes, threshold = len(codec.classes), config.threshold
    return [LabelsF1("micro", threshold), LabelsF1("macro", threshold), LabelsAccuracy(threshold), LabelsAUC(classes)]
