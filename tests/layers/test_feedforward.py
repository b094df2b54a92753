from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from dougong.layers.feedforward import ACTIVATIONS, FeedForward, Linear, hidden_width, relu2

GATES = {"swiglu": F.silu, "geglu": partial(F.gelu, approximate="tanh")}


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_feed_forward_is_the_formula(activation: str) -> None:
    torch.manual_seed(0)
    layer = FeedForward(6, 10, activation, bias=True)  # type: ignore[arg-type]
    x = torch.randn(4, 6)
    h = layer.up(x)
    h = ACTIVATIONS[activation](h) if layer.gate is None else GATES[activation](layer.gate(x)) * h
    torch.testing.assert_close(layer(x), layer.down(h))
    assert (layer.gate is not None) == (activation in GATES)


def test_squared_relu() -> None:
    assert relu2(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 9.0]


def test_gated_and_plain_layers_have_about_as_many_parameters() -> None:
    for width in (96, 384, 768):
        plain, gated = (
            sum(p.numel() for p in FeedForward(width, hidden_width(width, kind), kind, bias=False).parameters())
            for kind in ("relu2", "geglu")
        )
        assert abs(gated / plain - 1) < 0.03


def test_linear_begins_with_the_asked_variance() -> None:
    torch.manual_seed(0)
    layer = Linear(400, 300, gain=2.0)
    assert abs(float(layer.weight.detach().std()) - 2.0 / 20) < 0.005
    assert (layer.bias == 0).all()
    assert (Linear(400, 3, gain=0.0).weight == 0).all()
