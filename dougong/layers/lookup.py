"""Rows of a table, with a gradient that is no wider than it adds up in."""

# V rows, D width

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dougong.layers.gradients import gradient_of, is_added_in_place


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """(V, D), (...) int64 -> (..., D).

    torch's gradient is a whole table in float32, the largest block of a step with a large vocabulary. Ours is no wider than it is
    to add up in (`train.gradients`); where it may be added in place, only the rows that were looked up.
    """
    learns = table.is_leaf and table.requires_grad and torch.is_grad_enabled()
    if learns and (table.device.type == "cpu" or table.grad_dtype == torch.bfloat16):
        found: Tensor = _Lookup.apply(table, index)
        return found
    return F.embedding(index, table)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.table = table
        return F.embedding(index, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None]:
        (index,) = ctx.saved_tensors
        which, place = index.flatten().unique(return_inverse=True)
        slopes = grad_output.flatten(0, -2)
        slopes = slopes.to(torch.promote_types(slopes.dtype, torch.float32))
        # Summed before they are rounded: once, however often a row was looked up.
        sums = slopes.new_zeros(len(which), slopes.shape[1]).index_add_(0, place, slopes)
        if is_added_in_place(ctx.table):
            grad = gradient_of(ctx.table)
            grad.index_add_(0, which, sums.to(grad.dtype))
            return None, None
        grad = torch.zeros_like(ctx.table, dtype=ctx.table.grad_dtype)
        grad[which] = sums.to(grad.dtype)
        return grad, None
