"""MLP: all features at once, through residual feed-forward layers (Gorishniy et al. 2021, arXiv:2106.11959)."""

# B batch, T positions, D width, F hidden

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dougong.backbones import BackboneConfig, Layers
from dougong.core.config import Count, Fraction, config
from dougong.core.errors import bad_field
from dougong.layers.attention import refuse_memory
from dougong.layers.dropout import Dropout
from dougong.layers.features import Features
from dougong.layers.feedforward import Activation, FeedForward, Linear
from dougong.layers.norms import Norm, make_norm


@config
class Config(BackboneConfig):
    """An MLP: one vector a row comes out. It knows a feature's place only where the inputs fix it (tables, images)."""

    kind: Literal["mlp"] = "mlp"
    hidden: Count | None = None  # width of the vector that comes out; None: `width`
    layers: Layers = 3
    expansion: Count = 2  # each layer's inner width, in hidden widths
    activation: Activation = "relu"
    norm: Norm = "layer"
    dropout: Fraction = 0.0


class Backbone(nn.Module):
    """Features (B, T, D) -> features (B, 1, F)."""

    CAUSAL: ClassVar[bool] = False
    PLACES: ClassVar[bool] = False
    PATCH: ClassVar[int] = 4

    def __init__(self, config: Config, *, positions: int | None, causal: bool = False, axes: int | None = None):
        super().__init__()
        if causal:
            raise _looks_ahead()
        self.positions = positions
        self.out_width = hidden = config.hidden or config.width
        self.enter = Linear(config.width * (positions or 2), hidden)
        self.layers = nn.ModuleList(Layer(config, hidden) for _ in range(config.layers))
        self.norm = make_norm(config.norm, hidden)

    def forward(
        self, x: Features, *, causal: bool = False, memory: Features | None = None, cache: object | None = None
    ) -> Features:
        refuse_memory("mlp", memory)
        if causal or cache is not None:
            raise _looks_ahead()
        values = self.enter(self.flat(x))  # (B, F)
        for layer in self.layers:
            values = layer(values)
        values = self.norm(values)[:, None]  # (B, 1, F)
        return Features(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device), None, x.auxiliary)

    def flat(self, x: Features) -> Tensor:
        """One vector a row: all positions where their number is fixed, else their mean and maximum."""
        if self.positions is not None:
            return x.values.masked_fill(~x.mask[..., None], 0.0).flatten(1)  # (B, T * D)
        lowest = torch.finfo(x.values.dtype).min
        highest = x.values.masked_fill(~x.mask[..., None], lowest).amax(1)  # (B, D)
        highest = highest.masked_fill(~x.mask.any(1, keepdim=True), 0.0)  # a row without any real position
        return torch.cat((x.mean(), highest), dim=1)  # (B, 2 * D)


class Layer(nn.Module):
    """Norm and feed-forward, added to what came in."""

    def __init__(self, config: Config, hidden: int):
        super().__init__()
        self.norm = make_norm(config.norm, hidden)
        self.feedforward = FeedForward(hidden, config.expansion * hidden, config.activation, gain=0.0)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, F) -> (B, F)
        return x + self.dropout(self.feedforward(self.norm(x)))


def _looks_ahead() -> ValueError:
    fix = "use kind: transformer, recurrent or convnet"
    return bad_field("model.kind", "mlp", "a backbone that can look back only", fix)


PRESETS = {
    "tiny": Config(width=16, layers=2),
    "small": Config(width=64, hidden=256),
    "bag": Config(width=16, hidden=32, layers=1),  # of a text's tokens or n-grams
    "base": Config(width=128, hidden=512, layers=6),
}
