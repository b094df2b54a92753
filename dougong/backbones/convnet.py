"""Convnet: residual convolutions along a sequence, or over an image in stages of falling resolution.

Sequences: dilated convolutions as in Bai et al. 2018 (arXiv:1803.01271). Images: pre-activation residual blocks, He et
al. 2016 (arXiv:1603.05027).
"""

# B batch, T positions, D width, C channels, H height, W width of the grid, P positions that a kernel looks back

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.backbones import BackboneConfig, Layers, Width
from dougong.core.config import Count, Fraction, config
from dougong.core.errors import bad_field
from dougong.layers.attention import refuse_memory
from dougong.layers.dropout import Dropout
from dougong.layers.features import Features
from dougong.layers.feedforward import Linear
from dougong.layers.norms import LayerNorm, make_norm
from dougong.layers.positions import in_order, real_first


@config
class Config(BackboneConfig):
    """A convolutional network of `layers` residual blocks."""

    kind: Literal["convnet"] = "convnet"
    width: Width = 128  # D; an image's first stages are narrower, its last is as wide as this
    layers: Layers = 3
    kernel: Count = 3  # positions, or pixels to a side, that a convolution sees
    dilation: Count | None = None  # sequences: how much further apart each block looks than the one before; None: 2
    stages: Count | None = None  # images: resolutions, each half of the one before; None: 3, or fewer layers
    norm: Literal["batch", "layer"] = "batch"  # images; layer: a row does not depend on its batch, a little worse
    dropout: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.stages is not None and self.stages > self.layers:
            expected = f"at most layers ({self.layers})"
            raise bad_field("model.stages", self.stages, expected, f"use layers: {self.stages}")


class Backbone(nn.Module):
    """A sequence (B, T, D) -> (B, T, D); a grid of fixed size (B, H·W, D) -> a smaller grid of D.

    Inputs of fixed positions without a grid (a table's columns) are a grid of one row.
    """

    CAUSAL: ClassVar[bool] = True
    PLACES: ClassVar[bool] = True
    PATCH: ClassVar[int] = 1

    def __init__(self, config: Config, *, positions: int | None, causal: bool = False):
        super().__init__()
        self.out_width = config.width
        self.net: Sequence | Image = Sequence(config) if positions is None else Image(config)

    def forward(
        self, x: Features, *, causal: bool = False, memory: Features | None = None, cache: Cache | None = None
    ) -> Features:
        refuse_memory("convnet", memory)
        assert causal or cache is None
        if isinstance(self.net, Sequence):
            return self.net(x, causal, cache)
        if causal:
            fix = "use kind: transformer"
            raise bad_field("model.kind", "convnet", "a backbone that can look back only over a grid or table", fix)
        return self.net(x)

    def refuse_lost_grid(self) -> None:
        """An image whose grid is lost beside other inputs would be read as a single row of pixels."""
        if isinstance(self.net, Image):
            expected = "a backbone that can read an image beside other inputs"
            fix = "use kind: transformer, or give the image an encoder of its own: encoder: {kind: convnet}"
            raise bad_field("model.kind", "convnet", expected, fix)

    def new_cache(self, batch_size: int, capacity: int, device: torch.device, dtype: torch.dtype) -> Cache:
        assert isinstance(self.net, Sequence)
        return Cache(self.net, batch_size, device, dtype)


# ----------------------------------------------------------------------------------------------------------- sequences


class Sequence(nn.Module):
    """Convolutions along T, all of the same width."""

    def __init__(self, config: Config):
        super().__init__()
        c = config
        if c.stages is not None:
            raise bad_field("model.stages", c.stages, "nothing for a sequence: it keeps its resolution", "remove it")
        growth = 2 if c.dilation is None else c.dilation
        # After eight blocks the reach starts anew, or a deep network would look across millions of positions.
        self.blocks = nn.ModuleList(SequenceBlock(c, growth ** (index % 8)) for index in range(c.layers))
        self.norm = make_norm("layer", c.width)

    def forward(self, x: Features, causal: bool, cache: Cache | None) -> Features:
        packed, order = real_first(x)
        values = packed.values  # (B, T, D)
        for index, block in enumerate(self.blocks):
            past = None if cache is None else cache.past[index]
            values, recent = block(values, packed.mask, causal, past)
            if cache is not None:
                cache.past[index] = recent
        return replace(x, values=in_order(self.norm(values), order))


