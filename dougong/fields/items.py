"""Items: a history, the items that somebody chose in the order of time. Goes in; an output of type `item` goes on with it."""

# N rows, B batch, T items of a history, V items of the catalogue, D width

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field as Bounds
from torch import Tensor, nn

from dougong.core.config import Count, config
from dougong.core.errors import DataError, Problem
from dougong.data import class_names, vocabulary
from dougong.data.columns import Columns, Ragged
from dougong.fields import FieldConfig, Whole, _content
from dougong.fields._content import Content, Knowledge, Tower
from dougong.layers.features import Features, length_mask

UNKNOWN = -1  # an item that the catalogue does not hold
BEGIN, UNKNOWN_MARK = 0, 1  # vectors of no item: where a history begins, and all that are unknown


@config
class CatalogueConfig(FieldConfig):
    """What `items` and `item` have: which items there are."""

    max_items: Annotated[Count, Bounds(le=vocabulary.MOST)] = 1_000_000  # the most frequent are kept
    min_count: Count = 1  # rarer items count as unknown
    content: Content | None = None  # a table that says more of them, and tells of some that nobody has chosen yet


def check(key: str, config: CatalogueConfig, whole: Whole) -> Iterator[Problem]:
    """What is wrong with the fields of its content."""
    if config.content is not None:
        yield from _content.check(f"{key}.content", config.content)


def files(config: CatalogueConfig) -> list[Path]:
    return [] if config.content is None else [Path(config.content.file)]


def rooted(config: Any, base: Path) -> Any:
    """The same with the absolute path of its content."""
    if config.content is None:
        return config
    return replace(config, content=replace(config.content, file=str(base / config.content.file)))


@config
class Config(CatalogueConfig):
    """A history: a list of items, a JSON list as text, or items joined by `separator`."""

    type: Literal["items"] = "items"
    separator: Annotated[str, Bounds(min_length=1)] = " "
    max_length: Count = 200  # of a longer history the last so many are kept
    unread: bool = False  # the model does not look at it; set by an output that learns it as a set


def LONGEST(config: Config) -> int:  # noqa: N802 - a constant but for its argument
    return 0 if config.unread else 1 + config.max_length


class Catalogue:
    """Items <-> numbers, the most frequent first, and last those that no training row holds."""

    PATHS = False
    SAMPLE: ClassVar[int | None] = None  # rows to be fitted on: all
    vocabulary_of_items = True

    def __init__(self, config: Any, items: Sequence[str], counts: Sequence[int], knowledge: Knowledge | None = None):
        self.config, self.items, self.counts = config, list(items), np.array(counts, dtype=np.int64)
        self.knowledge = knowledge
        self.vocab_size = len(self.items)  # V
        self.chosen = len(self.counts)  # of these, those that training rows hold

    @cached_property
    def number(self) -> dict[str, int]:
        return {item: index for index, item in enumerate(self.items)}

    @classmethod
    def fit(cls, config: Any, values: Iterable[list[str] | str | None]) -> Self:
        """Of histories, and of the items that go on with them."""
        groups = ([value] if isinstance(value, str) else value for value in values if value is not None)
        found = vocabulary.frequent(groups, size=config.max_items, least=config.min_count)
        if not found:
            least = f"no item stands {config.min_count:,} times in the training rows"
            raise DataError(f"column {config.column!r}: {least}. Fix: lower min_count, or give more rows.")
        items, counts = [item for item, _ in found], [count for _, count in found]
        if config.content is None:
            return cls(config, items, counts)
        knowledge, every = Knowledge.fit(config.content, items)
        return cls(config, every, counts, knowledge)

    def to_json(self) -> dict[str, Any]:
        content = {} if self.knowledge is None else {"content": self.knowledge.to_json()}
        return {"items": self.items, "counts": self.counts.tolist(), **content}

    @classmethod
    def from_json(cls, config: Any, saved: dict[str, Any]) -> Self:
        knowledge = Knowledge.from_json(saved["content"]) if "content" in saved else None
        return cls(config, saved["items"], saved["counts"], knowledge)


