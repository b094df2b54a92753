"""Category: one of a closed set of names."""

# N rows, B batch, D width, C classes

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, config
from dougong.core.errors import Note, bad_field
from dougong.data import class_names
from dougong.data.columns import Columns
from dougong.fields import FieldConfig
from dougong.layers.features import Features
from dougong.layers.losses import Loss, cross_entropy_sum, focal_sum
from dougong.layers.pooling import PoolKind, Readout
from dougong.metrics.calibration import COLDEST, HOTTEST, Uncalibrated, fit_temperature
from dougong.metrics.classification import (
    AUC,
    F1,
    Accuracy,
    AveragePrecision,
    CalibrationError,
    Confusion,
    LogLoss,
    TopKAccuracy,
)
from dougong.metrics.metric import Metric

MANY = 10  # classes; of more it is also told how often the right one is among the five likeliest
MAX_CONFUSION = 200  # classes whose confusion matrix is kept
UNSEEN = -1  # the index of a value that the training rows did not hold


@config
class Config(FieldConfig):
    """A category. The classes are those of the training rows unless listed."""

    type: Literal["category"] = "category"
    classes: tuple[str, ...] | None = None
    min_count: Count = 1  # rarer values count as unseen
    balance: bool | Literal["sqrt"] = False  # weigh each class by the inverse of its share, or by the root of that
    calibrate: bool = False  # divide log-odds by a temperature that is fitted on the validation rows
    pool: PoolKind = "mean"
    dropout: Fraction = 0.0
    loss: Loss | None = None

    def __post_init__(self) -> None:
        class_names.check_listed(self, least=2)


ONLY_OUT = ("balance", "calibrate", "pool", "dropout")


class Codec:
    """Name <-> class index; a value that the training rows did not hold gets UNSEEN and is counted."""

    RAW = pa.large_string()
    PATHS = False
    SAMPLE: ClassVar[int | None] = None  # rows to be fitted on: all

    def __init__(self, config: Config, classes: Sequence[str], counts: Sequence[int]):
        self.config, self.classes, self.counts = config, list(classes), list(counts)
        self.index = {name: index for index, name in enumerate(self.classes)}

    @staticmethod
    def parse(value: object, config: Config | None = None) -> str | None:
        return class_names.read_name(value)

    @classmethod
    def fit(cls, config: Config, values: Iterable[str | None]) -> Codec:
        found = class_names.counted(config, values, least=2)
        return cls(config, list(found), list(found.values()))

    def encode(self, values: Sequence[str | None]) -> tuple[Columns, dict[str, int]]:
        """{"index": (N,) int64}; and how many were missing or unseen."""
        index = np.array(
            [UNSEEN if value is None else self.index.get(value, UNSEEN) for value in values], dtype=np.int64
        )
        missing = sum(value is None for value in values)
        return {"index": index}, {"missing": missing, "unseen values": int((index == UNSEEN).sum()) - missing}

    def decode(self, columns: Columns) -> list[str | None]:
        return [self.classes[index] if index >= 0 else None for index in np.asarray(columns["index"])]

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        """Predicted probabilities (N, C) -> the best class and the three most likely ones of each row."""
        probabilities = np.asarray(prediction["probabilities"])
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
        return [
            {
                "value": self.classes[best[0]],
                "probability": float(row[best[0]]),
                "top": {self.classes[i]: float(row[i]) for i in best},
            }
            for row, best in zip(probabilities, order, strict=True)
        ]

    def limits(self) -> dict[str, int]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {"classes": self.classes, "counts": self.counts}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config, saved["classes"], saved["counts"])


class Encoder(nn.Module):
    """Class index -> one feature (B, 1, D); unseen and missing values share the last embedding."""

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        self.positions: int | None = 1
        self.embedding = nn.Embedding(len(codec.classes) + 1, width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding.weight, std=1.0)
        with torch.no_grad():
            self.embedding.weight[-1].zero_()  # no training row may hold it: zero says least

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        index = batch[f"{name}.index"]  # (B,)
        last = self.embedding.num_embeddings - 1
        values = self.embedding(torch.where(index < 0, last, index))[:, None]  # (B, 1, D)
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))


class Head(nn.Module):
    """Pooled features -> a probability for each class."""

    AUTOREGRESSIVE: ClassVar[bool] = False
    LOSSES: ClassVar[tuple[str, ...]] = ("auto", "focal", "cross_entropy")
    temperature: Tensor

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in self.LOSSES:
            raise bad_field("train.loss", loss.kind, "cross_entropy or focal for a category", "remove it")
        self.setting = loss
        self.readout = Readout(config.pool, width, len(codec.classes), config.dropout)  # (B, C)
        self.balance = _balance(codec, 0.5 if config.balance == "sqrt" else 1.0) if config.balance else None
        self.calibrate, self.column = config.calibrate, config.column
        if self.calibrate:
            self.register_buffer("temperature", torch.ones(1))

    def reset_parameters(self) -> None:
        if self.calibrate:
            self.temperature.fill_(1.0)

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return (batch[f"{name}.index"] >= 0).sum()

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        weights = None if self.balance is None else torch.tensor(self.balance, device=features.values.device)  # (C,)
        smoothing, logits, targets = self.setting.label_smoothing, self.readout(features), batch[f"{name}.index"]
        if self.setting.kind == "focal":
            return focal_sum(logits, targets, self.setting.gamma, UNSEEN, smoothing, weights)
        return cross_entropy_sum(logits, targets, ignore=UNSEEN, label_smoothing=smoothing, weights=weights)

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        logits = self.readout(features).float()
        if not self.calibrate:
            return {"probabilities": logits.softmax(-1)}
        heat = self.temperature.expand(len(logits))  # beside them, so that what they were before can be told
        return {"probabilities": (logits / self.temperature).softmax(-1), "temperature": heat}

    @torch.no_grad()
    def settle(self, rows: Iterable[tuple[Columns, Columns]]) -> dict[str, Any]:
        """Fit the temperature on predictions and targets of rows that it was not trained on."""
        self.temperature.fill_(1.0)
        found = fit_temperature(rows)
        if found is None:
            why = f"no temperature from {COLDEST:g} to {HOTTEST:g} is best: the validation rows are all right, or all too few"
            warnings.warn(
                f"calibrate of {self.column}: {why}. It stays 1, and nothing is calibrated.", Note, stacklevel=2
            )
        self.temperature.fill_(found or 1.0)
        return {"temperature": self.temperature.item()}


def SETTLED(config: Config) -> tuple[str, ...]:  # noqa: N802 - a constant but for its argument
    return ("calibrate",) if config.calibrate else ()


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    classes = len(codec.classes)
    metrics: list[Metric] = [Accuracy(), F1("macro"), F1("weighted"), AUC(classes), AveragePrecision(classes)]
    metrics += [LogLoss(), CalibrationError()]
    if classes > MANY:
        metrics.append(TopKAccuracy(5))
    if classes <= MAX_CONFUSION:
        metrics.append(Confusion())
    if config.calibrate:
        metrics += [Uncalibrated(LogLoss()), Uncalibrated(CalibrationError())]
    return metrics


def _balance(codec: Codec, power: float) -> list[float]:
    """Weights of mean one over the training rows. A listed class that has none weighs one: smoothing alone ever asks."""
    counts = np.array(codec.counts, dtype=np.float64)
    rare = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
    weights = rare * (counts.sum() / (rare * counts).sum())
    return np.where(counts > 0, weights, 1.0).tolist()
