"""The feed-forward layer, its activations, and the linear map with a chosen scale at birth."""

# D width, F hidden width

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "relu2", "silu", "gelu", "gelu_tanh", "swiglu", "geglu"]
GATED = ("swiglu", "geglu")  # the gate is activated, which then multiplies (Shazeer 2020, arXiv:2002.05202)


def relu2(x: Tensor) -> Tensor:
    """Squared ReLU (So et al. 2021, arXiv:2109.08668)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": relu2,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2's form
    "swiglu": F.silu,
    "geglu": partial(F.gelu, approximate="tanh"),  # T5's form since 1.1
}


class FeedForward(nn.Module):
    """Up to a hidden width, an activation, down again: (..., D) -> (..., D). `gain` scales the way down at birth."""

    def __init__(self, width: int, hidden: int, activation: Activation, *, bias: bool = True, gain: float = 1.0):
        super().__init__()
        self.up = Linear(width, hidden, bias=bias)
        self.gate = Linear(width, hidden, bias=bias) if activation in GATED else None
        self.down = Linear(hidden, width, bias=bias, gain=gain)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)  # (..., F)
        up = self.activation(up) if self.gate is None else self.activation(self.gate(x)) * up
        return self.down(up)


def hidden_width(width: int, activation: Activation) -> int:
    """The customary hidden width: four times, or with a third matrix as many parameters as that, in steps of 8."""
    return math.ceil(width * 8 / 3 / 8) * 8 if activation in GATED else 4 * width


class Linear(nn.Linear):
    """A linear map that begins with variance gain² / inputs, and a bias of zero.

    With `gain` 0 on the last map of a residual branch the branch begins as the identity: the signal reaches every depth
    unchanged, and no scale has to be tuned to the number of layers (Zhang et al. 2019, arXiv:1901.09321).
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, gain: float = 1.0):
        self.gain = gain  # before super(): its __init__ already asks for reset_parameters
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.gain * self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
