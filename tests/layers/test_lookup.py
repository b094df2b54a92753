"""Rows of a table: torch's own, and the same with a gradient in bf16."""

from __future__ import annotations

import torch
from torch import nn

from dougong.layers.lookup import lookup


def test_a_gradient_in_bf16_is_torchs_rounded_once() -> None:
    torch.manual_seed(0)
    index = torch.randint(0, 5, (6, 40))  # each row many times: sums in bf16 would be far off
    wide, narrow = nn.Parameter(torch.randn(9, 3)), nn.Parameter(torch.randn(9, 3))
    narrow.data.copy_(wide.data)
    narrow.grad_dtype = torch.bfloat16
    slopes = torch.randn(6, 40, 3)
    found = [lookup(table, index) for table in (wide, narrow)]
    assert torch.equal(*found)
    for each in found:
        (each * slopes).sum().backward()
    assert wide.grad is not None
    assert narrow.grad is not None
    assert narrow.grad.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.grad, wide.grad.bfloat16(), rtol=2**-7, atol=1e-5)
    assert not narrow.grad[5:].any()


def test_without_gradients_it_is_torchs() -> None:
    table = nn.Parameter(torch.randn(4, 2))
    table.grad_dtype = torch.bfloat16
    with torch.inference_mode():
        assert torch.equal(lookup(table, torch.tensor([3, 0])), table[[3, 0]])
