"""Content: what a table says of the items of a catalogue, each by fields of its own: so an item that nobody chose has a vector.

The numbers that its codecs make of it travel with the codec of the items, and so with every run. No type by itself.
"""

# V items of the catalogue, D width

from __future__ import annotations

import base64
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field as Bounds
from torch import Tensor, nn

from dougong.core.config import config, dump, read
from dougong.core.errors import DataError, FieldError, Note, Problem
from dougong.data import class_names, cleaning, sources, vocabulary
from dougong.data.columns import Column, Columns, Ragged, concatenated
from dougong.data.rows import named
from dougong.fields import Field, load
from dougong.layers.feedforward import FeedForward, Linear
from dougong.layers.norms import make_norm

MOST_BYTES = 256 << 20  # of what is said, encoded: it is held in memory, and travels with the run
CHUNK = 1_000  # items that are encoded at once
PIECE = 1 << 14  # items whose vectors are made at once where nothing is learnt
PATCH = 4  # the side of the square of a picture that becomes one feature
Said = tuple[str, dict[str, Any]]  # an item, and the parsed values of each field


@config
class Content:
    """A table of the items. `inputs` are its columns and their types, as the inputs of a recipe."""

    file: str
    inputs: dict[str, Any]
    item: str = "item"  # the column that names the item
    # How often, in training, an item is told by its content alone; 1: always, and no item has a vector of its own
    # (Volkovs, Yu and Poutanen 2017, DropoutNet).
    id_dropout: Annotated[float, Bounds(ge=0, le=1)] = 0.5


def check(key: str, content: Content) -> Iterator[Problem]:
    """What is wrong with the fields of a content."""
    if not content.inputs:
        yield Problem(f"{key}.inputs", content.inputs, "at least one column", "write inputs: {title: text}")
    for name, value in content.inputs.items():
        yield from configured(f"{key}.inputs.{name}", name, value)[1]


def configured(key: str, name: str, value: Any) -> tuple[Any, list[Problem]]:
    """The Config of one of its fields, and what is wrong with it."""
    plain = {"type": value} if isinstance(value, str) else value
    if not isinstance(plain, Mapping) or not isinstance(plain.get("type"), str):
        return None, [Problem(key, value, "a type, or a mapping with one", f"write {name}: text")]
    try:
        module = load(plain["type"], "Encoder")
    except FieldError as error:
        return None, [Problem(f"{key}.type", error.value, error.expected, error.fix)]
    if not hasattr(module, "Encoder") or hasattr(module.Codec, "vocabulary_of_items"):
        expected = "a type that goes in, and says something of an item"
        return None, [Problem(f"{key}.type", plain["type"], expected, f"write {name}: text")]
    plain = {**plain, "column": plain.get("column") or name}
    short = {each: {"kind": plain[each]} for each in ("tokenizer",) if isinstance(plain.get(each), str)}
    return read(module.Config, {**plain, **short}, key)


