from __future__ import annotations

import torch

from dougong.layers.experts import Experts


def test_one_expert_equals_a_plain_feed_forward() -> None:
    torch.manual_seed(0)
    layer = Experts(8, 16, 1, 1, "swiglu")
    x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    y, balance = layer(x, mask)
    torch.testing.assert_close(y, layer.experts[0](x))
    torch.testing.assert_close(balance, torch.tensor(1.0))


def test_each_position_gets_the_weighted_sum_of_its_best_experts() -> None:
    torch.manual_seed(0)
    layer = Experts(8, 16, 5, 2, "relu2")
    x = torch.randn(3, 4, 8)
    y, _ = layer(x, torch.ones(3, 4, dtype=torch.bool))
    for row in range(3):
        for place in range(4):
            shares = layer.router(x[row, place]).softmax(-1)
            best = shares.argsort(descending=True)[:2].tolist()
            expected = sum(shares[n] * layer.experts[n](x[row, place]) for n in best) / shares[best].sum()
            torch.testing.assert_close(y[row, place], expected, rtol=1e-4, atol=1e-5)


def test_a_single_choice_is_weighted_so_that_the_router_learns() -> None:
    torch.manual_seed(0)
    layer = Experts(8, 16, 3, 1, "gelu")
    y, _ = layer(torch.randn(1, 6, 8), torch.ones(1, 6, dtype=torch.bool))
    y.square().sum().backward()
    assert layer.router.weight.grad is not None
    assert layer.router.weight.grad.abs().sum() > 0


def test_the_router_decides_in_float32_under_autocast_too() -> None:
    torch.manual_seed(0)
    layer, mask = Experts(8, 16, 4, 1, "gelu"), torch.ones(1, 400, dtype=torch.bool)
    x = torch.randn(1, 400, 8).bfloat16()  # what a residual stream is under autocast
    seen: list[torch.Tensor] = []
    layer.router.register_forward_hook(lambda module, given, result: seen.append(result))
    with torch.autocast("cpu", torch.bfloat16):
        y, balance = layer(x, mask)
        decided = layer(x.float(), mask)[1]
    assert (y.dtype, balance.dtype) == (torch.bfloat16, torch.float32)
    assert [result.dtype for result in seen] == [torch.float32] * 2
    torch.testing.assert_close(seen[0], x.float().flatten(0, 1) @ layer.router.weight.T)
    assert torch.equal(balance, decided)
    y.float().square().sum().backward()
    assert layer.router.weight.grad is not None
    assert layer.router.weight.grad.abs().sum() > 0


def test_padding_is_sent_nowhere_and_not_counted() -> None:
    torch.manual_seed(0)
    layer = Experts(8, 16, 4, 2, "gelu")
    x, mask = torch.randn(2, 6, 8), torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    y, balance = layer(x, mask)
    assert (y[1, 2:] == 0).all()
    other, same = layer(torch.where(mask[..., None], x, 9.0), mask)
    torch.testing.assert_close(other, y)
    torch.testing.assert_close(same, balance)


def test_balance_is_one_when_even_and_the_number_of_experts_when_one_takes_all() -> None:
    layer = Experts(8, 16, 4, 1, "gelu")
    real = torch.ones(8, dtype=torch.bool)
    chosen = torch.arange(8)[:, None] % 4
    even = torch.full((8, 4), 0.25)
    torch.testing.assert_close(layer.balance(even, chosen, real), torch.tensor(1.0))
    one = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(8, 4)
    torch.testing.assert_close(layer.balance(one, torch.zeros(8, 1, dtype=torch.long), real), torch.tensor(4.0))
