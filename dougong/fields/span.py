"""Span: an answer that stands in a text and is quoted from it – extractive question answering.

Start and end of the answer are each chosen among the places of its passage (Devlin et al. 2019, arXiv:1810.04805, section
4.2), beside which one more place stands for no answer (Rajpurkar et al. 2018, arXiv:1806.03822). A passage that is longer
than the model reads is read in windows that overlap; the row's answer is the best of them.
"""

# N rows, B batch, T positions, P places of the passage, D width, M most tokens of an answer

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, config
from dougong.core.errors import bad_field
from dougong.data import answers
from dougong.data.answers import Answer
from dougong.data.columns import Columns
from dougong.fields import FieldConfig
from dougong.layers.dropout import Dropout
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from dougong.layers.pooling import Pool
from dougong.metrics.metric import Metric
from dougong.metrics.quoting import BestOf, given, golds
from dougong.metrics.thresholds import best_refusal
from dougong.metrics.writing import ExactMatch, WordF1, text_column, texts

OF, NAMES = "text", "places"  # the type of input that is quoted, and the key by which it is told
NOWHERE = -1e30  # the score of a place that is none; not -inf: a row without any would be NaN


@config
class Config(FieldConfig):
    """An answer that is quoted from an input."""

    type: Literal["span"] = "span"
    of: str | None = None  # the input that is quoted; None: the only text
    max_answer: Count = 30  # tokens of the longest answer that is given
    stride: Count | None = None  # tokens from one window of a long passage to the next; None: half of its max_length
    threshold: Literal["auto"] | Fraction = 0.5  # an answer is given that is at least so likely, against none
    dropout: Fraction = 0.0
    loss: Loss | None = None

    def step(self, length: int) -> int:
        """From window to window of `length` tokens, so that each answer of `max_answer` tokens is whole in one."""
        if self.max_answer > length:
            expected = f"at most the max_length of the passage ({length:,})"
            raise bad_field("max_answer", self.max_answer, expected, f"write max_answer: {length}, or raise max_length")
        most = length - self.max_answer + 1
        if self.stride is not None and self.stride > most:
            expected = f"at most {most:,}, or an answer of max_answer tokens might be whole in no window"
            raise bad_field("stride", self.stride, expected, f"write stride: {most}, or raise the passage's max_length")
        return self.stride or max(1, min(length // 2, most))


def SETTLED(config: Config) -> tuple[str, ...]:  # noqa: N802 - a constant but for its argument
    return ("threshold",) if config.threshold == "auto" else ()


class Codec:
    """Answers <-> where the first of the right texts stands, in characters, and all of them."""

    RAW = pa.struct([("texts", pa.list_(pa.large_string())), ("start", pa.int64()), ("times", pa.int64())])
    PATHS = False
    SAMPLE: ClassVar[int | None] = 1  # rows to be fitted on: there is nothing to learn

    def __init__(self, config: Config):
        self.config = config

    @staticmethod
    def parse(value: object, config: Config | None = None) -> Answer:
        """As `data/answers.py` reads it. Nothing is an answer, too: that the passage has none."""
        return answers.read(value)

    @staticmethod
    def check(value: Answer, text: str | None) -> Answer:
        """The answer with its place. ValueError where it cannot be one of this passage."""
        return answers.placed(value, text)

    @classmethod
    def fit(cls, config: Config, values: Iterable[Answer]) -> Codec:
        return cls(config)

    def encode(self, values: Sequence[Answer | None]) -> tuple[Columns, dict[str, int]]:
        """{"place": (N, 2) int32, -1 where there is no answer; "gold": ragged UTF-8 of all right texts as JSON}."""
        found = [value or Answer(texts=[], start=None, times=1) for value in values]
        place = np.full((len(found), 2), -1, dtype=np.int32)
        for row, value in enumerate(found):
            if value["start"] is not None:
                place[row] = value["start"], value["start"] + len(value["texts"][0])
        gold = text_column([json.dumps(value["texts"], ensure_ascii=False) for value in found])
        several = sum(value["times"] > 1 for value in found)
        none = sum(not value["texts"] for value in found)
        return {"place": place, "gold": gold}, {
            "without an answer": none,
            "that stand several times, the first taken": several,
        }

    def decode(self, columns: Columns) -> list[str | None]:
        """The first of the right texts; None where there is no answer."""
        return [right[0] if right else None for right in golds(columns)]

    def quote(self, prediction: Columns, passages: Sequence[str]) -> Columns:
        """The prediction with the "text" that each passage has between its start and stop, no white space at its edges."""
        start, stop = np.array(prediction["start"]), np.array(prediction["stop"])  # (N,)
        quoted = []
        for row, passage in enumerate(passages):
            text = passage[start[row] : stop[row]].rstrip()
            quoted.append(text.lstrip())
            start[row] += len(text) - len(quoted[-1])
            stop[row] = start[row] + len(quoted[-1])
        return {**prediction, "start": start, "stop": stop, "text": text_column(quoted)}

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        """The text with its place in the passage, None where there is no answer; and how likely that is."""
        sure = [np.asarray(prediction[key]) for key in ("probability", "none", "start", "stop")]
        rows = zip(texts(prediction), given(prediction), *sure, strict=True)
        return [
            {"value": text, "start": int(start), "end": int(stop), "probability": float(likely)}
            if answered
            else {"value": None, "start": None, "end": None, "probability": float(none)}
            for text, answered, likely, none, start, stop in rows
        ]

    def limits(self) -> dict[str, int]:
        return {"gold": 0}  # only measured by

    def to_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config)


class Head(nn.Module):
    """The features of the passage's tokens -> how likely the answer starts, and ends, at each; or that there is none."""

    AUTOREGRESSIVE: ClassVar[bool] = False
    threshold: Tensor

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in ("auto", "cross_entropy"):
            raise bad_field("train.loss", loss.kind, "cross_entropy for a span", "remove it")
        self.of, self.most, self.smoothing = config.of, config.max_answer, loss.label_smoothing
        self.dropout = Dropout(config.dropout)
        self.linear = nn.Linear(width, 2)  # start, end
        self.pool = Pool("mean", width)
        self.none = nn.Linear(width, 2)
        self.first = 0.0 if isinstance(config.threshold, str) else log_odds(config.threshold)
        # what the recipe says need not be saved
        self.register_buffer("threshold", torch.full((1,), self.first), persistent=isinstance(config.threshold, str))

    def reset_parameters(self) -> None:
        for linear in (self.linear, self.none):
            nn.init.zeros_(linear.weight)  # a head begins by saying what it knows, nothing
            nn.init.zeros_(linear.bias)
        self.threshold.fill_(self.first)

    def scores(self, features: Features) -> tuple[Tensor, Tensor]:
        """Of start and end at each place and, last, at none (B, 2, P + 1); and which places are read (B, P).

        Where the input tells no places each position is one.
        """
        values, real = features.values, features.mask
        if features.places is not None:
            real = features.places >= 0
            places = features.places.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1])
            values = values.gather(1, places)  # (B, P, D)
        at = self.linear(self.dropout(values)).float().masked_fill(~real[..., None], NOWHERE)  # (B, P, 2)
        none = self.none(self.dropout(self.pool(features))).float()[:, None]  # (B, 1, 2)
        return torch.cat([at, none], dim=1).transpose(1, 2), real

    def ends(self, batch: dict[str, Tensor], real: Tensor) -> tuple[Tensor, Tensor]:
        """The character at which each place ends (B, P), beyond the last a huge one; and at which the first begins (B,)."""
        ends = batch.get(f"{self.of}.ends")
        if ends is None:
            ends = torch.arange(1, real.shape[1] + 1, device=real.device).expand(real.shape)
        first = batch.get(f"{self.of}.first", torch.zeros_like(ends[:, 0]))
        return ends.masked_fill(~real, torch.iinfo(ends.dtype).max), first

    def targets(self, batch: dict[str, Tensor], name: str, real: Tensor) -> Tensor:
        """The places (B, 2) of the answer's first and last token; the one for no answer where this window has none whole."""
        ends, first = self.ends(batch, real)
        start, stop = batch[f"{name}.place"].to(ends.dtype).unbind(1)  # (B,)
        last = ends.masked_fill(~real, 0).amax(1)
        characters = torch.stack([start, stop - 1], dim=1)  # (B, 2)
        found = torch.searchsorted(ends.contiguous(), characters, right=True)
        inside = (start >= first) & (start >= 0) & (stop <= last)
        return torch.where(inside[:, None], found, real.shape[1])

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        place = batch[f"{name}.place"]
        return torch.tensor(len(place), device=place.device)

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        """Nats of a row: the mean of those of its start and its end."""
        scores, real = self.scores(features)
        logs = scores.log_softmax(-1)  # (B, 2, P + 1)
        nats = -logs.gather(2, self.targets(batch, name, real)[..., None])[..., 0]  # (B, 2)
        if self.smoothing:
            known = nn.functional.pad(real, (0, 1), value=True)[:, None]  # (B, 1, P + 1)
            every = logs.masked_fill(~known, 0.0).sum(-1) / known.sum(-1)  # (B, 2)
            nats = (1 - self.smoothing) * nats - self.smoothing * every
        return nats.sum() / 2

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """(B,) each: "start" and "stop" of the best answer in characters of the passage; "margin", the log of its odds
        against none; "probability", "none": of it, and of none; "threshold", the margin from which on it is given."""
        scores, real = self.scores(features)
        logs = scores.log_softmax(-1)
        start, end = logs[..., :-1].unbind(1)  # (B, P)
        behind = nn.functional.pad(end, (0, self.most - 1), value=NOWHERE).unfold(1, self.most, 1)  # (B, P, M)
        best, more = behind.max(-1)  # the end that goes best with each start
        likely, first = (start + best).max(1)  # (B,)
        last = first + more.gather(1, first[:, None])[:, 0]
        none = logs[..., -1].sum(1)  # (B,)
        begin, stop = self.characters(batch, real, first, last)
        odds = {"margin": likely - none, "probability": likely.exp(), "none": none.exp()}
        return {"start": begin, "stop": stop, **odds, "threshold": self.threshold.expand(len(scores))}

    def characters(
        self, batch: dict[str, Tensor], real: Tensor, first: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor]:  # (B,) each
        """From which character on, up to which, the tokens of some places reach: whole characters, also of half ones."""
        ends, begin = self.ends(batch, real)
        stop, until = ends.gather(1, last[:, None]), ends.gather(1, first[:, None])  # (B, 1)
        before = torch.searchsorted(ends.contiguous(), until) - 1  # the last place that ends before the first one does
        start = torch.where(before >= 0, ends.gather(1, before.clamp(min=0)), begin[:, None])
        nothing = ~real.any(1)
        return start[:, 0].masked_fill(nothing, 0), stop[:, 0].masked_fill(nothing, 0)

    @torch.no_grad()
    def settle(self, rows: Iterable[tuple[Columns, Columns]]) -> dict[str, Any]:
        """Choose the threshold with the best F1 of words on rows that it was not trained on."""
        right = BestOf(WordF1())
        chosen = best_refusal(
            (
                np.asarray(prediction["margin"], dtype=np.float64),
                right.scores(texts(prediction), golds(target)),
                right.scores([""] * len(golds(target)), golds(target)),
            )
            for prediction, target in rows
        )
        self.threshold.fill_(chosen)
        return {"threshold": 1 / (1 + math.exp(-chosen))}


def log_odds(share: float) -> float:
    if not 0 < share < 1:
        return math.inf if share else -math.inf
    return math.log(share) - math.log1p(-share)


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    return [BestOf(WordF1()), BestOf(ExactMatch())]
