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

    torch's gradient is a whole table in float32, the largest block of a step with a large vocabulary. Where it is to add up in
    bf16 (`train.gradients`), ours is one in bf16; where it may be added in place, only the rows that were looked up.
    """
    in_place = is_added_in_place(table)
    narrow = table.is_leaf and table.grad_dtype == torch.bfloat16
    if torch.is_grad_enabled() and table.requires_grad and (in_place or narrow):
        found: Tensor = _Lookup.apply(table, index, in_place)
        return found
    return F.embedding(index, table)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, in_place: bool) -> Tensor:
        ctx.save_for_backward(index)
        ctx.table, ctx.in_place = table, in_place
        return F.embedding(index, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None]:
        (index,) = ctx.saved_tensors
        which, place = index.flatten().unique(return_inverse=True)
        slopes = grad_output.flatten(0, -2)
        slopes = slopes.to(torch.promote_types(slopes.dtype, torch.float32))
        sums = slopes.new_zeros(len(which), slopes.shape[1]).index_add_(
            0, place, slopes
        )  # frequent rows are rounded once
        if ctx.in_place:
            grad = gradient_of(ctx.table)
            grad.index_add_(0, which, sums.to(grad.dtype))
            return None, None, None
        grad = torch.zeros_like(ctx.table, dtype=ctx.table.grad_dtype)
        grad[which] = sums.to(grad.dtype)
        return grad, None, None
