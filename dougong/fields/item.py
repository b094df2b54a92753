"""Item: the one that is chosen next. Comes out of a history, or of whatever tells who chooses; goes in as one of many.

SASRec (Kang and McAuley 2018, arXiv:1808.09781) is this output behind a history and a transformer, GRU4Rec (Hidasi et al.
2016, arXiv:1511.06939) behind a recurrent network; matrix factorization (Koren et al. 2009) is this output behind the
vector of a user alone. Scores are the products of what the model gives with the vector of each item.
"""

# N rows, B batch, T places that tell an item, V items of the catalogue, D width, K items drawn

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from dougong.core.config import Count, config
from dougong.core.errors import Problem, bad_field
from dougong.data import class_names
from dougong.data.columns import Columns
from dougong.data.ordering import key_of, mixed, permuted
from dougong.fields import Whole, causal, items
from dougong.fields.items import UNKNOWN, Catalogue, CatalogueConfig, Vectors
from dougong.layers.features import Features, length_mask
from dougong.layers.feedforward import Linear
from dougong.layers.losses import (
    SAMPLED,
    Loss,
    bpr_sum,
    gbce_sum,
    linear_cross_entropy_sum,
    sampled_softmax_sum,
)
from dougong.layers.pooling import Pool, PoolKind
from dougong.metrics import recommendation
from dougong.metrics.metric import Metric
from dougong.metrics.recommendation import NDCG, NEVER, HitRate, MeanReciprocalRank

TOP = 100  # items that a prediction suggests at most
SCORES = 1 << 23  # that are held at once: 32 MB
LOWEST = float(np.finfo(np.float32).min)  # the score of what is not suggested
KEY = 0x100  # of the items that the right one is ranked among


@config
class Config(CatalogueConfig):
    """The next item. `of` names the history that it goes on with, whose items are its own."""

    type: Literal["item"] = "item"
    of: str | None = None  # the one input of type items, where there is one
    # What a row of a history teaches: at every place of it the next item; all its items, as a set, told by the other inputs;
    # or the row's own item alone.
    learn: Literal["every", "set", "last"] = "every"
    candidates: Literal["all", "new"] = "all"  # new: those that no training row holds, and content alone tells of
    bias: bool = True  # how often an item is chosen whoever chooses, beside how well it fits
    pool: PoolKind = "mean"  # how features of many positions become one, where not every place is told
    top: Count = 10  # items that are suggested, unless the question says how many
    loss: Loss | None = None

    def __post_init__(self) -> None:
        if self.top > TOP:
            raise bad_field("item.top", self.top, f"at most {TOP}", f"write top: {TOP}")

    @property
    def shares(self) -> str | None:
        """The input whose vocabulary, and vectors, are its own."""
        return self.of


OF, ALONE = "items", True  # the type of input that it goes on with; it can do without
ONLY_OUT = ("of", "learn", "candidates", "bias", "pool", "top")
files, rooted = items.files, items.rooted


def NAMES(config: Config) -> str | None:  # noqa: N802 - a constant but for its argument
    return "unread" if config.learn == "set" else None


def CAUSAL(config: Config) -> bool:  # noqa: N802
    return config.of is not None and config.learn == "every"


