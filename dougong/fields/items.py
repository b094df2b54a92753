"""Items: a history, the items that somebody chose in the order of time. Goes in; an output of type `item` goes on with it."""

# N rows, B batch, T items of a history, V items of the catalogue, D width

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field as Bounds
from torch import Tensor, nn

from dougong.core.config import Count, config
from dougong.core.errors import DataError
from dougong.data import class_names, vocabulary
from dougong.data.columns import Columns, Ragged
from dougong.fields import FieldConfig
from dougong.layers.features import Features, length_mask

UNKNOWN = -1  # an item that the catalogue does not hold
BEGIN, UNKNOWN_MARK = 0, 1  # vectors of no item: where a history begins, and all that are unknown


@config
class CatalogueConfig(FieldConfig):
    """What `items` and `item` have: which items there are."""

    max_items: Annotated[Count, Bounds(le=vocabulary.MOST)] = 1_000_000  # the most frequent are kept
    min_count: Count = 1  # rarer items count as unknown


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
    """Items <-> numbers, the most frequent first."""

    PATHS = False
    SAMPLE: ClassVar[int | None] = None  # rows to be fitted on: all

    def __init__(self, config: Any, items: Sequence[str], counts: Sequence[int]):
        self.config, self.items, self.counts = config, list(items), np.array(counts, dtype=np.int64)
        self.vocab_size = len(self.items)  # V

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
        return cls(config, [item for item, _ in found], [count for _, count in found])

    def to_json(self) -> dict[str, Any]:
        return {"items": self.items, "counts": self.counts.tolist()}

    @classmethod
    def from_json(cls, config: Any, saved: dict[str, Any]) -> Self:
        return cls(config, saved["items"], saved["counts"])


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
    """A vector of each item. A history and the output that goes on with it have the same ones."""

    def __init__(self, codec: Catalogue, width: int):
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(codec.vocab_size, width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding.weight, std=self.width**-0.5)

    def forward(self, items: Tensor) -> Tensor:  # (...) numbers of the catalogue -> (..., D)
        return self.embedding(items)

    def table(self) -> Tensor:  # (V, D): of all
        return self.embedding.weight
