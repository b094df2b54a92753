"""Mixture of experts: a router sends each position to a few of many feed-forward layers.

Balance loss after Fedus et al. 2021 (Switch, arXiv:2101.03961); routing to several after Jiang et al. 2024 (Mixtral,
arXiv:2401.04088).
"""

# N positions of all rows, D width, E experts, k experts each position goes to

from __future__ import annotations

import torch
from torch import Tensor, nn

from dougong.layers.feedforward import Activation, FeedForward, Linear


class Experts(nn.Module):
    """(B, T, D) -> (B, T, D) and the balance loss, a scalar that is 1 where all experts are used alike.

    Padding is routed nowhere. Which expert gets how many positions depends on the data: on a GPU the host waits for it.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        experts_per_token: int,
        activation: Activation,
        *,
        bias: bool = False,
        gain: float = 1.0,
    ):
        super().__init__()
        self.per_token = experts_per_token
        self.router = Linear(width, experts, bias=False)
        # One module an expert, not one stacked tensor: each stays a matrix to Muon, pruning and quantization.
        each = (FeedForward(width, hidden, activation, bias=bias, gain=gain) for _ in range(experts))
        self.experts = nn.ModuleList(each)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        flat, real = x.flatten(0, 1), mask.flatten()  # (N, D), (N,)
        with torch.autocast(x.device.type, enabled=False):  # a near tie must not turn on the rounding of bf16
            shares = self.router(flat.to(self.router.weight.dtype)).float().softmax(-1)  # (N, E)
        weights, chosen = shares.topk(self.per_token, dim=-1)  # (N, k)
        if self.per_token > 1:  # a single weight stays a probability, or the router would get no gradient
            weights = weights / weights.sum(-1, keepdim=True)
        result = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            rows, slot = torch.where((chosen == index) & real[:, None])
            part = expert(flat[rows]) * weights[rows, slot, None]
            result = result.index_add(0, rows, part.to(result.dtype))
        return result.view_as(x), self.balance(shares, chosen, real)

    def balance(self, shares: Tensor, chosen: Tensor, real: Tensor) -> Tensor:
        """E · Σ (share of positions sent to an expert · mean probability of it), over real positions."""
        experts = shares.shape[1]
        weight = (real / real.sum().clamp(min=1)).to(shares.dtype)[:, None]  # (N, 1)
        sent = nn.functional.one_hot(chosen, experts).sum(1).to(shares.dtype) / self.per_token  # (N, E)
        return experts * ((weight * sent).sum(0) * (weight * shares).sum(0)).sum()  # no products: autocast takes them
