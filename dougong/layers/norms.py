"""Norms: RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) and LayerNorm (Ba et al. 2016, arXiv:1607.06450)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["rms", "layer"]


def make_norm(kind: Norm, width: int, *, eps: float = 1e-6, bias: bool = True) -> nn.Module:
    """A norm over the last dimension, learned scale included; `bias` is LayerNorm's shift (RMSNorm has none)."""
    return RMSNorm(width, eps) if kind == "rms" else nn.LayerNorm(width, eps=eps, bias=bias)


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose scale follows the input's type: of two types torch takes a slow path, and warns."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