class Knowledge:
    """What is known of each item of a catalogue: fitted fields, and their columns of V rows."""

    def __init__(self, fields: Sequence[Field], columns: Columns, id_dropout: float):
        self.fields, self.columns, self.id_dropout = list(fields), columns, id_dropout

    @classmethod
    def fit(cls, content: Content, chosen: Sequence[str]) -> tuple[Knowledge, list[str]]:
        """Fitted on the items that were `chosen`, most frequent first; and all items: behind these those that it alone tells of."""
        configs = {name: configured(name, name, value)[0] for name, value in sorted(content.inputs.items())}
        table = Table(content, configs)
        known, every = set(chosen), dict.fromkeys(chosen)
        every |= dict.fromkeys(islice((name for name, _ in table.rows()), vocabulary.MOST))
        table.tell(len(every) - len(known))
        fields = []
        for name, own in configs.items():
            codec = load(own.type).Codec
            values = (said[name] for item, said in table.rows() if item in known)
            fields.append(Field(name, own, codec.fit(own, islice(values, getattr(codec, "SAMPLE", None)))))
        return cls(fields, table.encoded(fields, list(every)), content.id_dropout), list(every)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """ "<field>.<array>" -> (V, …), ragged ones padded, with "<field>.<array>.length", as a loader gives them."""
        result: dict[str, np.ndarray] = {}
        for name, column in self.columns.items():
            if isinstance(column, np.ndarray):
                result[name] = column
                continue
            lengths = column.lengths
            kind = column.values.dtype if column.values.dtype.kind == "f" else np.int32  # half of a loader's int64
            padded = np.zeros((len(lengths), max(1, lengths.max(initial=1)), *column.values.shape[1:]), kind)
            padded[np.arange(padded.shape[1]) < lengths[:, None]] = column.values
            result |= {name: padded, f"{name}.length": lengths.astype(np.int32)}
        return result

    def to_json(self) -> dict[str, Any]:
        return {
            "fields": {each.name: {"config": dump(each.config), "codec": each.codec.to_json()} for each in self.fields},
            "columns": {name: _packed(column) for name, column in self.columns.items()},
            "id_dropout": self.id_dropout,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Knowledge:
        fields = []
        for name, each in saved["fields"].items():
            module = load(each["config"]["type"])
            own, problems = read(module.Config, each["config"])
            assert not problems
            fields.append(Field(name, own, module.Codec.from_json(own, each["codec"])))
        columns = {name: _unpacked(column) for name, column in saved["columns"].items()}
        return cls(fields, columns, saved["id_dropout"])


class Table:
    """The rows of a content, read as often as it takes; what cannot be read is told of once."""

    def __init__(self, content: Content, configs: Mapping[str, Any]):
        self.content, self.configs = content, configs
        self.bad: list[str] = []
        self.read = 0

    def rows(self) -> Iterator[Said]:
        """Each item once, with the parsed values of its fields."""
        self.bad, self.read = [], 0
        kinds = {name: config.type for name, config in self.configs.items()}
        file, seen = Path(self.content.file), set[str]()
        for row in sources.read_rows(file):
            self.read += 1
            try:
                if isinstance(row, sources.BadRow):
                    raise ValueError(row.reason)
                item = class_names.read_name(row.values.get(self.content.item))
                if item is None or item in seen:
                    raise ValueError(f"no {self.content.item!r}" if item is None else f"{item!r} stands there twice")
                raw = {name: row.values.get(config.column) for name, config in self.configs.items()}
                said = self.parsed(file, raw, kinds)
            except ValueError as error:
                self.bad.append(f"row {row.number}: {error}")
                continue
            seen.add(item)
            yield item, said

    def parsed(self, file: Path, raw: dict[str, object], kinds: dict[str, str]) -> dict[str, Any]:
        cleaned = cleaning.clean(raw, kinds, cleaning.Config(missing="keep", empty="keep"))
        if cleaned.values is None:
            raise ValueError(cleaned.bad or cleaned.dropped)
        said: dict[str, Any] = {}
        for name, own in self.configs.items():
            codec, value = load(own.type).Codec, cleaned.values[name]
            said[name] = codec.parse(named(file, value) if codec.PATHS else value, own)
        return said

    def tell(self, new: int) -> None:
        """Whether it says anything; and a Note of how many rows could not be read, and how many items are new."""
        name = self.content.file
        if len(self.bad) == self.read:
            raise DataError(
                f"{name}: none of its {self.read:,} rows can be read. The first: {self.bad[0]}. Fix: correct it."
            )
        if self.bad:
            left = f"{len(self.bad):,} of {self.read:,} rows cannot be read, and say nothing of their items"
            warnings.warn(f"{name}: {left}; the first: {self.bad[0]}", Note, stacklevel=2)
        if new:
            warnings.warn(f"{name}: {new:,} items that no training row holds are known by it alone", Note, stacklevel=2)

    def encoded(self, fields: Sequence[Field], items: Sequence[str]) -> Columns:
        """What the fields make of each item, in the order of `items`; of those without a row what they make of nothing."""
        order: list[str] = []
        pieces: list[Columns] = []
        size, rows = 0, self.rows()
        wanted = set(items)
        while chunk := list(islice(rows, CHUNK)):
            kept = [(item, said) for item, said in chunk if item in wanted]
            pieces.append(_encode(fields, [said for _, said in kept]))
            order += [item for item, _ in kept]
            size += sum(_bytes(column) for column in pieces[-1].values())
            if size > MOST_BYTES:
                most = f"more than the {MOST_BYTES >> 20} MB that are held in memory"
                fix = "leave a column out, or make it smaller (max_length of a text, size of an image)"
                raise DataError(f"{self.content.file}: what is said of {len(order):,} items takes {most}. Fix: {fix}.")
        pieces.append(_encode(fields, [{field.name: None for field in fields}]))
        place = {item: number for number, item in enumerate(order)}
        rows_of = np.array([place.get(item, len(order)) for item in items], dtype=np.int64)
        whole = {name: concatenated([piece[name] for piece in pieces]) for name in pieces[0]}
        return {name: each.take(rows_of) if isinstance(each, Ragged) else each[rows_of] for name, each in whole.items()}


def _encode(fields: Sequence[Field], said: Sequence[Mapping[str, Any]]) -> Columns:
    columns: Columns = {}
    for field in fields:
        encoded, _ = field.codec.encode([each[field.name] for each in said])
        limits = field.codec.limits()
        for key, column in encoded.items():
            if limits.get(key) != 0:  # 0: batches do without it
                columns[f"{field.name}.{key}"] = _within(column, limits.get(key))
    return columns


def _within(column: Column, limit: int | None) -> Column:
    """Of ragged rows as much as a batch takes."""
    if not isinstance(column, Ragged) or limit is None:
        return column
    return Ragged.of([column.row(row)[:limit] for row in range(len(column))], column.values.dtype)


def _bytes(column: Column) -> int:
    return column.values.nbytes if isinstance(column, Ragged) else column.nbytes


def _packed(column: Column) -> dict[str, Any]:
    if isinstance(column, Ragged):
        return {"values": _packed(column.values), "offsets": _packed(column.offsets)}
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(column).tobytes(), 1)).decode()
    return {"dtype": column.dtype.str, "shape": list(column.shape), "data": data}