def check(key: str, config: Config, whole: Whole) -> Iterator[Problem]:
    """Whether there is what it is learnt from."""
    yield from items.check(key, config, whole)
    side, _, _ = key.partition(".")
    if side == "inputs":
        return
    catalogue = whole.inputs.get(config.of or "", config)
    if config.candidates == "new" and getattr(catalogue, "content", None) is None:
        where = f"inputs.{config.of}" if config.of else key
        fix = f"remove it, or add {where}.content: {{file: …, inputs: {{title: text}}}}"
        yield Problem(f"{key}.candidates", "new", "all, where no content tells of items that nobody has chosen", fix)
    if config.of is None:
        if config.learn != "every":
            fix = "remove it, or add inputs: {history: items}"
            yield Problem(f"{key}.learn", config.learn, "nothing where no history goes in", fix)
        return
    history = whole.inputs.get(config.of)
    if history is None or history.type != OF:
        return  # which the recipe has said
    for name in ("max_items", "min_count", "content"):
        if getattr(config, name) != getattr(CatalogueConfig(), name):
            fix = f"write it under inputs.{config.of}"
            yield Problem(f"{key}.{name}", getattr(config, name), f"nothing: the items are those of {config.of!r}", fix)
    if config.learn == "set" and len(whole.inputs) == 1:
        expected = f"every or last, where {config.of!r} is all that goes in"
        yield Problem(f"{key}.learn", "set", expected, "remove it, or add inputs: {user: category}")
    if history.unread and config.learn != "set":
        expected = f"set, as that of the other output that goes on with {config.of!r}: the model does not read it"
        yield Problem(f"{key}.learn", config.learn, expected, "write learn: set, or train two models")
    read = [each.of for each in whole.outputs.values() if causal(each)]
    if CAUSAL(config) and len(set(read)) > 1:
        expected = "one history of which every place is told"
        yield Problem(f"{key}.of", config.of, expected, "write learn: last for the other, or train two models")
    if config.of in whole.encoders:
        expected = f"none for the history of {key}: the items' vectors are those that are told"
        yield Problem(f"inputs.{config.of}.encoder", whole.encoders[config.of].kind, expected, "write it as model")


class Codec(Catalogue):
    """An item <-> its number."""

    RAW = pa.large_string()

    @staticmethod
    def parse(value: object, config: Config | None = None) -> str | None:
        return class_names.read_name(value)

    @staticmethod
    def check(value: str | None, history: object) -> str | None:
        return value  # any item may come after any history

    def encode(self, values: Sequence[str | None]) -> tuple[Columns, dict[str, int]]:
        """{"index": (N,) int64}; and how many were missing or unknown."""
        numbers = [UNKNOWN if value is None else self.number.get(value, UNKNOWN) for value in values]
        index = np.array(numbers, dtype=np.int64)
        missing = sum(value is None for value in values)
        return {"index": index}, {"missing": missing, "unknown items": int((index < 0).sum()) - missing}

    def decode(self, columns: Columns) -> list[str | None]:
        return [self.items[index] if index >= 0 else None for index in np.asarray(columns["index"])]

    def answers(self, prediction: Columns, top: int | None = None) -> list[dict[str, Any]]:
        """The items that fit best and their scores, best first."""
        items, scores = np.asarray(prediction["top"]), np.asarray(prediction["scores"])  # (N, K)
        found = [
            [
                {"item": self.items[item], "score": float(score)}
                for item, score in zip(*row, strict=True)
                if score > LOWEST
            ][: top or self.config.top]
            for row in zip(items.tolist(), scores.tolist(), strict=True)
        ]
        return [{"value": row[0]["item"] if row else None, "top": row} for row in found]

    def limits(self) -> dict[str, int]:
        return {}


class Encoder(nn.Module):
    """One item -> one feature (B, 1, D); what the catalogue does not hold has a vector of its own."""

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        self.positions: int | None = 1
        self.items = Vectors(codec, width)
        self.unknown = nn.Embedding(1, width)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.unknown.weight)  # no training row may hold one: zero says least

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        index = batch[f"{name}.index"][:, None]  # (B, 1)
        values = self.items(index.clamp(min=0)) * self.items.width**0.5  # (B, 1, D)
        values = torch.where((index < 0)[..., None], self.unknown.weight[0].to(values.dtype), values)
        return Features(values, torch.ones(index.shape, dtype=torch.bool, device=index.device))