class SequenceBlock(nn.Module):
    """Norm, convolution, activation and a map of zeros at first, added to what came in."""

    def __init__(self, config: Config, dilation: int):
        super().__init__()
        self.reach = (config.kernel - 1) * dilation  # P
        self.norm = make_norm("layer", config.width)  # over channels only: over T it would see padding and the future
        self.conv = nn.Conv1d(config.width, config.width, config.kernel, dilation=dilation)
        self.out = Linear(config.width, config.width, gain=0.0)
        self.dropout = Dropout(config.dropout)

    def reset_parameters(self) -> None:
        _fill(self.conv)

    def forward(self, x: Tensor, mask: Tensor, causal: bool, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, D), and the last P real inputs of the convolution. past: those of the step before."""
        h = self.norm(x).masked_fill(~mask[..., None], 0.0)
        if past is not None:
            h = torch.cat((past.to(h.dtype), h), dim=1)  # (B, P + T, D)
        else:
            left = self.reach if causal else self.reach // 2
            h = F.pad(h, (0, 0, left, self.reach - left))
        y = F.gelu(self.conv(h.transpose(1, 2)).transpose(1, 2))  # (B, T, D)
        return x + self.dropout(self.out(y)), h if past is None else self.recent(h, mask)

    def recent(self, h: Tensor, mask: Tensor) -> Tensor:
        """The P inputs that end with the last real one of each row: (B, P + T, D) -> (B, P, D)."""
        index = mask.sum(1, keepdim=True) + torch.arange(self.reach, device=h.device)  # (B, P)
        return h.gather(1, index[..., None].expand(-1, -1, h.shape[2]))


class Cache:
    """What convolutions along a sequence remember between steps: each block's last inputs, (B, P, D)."""

    def __init__(self, net: Sequence, batch_size: int, device: torch.device, dtype: torch.dtype):
        blocks = [block for block in net.blocks if isinstance(block, SequenceBlock)]
        width = blocks[0].out.out_features
        self.past = [torch.zeros(batch_size, block.reach, width, device=device, dtype=dtype) for block in blocks]
        self.memory = None  # it attends to no encoder

    def choose(self, rows: Tensor) -> None:
        """Go on with these rows (B',), which may repeat."""
        self.past = [past[rows] for past in self.past]


# -------------------------------------------------------------------------------------------------------------- images


class Image(nn.Module):
    """Residual stages; from one to the next the resolution halves and the channels double."""

    def __init__(self, config: Config):
        super().__init__()
        c = config
        if c.dilation is not None:
            raise bad_field("model.dilation", c.dilation, "nothing for an image: it has stages", "remove it")
        stages = c.stages or min(3, c.layers)
        channels = [math.ceil(c.width / 2 ** (stages - 1 - stage)) for stage in range(stages)]
        self.enter = nn.Conv2d(c.width, channels[0], 1, bias=False)
        blocks: list[ImageBlock] = []
        before = channels[0]
        for stage, after in enumerate(channels):
            count = c.layers // stages + (stage >= stages - c.layers % stages)  # what is left over: to the last stages
            for index in range(count):
                blocks.append(ImageBlock(c, before, after, stride=2 if stage and not index else 1))
                before = after
        self.blocks = nn.ModuleList(blocks)
        self.norm = _image_norm(c, c.width)

    def reset_parameters(self) -> None:
        _fill(self.enter)

    def forward(self, x: Features) -> Features:
        grid = x.grid or (1, x.mask.shape[1])
        if len(grid) != 2:
            expected = f"a backbone for features with {len(grid)} axes"
            raise bad_field("model.kind", "convnet", expected, "use kind: transformer")
        values = x.values.transpose(1, 2).unflatten(2, grid)  # (B, D, H, W)
        values = values.contiguous(memory_format=torch.channels_last)  # the layout that convolutions are fastest in
        mask = None if bool(x.mask.all()) else x.mask.unflatten(1, grid)[:, None]  # (B, 1, H, W); None: nothing pads
        values = self.enter(values)
        for block in self.blocks:
            values, mask = block(values, mask)
        values = F.relu(self.norm(values))  # (B, D, h, w)
        shape = (values.shape[2], values.shape[3]) if x.grid else None
        kept = x.mask.new_ones(len(values), values.shape[2] * values.shape[3]) if mask is None else mask.flatten(1)
        return replace(x, values=values.flatten(2).transpose(1, 2), mask=kept, grid=shape)


