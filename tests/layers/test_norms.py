from __future__ import annotations

import torch
from torch import nn

from dougong.layers.norms import make_norm


def test_rms_is_the_formula_and_has_no_bias() -> None:
    norm, x = make_norm("rms", 6, eps=1e-5), torch.randn(3, 6)
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    assert [name for name, _ in norm.named_parameters()] == ["weight"]


def test_layer_norm_has_a_bias_unless_told_otherwise() -> None:
    norm = make_norm("layer", 6, eps=1e-12, bias=False)
    assert isinstance(norm, nn.LayerNorm)
    assert norm.bias is None
    assert norm.eps == 1e-12
    assert [name for name, _ in make_norm("layer", 6).named_parameters()] == ["weight", "bias"]
