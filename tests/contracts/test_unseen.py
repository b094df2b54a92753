"""D6: whatever a row holds that no training row held, what is encoded stays within the model's tables, for every type."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong import fields
from dougong.data.columns import Columns, Ragged
from dougong.data.loader import collate
from dougong.fields import Field
from dougong.layers.features import Features
from dougong.layers.losses import Loss
from dougong.model import initialize
from tests.contracts.values import field_of, values_of, with_side

WIDTH = 16
PLAIN = st.one_of(st.text(max_size=40), st.integers(), st.floats(), st.booleans(), st.none())
RAW = st.one_of(
    PLAIN, st.binary(max_size=20), st.lists(PLAIN, max_size=5), st.sampled_from(["", " ", "\u2603", "-1", "🏯"])
)


@cache
def fitted(kind: str) -> Field:
    return field_of(kind, "x")


@cache
def built(kind: str, name: str) -> Any:
    """The encoder or head, with weights; made once for all examples."""
    field = fitted(kind)
    last = 4 if name == "Encoder" else Loss()
    module = getattr(field.type, name)(field.config, field.codec, WIDTH, last)
    initialize(module, 0)
    return module.eval()


def encoded(kind: str, values: list[Any], missing: bool = True) -> Columns:
    """What `parse` does not refuse (the rest is in quarantine), and a value that nobody has seen, encoded."""
    field = fitted(kind)
    kept = [field.codec.parse(values_of(kind).unseen, field.config)]
    for value in values:
        try:
            kept.append(field.codec.parse(value, field.config))
        except ValueError:
            continue
    columns: Columns = field.codec.encode([value for value in kept if missing or value is not None])[0]
    return columns


def batch_of(kind: str, columns: Columns) -> dict[str, torch.Tensor]:
    limits = {f"x.{key}": limit for key, limit in fitted(kind).codec.limits().items()}
    rows = len(next(iter(columns.values())))
    batch = collate({f"x.{key}": column for key, column in columns.items()}, np.arange(rows), limits)
    field = fitted(kind)
    start = torch.zeros(rows, dtype=torch.int64)  # as for a window: what is drawn follows from it
    return field.type.measured(field, {**batch, "x.start": start}) if fields.masked(field.config) else batch


@pytest.mark.parametrize("kind", with_side("Encoder"))
@given(values=st.lists(RAW, max_size=6))
@settings(max_examples=60)
def test_D6_unseen_values_at_the_input_stay_within_the_tables(kind: str, values: list[Any]) -> None:
    with torch.no_grad():
        features = built(kind, "Encoder")(
            batch_of(kind, encoded(kind, values)), "x"
        )  # an index beyond a table is an IndexError on the CPU
    assert features.values[features.mask].isfinite().all()


@pytest.mark.parametrize("kind", [kind for kind in with_side("Head") if not fields.made(fields.load(kind).Config())])
@given(values=st.lists(RAW, max_size=6))
@settings(max_examples=60)
def test_D6_unseen_values_at_the_output_cost_no_loss_that_is_not_finite(kind: str, values: list[Any]) -> None:
    head, batch = built(kind, "Head"), batch_of(kind, encoded(kind, values, missing=False))
    rows = len(batch["row"])
    steps = batch["x.tokens"].shape[1] if head.AUTOREGRESSIVE else 3
    mask = torch.ones(rows, steps, dtype=torch.bool)
    if head.AUTOREGRESSIVE:
        mask = torch.arange(steps) < batch["x.tokens.length"][:, None]
    mask = mask.repeat(2, 1) if getattr(head, "SEPARATE", False) else mask  # those of either input
    with torch.no_grad():
        assert head.loss(Features(torch.zeros(len(mask), steps, WIDTH), mask), batch, "x").isfinite()


@pytest.mark.parametrize(
    "kind", sorted({*with_side("Encoder"), *with_side("Head")} - {"pairing"})
)  # hashes, no indices
@given(values=st.lists(RAW, max_size=6))
@settings(max_examples=60)
def test_D6_encoded_indices_are_those_of_the_codec_or_the_mark_of_the_unseen(kind: str, values: list[Any]) -> None:
    """Whole numbers but measures: from -1, the mark, to below the number of classes or of the vocabulary."""
    codec = fitted(kind).codec
    known = len(codec.classes) if hasattr(codec, "classes") else getattr(codec, "vocab_size", 256)
    for name, column in encoded(kind, values).items():
        if name in ("unseen", "samples", "size"):  # how many there were; of a sound; height and width
            continue
        numbers = column.values if isinstance(column, Ragged) else np.asarray(column)
        if numbers.dtype.kind in "iu" and numbers.size:
            assert int(numbers.min()) >= -1
            assert int(numbers.max()) < known
