"""Number: a measurement or a count, with missing values.

Going in, a number becomes its standardized value, whether it is missing, and its place among the quantiles of the
training rows (piecewise-linear encoding, Gorishniy et al. 2022), which lets a network draw the sharp steps of trees.
"""

# N rows, B batch, D width, Q bins

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from dougong.core.config import Fraction, config
from dougong.core.errors import DataError, Note, bad_field
from dougong.data.cleaning import MAX_NUMBER
from dougong.data.columns import Columns
from dougong.data.sampling import Sample
from dougong.fields import FieldConfig
from dougong.layers.features import Features
from dougong.layers.losses import Loss, huber_sum, mae_sum, mse_sum, pinball_sum
from dougong.layers.pooling import PoolKind, Readout
from dougong.metrics.metric import Metric
from dougong.metrics.regression import MAE, MSE, R2, RMSE, Coverage, CoverageError, Pearson, PinballLoss, Spearman

AT_ONCE = 1 << 16  # values in memory
Level = Annotated[float, Field(gt=0, lt=1)]
MEDIAN = 0.5
SAMPLE = 100_000  # values kept for quantiles, each of all as likely


@config
class Config(FieldConfig):
    """A number. `normalize` says how its scale is evened out; for an output it is undone in predictions."""

    type: Literal["number"] = "number"
    normalize: Literal["standard", "quantile", "log", "none"] = "standard"
    bins: Annotated[int, Field(ge=0, le=256)] = (
        16  # quantile bins that an input is spread over; 0 = the plain value only
    )
    quantiles: tuple[Level, ...] = ()  # of what a row's number may be, told beside the one in the middle; increasing
    calibrate: bool = False  # move each quantile so far that as many validation rows lie below it as its level says
    pool: PoolKind = "mean"
    dropout: Fraction = 0.0
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if self.calibrate and not self.quantiles:
            expected = "false without quantiles, which are what it moves"
            raise bad_field("number.calibrate", True, expected, "write quantiles: [0.1, 0.5, 0.9], or remove it")
        if list(self.quantiles) != sorted(set(self.quantiles)):
            expected = "levels that increase"
            raise bad_field("number.quantiles", list(self.quantiles), expected, "write quantiles: [0.1, 0.5, 0.9]")
        if self.quantiles and MEDIAN not in self.quantiles:
            expected = "0.5 among them: it is the answer that is given, and measured"
            raise bad_field("number.quantiles", list(self.quantiles), expected, "add 0.5")
        if self.quantiles and self.loss is not None and self.loss.kind != "auto":
            expected = "none beside quantiles, which have the pinball loss"
            raise bad_field("number.loss", self.loss.kind, expected, "remove it")


ONLY_IN = ("bins",)
ONLY_OUT = ("quantiles", "calibrate", "pool", "dropout")