class ImageBlock(nn.Module):
    """Norm, activation, convolution, twice; added to what came in (averaged and mapped where the shape changes)."""

    def __init__(self, config: Config, before: int, after: int, *, stride: int):
        super().__init__()
        self.stride = stride
        self.norm1 = _image_norm(config, before)
        self.conv1 = Conv(before, after, config.kernel, stride)
        self.norm2 = _image_norm(config, after)
        self.dropout = Dropout(config.dropout)
        self.conv2 = Conv(after, after, config.kernel, 1)
        self.shortcut = nn.Conv2d(before, after, 1, bias=False) if stride > 1 or before != after else None

    def reset_parameters(self) -> None:
        _fill(self.conv1)
        nn.init.zeros_(self.conv2.weight)  # the block begins as its shortcut
        if self.shortcut is not None:
            _fill(self.shortcut, gain=1.0)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:  # (B, C, H, W), (B, 1, H, W)
        h = self.clear(F.relu(self.norm1(x)), mask)
        if self.shortcut is not None:
            x = self.shortcut(self.halve(h) if self.stride > 1 else h)
        h = self.conv1(h)
        if self.stride > 1 and mask is not None:
            mask = F.max_pool2d(mask.to(h.dtype), 2, ceil_mode=True) > 0
        h = self.dropout(self.clear(F.relu(self.norm2(h)), mask))
        return x + self.conv2(h), mask

    def clear(self, h: Tensor, mask: Tensor | None) -> Tensor:
        """What pads becomes zero, as it is beyond the edge."""
        return h if mask is None else h * mask

    def halve(self, h: Tensor) -> Tensor:
        """Means of 2 × 2 (He et al. 2019, arXiv:1812.01187); an odd edge is filled with zeros, as padding is."""
        return F.avg_pool2d(F.pad(h, (0, h.shape[3] % 2, 0, h.shape[2] % 2)), 2)


class Conv(nn.Conv2d):
    """A convolution that keeps the grid, or with a stride of 2 halves it, rounded up, whatever the kernel."""

    def __init__(self, before: int, after: int, kernel: int, stride: int):
        super().__init__(before, after, kernel, stride=stride, padding=(kernel - 1) // 2, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        odd = self.kernel_size[0] % 2
        return super().forward(input if odd else F.pad(input, (0, 1, 0, 1)))  # an even kernel looks one further ahead


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that falls back on its running figures where a batch holds a single value for each channel."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(input)


class ChannelNorm(LayerNorm):
    """LayerNorm over the channels of each pixel: (B, C, H, W) -> the same."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _image_norm(config: Config, channels: int) -> nn.Module:
    return BatchNorm(channels) if config.norm == "batch" else ChannelNorm(channels)


def _fill(conv: nn.Conv1d | nn.Conv2d, gain: float = math.sqrt(2.0)) -> None:
    """Weights of variance gain² / inputs (He et al. 2015: 2 before a ReLU), bias zero."""
    nn.init.normal_(conv.weight, std=gain * conv.weight[0].numel() ** -0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


PRESETS = {
    "tiny": Config(width=16, layers=2),
    "small": Config(),
    "base": Config(width=512, layers=8),
}
