"""Texts of several rows, written side by side: read the inputs and the beginnings once, then one token of each at a time."""

# B rows, T time, V vocabulary, D width

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dougong.inference.constraints import Constraint
from dougong.layers.attention import Readers
from dougong.layers.features import Features
from dougong.model import Batch, Model


class Writer:
    """`logits` are those of each row's next token; `append` takes one token a row and goes on.

    With a constraint each row has its place in it.
    """

    def __init__(
        self, model: Model, rows: Batch, known: Sequence[list[int]], most: int, constraint: Constraint | None = None
    ):
        assert model.written is not None
        self.model, self.field, self.device = model, model.written, next(model.parameters()).device
        # What lies further back than the model ever looked is left out.
        self.known = [tokens[-self.field.config.max_length :] for tokens in known]
        arrived = [model.arrival(field)(rows) for field in model.inputs]
        start = max(map(len, self.known))
        if model.encoder is None:
            start += sum(features.mask.shape[1] for features in arrived)
        longest = getattr(model.backbone, "max_length", None)  # learned positions end somewhere
        # The last token that is written is never read, so it needs no position.
        self.most = most if longest is None else min(most, max(longest - start + 1, 0))
        self.constraint, self.places = constraint, [constraint.start] * len(known) if constraint else []
        # Where no text can be whole in time it is written as if there were no end: what it lacks is told afterwards.
        self.left = self.most if constraint and constraint.shortest <= self.most else math.inf
        dtype = next(model.parameters()).dtype
        self.cache = model.backbone.new_cache(len(self.known), start + self.most, self.device, dtype)
        features = model.read(arrived, self.embed(self.known), self.cache)
        head: Any = self.model.head(self.field)
        self.source = head.source(features, rows) if features.source is not None else None  # what is copied from,
        self.readers: Readers | None = None  # held once for each text, and who reads it
        last = features.mask.sum(1) - 1  # (B,)
        self.read(features.values[torch.arange(len(last), device=self.device), last])

    def read(self, values: Tensor) -> None:  # (B, D)
        head: Any = self.model.head(self.field)
        copying = () if self.source is None else (self.source, self.readers)
        self.logits: Tensor = head.logits(values, *copying).float()  # (B, V)

    def restrict(self, scores: Tensor) -> Tensor:  # (B, V)
        """The scores of tokens that may come next, minus infinity for the others."""
        return self.constraint.restrict(scores, self.places, self.left) if self.constraint else scores

    def append(self, tokens: Sequence[int]) -> None:
        """One token for each row."""
        if self.constraint:
            self.places = [self.constraint.follow(*pair) for pair in zip(self.places, tokens, strict=True)]
            self.left -= 1
        for known, token in zip(self.known, tokens, strict=True):
            known.append(token)
        self.read(self.model.go_on(self.newest(), self.cache).values[:, -1])

    def choose(self, rows: Sequence[int]) -> None:
        """Go on with these rows, which may repeat."""
        index = torch.tensor(rows, device=self.device)
        self.cache.choose(index)
        if self.source is not None:
            readers = self.readers or Readers.one_each(len(self.source.mask), self.device)
            self.readers, texts = readers.choose(index)
            self.source = self.source if texts is None else self.source[texts]
        self.logits = self.logits[index]
        self.known = [list(self.known[row]) for row in rows]
        self.places = [self.places[row] for row in rows] if self.constraint else []

    def embed(self, rows: Sequence[list[int]]) -> Features:
        """Tokens of each row, padded at the end."""
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)  # (B, T)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        encoder: Any = self.model.arrival(self.field).encoder
        return encoder.embed(ids.to(self.device), lengths)

    def newest(self) -> Features:
        """The last token of each row, embedded with those before it as far as that looks back."""
        head: Any = self.model.head(self.field)
        features = self.embed([row[-head.looks_back :] for row in self.known])
        last = features.mask.sum(1) - 1  # (B,)
        values = features.values[torch.arange(len(last), device=self.device), last][:, None]
        return replace(features, values=values, mask=features.mask[:, :1])
