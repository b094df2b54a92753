"""Pairing: two inputs of a row that belong together, as vectors of one space in which they lie near each other.

With `interaction: late` each side keeps a vector for each of its positions, and what asks is compared with what is found
position by position (ColBERT, Khattab & Zaharia 2020, arXiv:2004.12832): a word of the one finds its match in the other.

It has no column: that they stand in one row is all that there is to know. The loss is InfoNCE over the batch (van den
Oord et al. 2018, arXiv:1807.03748), both ways as in CLIP (Radford et al. 2021, arXiv:2103.00020): of all rows of the
batch each side has to find its own other side.
"""

# N rows, B batch, Q T positions, D width, E dim of the embedding

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

from dougong.core.config import Count, Fraction, config
from dougong.core.errors import Problem, bad_field, nearest
from dougong.data.columns import Columns
from dougong.fields import FieldConfig, Whole
from dougong.layers.features import Features
from dougong.layers.losses import Loss, info_nce_sum
from dougong.layers.pooling import Pool, PoolKind
from dougong.layers.positions import real_first
from dougong.metrics.metric import Metric
from dougong.metrics.retrieval import MeanReciprocalRank, Recall

COLDEST, WARMEST = 0.01, 1.0  # a learnt temperature stays between; below the first CLIP's training became unstable


