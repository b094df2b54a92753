"""Gradients of large tables, added where they lie.

torch's engine takes every part of a gradient as a tensor of its own. A table that is looked up and also multiplied by has two in
each pass, both as large as itself, which are written, added, and added again to what earlier pieces of the step have left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_allowed: ContextVar[bool] = ContextVar("gradients may be added in place", default=False)


@contextmanager
def added_in_place() -> Iterator[None]:
    """Around a `backward()` that leaves the gradients of all weights on them: those of tables may be added to where they lie.

    Not around `torch.autograd.grad`, which hands gradients out.
    """
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def is_added_in_place(table: Tensor) -> bool:
    """Asked on the way back, in the thread that called it. Not where a hook waits for the gradient, nor on a GPU.

    There a table is written anew in no time to speak of, and the way back runs in another thread.
    """
    plain = type(table) in (Tensor, nn.Parameter) and table.device.type == "cpu" and table.is_leaf
    return _allowed.get() and plain and not (table._backward_hooks or table._post_accumulate_grad_hooks)


def gradient_of(table: Tensor) -> Tensor:
    """What is there to add to, zeros where there was nothing."""
    if table.grad is None:
        table.grad = torch.zeros_like(table, dtype=table.grad_dtype or table.dtype)
    return table.grad
