"""Pairing: two inputs of a row that belong together, as vectors of one space in which they lie near each other.

It has no column: that they stand in one row is all that there is to know. The loss is InfoNCE over the batch (van den
Oord et al. 2018, arXiv:1807.03748), both ways as in CLIP (Radford et al. 2021, arXiv:2103.00020): of all rows of the
batch each side has to find its own other side.
"""

# N rows, B batch, T positions, D width, E dim of the embedding

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dougong.core.config import Count, config
from dougong.core.errors import Problem, bad_field, nearest
from dougong.data.columns import Columns
from dougong.fields import FieldConfig, Whole
from dougong.layers.features import Features
from dougong.layers.losses import Loss, info_nce_sum
from dougong.layers.pooling import Pool, PoolKind
from dougong.metrics.metric import Metric
from dougong.metrics.retrieval import MeanReciprocalRank, Recall

COLDEST, WARMEST = 0.01, 1.0  # a learnt temperature stays between; below the first CLIP's training became unstable


@config
class Config(FieldConfig):
    """Two inputs that belong together. `asks` names the one that searches; the other is what is found."""

    type: Literal["pairing"] = "pairing"
    dim: Count = 256  # E
    pool: PoolKind = "mean"
    temperature: Annotated[float, Field(ge=COLDEST, le=WARMEST)] = 0.07
    learn_temperature: bool = True
    shared: Literal["auto"] | bool = "auto"  # one encoder, and one vocabulary, for both; auto: where both are alike
    asks: str | None = None
    loss: Loss | None = None


def shares(config: Config, inputs: Mapping[str, Any], encoders: Mapping[str, Any]) -> bool:
    """Whether both inputs go through one encoder: they must be of one type, with the same settings but for the column."""
    return bool(config.shared) and _alike(inputs, encoders)


def _alike(inputs: Mapping[str, Any], encoders: Mapping[str, Any]) -> bool:
    """Whether there are two inputs, with the same settings but for the column."""
    settings = [(dataclasses.replace(each, column=None), encoders.get(name) or None) for name, each in inputs.items()]
    return len(settings) == 2 and settings[0] == settings[1]


def check(key: str, config: Config, whole: Whole) -> Iterator[Problem]:
    """It stands alone, has two inputs, and learns from the other rows of its batch."""
    inputs, train = whole.inputs, whole.train
    if len(whole.outputs) > 1:
        yield Problem(key, config.type, f"a {config.type} to be the only output", "train two models")
    if len(inputs) != 2:
        expected = f"two inputs for a {config.type}, which belong together"
        yield Problem("inputs", ", ".join(inputs) or "none", expected, "write inputs: {query: text, passage: text}")
    else:
        if config.asks not in (None, *inputs):
            near = nearest(str(config.asks), list(inputs)) or next(iter(inputs))
            yield Problem(f"{key}.asks", config.asks, f"one of {', '.join(inputs)}", f"write asks: {near}")
        if config.shared is True and not _alike(inputs, whole.encoders):
            expected = f"false or auto, where {' and '.join(inputs)} differ in type, settings or encoder"
            yield Problem(f"{key}.shared", True, expected, "make them alike but for their column, or remove it")
    if train is None:
        return
    expected = "the whole batch at once: its other rows are what each row must tell its own from"
    if train.accumulate > 1:
        yield Problem("train.accumulate", train.accumulate, f"1, {expected}", "remove it, or lower batch_size")
    if train.micro_batch != "auto" and train.micro_batch < (train.batch_size or train.micro_batch + 1):
        yield Problem("train.micro_batch", train.micro_batch, f"auto, {expected}", "remove it, or lower batch_size")


class Codec:
    """The hashes of both inputs, as the preparation gives them <-> two numbers: rows with an equal side are no opposites."""

    RAW = pa.list_(pa.uint64())
    PATHS = False
    COLUMN = False

    def __init__(self, config: Config):
        self.config = config

    @staticmethod
    def parse(value: object, config: Config | None = None) -> list[int] | None:
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_hash, value)):
            raise ValueError("expected the 64-bit hashes of two inputs")
        return list(value)

    @classmethod
    def fit(cls, config: Config, values: Iterable[list[int] | None]) -> Codec:
        return cls(config)

    def encode(self, values: Sequence[list[int] | None]) -> tuple[Columns, dict[str, int]]:
        """{"hashes": (N, 2) int64, the bits of the unsigned hashes}."""
        known = [(0, 0) if value is None else value for value in values]
        hashes = np.array(known, dtype=np.uint64).reshape(-1, 2).view(np.int64)
        return {"hashes": hashes}, {"missing": sum(value is None for value in values)}

    def decode(self, columns: Columns) -> list[list[int]]:
        pairs: list[list[int]] = np.ascontiguousarray(columns["hashes"]).view(np.uint64).tolist()
        return pairs

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        """How near both sides lie: the cosine of their angle."""
        near = (np.asarray(prediction["first"]) * np.asarray(prediction["second"])).sum(1)  # (N,)
        return [{"value": float(value)} for value in near]

    def limits(self) -> dict[str, int]:
        return {}

    def to_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config)


def _is_hash(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


class Head(nn.Module):
    """Pooled features of either side -> a vector of length 1 in the space of both.

    The features of both sides come below each other, (2B, T, D): first those of the first input, by name.
    """

    AUTOREGRESSIVE: ClassVar[bool] = False
    SEPARATE: ClassVar[bool] = True
    LOSSES: ClassVar[tuple[str, ...]] = ("auto",)  # InfoNCE; a smoothed one would have to know which rows are opposites

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in self.LOSSES:
            raise bad_field("train.loss", loss.kind, "auto for a pairing, whose loss is InfoNCE", "remove it")
        self.pool = Pool(config.pool, width)
        self.linear = nn.Linear(width, config.dim, bias=False)
        self.begin = math.log(config.temperature)
        self.log_temperature = nn.Parameter(torch.empty(1), requires_grad=config.learn_temperature)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_temperature, self.begin)

    def embed(self, features: Features) -> Tensor:
        """(R, T, D) -> (R, E) float32 of length 1, whichever side the rows are of."""
        return functional.normalize(self.linear(self.pool(features)).float(), dim=1)

    def sides(self, features: Features) -> tuple[Tensor, Tensor]:  # (2B, T, D) -> (B, E) twice
        first, second = self.embed(features).chunk(2)
        return first, second

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return torch.tensor(len(batch[f"{name}.hashes"]), device=batch[f"{name}.hashes"].device)

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        if self.training:  # within its bounds in place: a clamped value would have no gradient to come back by
            with torch.no_grad():
                self.log_temperature.clamp_(math.log(COLDEST), math.log(WARMEST))
        return info_nce_sum(*self.sides(features), self.log_temperature.exp(), batch[f"{name}.hashes"])

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"first", "second"}: (B, E) of length 1. `inference/predict.py` makes ranks of those of a whole split."""
        first, second = self.sides(features)
        return {"first": first, "second": second}


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    return [Recall(1), Recall(10), MeanReciprocalRank()]