class Codec:
    """Number <-> normalized float32, nan where missing. Never infinite."""

    RAW = pa.float64()
    PATHS = False
    CHECKED: ClassVar[bool] = True  # `check` fits it as well: it is quick, and finds a column without a number
    SAMPLE: ClassVar[int | None] = None  # rows to be fitted on: all

    def __init__(self, config: Config, mean: float, std: float, quantiles: Sequence[float]):
        self.config, self.mean, self.std = config, mean, std
        self.quantiles = np.asarray(quantiles, dtype=np.float64)  # (Q + 1,) increasing, in the unit of the data

    @staticmethod
    def parse(value: object, config: Config | None = None) -> float | None:
        if value is None or isinstance(value, float):
            return value
        if isinstance(value, bool | int):
            return float(value)
        raise ValueError(f"expected a number, found {type(value).__name__}")

    @classmethod
    def fit(cls, config: Config, values: Iterable[float | None]) -> Codec:
        """Mean and deviation over all values (of their logarithm for `log`), quantiles over a sample of them, and both ends."""
        count, mean, square = 0, 0.0, 0.0
        low, high = math.inf, -math.inf
        sample = Sample(SAMPLE)
        given = iter(values)
        while batch := list(islice(given, AT_ONCE)):
            numbers = np.array([value for value in batch if value is not None], dtype=np.float64)
            if not len(numbers):
                continue
            sample.add(numbers)
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
            scaled = _log(numbers) if config.normalize == "log" else numbers
            mean = mean if count else float(scaled[0])
            # Chan, Golub & LeVeque 1979: two groups' sums of squares joined; stable where the mean is large
            away = scaled - mean  # from the mean so far: small numbers keep their digits
            before, count = count, count + len(numbers)
            step = float(away.mean())
            mean += step * len(numbers) / count
            square += float(np.square(away - step).sum()) + step * step * before * len(numbers) / count
        if count == 0:
            raise DataError(f"column {config.column!r}: no number in any training row. Fix: leave the column out.")
        deviation = math.sqrt(square / count)
        inner = np.quantile(sample.values, np.linspace(0, 1, 257))[1:-1]
        quantiles = np.unique([low, *inner, high])
        return cls(config, mean, deviation if deviation > 1e-12 * abs(mean) else 1.0, quantiles.tolist())

    def encode(self, values: Sequence[float | None]) -> tuple[Columns, dict[str, int]]:
        """{"normalized": (N,) float32, "value": (N,) float64 in the unit of the data}; nan where missing."""
        raw = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
        outside = (raw < self.quantiles[0]) | (raw > self.quantiles[-1])
        counts = {"missing": int(np.isnan(raw).sum()), "outside the training range": int(outside.sum())}
        return {"normalized": self.normalize(raw).astype(np.float32), "value": raw}, counts

    def normalize(self, raw: np.ndarray) -> np.ndarray:
        if self.config.normalize == "none":
            return raw
        if self.config.normalize == "quantile":
            place = np.interp(raw, self.quantiles, np.linspace(0, 1, len(self.quantiles)))
            return np.where(np.isnan(raw), math.nan, 2 * place - 1)  # of a single quantile interp makes nan a number
        scaled = _log(raw) if self.config.normalize == "log" else raw
        return np.clip((scaled - self.mean) / self.std, -1e4, 1e4)

    def restore(self, value: np.ndarray) -> np.ndarray:
        """Undo `normalize` (for values it clipped, as far as can be)."""
        value = value.astype(np.float64)
        if self.config.normalize == "none":
            return value
        if self.config.normalize == "quantile":
            return np.interp((value + 1) / 2, np.linspace(0, 1, len(self.quantiles)), self.quantiles)
        scaled = value * self.std + self.mean
        if self.config.normalize == "log":
            return np.sign(scaled) * np.expm1(np.minimum(np.abs(scaled), _log(MAX_NUMBER)))
        return scaled

    def decode(self, columns: Columns) -> list[float | None]:
        return [None if math.isnan(value) else float(value) for value in np.asarray(columns["value"])]

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        values = np.asarray(prediction["value"])
        if "quantiles" not in prediction:
            return [{"value": float(value)} for value in values]
        rows, levels = np.asarray(prediction["quantiles"]), [f"{level:g}" for level in self.config.quantiles]
        return [
            {"value": float(value), "quantiles": dict(zip(levels, map(float, row), strict=True))}
            for value, row in zip(values, rows, strict=True)
        ]

    def limits(self) -> dict[str, int]:
        return {}

    def edges(self, bins: int) -> list[float]:
        """Edges of so many bins, normalized: bins + 1 quantiles, fewer where the values repeat."""
        if bins == 0:
            return []
        places = np.linspace(0, len(self.quantiles) - 1, min(bins + 1, len(self.quantiles)))
        edges = self.normalize(self.quantiles[places.round().astype(int)])
        return np.unique(edges.astype(np.float32)).tolist()  # distinct as float32 too, or a bin would have no width

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std, "quantiles": self.quantiles.tolist()}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config, saved["mean"], saved["std"], saved["quantiles"])


def _log(value: Any) -> Any:
    """Signed logarithm: keeps zero and the sign."""
    return np.sign(value) * np.log1p(np.abs(value))


class Encoder(nn.Module):
    """A number -> one feature (B, 1, D)."""

    edges: Tensor

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        self.positions: int | None = 1
        self.known = codec.edges(config.bins)
        self.register_buffer("edges", torch.empty(len(self.known)), persistent=False)
        self.linear = nn.Linear(2 + max(len(self.known) - 1, 0), width)

    def reset_parameters(self) -> None:
        self.edges.copy_(torch.tensor(self.known))
        nn.init.normal_(self.linear.weight, std=0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        value = batch[f"{name}.normalized"]  # (B,)
        missing = value.isnan()
        value = torch.where(missing, 0.0, value)
        # A far outlier must not drown the rest; the bins hold its order among the seen values.
        parts = [value.clamp(-8, 8)[:, None], missing[:, None].to(value.dtype)]
        if len(self.edges) > 1:
            low, high = self.edges[:-1], self.edges[1:]
            place = (value[:, None] - low) / (high - low)  # (B, Q); inf / inf where edges lie at the ends of float32
            parts.append(place.nan_to_num(0.0).clamp(0, 1))
        values = self.linear(torch.cat(parts, dim=1))[:, None]  # (B, 1, D)
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))


