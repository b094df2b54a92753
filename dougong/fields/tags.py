"""Tags: a name for each word of a text – named entities, parts of speech. Words are what white space separates."""

# N rows, B batch, T positions, W words, L tags, D width, C classes

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dougong.core.config import Count, Fraction, config
from dougong.core.errors import bad_field
from dougong.data import class_names
from dougong.data.columns import Columns, Ragged
from dougong.data.words import word_places
from dougong.fields import FieldConfig
from dougong.layers.dropout import Dropout
from dougong.layers.features import Features, length_mask
from dougong.layers.losses import IGNORE, Loss, cross_entropy_sum
from dougong.metrics.metric import Metric
from dougong.metrics.tagging import EntityF1, TagAccuracy, TagF1, entities, is_bio

OF, NAMES = "text", "words"  # the type of input whose words are tagged
UNSEEN = -1  # the number of a tag that the training rows did not hold


@config
class Config(FieldConfig):
    """A tag for each word of an input. The tags are those of the training rows unless listed."""

    type: Literal["tags"] = "tags"
    of: str | None = None  # the input whose words are tagged; None: the only text
    classes: tuple[str, ...] | None = None
    min_count: Count = 1  # rarer tags count as unseen
    dropout: Fraction = 0.0
    loss: Loss | None = None

    def __post_init__(self) -> None:
        class_names.check_listed(self, least=1)


class Codec(class_names.NamesCodec):
    """Names <-> numbers, one for each word; tags that the training rows did not hold are unseen, and counted."""

    CALLED = "tags"
    MOST = 10_000

    @staticmethod
    def parse(value: object, config: Config | None = None) -> list[str] | None:
        """A list of names, a JSON list as text, or names between spaces."""
        if value is None:
            return None
        value = value.split() if isinstance(value, str) and not value.startswith("[") else value
        json = "expected a JSON list of tags, or tags between spaces"
        names = [name or "" for name in class_names.listed(value, "expected a list of tags, one for each word", json)]
        if "" in names:
            raise ValueError(f"expected a tag for each word; that of word {names.index('') + 1} is empty")
        return names

    @staticmethod
    def check(value: list[str] | None, text: str | None) -> list[str] | None:
        """The tags. ValueError where these cannot be those of this text."""
        words = len(word_places(text or ""))
        if value is not None and len(value) != words:
            raise ValueError(f"{len(value)} tags for a text of {words} words, which are what white space separates")
        return value

    def encode(self, values: Sequence[list[str] | None]) -> tuple[Columns, dict[str, int]]:
        """{"tags": ragged int32}; and how many values were missing, and how many tags unseen."""
        rows = [np.array([self.index.get(name, UNSEEN) for name in value or ()], dtype=np.int32) for value in values]
        tags = Ragged.of(rows, np.int32)
        unseen = int((tags.values == UNSEEN).sum())
        return {"tags": tags}, {"missing": sum(value is None for value in values), "unseen values": unseen}

    def decode(self, columns: Columns) -> list[list[str | None]]:
        """The tags of N rows, None where one is unseen: it would be taken for the last class."""
        tags = columns["tags"]
        assert isinstance(tags, Ragged)
        rows = (tags.row(index).tolist() for index in range(len(tags)))
        return [[None if tag == UNSEEN else self.classes[tag] for tag in row] for row in rows]

    def names(self, tags: np.ndarray) -> list[str]:
        return [self.classes[tag] for tag in tags]

    def answers(self, prediction: Columns) -> list[dict[str, Any]]:
        """The tags of the words that were read; of entities also from which word to which, and the type."""
        rows = zip(np.asarray(prediction["tags"]), np.asarray(prediction["tags.length"]), strict=True)
        named = [self.names(row[:length]) for row, length in rows]
        if not is_bio(self.classes):
            return [{"value": names} for names in named]
        return [
            {"value": names, "entities": [{"first": a, "last": b - 1, "type": kind} for a, b, kind in entities(names)]}
            for names in named
        ]


class Head(nn.Module):
    """The features at each word's first position -> a score for each tag (Devlin et al. 2019, section 5.3)."""

    AUTOREGRESSIVE: ClassVar[bool] = False

    def __init__(self, config: Config, codec: Codec, width: int, loss: Loss):
        super().__init__()
        if loss.kind not in ("auto", "cross_entropy"):
            raise bad_field("train.loss", loss.kind, "cross_entropy for tags", "remove it")
        self.of, self.smoothing = config.of, loss.label_smoothing
        self.dropout = Dropout(config.dropout)
        self.linear = nn.Linear(width, len(codec.classes))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.linear.weight)  # a head begins by saying what it knows, nothing
        nn.init.zeros_(self.linear.bias)

    def scores(self, features: Features) -> tuple[Tensor, Tensor]:
        """(B, W, C), and which words were read (B, W). Where the input has no words each position is one."""
        values, real = features.values, features.mask
        if features.places is not None:
            real = features.places >= 0
            places = features.places.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1])
            values = values.gather(1, places)
        return self.linear(self.dropout(values)), real

    def targets(self, batch: dict[str, Tensor], name: str) -> Tensor:
        """(B, L) int64: the tags, IGNORE where there is none, where it is unseen, and where its word is not read."""
        tags, lengths = batch[f"{name}.tags"], batch[f"{name}.tags.length"]
        judged = length_mask(lengths, tags.shape[1]) & (tags >= 0)
        if (words := batch.get(f"{self.of}.words")) is not None:
            judged &= (words < batch[f"{self.of}.tokens.length"][:, None])[:, : tags.shape[1]]
        return torch.where(judged, tags, IGNORE)

    def count(self, batch: dict[str, Tensor], name: str) -> Tensor:
        return (self.targets(batch, name) != IGNORE).sum()

    def loss(self, features: Features, batch: dict[str, Tensor], name: str) -> Tensor:
        scores, real = self.scores(features)
        targets = self.targets(batch, name)
        most = min(scores.shape[1], targets.shape[1])
        targets = torch.where(real[:, :most], targets[:, :most], IGNORE)
        return cross_entropy_sum(scores[:, :most].flatten(0, 1), targets.flatten(), label_smoothing=self.smoothing)

    def predict(self, features: Features, batch: dict[str, Tensor], name: str) -> dict[str, Tensor]:
        """{"tags": (B, W) int64, "tags.length": (B,)}: the most likely tag of each word that was read."""
        scores, real = self.scores(features)
        return {"tags": scores.argmax(-1), "tags.length": real.sum(1)}


def METRICS(config: Config, codec: Codec) -> list[Metric]:  # noqa: N802 - a constant but for its arguments
    if not is_bio(codec.classes):
        return [TagAccuracy(), TagF1(len(codec.classes))]
    whole: list[Metric] = [EntityF1(codec.classes, name) for name in ("f1", "precision", "recall")]
    return [*whole, TagAccuracy()]
