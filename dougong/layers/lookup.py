"""Rows of a table, with a gradient that is no wider than it adds up in."""

# V rows, D width

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """(V, D), (...) int64 -> (..., D).

    torch's gradient is a whole table in float32, the largest block of a step with a large vocabulary. Where it is to add up in
    bf16 (`train.gradients`), ours is one in bf16.
    """
    if torch.is_grad_enabled() and table.is_leaf and table.grad_dtype == torch.bfloat16:
        found: Tensor = _Lookup.apply(table, index)
        return found
    return F.embedding(index, table)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(table)
        return F.embedding(index, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        which, place = index.flatten().unique(return_inverse=True)
        grad = grad_output.flatten(0, -2).float()
        sums = grad.new_zeros(len(which), grad.shape[1]).index_add_(0, place, grad)  # frequent rows are rounded once
        table = grad.new_zeros(ctx.rows, grad.shape[1], dtype=torch.bfloat16)
        table[which] = sums.to(torch.bfloat16)
        return table, None
