"""Dropout: the share that is asked for, the mean that was, and the same from the same seed."""

from __future__ import annotations

import pytest
import torch

from dougong.layers.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_is_zero_and_the_mean_stays(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y = dropout(torch.ones(300, 1001, dtype=dtype), share)  # not a multiple of the four that a draw serves
    assert y.dtype == dtype
    assert (y == 0).double().mean().item() == pytest.approx(share, abs=0.005)
    assert y.double().mean().item() == pytest.approx(1, abs=0.02)
    assert len(y.unique()) == 2
    kept = (y != 0).double()
    places = [kept[:, start::4].mean().item() for start in range(4)]  # each of the four parts of a draw
    assert places == pytest.approx([1 - share] * 4, abs=0.01)
    neighbours = torch.corrcoef(kept.flatten()[:200_000].view(-1, 4).T)  # (4, 4) those of one draw
    assert (neighbours - torch.eye(4)).abs().max() < 0.03


def test_the_same_seed_hides_the_same_and_the_way_back_is_the_way_there() -> None:
    x = torch.randn(7, 5, 3).transpose(0, 2).requires_grad_()  # not contiguous
    torch.manual_seed(1)
    first = dropout(x, 0.4)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.4), first)
    assert not torch.equal(dropout(x, 0.4), first)
    first.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (first != 0) / 0.6)
    torch.testing.assert_close(first, x.detach() * x.grad)


def test_nothing_is_hidden_at_share_0_or_out_of_training_and_all_at_1() -> None:
    x = torch.ones(4, 4)
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5).eval()(x) is x
    assert not Dropout(1.0)(x).any()
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)
