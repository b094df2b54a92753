"""Gradients added where they lie are those that the engine would have added up, without its whole tables."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dougong.layers import losses
from dougong.layers.gradients import added_in_place
from dougong.layers.lookup import lookup
from dougong.layers.losses import linear_cross_entropy_sum

ROWS, WIDTH = 40, 6


def table(dtype: torch.dtype | None = None) -> nn.Parameter:
    made = nn.Parameter(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)))
    made.grad_dtype = dtype or torch.float32
    return made


def go_back(weight: nn.Parameter, *, in_place: bool, pieces: int = 3, chunk: int | None = None) -> None:
    """A step of some pieces, which look up the table, and are multiplied by it."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(pieces):
        tokens, targets = torch.randint(ROWS // 2, (2, 30), generator=generator)
        loss = linear_cross_entropy_sum(lookup(weight, tokens), weight, None, targets, chunk=chunk)
        with added_in_place() if in_place else nullcontext():
            (loss / 90).backward()


class Whole(TorchDispatchMode):
    """Counts the tensors as large as the table that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if isinstance(result, Tensor) and result.shape == (ROWS, WIDTH) and not name.endswith("_") and name != "detach":
            self.count += 1
        return result


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_the_engines(dtype: torch.dtype, chunk: int | None) -> None:
    plain, ours = table(), table(dtype)
    go_back(plain, in_place=False, chunk=chunk)
    go_back(ours, in_place=True, chunk=chunk)
    assert plain.grad is not None
    assert ours.grad is not None
    assert ours.grad.dtype == dtype
    rounded = {"rtol": 2**-6, "atol": 1e-3} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(ours.grad.float(), plain.grad, **rounded)


def test_no_table_is_made_but_the_one_that_is_added_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.BLOCK_TOKENS, True, 16)
    ours, plain = table(), table()
    with Whole() as seen:
        go_back(ours, in_place=True)
    assert seen.count == 1
    with Whole() as seen:
        go_back(plain, in_place=False)
    assert seen.count > 3


def test_a_hook_of_the_table_gets_all_of_the_gradient() -> None:
    weight, heard = table(), []
    weight.register_post_accumulate_grad_hook(lambda parameter: heard.append(parameter.grad.clone()))  # type: ignore[union-attr]
    go_back(weight, in_place=True, pieces=1)
    plain = table()
    go_back(plain, in_place=False, pieces=1)
    torch.testing.assert_close(heard[-1], plain.grad)


def test_what_asks_for_gradients_elsewhere_gets_them_as_ever() -> None:
    weight = table()
    loss = lookup(weight, torch.tensor([1, 1, 3])).sum()
    (found,) = torch.autograd.grad(loss, [weight])
    assert found.sum(1).tolist() == [0, 12, 0, 6, *[0] * (ROWS - 4)]
    assert weight.grad is None


def test_a_table_that_does_not_learn_gets_none() -> None:
    weight = table().requires_grad_(False)
    hidden = torch.randn(5, WIDTH, requires_grad=True)
    loss = linear_cross_entropy_sum(hidden + lookup(weight, torch.arange(5)), weight, None, torch.arange(5))
    with added_in_place():
        loss.backward()
    assert weight.grad is None
    assert hidden.grad is not None
