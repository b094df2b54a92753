"""Words: a vector for each word of a text, learnt from the words that stand around it. Comes out; nothing goes in.

Sources: skip-gram and CBOW, Mikolov et al. 2013 (arXiv:1301.3781); negative sampling and the subsampling of frequent words,
Mikolov et al. 2013 (arXiv:1310.4546), formulas 4 and 5; a centre's contexts share its noise words after Ji et al. 2016
(arXiv:1604.04661), which changes no expected gradient.
"""

# N rows, B batch, T time, K noise words, V words and the end, D width, J words that a position tells

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dougong.core.config import Count, NonNegative, config
from dougong.core.errors import DataError, bad_field, nearest
from dougong.data import vocabulary
from dougong.data.columns import Columns, Ragged
from dougong.data.ordering import uniform
from dougong.fields import FieldConfig, text
from dougong.layers.features import Features
from dougong.layers.losses import Loss, linear_cross_entropy_sum
from dougong.metrics.language import NoiseAUC, TokenLoss
from dougong.metrics.metric import Metric

END = 0  # closes a text; words count from 1
NOISE_POWER = 0.75  # of a word's count: how often it is drawn as noise


@config
class Config(FieldConfig):
    """Words of a text, and how their vectors are learnt. `model.width` is the length of a vector."""

    type: Literal["words"] = "words"
    objective: Literal["skip_gram", "cbow"] = "skip_gram"  # tell the words around a word, or a word by those around it
    window: Annotated[int, Field(ge=1, le=100)] = 5  # words on either side, at most: each time 1 … so many are drawn
    negatives: Annotated[int, Field(ge=1, le=1000)] = 5  # K, noise words that each word is told from
    subsample: NonNegative = 1e-4  # frequent words are left out at times: those above this share; 0: none are
    min_count: Count = 5
    vocab_size: Annotated[Count, Field(le=vocabulary.MOST)] = 30_000
    lowercase: bool = True
    max_length: Count = 256  # words that are read together; those beyond its edges do not see one another
    loss: Loss | None = None

    @property
    def masked(self) -> bool:
        """Either objective tells a word by those around it, or those around it by a word."""
        return True


class Codec:
    """Words of a text <-> their numbers, the most frequent first. Every text is closed by END."""

    RAW = pa.large_string()
    PATHS = False
    SAMPLE: ClassVar[int | None] = None  # rows to be fitted on: all

    def __init__(self, config: Config, words: Sequence[str], counts: Sequence[int]):
        self.config, self.words, self.counts = config, list(words), np.array(counts, dtype=np.int64)
        self.number = {word: index for index, word in enumerate(self.words, END + 1)}
        self.vocab_size, self.end = len(self.words) + 1, END

    parse = staticmethod(text.Codec.parse)

    @classmethod
    def fit(cls, config: Config, values: Iterable[str | None]) -> Codec:
        size, least = config.vocab_size, config.min_count
        found = vocabulary.most_frequent(values, size=size, least=least, lowercase=config.lowercase)
        if not found:
            expected = f"no word stands {least:,} times in the training rows"
            raise DataError(f"column {config.column!r}: {expected}. Fix: lower min_count, or give more text.")
        return cls(config, [word for word, _ in found], [count for _, count in found])

    def cut(self, text: str) -> list[str]:
        return vocabulary.words_of(text, lowercase=self.config.lowercase)

    def encode(self, values: Sequence[str | None]) -> tuple[Columns, dict[str, int]]:
        """{"tokens": ragged ids}; words outside of the vocabulary are left out, and counted."""
        rows, outside = [], 0
        for value in values:
            ids = [self.number.get(word, END) for word in self.cut(value or "")]
            known = [index for index in ids if index != END]
            outside += len(ids) - len(known)
            rows.append([*known, END])
        offsets = np.cumsum([0, *map(len, rows)])
        tokens = np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1]))
        return {"tokens": Ragged(tokens, offsets)}, {"words outside of the vocabulary": outside}

    def decode(self, columns: Columns) -> list[str]:
        tokens = columns["tokens"]
        assert isinstance(tokens, Ragged)
        return [
            " ".join(self.words[token - 1] for token in tokens.row(index) if token != END)
            for index in range(len(tokens))
        ]

    def check_known(self, text: str | None) -> None:
        """ValueError where a text that is to have a vector holds no word that has one."""
        words = self.cut(text or "")
        if any(word in self.number for word in words):
            return
        if not words:
            raise ValueError(f"expected a word, found {text!r}")
        # Of those that begin alike: to compare with all takes a second a word.
        near = nearest(words[0], [word for word in self.words if word[0] == words[0][0]])
        meant = f"; the nearest is {near!r}" if near else ""
        raise ValueError(f"expected one of the {len(self.words):,} words that have a vector, found {text!r}{meant}")

    @cached_property
    def noise(self) -> np.ndarray:
        """(V - 1,) up to which number in [0, 1) each word is drawn as noise: by its count to the power of 3/4."""
        share = np.cumsum(self.counts**NOISE_POWER)
        return share / share[-1]

    @cached_property
    def kept(self) -> np.ndarray:
        """(V,) float32: the probability that a word is not left out, sqrt(t / f); the end never is."""
        often = self.counts / self.counts.sum()  # f
        share = np.sqrt(self.config.subsample / often) if self.config.subsample else np.ones(len(often))
        return np.concatenate([[1.0], share.clip(max=1.0)]).astype(np.float32)

    def limits(self) -> dict[str, int]:
        return {"tokens": self.config.max_length}

    def to_json(self) -> dict[str, Any]:
        return {"words": self.words, "counts": self.counts.tolist()}

    @classmethod
    def from_json(cls, config: Config, saved: dict[str, Any]) -> Codec:
        return cls(config, saved["words"], saved["counts"])