@config
class Config(FieldConfig):
    """Two inputs that belong together. `asks` names the one that searches; the other is what is found."""

    type: Literal["pairing"] = "pairing"
    dim: Count = 256  # E
    interaction: Literal["pooled", "late"] = "pooled"  # one vector a side, or one for each of its positions
    length_discount: Fraction = 0.0  # late: a score is divided by the positions of what is found to this power
    pool: PoolKind = "mean"
    temperature: Annotated[float, Field(ge=COLDEST, le=WARMEST)] = 0.07
    learn_temperature: bool = True
    shared: Literal["auto"] | bool = "auto"  # one encoder, and one vocabulary, for both; auto: where both are alike
    asks: str | None = None
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if self.interaction == "late" and self.pool != "mean":
            expected = "none beside interaction: late, which pools nothing"
            raise bad_field("pairing.pool", self.pool, expected, "remove it")
        if self.interaction != "late" and self.length_discount:
            expected = "0 beside interaction: pooled, which has one vector however long a text is"
            raise bad_field(
                "pairing.length_discount", self.length_discount, expected, "use interaction: late, or remove it"
            )


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
        if config.interaction == "late" and config.asks is None:
            first = next(iter(inputs))
            expected = f"one of {', '.join(inputs)} beside interaction: late, in which one side asks"
            yield Problem(f"{key}.asks", None, expected, f"write asks: {first}")
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
        """How near both sides lie: the cosine of their angle, or the score of a late interaction."""
        return [{"value": float(value)} for value in np.asarray(prediction["near"])]

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
    """Features of either side -> a vector of length 1 in the space of both; of a late interaction one for each position.

    The features of both sides come below each other, (2B, T, D), in the order of the names that `between` tells.
    """

    AUTOREGRESSIVE: ClassVar[bool] = False
    SEPARATE: ClassVar[bool] = True
    LOSSES: ClassVar[tuple[str, ...]] = ("auto",)  # InfoNCE; a smoothed one would have to know which rows are opposites

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in self.LOSSES:
            raise bad_field("train.loss", loss.kind, "auto for a pairing, whose loss is InfoNCE", "remove it")
        self.late, self.asks = config.interaction == "late", config.asks
        self.length_discount = config.length_discount
        self.pool = None if self.late else Pool(config.pool, width)
        self.linear = nn.Linear(width, config.dim, bias=False)
        self.begin = math.log(config.temperature)
        self.log_temperature = nn.Parameter(torch.empty(1), requires_grad=config.learn_temperature)
        self.second_asks = False

    def between(self, names: Sequence[str]) -> None:
        """Hear which inputs the features are of, in their order."""
        self.second_asks = self.asks == names[1]

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_temperature, self.begin)

    def embed(self, features: Features, *, asks: bool) -> Tensor:
        """(R, T, D) -> (R, E) float32 of length 1, whichever side the rows are of.

        Of a late interaction (R, T, E), zeros where nothing is: of what is found each of length 1, of what asks each as
        long as it counts.
        """
        if self.pool is not None:
            return functional.normalize(self.linear(self.pool(features)).float(), dim=1)
        longest = max(int(features.mask.sum(1).max()), 1) if bool(features.mask.any()) else 1
        if longest < features.mask.shape[1]:  # both sides came as long as the longer one: most of a query is padding
            features, _ = real_first(features)
            features = Features(features.values[:, :longest], features.mask[:, :longest])
        vectors = self.linear(features.values).float() * features.mask[..., None]  # (R, T, E)
        return vectors if asks else functional.normalize(vectors, dim=2)

    def sides(self, features: Features) -> tuple[Tensor, Tensor]:
        """(2B, T, D) -> (B, E) twice, or (B, Q, E) and (B, T, E): in the order of the inputs."""
        halves = (
            Features(values, mask)
            for values, mask in zip(features.values.chunk(2), features.mask.chunk(2), strict=True)
        )
        first, second = (
            self.embed(half, asks=asks)
            for half, asks in zip(halves, (not self.second_asks, self.second_asks), strict=True)
        )
        return first, second

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return torch.tensor(len(batch[f"{name}.hashes"]), device=batch[f"{name}.hashes"].device)

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        if self.training:  # within its bounds in place: a clamped value would have no gradient to come back by
            with torch.no_grad():
                self.log_temperature.clamp_(math.log(COLDEST), math.log(WARMEST))
        first, second = self.sides(features)
        with torch.autocast(first.device.type, enabled=False):  # bf16 scores over a small temperature are noise
            if self.late:
                sides = (second, first) if self.second_asks else (first, second)
                scores = late_scores(*sides, self.length_discount)  # (B, B)
            else:
                scores = first @ second.T  # (B, B)
        return info_nce_sum(scores, self.log_temperature.exp(), batch[f"{name}.hashes"])

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"first", "second"}: as `sides`; {"near"}: (B,). `inference/predict.py` makes ranks of those of a whole split."""
        first, second = self.sides(features)
        if not self.late:
            return {"first": first, "second": second, "near": (first * second).sum(1)}
        asking, found = (second, first) if self.second_asks else (first, second)
        rows = [slice(row, row + 1) for row in range(len(asking))]
        near = [late_scores(asking[row], found[row], self.length_discount)[0] for row in rows]
        return {"first": first, "second": second, "near": torch.cat([*near, asking.new_zeros(0)])}


def late_scores(asking: Tensor, found: Tensor, length_discount: float = 0.0) -> Tensor:
    """(N, Q, E) of any length, (P, T, E) of length 1 or 0 -> (N, P): how well each position that asks is matched.

    A position counts by its length, and takes the cosine of the one that matches it best; what no position matches (none
    with a cosine above 0) counts as nothing, so that the zeros which pad are not seen. The more positions there are, the
    better one of them matches whatever is asked: what is found is divided by their number to the power `length_discount`.
    """
    counts = asking.norm(dim=2)  # (N, Q)
    row, place = counts.nonzero(as_tuple=True)  # (A,) the positions that ask: of short queries most only pad
    flat = found.flatten(0, 1)  # (P · T, E)
    parts = []
    for some in asking[row, place].split(max(1, SIMILARITIES // max(len(flat), 1))):
        products = (some @ flat.T).view(len(some), *found.shape[:2])  # (a, P, T)
        parts.append(products.max(2).values.clamp(min=0))  # (a, P)
    best = torch.cat(parts).to(asking.dtype)  # (A, P)
    scores = asking.new_zeros(len(asking), len(found)).index_add(0, row, best)
    long = found.detach().any(2).sum(1).clamp(min=1)  # (P,)
    return scores / counts.sum(1, keepdim=True).clamp(min=1e-12) / long**length_discount


SIMILARITIES = 1 << 23  # of positions with positions, at once: 32 MB


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    return [Recall(1), Recall(10), MeanReciprocalRank()]
