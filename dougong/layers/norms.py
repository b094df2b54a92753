"""Norms: RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) and LayerNorm (Ba et al. 2016, arXiv:1607.06450)."""

# N positions of all rows, D width

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Norm = Literal["rms", "layer"]


def make_norm(kind: Norm, width: int, *, eps: float = 1e-6, bias: bool = True) -> nn.Module:
    """A norm over the last dimension, learned scale included; `bias` is LayerNorm's shift (RMSNorm has none)."""
    return RMSNorm(width, eps) if kind == "rms" else LayerNorm(width, eps=eps, bias=bias)


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the input's type. On the CPU it computes in its scale's: torch 2.13's kernel sums the gradients of
    scale and shift in the input's type, and of 16,384 positions in bf16 they come out wrong by 15 %.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or input.dtype == self.weight.dtype:
            return super().forward(input)
        return super().forward(input.to(self.weight.dtype)).to(input.dtype)


class RMSNorm(nn.RMSNorm):
    """RMSNorm in the input's type, whatever the type of its scale. Without `eps` it is that of the type."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled():
            return Normed.apply(x, self.weight, torch.finfo(x.dtype).eps if self.eps is None else self.eps)
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)  # of two types it is slow


class Normed(torch.autograd.Function):
    """RMSNorm for training on the CPU, where torch 2.13 strings together a dozen operations, forward and back.

    Forward and backward at (2048, 256), one thread, best of 40: bf16 5.0 ms for torch's 21.3, fp32 4.4 for 15.7. Slower
    forms: everything from h = x · r (9 to 15 ms), mixed types without a copy (13); the kernel of LayerNorm's backward,
    made to fit, gains nothing and sums the scale's gradient in bf16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # (..., D), (D,) -> (..., D)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        r = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)  # (..., 1)
        r = r.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        h = exact * r if exact is x else exact.mul_(r)
        return h.mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """With h = x · r and g the gradient: of x, r · (g · w - h · mean(g · w · h)); of w, the sum of g · h."""
        x, weight, r = ctx.saved_tensors
        exact, g, w = x.to(r.dtype), gradient.to(r.dtype), weight.to(r.dtype)
        with torch.autocast("cpu", enabled=False):  # it would take the products to bf16
            rows = (exact * g).reshape(-1, len(w))  # (N, D)
            of_weight = rows.T @ r.reshape(-1)
            share = (rows @ w).view_as(r) * r.square() / len(w)  # (..., 1): r · mean(g · w · h)
        of_x = g * w if g is gradient else g.mul_(w)
        return of_x.addcmul_(exact, share, value=-1).mul_(r).to(x.dtype), of_weight.to(weight.dtype), None