class Head(nn.Module):
    """Features -> how well each item fits. In training each place of a history tells the item after it.

    Where it is measured, or asked, only the row's own item counts: the others stand in the history.
    """

    AUTOREGRESSIVE: ClassVar[bool] = False
    LOSSES: ClassVar[tuple[str, ...]] = ("auto", *SAMPLED, "cross_entropy")  # auto: cross_entropy over all items

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in self.LOSSES:
            raise bad_field("train.loss", loss.kind, f"one of {', '.join(self.LOSSES)} for an item", "remove it")
        self.of, self.learn, self.objective = config.of, config.learn, loss
        self.top = config.top
        self.pool = Pool("last" if CAUSAL(config) else config.pool, width)
        self.width = width
        self.project: nn.Module = nn.Identity()
        self.items = Vectors(codec, width)
        self.chosen, self.first = codec.chosen, codec.chosen if config.candidates == "new" else 0
        self.bias = nn.Embedding(codec.vocab_size, 1) if config.bias else None  # as a table, which is not decayed
        self.often = Drawn(codec.counts) if loss.kind in SAMPLED else None

    def reset_parameters(self) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias.weight)

    def tie(self, reader: Any) -> None:
        """Have the vectors of the history's items, and what the backbone gives in as many numbers."""
        if reader.items.width != self.width and isinstance(self.project, nn.Identity):
            self.project = Linear(self.width, reader.items.width, bias=False)
        self.items = reader.items

    # ---------------------------------------------------------------------------------------------- what is told by what

    def targets(self, batch: dict[str, Tensor], name: str) -> Tensor:
        """(B, T) the items that are to be told, UNKNOWN where there is none: in training also those of the history."""
        index = batch[f"{name}.index"]  # (B,)
        if not self.training:
            return index.where(index >= self.first, UNKNOWN)[:, None]
        index = index.where(index < self.chosen, UNKNOWN)  # one that is too rare is known by its content alone
        if self.of is None or self.learn == "last":
            return index[:, None]
        items, lengths = batch[f"{self.of}.items"], batch[f"{self.of}.items.length"]
        places = torch.arange(items.shape[1] + 1, device=items.device)  # (1 + T,)
        after = torch.cat([items, items[:, :1]], dim=1)
        after = after.masked_fill((places >= lengths[:, None]) | (after >= self.chosen), UNKNOWN)
        return torch.where(places == lengths[:, None], index[:, None], after)

    def asked(self, features: Features) -> Tensor:  # (B, T, D), or (B, 1, D) where one tells all
        """What tells them."""
        every = self.training and self.of is not None and self.learn == "every"
        return self.project(features.values if every else self.pool(features)[:, None])

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return (self.targets(batch, name) >= 0).sum()

    # ------------------------------------------------------------------------------------------------------------ learning

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        """The sum over all items that are told. Measured, all other items are looked at, whatever training draws."""
        targets, asked = self.targets(batch, name), self.asked(features)
        told = targets >= 0  # (B, T)
        if (
            asked.shape[1] < targets.shape[1]
            and self.objective.kind not in SAMPLED
            and not self.objective.label_smoothing
        ):
            return self.softmax_of_sets(asked[:, 0], targets, told)
        hidden, right = asked.expand(*told.shape, -1)[told], targets[told]  # (n, D), (n,)
        if self.objective.kind not in SAMPLED:
            return self.softmax(hidden, right, self.objective.label_smoothing)
        if not self.training:
            return self.bpr_of_all(hidden, right) if self.objective.kind == "bpr" else self.softmax(hidden, right)
        return self.sampled(hidden, right, batch, name, told)

    @property
    def rivals(self) -> tuple[int, int]:
        """The items that a right one is told from, from … up to: in training those that training rows hold, none of the others."""
        return (0, self.chosen) if self.training else (self.first, self.items.size)

    def softmax(self, hidden: Tensor, right: Tensor, smoothing: float = 0.0) -> Tensor:
        start, stop = self.rivals
        bias = None if self.bias is None else self.bias.weight[start:stop, 0]
        return linear_cross_entropy_sum(
            hidden, self.items.table(start, stop), bias, right - start, label_smoothing=smoothing
        )

    def softmax_of_sets(self, hidden: Tensor, targets: Tensor, told: Tensor) -> Tensor:  # (B, D), (B, T) twice
        """The same where one vector tells all items of a row: its scores are computed once."""
        scores = self.scores(hidden, self.items.table(*self.rivals), *self.rivals)  # (B, V)
        nats = scores.logsumexp(1, keepdim=True) - scores.gather(1, targets.clamp(min=0))  # (B, T)
        return nats.masked_fill(~told, 0.0).sum()

    def bpr_of_all(self, hidden: Tensor, right: Tensor) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        table, right = self.items.table(self.first), right - self.first
        for some, wanted in zip(*(each.split(_rows(len(table))) for each in (hidden, right)), strict=True):
            scores = self.scores(some, table, self.first)  # (n', V)
            itself = torch.arange(scores.shape[1], device=scores.device) == wanted[:, None]
            total = total + bpr_sum(scores.gather(1, wanted[:, None])[:, 0], scores, itself)
        return total

    def sampled(self, hidden: Tensor, right: Tensor, batch: dict[str, Tensor], name: str, told: Tensor) -> Tensor:
        """Each right item against K that are drawn once for the whole batch."""
        assert self.often is not None
        even = self.objective.kind != "sampled_softmax"
        drawn = self.often.draw(self.objective.negatives, even=even)  # (K,)
        good, others = self.fit(hidden, right), hidden @ self.items(drawn).to(hidden.dtype).T  # (n,), (n, K)
        others = others.float() if self.bias is None else others.float() + self.bias.weight[drawn, 0]
        if self.objective.kind == "sampled_softmax":
            log_often = self.often.log_share(drawn) + float(np.log(self.objective.negatives))
            return sampled_softmax_sum(good, others, log_often, drawn == right[:, None])
        chosen = batch[f"{name}.index"][:, None] == drawn  # (B, K): what a user has chosen is not wrong
        if self.of is not None:
            chosen |= _among(batch, self.of, drawn)
        hit = chosen[:, None].expand(*told.shape, -1)[told] | (drawn == right[:, None])  # (n, K)
        if self.objective.kind == "bpr":
            return bpr_sum(good, others, hit)
        share = min(1.0, self.objective.negatives / max(self.chosen - 1, 1))
        return gbce_sum(good, others, hit, share, self.objective.calibration)

    def fit(self, hidden: Tensor, items: Tensor) -> Tensor:  # (n, D), (n,) -> (n,)
        score = (hidden * self.items(items)).sum(-1).float()
        return score if self.bias is None else score + self.bias.weight[items, 0]

    def scores(
        self, hidden: Tensor, table: Tensor, start: int = 0, stop: int | None = None
    ) -> Tensor:  # (n, D), (V, D) -> (n, V)
        scores = (hidden @ table.to(hidden.dtype).T).float()
        return scores if self.bias is None else scores + self.bias.weight[start:stop, 0]

    # --------------------------------------------------------------------------------------------------------- suggesting

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"top", "scores": (B, K)}, the items that fit best, best first; where the right one is known {"rank", "rank_of_100"}.

        The items of the history are not suggested again, so that they are no rivals; the right one is none of them.
        """
        hidden, table = self.project(self.pool(features)), self.items.table()
        rows = torch.arange(len(hidden), device=hidden.device)
        pieces = [self.suggest(hidden[some], table, batch, name, some) for some in rows.split(_rows(len(table)))]
        return {key: torch.cat([piece[key] for piece in pieces]) for key in pieces[0]}

    def suggest(
        self, hidden: Tensor, table: Tensor, batch: dict[str, Tensor], name: str, rows: Tensor
    ) -> dict[str, Tensor]:
        scores = self.scores(hidden, table)  # (n, V)
        right = batch[f"{name}.index"][rows] if f"{name}.index" in batch else None  # (n,)
        own = None if right is None else scores.gather(1, right.clamp(min=0)[:, None])  # (n, 1)
        if self.of is not None:
            items = batch[f"{self.of}.items"][rows]  # (n, T)
            known = length_mask(batch[f"{self.of}.items.length"][rows], items.shape[1]) & (items >= 0)
            place = torch.arange(len(rows), device=items.device)[:, None].expand_as(items)
            scores[place[known], items[known]] = LOWEST
        scores[:, : self.first] = LOWEST
        if right is not None and own is not None:
            right = right.where(right >= self.first, UNKNOWN)
            scores.scatter_(1, right.clamp(min=0)[:, None], torch.where(right[:, None] >= 0, own, scores[:, :1]))
        most = TOP if right is None else self.top  # of what is measured no more is kept
        top, best = scores.topk(min(most, scores.shape[1]), dim=1)[::-1]
        found = {"top": top, "scores": best}
        if right is None or own is None:
            return found
        others = self.others(scores, batch["row"][rows], right)  # (n, 100)
        drawn = scores.gather(1, others.clamp(min=0)).masked_fill(others < 0, LOWEST)
        ranks = {"rank": (scores >= own).sum(1), "rank_of_100": 1 + (drawn >= own).sum(1)}
        can = (right >= 0) & own[:, 0].isfinite()
        return found | {key: torch.where(can, rank, NEVER) for key, rank in ranks.items()}

    def others(self, scores: Tensor, numbers: Tensor, right: Tensor) -> Tensor:
        """(n, 100) items that the right one is ranked among, drawn evenly of all that can be suggested.

        They follow from the number of a row alone, so that all models are asked the same. UNKNOWN where there are fewer.
        """
        size, held = self.items.size - self.first, (scores[:, self.first :] == LOWEST).sum(1)
        enough = min(size, recommendation.SAMPLED + int(held.max()) + 1)
        keys = np.repeat(mixed(numbers.cpu().numpy().astype(np.uint64), key_of(KEY)), enough)  # (n * enough,)
        drawn = self.first + permuted(np.tile(np.arange(enough), len(numbers)), size, keys)
        some = torch.from_numpy(drawn).to(scores.device).view(len(numbers), enough)
        free = (scores.gather(1, some) > LOWEST) & (some != right[:, None])
        first = free.byte().argsort(dim=1, descending=True, stable=True)[:, : recommendation.SAMPLED]
        return some.gather(1, first).masked_fill(~free.gather(1, first), UNKNOWN)


class Drawn(nn.Module):
    """Items drawn as wrong ones: evenly, or half of them by how often they stand in the training rows."""

    until: Tensor
    log_shares: Tensor

    def __init__(self, counts: np.ndarray):
        super().__init__()
        self.shares = 0.5 * counts / counts.sum() + 0.5 / len(counts)  # (V,)
        self.register_buffer("until", torch.empty(len(counts), dtype=torch.float64), persistent=False)
        self.register_buffer("log_shares", torch.empty(len(counts)), persistent=False)

    def reset_parameters(self) -> None:
        until = np.cumsum(self.shares)
        self.until.copy_(torch.from_numpy(until / until[-1]))
        self.log_shares.copy_(torch.from_numpy(np.log(self.shares)))

    def draw(self, count: int, *, even: bool) -> Tensor:  # (K,), with repetitions; torch's own generator
        size, device = len(self.until), self.until.device
        if even:
            return torch.randint(size, (count,), device=device)
        return torch.searchsorted(self.until, torch.rand(count, device=device, dtype=torch.float64)).clamp(max=size - 1)

    def log_share(self, items: Tensor) -> Tensor:
        return self.log_shares[items]


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    most = recommendation.SAMPLED
    return [HitRate(10), NDCG(10), MeanReciprocalRank(), HitRate(10, most), NDCG(10, most)]


def _among(batch: dict[str, Tensor], of: str, drawn: Tensor) -> Tensor:
    """(B, K): which of the drawn items (K,) each history holds."""
    items = batch[f"{of}.items"]  # (B, T)
    known = items.masked_fill(~length_mask(batch[f"{of}.items.length"], items.shape[1]), UNKNOWN)
    return torch.stack([torch.isin(drawn, row) for row in known])  # all with all at once would be B * T * K


def _rows(size: int) -> int:
    """How many rows of scores over the catalogue are held at once."""
    return max(1, SCORES // size)
