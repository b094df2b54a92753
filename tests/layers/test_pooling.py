"""Pooling reads real positions only, wherever the padding stands."""

from __future__ import annotations

import typing

import pytest
import torch
from torch import Tensor, nn

from dougong.layers.features import Features, stacked
from dougong.layers.pooling import Pool, PoolKind, Readout

KINDS = typing.get_args(PoolKind)
MASKS = [[1, 1, 0, 0, 1], [0, 1, 1, 1, 1], [0, 0, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
FIRST, LAST = [0, 1, 2, 0, 0], [4, 4, 2, 2, 4]


def features(hidden: float = 99.0) -> Features:
    """One row for each mask; what is not real would be noticed."""
    torch.manual_seed(0)
    mask = torch.tensor(MASKS, dtype=torch.bool)
    return Features(torch.randn(5, 5, 3).masked_fill(~mask[..., None], hidden), mask)


def pool(kind: PoolKind) -> Pool:
    made = Pool(kind, 3)
    if made.query is not None:
        nn.init.normal_(made.query.weight)
    return made


def expected(kind: PoolKind, made: Pool, row: Tensor) -> Tensor:
    """What the kind says of the real positions alone: (T, D) -> (D,)."""
    if kind == "attention":
        assert made.query is not None
        return made.query(row).softmax(0).T[0] @ row
    rules = {"mean": row.mean(0), "max": row.amax(0), "first": row[0], "last": row[-1]}
    return rules[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_equals_the_rule_over_the_real_positions_alone(kind: PoolKind) -> None:
    made, x = pool(kind), features()
    rows = [expected(kind, made, values[mask]) for values, mask in zip(x.values, x.mask, strict=True)]
    torch.testing.assert_close(made(x), torch.stack(rows))
    assert torch.equal(made(x), made(features(hidden=-7.0)))


@pytest.mark.parametrize(("kind", "places"), [("first", FIRST), ("last", LAST)])
def test_the_first_and_the_last_are_those_that_are_real(kind: PoolKind, places: list[int]) -> None:
    x = features()
    assert torch.equal(pool(kind)(x), x.values[range(5), places])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_with_nothing_real_gives_zeros(kind: PoolKind, dtype: torch.dtype) -> None:
    x = features()
    values = x.values.to(dtype).requires_grad_()
    y = pool(kind).to(dtype)(Features(values, x.mask & torch.tensor([[True], [False], [True], [True], [True]])))
    y.square().sum().backward()
    assert y[1].tolist() == [0.0] * 3
    assert y[0].abs().min() > 0
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert values.grad[1].abs().max() == 0


def test_attention_begins_as_the_mean_and_a_readout_as_nothing() -> None:
    x = features()
    begun = Pool("attention", 3)
    begun.reset_parameters()
    torch.testing.assert_close(begun(x), x.mean())
    readout = Readout("last", 3, 4, 0.0)
    readout.reset_parameters()
    assert torch.equal(readout(x), torch.zeros(5, 4))


@pytest.mark.parametrize("kind", ["mean", "max", "first", "last"])
def test_features_below_each_other_are_pooled_as_each_by_itself(kind: PoolKind) -> None:
    parts = [
        Features(torch.randn(2, steps, 3), torch.rand(2, steps) < 0.6, None, torch.tensor(float(steps)))
        for steps in (5, 8)
    ]
    together = stacked(parts)
    assert together.values.shape == (4, 8, 3)
    assert together.auxiliary == 13
    pool = Pool(kind, 3)
    torch.testing.assert_close(pool(together), torch.cat([pool(part) for part in parts]))
