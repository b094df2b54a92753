from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from dougong.backbones.recurrent import PRESETS, Config
from dougong.core.errors import FieldError
from dougong.layers.features import Features

Build = Callable[..., Any]  # see conftest.py
Make = Callable[..., Features]

TINY = PRESETS["tiny"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_every_cell_reads_both_ways_past_padding(cell: Any, build: Build, features: Make) -> None:
    model = build(replace(TINY, cell=cell, layers=2))
    x = features(16, [6, 3])
    y = model(x).values
    alone = model(Features(x.values[1:, :3], x.mask[1:, :3])).values
    torch.testing.assert_close(y[1:, :3], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_every_cell_goes_on_from_its_state(cell: Any, build: Build, features: Make) -> None:
    model = build(Config(width=8, hidden=12, cell=cell, layers=2))
    x = features(8, [5, 5])
    cache = model.new_cache(2, 5, CPU, torch.float32)
    parts = [
        model(Features(v, m), causal=True, cache=cache).values
        for v, m in zip(x.values.split([3, 1, 1], 1), x.mask.split([3, 1, 1], 1), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), model(x, causal=True).values, rtol=1e-5, atol=1e-5)
    assert parts[0].shape[2] == model.out_width == 12


def test_a_row_with_nothing_new_keeps_its_state(build: Build, features: Make) -> None:
    model, x = build(TINY), features(16, [2, 2])
    cache = model.new_cache(2, 4, CPU, torch.float32)
    model(x, causal=True, cache=cache)
    before = [state.clone() for state in cache.states[0]]
    model(replace(x, mask=x.mask & torch.tensor([[True], [False]])), causal=True, cache=cache)
    for old, new in zip(before, cache.states[0], strict=True):
        torch.testing.assert_close(old[:, 1], new[:, 1])
        assert (old[:, 0] - new[:, 0]).abs().max() > 1e-4


def test_the_second_direction_is_built_only_where_it_may_be_used(build: Build) -> None:
    assert build(TINY).layers[0].back is not None
    assert build(TINY, causal=True).layers[0].back is None
    assert build(replace(TINY, bidirectional=False)).layers[0].back is None
    assert build(TINY).out_width == build(TINY, causal=True).out_width == 16


def test_bidirectional_and_causal_contradict_each_other(build: Build, features: Make) -> None:
    model = build(replace(TINY, bidirectional=True))
    with pytest.raises(
        FieldError, match=r"model\.bidirectional = True: expected auto or false where .*use bidirectional: auto"
    ):
        model(features(16, [3]), causal=True)


def test_an_lstm_begins_by_forgetting_little(build: Build) -> None:
    cell = build(TINY, stirred=False).layers[0].ahead
    torch.testing.assert_close(cell.bias_hh_l0[16:32], torch.ones(16))
    assert cell.bias_hh_l0[:16].abs().max() < 0.5


def test_residual_and_norm_can_be_left_out(build: Build, features: Make) -> None:
    y = build(replace(TINY, residual=False, norm="none", cell="rnn"), causal=True)(features(16, [4]), causal=True)
    assert y.values.abs().max() <= 1  # the bare state of a tanh network