def augment(field: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A training batch with what is left out, windows and noise drawn anew (torch's generator: a resumed run repeats it)."""
    tokens = batch[f"{field.name}.tokens"]  # (B, T)
    return _around(field, batch, torch.rand((2 + field.config.negatives, *tokens.shape), device=tokens.device))


def measured(field: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch to be measured on: the same draws follow from the places in the stream, for every model."""
    tokens, start = batch[f"{field.name}.tokens"], batch[f"{field.name}.start"]  # (B, T), (B,)
    places = start.cpu().numpy()[:, None] + np.arange(tokens.shape[1])  # (B, T)
    draws = np.stack([uniform(places, key) for key in range(2 + field.config.negatives)])  # (2 + K, B, T)
    return _around(field, batch, _on(tokens, draws))


def _around(field: Any, batch: dict[str, Tensor], draws: Tensor) -> dict[str, Tensor]:
    """The batch with "pairs" (B, T, T), whether the second stands in the window of the first, and "noise" (B, T, K)."""
    tokens = batch[f"{field.name}.tokens"]  # (B, T)
    word = (tokens != END) & (draws[0] < _on(tokens, field.codec.kept)[tokens])
    reach = 1 + (draws[1] * field.config.window).long()  # (B, T) 1 … window
    place = word.cumsum(1)  # windows reach across what is left out
    far = (place[..., None] - place[:, None]).abs()  # (B, T, T)
    text = (tokens == END).cumsum(1)  # of which text a word is: those of different ones do not see one another
    near = (far > 0) & (far <= reach[..., None]) & (text[..., None] == text[:, None])
    pairs = near & word[..., None] & word[:, None]
    share = draws[2:].movedim(0, -1).double().contiguous()  # (B, T, K)
    noise = END + 1 + torch.searchsorted(_on(tokens, field.codec.noise), share, right=True)
    return {**batch, f"{field.name}.pairs": pairs, f"{field.name}.noise": noise}


def _on(beside: Tensor, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(beside.device)


class Reader(nn.Module):
    """Words -> what the others are told by: the vector of each (skip_gram), or the mean of those around it (cbow)."""

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        self.positions: int | None = None
        self.objective = config.objective
        self.embedding = nn.Embedding(codec.vocab_size, width)

    def reset_parameters(self) -> None:
        bound = 0.5 / self.embedding.weight.shape[1]
        nn.init.uniform_(self.embedding.weight, -bound, bound)

    def concealed(self, batch: dict[str, Tensor], name: str) -> Features:
        values, pairs = self.embedding(batch[f"{name}.tokens"]), batch[f"{name}.pairs"]  # (B, T, D), (B, T, T)
        count = pairs.sum(-1, keepdim=True)  # (B, T, 1)
        if self.objective == "cbow":
            values = (pairs.to(values.dtype) @ values) / count.clamp(min=1)
        return Features(values, count[..., 0] > 0)

    def vectors(self, batch: dict[str, Tensor], name: str) -> Tensor:
        """(B, D) of length 1: of each row the mean of its words, which count alike."""
        tokens = batch[f"{name}.tokens"]  # (B, T)
        words = functional.normalize(self.embedding(tokens).float(), dim=-1)
        return functional.normalize((words * (tokens != END)[..., None]).sum(1), dim=-1)

    def table(self) -> Tensor:
        """(V - 1, D) of length 1: all words, in the order of the codec."""
        return functional.normalize(self.embedding.weight[END + 1 :].float(), dim=-1)


class Head(nn.Module):
    """What a position is told by -> how much each word fits. Words have other vectors here than where they are read."""

    AUTOREGRESSIVE: ClassVar[bool] = True  # read from its own column, as what is written is
    STREAM: ClassVar[bool] = True
    READER: ClassVar[type[nn.Module]] = Reader
    BACKBONE: ClassVar[str] = "identity"  # layers between would give vectors of positions, and not of words
    LOSSES: ClassVar[tuple[str, ...]] = ("auto", "cross_entropy")  # negative sampling, or softmax over all words

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in self.LOSSES:
            raise bad_field("train.loss", loss.kind, f"one of {', '.join(self.LOSSES)} for words", "remove it")
        self.skips, self.sampled, self.smoothing = (
            config.objective == "skip_gram",
            loss.kind == "auto",
            loss.label_smoothing,
        )
        if self.sampled and self.smoothing:
            expected = "0 beside negative sampling, whose targets are right or wrong"
            raise bad_field(
                "train.loss.label_smoothing", self.smoothing, expected, "write kind: cross_entropy, or remove it"
            )
        self.embedding = nn.Embedding(codec.vocab_size, width)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.embedding.weight)  # as in the program of Mikolov et al.

    def tie(self, reader: Reader) -> None:
        """Nothing is shared: a word seldom stands beside itself, so that it must not fit its own vector."""

    def told(self, batch: dict[str, Tensor], name: str) -> Tensor:
        """(B, T, J) bool: which words each position tells: of all T those around it; itself (J is 1) by those around."""
        pairs = batch[f"{name}.pairs"]
        return pairs if self.skips else pairs.any(-1, keepdim=True)

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return self.told(batch, name).sum()

    def scores(self, features: Features, batch: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
        """(B, T, J) of the words that are told, (B, T, K) of the noise."""
        values = features.values  # (B, T, D)
        words, noise = self.embedding(batch[f"{name}.tokens"]), self.embedding(batch[f"{name}.noise"])
        right = values @ words.mT if self.skips else (values * words).sum(-1, keepdim=True)
        return right.float(), (noise @ values[..., None])[..., 0].float()

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        """The sum of nats over the words that are told."""
        if not self.sampled:
            return self.softmax(features, batch, name)
        told = self.told(batch, name)
        right, noise = self.scores(features, batch, name)
        wrong = functional.softplus(noise).sum(-1) * told.sum(-1)  # (B, T): - log sigmoid(- score) of all its noise
        return functional.softplus(-right[told]).sum() + wrong.sum()

    def softmax(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        row, place, other = self.told(batch, name).nonzero(as_tuple=True)  # (n,) each
        targets = batch[f"{name}.tokens"][row, other if self.skips else place]
        hidden, weight = features.values[row, place], self.embedding.weight
        return linear_cross_entropy_sum(hidden, weight, None, targets, label_smoothing=self.smoothing)

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"nats", "told", "right"}, (B, T) each: what was told cost, how many words that was, and, summed over these,
        the share of the noise that scored less (an equal score counts half)."""
        told = self.told(batch, name)
        right, noise = self.scores(features, batch, name)
        row, place, _ = told.nonzero(as_tuple=True)  # (n,)
        score, against = right[told], noise[row, place]  # (n,), (n, K)
        if self.sampled:
            nats = functional.softplus(-score) + functional.softplus(against).sum(-1)
        else:
            nats = self.softmax_each(features, row, place) - score
        above = ((score[:, None] > against).float() + 0.5 * (score[:, None] == against)).mean(-1)
        empty = torch.zeros(told.shape[:2], device=told.device)
        summed = {
            key: empty.index_put((row, place), each, accumulate=True)
            for key, each in (("nats", nats), ("right", above))
        }
        return summed | {"told": told.sum(-1)}

    def softmax_each(self, features: Features, row: Tensor, place: Tensor) -> Tensor:
        """(n,) the logarithm of the sum of all words' exponentials, a few positions at a time."""
        pieces = features.values[row, place].split(4096)
        return torch.cat([(piece @ self.embedding.weight.T).float().logsumexp(-1) for piece in pieces])


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    return [NoiseAUC(), TokenLoss()]