def _unpacked(saved: dict[str, Any]) -> Column:
    if "values" in saved:
        return Ragged(np.asarray(_unpacked(saved["values"])), np.asarray(_unpacked(saved["offsets"])))
    size = int(np.prod(saved["shape"], dtype=np.int64)) * np.dtype(saved["dtype"]).itemsize
    data = zlib.decompressobj().decompress(base64.b64decode(saved["data"]), size + 1)  # no more than it says it is
    return np.frombuffer(data[:size], np.dtype(saved["dtype"])).reshape(saved["shape"]).copy()


class Tower(nn.Module):
    """Items -> vectors of what is known of them: each field by its own encoder, summed up, and a feed-forward layer."""

    def __init__(self, knowledge: Knowledge, width: int):
        super().__init__()
        self.fields, self.arrays = knowledge.fields, knowledge.arrays
        for field in self.fields:
            self.add_module(f"in_{field.name}", field.type.Encoder(field.config, field.codec, width, PATCH))
            self.add_module(f"from_{field.name}", Linear(width, width, bias=False))
        self.norm = make_norm("rms", width)
        self.feedforward = FeedForward(width, 2 * width, "gelu", gain=0.0)
        for place, array in enumerate(self.arrays.values()):
            empty = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name))
            self.register_buffer(f"said_{place}", empty, persistent=False)

    def reset_parameters(self) -> None:
        for place, array in enumerate(self.arrays.values()):
            self.get_buffer(f"said_{place}").copy_(torch.from_numpy(array))

    def forward(self, items: Tensor) -> Tensor:  # (n,) -> (n, D)
        if self.training or len(items) <= PIECE:
            return self.of(items)
        return torch.cat([self.of(piece) for piece in items.split(PIECE)])

    def of(self, items: Tensor) -> Tensor:
        said = {name: self.get_buffer(f"said_{place}")[items] for place, name in enumerate(self.arrays)}
        said = {name: each.long() if each.dtype == torch.int32 else each for name, each in said.items()}
        longest = {name: int(each.max()) for name, each in said.items() if name.endswith(".length") and len(each)}
        for name, most in longest.items():  # of these items no more than the longest needs
            said[name.removesuffix(".length")] = said[name.removesuffix(".length")][:, : max(most, 1)]
        parts = []
        for field in self.fields:
            features = self.get_submodule(f"in_{field.name}")(said, field.name)
            parts.append(self.get_submodule(f"from_{field.name}")(features.mean()))
        values = self.norm(torch.stack(parts).sum(0))
        return values + self.feedforward(values)