class Head(nn.Module):
    """Pooled features -> a number, or quantiles of what it may be."""

    shifts: Tensor

    AUTOREGRESSIVE: ClassVar[bool] = False
    LOSSES: ClassVar[dict[str, Any]] = {"auto": mse_sum, "mse": mse_sum, "mae": mae_sum, "huber": huber_sum}

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in self.LOSSES:
            raise bad_field("train.loss", loss.kind, f"one of {', '.join(self.LOSSES)} for a number", "use mse")
        if config.quantiles and loss.kind != "auto":
            raise bad_field("train.loss", loss.kind, "auto beside quantiles, which have the pinball loss", "remove it")
        self.codec, self.setting, self.levels = codec, loss, config.quantiles
        self.readout = Readout(config.pool, width, len(config.quantiles) or 1, config.dropout)
        self.calibrate = config.calibrate
        if self.calibrate:
            self.register_buffer("shifts", torch.zeros(len(config.quantiles)))  # of each quantile, normalized

    def reset_parameters(self) -> None:
        if self.calibrate:
            self.shifts.zero_()

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return (~batch[f"{name}.normalized"].isnan()).sum()

    def output(self, features: Features) -> Tensor:
        """(B,) normalized; (B, Q) where quantiles are told, in order: sorted they are never further from the true ones
        than as they came, and never cross (Chernozhukov et al. 2010)."""
        scores = self.readout(features).float()
        return ordered(scores) if self.levels else scores.squeeze(-1)

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        target = batch[f"{name}.normalized"]
        real = ~target.isnan()
        predicted, target = self.output(features)[real], target[real]
        if self.levels:
            return pinball_sum(predicted, target, torch.tensor(self.levels, device=target.device))
        options = {"delta": self.setting.delta} if self.setting.kind == "huber" else {}
        return self.LOSSES[self.setting.kind](predicted, target, **options)

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"value": (B,) in the unit of the data}, and {"quantiles": (B, Q)} of which it is the median."""
        scores = self.output(features)
        if self.calibrate:
            scores = ordered(scores + self.shifts)
        found = torch.from_numpy(self.codec.restore(scores.cpu().numpy()))
        if not self.levels:
            return {"value": found}
        return {"value": found[:, self.levels.index(MEDIAN)], "quantiles": found}

    @torch.no_grad()
    def settle(self, rows: Iterable[tuple[Columns, Columns]]) -> dict[str, Any]:
        """Find the shifts by predictions and targets of rows that it was not trained on; how far each quantile moves, normalized.

        The split conformal way (Romano et al. 2019, arXiv:1905.03222), for each level by itself.
        """
        self.shifts.zero_()
        parts = [(np.asarray(said["quantiles"]), np.asarray(told["value"])) for said, told in rows]
        quantiles, values = (np.concatenate(column) for column in zip(*parts, strict=True))  # (N, Q), (N,)
        known = ~np.isnan(values)
        if not known.any():
            warnings.warn(
                f"calibrate of {self.codec.config.column}: no validation row has a number.", Note, stacklevel=2
            )
            return {}
        above = self.codec.normalize(values[known])[:, None] - self.codec.normalize(quantiles[known])  # (N, Q)
        self.shifts.copy_(torch.tensor([_at_level(*pair) for pair in zip(above.T, self.levels, strict=True)]))
        return {"shifts": {f"{level:g}": shift for level, shift in zip(self.levels, self.shifts.tolist(), strict=True)}}


def ordered(quantiles: Tensor) -> Tensor:  # (B, Q)
    return quantiles.sort(dim=-1, stable=True).values


def _at_level(values: np.ndarray, level: float) -> float:
    """The value that a further one lies below with a chance of `level`, or, above the middle, of at least that."""
    count = len(values)
    rank = math.ceil(level * (count + 1)) if level > MEDIAN else math.floor(level * (count + 1))
    return float(np.sort(values)[min(max(rank, 1), count) - 1]) if level != MEDIAN else float(np.median(values))


def SETTLED(config: Config) -> tuple[str, ...]:  # noqa: N802 - a constant but for its argument
    return ("calibrate",) if config.calibrate else ()


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    shift = float(np.median(codec.quantiles))
    metrics: list[Metric] = [R2(shift), RMSE(), MAE(), MSE(), Pearson(shift), Spearman()]
    if levels := config.quantiles:
        metrics.append(PinballLoss(levels))
    if len(levels) > 1:
        metrics += [Coverage(), CoverageError(levels[-1] - levels[0])]
    return metrics