class Codec(Catalogue):
    """A history <-> the numbers of its items, in their order; of a long one the last `max_length`."""

    RAW = pa.list_(pa.large_string())

    @staticmethod
    def parse(value: object, config: Config | None = None) -> list[str] | None:
        if value is None:
            return None
        if isinstance(value, str) and not value.startswith("["):
            value = value.split((config or Config()).separator)
        json = "expected a JSON list of items, or items joined by the separator"
        return [name for name in class_names.listed(value, "expected a list of items", json) if name]

    def encode(self, values: Sequence[list[str] | None]) -> tuple[Columns, dict[str, int]]:
        """{"items": ragged numbers}; items outside of the catalogue are UNKNOWN, and counted, as are histories that are cut."""
        most, rows, unknown, cut = self.config.max_length, [], 0, 0
        for value in values:
            kept = (value or [])[-most:]
            numbers = [self.number.get(item, UNKNOWN) for item in kept]
            unknown += numbers.count(UNKNOWN)
            cut += len(value or []) > most
            rows.append(numbers)
        offsets = np.cumsum([0, *map(len, rows)])
        items = np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1]))
        missing = sum(value is None for value in values)
        notes = {"missing": missing, "unknown items": unknown, f"histories cut to the last {most:,}": cut}
        return {"items": Ragged(items, offsets)}, notes

    def decode(self, columns: Columns) -> list[list[str | None]]:
        items = columns["items"]
        assert isinstance(items, Ragged)
        return [[self.items[number] if number >= 0 else None for number in items.row(row)] for row in range(len(items))]

    def limits(self) -> dict[str, int]:
        return {"items": self.config.max_length}


class Encoder(nn.Module):
    """A history -> features (B, 1 + T, D): where it begins, then each item. `unread`: none, (B, 0, D)."""

    def __init__(self, config: Config, codec: Codec, width: int, patch: int):
        super().__init__()
        self.unread = config.unread
        self.positions: int | None = 0 if config.unread else None
        self.items = Vectors(codec, width)
        self.marks = None if config.unread else nn.Embedding(2, width)

    def reset_parameters(self) -> None:
        if self.marks is not None:
            nn.init.normal_(self.marks.weight, std=1.0)

    def forward(self, batch: dict[str, Tensor], name: str) -> Features:
        items, lengths = batch[f"{name}.items"], batch[f"{name}.items.length"]  # (B, T), (B,)
        if self.marks is None:
            nothing = torch.zeros(len(items), 0, self.items.width, device=items.device)
            return Features(nothing, nothing.new_zeros(nothing.shape[:2], dtype=torch.bool))
        # Times sqrt(D): unit scale for what flows on, while what is compared with them keeps its small one.
        values = self.items(items.clamp(min=0)) * self.items.width**0.5  # (B, T, D)
        values = torch.where((items < 0)[..., None], self.marks.weight[UNKNOWN_MARK].to(values.dtype), values)
        begin = self.marks.weight[BEGIN].to(values.dtype).expand(len(items), 1, -1)
        values = torch.cat([begin, values], dim=1)  # (B, 1 + T, D)
        return Features(values, length_mask(lengths + 1, values.shape[1]))


class Vectors(nn.Module):
    """A vector of each item: its own, what its content says, or the sum. A history and what goes on with it have the same."""

    def __init__(self, codec: Catalogue, width: int):
        super().__init__()
        self.width, self.size, self.chosen = width, codec.vocab_size, codec.chosen
        self.tower = Tower(codec.knowledge, width) if codec.knowledge else None
        self.id_dropout = codec.knowledge.id_dropout if codec.knowledge else 0.0
        self.embedding = nn.Embedding(self.chosen, width) if self.id_dropout < 1 else None

    def reset_parameters(self) -> None:
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=self.width**-0.5)

    def forward(self, items: Tensor) -> Tensor:  # (...) numbers of the catalogue -> (..., D)
        if self.tower is None:
            assert self.embedding is not None
            return self.embedding(items)
        some, place = items.unique(return_inverse=True)
        return self.known(some)[place]

    def table(self, start: int = 0, stop: int | None = None) -> Tensor:  # (V, D), or a part of them
        """Of all items, or of those from `start` up to before `stop`."""
        if self.tower is None:
            assert self.embedding is not None
            return self.embedding.weight[start:stop]
        return self.known(torch.arange(self.size, device=next(self.parameters()).device)[start:stop])

    def known(self, items: Tensor) -> Tensor:  # (n,) -> (n, D)
        """By their content, and by themselves, if they were chosen in training, where some are left out at random."""
        assert self.tower is not None
        said = self.tower(items) * self.width**-0.5
        if self.embedding is None:
            return said
        own = items < self.chosen
        if self.training and self.id_dropout:
            own &= torch.rand(len(items), device=items.device) >= self.id_dropout
        return said + self.embedding(items.clamp(max=self.chosen - 1)).masked_fill(~own[:, None], 0.0)
