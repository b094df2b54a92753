from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from dougong.backbones.mlp import PRESETS
from dougong.layers.features import Features

Build = Callable[..., Any]  # see conftest.py
Make = Callable[..., Features]

TINY = PRESETS["tiny"]


def test_fixed_positions_are_told_apart_and_others_are_not(build: Build, features: Make) -> None:
    x = features(16, [6])
    turned = replace(x, values=x.values.flip(1))
    fixed, pooled = build(TINY, 6), build(TINY)
    assert (fixed(x).values - fixed(turned).values).abs().max() > 1e-2
    torch.testing.assert_close(pooled(x).values, pooled(turned).values)


def test_one_vector_a_row_of_the_hidden_width(build: Build, features: Make) -> None:
    y = build(replace(TINY, hidden=24))(features(16, [4, 2]))
    assert y.values.shape == (2, 1, 24)
    assert y.mask.all()
    assert y.grid is None


def test_a_missing_column_counts_as_zero(build: Build, features: Make) -> None:
    model, x = build(TINY, 3), features(16, [3])
    hidden = replace(x, mask=torch.tensor([[True, False, True]]))
    zeroed = replace(x, values=x.values * torch.tensor([1.0, 0.0, 1.0])[None, :, None])
    torch.testing.assert_close(model(hidden).values, model(zeroed).values)
