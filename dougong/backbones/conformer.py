"""Conformer: attention for what is far, a convolution for what is near, between two half feed-forward layers.

Gulati et al. 2020 (arXiv:2005.08100); places turn queries and keys (rotary) in place of the relative encoding of
Transformer-XL, and the convolution is followed by a layer norm and not a batch norm, which would mix in other rows and their
padding. Residual branches begin at zero (Zhang et al. 2019, arXiv:1901.09321).
"""

# B batch, T positions, D width, F hidden

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dougong.backbones import BackboneConfig, Layers
from dougong.core.config import Count, Fraction, config
from dougong.core.errors import bad_field
from dougong.layers.attention import Attention, refuse_memory
from dougong.layers.dropout import Dropout
from dougong.layers.features import Features
from dougong.layers.feedforward import FeedForward, Linear
from dougong.layers.norms import make_norm
from dougong.layers.positions import Rotary, in_order, real_first, rotary


@config
class Config(BackboneConfig):
    """A conformer of `layers` blocks."""

    kind: Literal["conformer"] = "conformer"
    layers: Layers = 8
    heads: Count = 4
    feedforward: Count | None = None  # hidden width; None: 4 · width
    kernel: Annotated[Count, Field(le=1023)] = 15  # positions that the convolution spans, an odd number
    rotary_base: Annotated[float, Field(gt=0)] = 10_000.0
    dropout: Fraction = 0.0  # of what each branch adds, and of the attention's shares

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            near = math.ceil(self.width / (2 * self.heads)) * 2 * self.heads
            expected = f"a multiple of twice the heads ({2 * self.heads}), which rotary positions turn in pairs"
            raise bad_field("model.width", self.width, expected, f"use width: {near}")
        if self.kernel % 2 == 0:
            raise bad_field("model.kernel", self.kernel, "an odd number", f"use kernel: {self.kernel + 1}")


class Backbone(nn.Module):
    """Features (B, T, D) -> features (B, T, D). Padding may stand anywhere; real positions never see it."""

    CAUSAL: ClassVar[bool] = False  # its convolution looks ahead
    PLACES: ClassVar[bool] = True
    PATCH: ClassVar[int] = 4

    def __init__(self, config: Config, *, positions: int | None, causal: bool = False, axes: int | None = None):
        super().__init__()
        if causal:
            raise _looks_ahead()
        self.config, self.out_width = config, config.width
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(
        self, x: Features, *, causal: bool = False, memory: Features | None = None, cache: object | None = None
    ) -> Features:
        refuse_memory("conformer", memory)
        if causal or cache is not None:
            raise _looks_ahead()
        packed, order = real_first(x)
        places = torch.arange(x.mask.shape[1], device=x.mask.device)[None, :, None]  # (1, T, 1)
        tables = rotary(places, self.config.width // self.config.heads, self.config.rotary_base)
        values = self.dropout(packed.values)
        for block in self.blocks:
            values = block(values, packed.mask, tables)
        return replace(x, values=in_order(values, order))


class Block(nn.Module):
    """Half a feed-forward layer, attention, convolution, the other half; each added to what came in, then a norm."""

    def __init__(self, c: Config):
        super().__init__()
        hidden = c.feedforward or 4 * c.width
        self.before_norm, self.attention_norm, self.after_norm = (make_norm("layer", c.width) for _ in range(3))
        self.before = FeedForward(c.width, hidden, "silu", gain=0.0)
        self.attention = Attention(c.width, c.heads, c.heads, bias=True, qk_norm=True, dropout=c.dropout, gain=0.0)
        self.convolution = Convolution(c.width, c.kernel)
        self.after = FeedForward(c.width, hidden, "silu", gain=0.0)
        self.dropout = Dropout(c.dropout)
        self.norm = make_norm("layer", c.width)

    @property
    def pure(self) -> bool:
        return not self.dropout.p

    def forward(self, x: Tensor, mask: Tensor, tables: Rotary) -> Tensor:  # (B, T, D), (B, T)
        x = x + 0.5 * self.dropout(self.before(self.before_norm(x)))
        h = self.attention_norm(x)
        keys, values = self.attention.keys_values(h, tables)
        x = x + self.dropout(self.attention(h, keys, values, seen=mask[:, None, None, :], tables=tables))
        x = x + self.dropout(self.convolution(x, mask))
        x = x + 0.5 * self.dropout(self.after(self.after_norm(x)))
        return self.norm(x)


class Convolution(nn.Module):
    """What a gate lets in, mixed with its neighbours channel by channel: (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.norm = make_norm("layer", width)
        self.enter = Linear(width, 2 * width)
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.mixed_norm = make_norm("layer", width)
        self.out = Linear(width, width, gain=0.0)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = functional.glu(self.enter(self.norm(x)), dim=-1) * mask[..., None].to(x.dtype)
        h = self.mix(h.transpose(1, 2)).transpose(1, 2)  # (B, T, D)
        return self.out(functional.silu(self.mixed_norm(h)))


def _looks_ahead() -> ValueError:
    fix = "use kind: transformer, recurrent or convnet"
    return bad_field("model.kind", "conformer", "a backbone that can look back only", fix)


PRESETS = {
    "tiny": Config(width=16, layers=1, heads=2, kernel=3),
    "small": Config(width=144, layers=6, heads=4),
    # Gulati et al. 2020, table 1: M, whose positions are 40 ms each, as ours are.
    "medium": Config(width=256, layers=16, heads=4, kernel=31, dropout=0.1),
}
