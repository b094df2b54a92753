"""Convnet: residual convolutions along a sequence, or over an image or a clip in stages of falling resolution.

Sequences: dilated convolutions as in Bai et al. 2018 (arXiv:1803.01271). Images: residual blocks, see BLOCKS. Clips: the
same blocks over time as well, each convolution in two parts, over a frame and over time, as in Tran et al. 2018
(arXiv:1711.11248).
"""

# B batch, T positions, D width, C channels, P positions that a kernel looks back
# N the axes of a grid: H height, W width of an image; F frames, H, W of a clip

from __future__ import annotations

import math
from collections.abc import Callable
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
    layers: Layers | tuple[Layers, ...] = 3  # images, clips: or those of each stage, [3, 4, 6, 3]
    kernel: Count = 3  # positions, pixels to a side, or frames that a convolution sees
    dilation: Count | None = None  # sequences: how much further apart each block looks than the one before; None: 2
    stages: Count | None = None  # images, clips: resolutions, each half of the one before; None: 3, or fewer layers
    block: Literal["preactivation", "basic", "bottleneck", "convnext"] = "preactivation"  # images, clips: see BLOCKS
    norm: Literal["batch", "layer"] = (
        "batch"  # images, clips; layer: a row does not depend on its batch, a little worse
    )
    over_time: Literal["apart", "joint"] | None = (
        None  # clips: a convolution of its own, or one of three axes; None: apart
    )
    dropout: Fraction = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.layers, tuple):
            if not self.layers:
                raise bad_field("model.layers", [], "a count, or one for each stage", "use layers: 3")
            if self.stages not in (None, len(self.layers)):
                expected = f"as many as layers has numbers ({len(self.layers)})"
                raise bad_field("model.stages", self.stages, expected, "remove it")
        elif self.stages is not None and self.stages > self.layers:
            expected = f"at most layers ({self.layers})"
            raise bad_field("model.stages", self.stages, expected, f"use layers: {self.stages}")
        if self.block == "bottleneck" and self.width % 4:
            expected = "a multiple of 4: a bottleneck is a quarter as wide"
            raise bad_field("model.width", self.width, expected, f"use width: {-(-self.width // 4) * 4}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Images, clips: of each stage."""
        stages = len(self.depths)
        return tuple(math.ceil(self.width / 2 ** (stages - 1 - stage)) for stage in range(stages))

    def enters(self, axes: int | None) -> int:
        return self.width if axes is None else self.channels[0]

    @property
    def depths(self) -> tuple[int, ...]:
        """Images, clips: the blocks of each stage; what is left over goes to the last ones."""
        if isinstance(self.layers, tuple):
            return self.layers
        stages = self.stages or min(3, self.layers)
        return tuple(self.layers // stages + (stage >= stages - self.layers % stages) for stage in range(stages))


class Backbone(nn.Module):
    """A sequence (B, T, D) -> (B, T, D); a grid of fixed size (B, H·W, D) -> a smaller grid of D.

    Inputs of fixed positions without a grid (a table's columns) are a grid of one row.
    """

    CAUSAL: ClassVar[bool] = True
    PLACES: ClassVar[bool] = True
    PATCH: ClassVar[int] = 1

    def __init__(self, config: Config, *, positions: int | None, causal: bool = False, axes: int | None = None):
        super().__init__()
        self.out_width = config.width
        self.net: Sequence | Image
        if positions is None:
            self.net = Sequence(config)
        else:
            self.net = Image(config, axes or 2, entered=axes is not None)
        self.finer_widths = self.net.finer_widths if isinstance(self.net, Image) else ()

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
        if c.over_time is not None:
            raise bad_field("model.over_time", c.over_time, "nothing for a sequence: it has one axis", "remove it")
        if isinstance(c.layers, tuple):
            expected = "a count for a sequence: it has no stages"
            raise bad_field("model.layers", list(c.layers), expected, f"use layers: {sum(c.layers)}")
        if c.block != "preactivation":
            raise bad_field("model.block", c.block, "preactivation for a sequence", "remove it")
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


# ---------------------------------------------------------------------------------------------------- images and clips


class Image(nn.Module):
    """Residual stages over an image or a clip; from one to the next the resolution halves and the channels double."""

    def __init__(self, config: Config, axes: int, *, entered: bool):
        super().__init__()
        self.axes, c = axes, config
        if c.dilation is not None:
            raise bad_field("model.dilation", c.dilation, "nothing for an image: it has stages", "remove it")
        if c.over_time is not None and axes != 3:
            raise bad_field("model.over_time", c.over_time, "nothing for an image: it has no time", "remove it")
        if c.block == "convnext" and axes != 2:
            raise bad_field("model.block", c.block, "another for clips: convnext is of images", "remove it")
        depths, channels = c.depths, c.channels
        self.finer_widths = channels[:-1]
        # a table's columns come as wide as the last stage
        self.enter = None if entered else CONVS[axes](c.width, channels[0], 1, bias=False)
        self.blocks = nn.ModuleList()
        before = channels[0]
        for depth, after in zip(depths, channels, strict=True):
            for index in range(depth):
                halves = bool(self.blocks) and not index
                self.blocks.append(BLOCKS[c.block](c, axes, before, after, 2 if halves else 1))
                before = after
        self.norm = nn.Identity() if c.block in ("basic", "bottleneck") else _image_norm(c, c.width)
        self.ends_active = c.block != "convnext"

    def reset_parameters(self) -> None:
        if self.enter is not None:
            _fill(self.enter)

    def forward(self, x: Features) -> Features:
        grid = x.grid or (1, x.mask.shape[1])
        if len(grid) != self.axes:
            expected = f"a backbone for features with {len(grid)} axes"
            raise bad_field("model.kind", "convnet", expected, "use kind: transformer")
        values = x.values.transpose(1, 2).unflatten(2, grid)  # (B, D, N)
        values = values.contiguous(memory_format=FASTEST[self.axes])
        mask = None if bool(x.mask.all()) else x.mask.unflatten(1, grid)[:, None]  # (B, 1, N); None: nothing pads
        assert mask is None or self.axes == 2  # a clip has all of its frames
        values = _clear(values if self.enter is None else self.enter(values), mask)
        finer = []
        for block in self.blocks:
            if x.grid and block.stride > 1:  # type: ignore[operator]
                finer.append(_unrolled(values, mask))
            values, mask = block(values, mask)
        values = self.norm(values)  # (B, D, n)
        last = _unrolled(F.relu(values) if self.ends_active else values, mask)
        return replace(x, values=last.values, mask=last.mask, grid=last.grid if x.grid else None, finer=tuple(finer))


class PreActivation(nn.Module):
    """Norm, activation, convolution, twice; added to what came in (averaged and mapped where the shape changes).

    He et al. 2016 (arXiv:1603.05027).
    """

    def __init__(self, config: Config, axes: int, before: int, after: int, stride: int):
        super().__init__()
        self.axes, self.stride = axes, stride
        self.norm1 = _image_norm(config, before)
        self.conv1 = _conv(config, axes, before, after, stride)
        self.norm2 = _image_norm(config, after)
        self.dropout = Dropout(config.dropout)
        self.conv2 = _conv(config, axes, after, after, 1)
        self.shortcut = CONVS[axes](before, after, 1, bias=False) if stride > 1 or before != after else None

    def reset_parameters(self) -> None:
        nn.init.zeros_(last_weight(self.conv2))  # the block begins as its shortcut
        if self.shortcut is not None:
            _fill(self.shortcut, gain=1.0)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:  # (B, C, N), (B, 1, N)
        h = _clear(F.relu(self.norm1(x)), mask)
        if self.shortcut is not None:
            x = self.shortcut(self.halve(h) if self.stride > 1 else h)
        h = self.conv1(h)
        mask = _halved(mask) if self.stride > 1 else mask
        h = self.dropout(_clear(F.relu(self.norm2(h)), mask))
        return x + self.conv2(h), mask

    def halve(self, h: Tensor) -> Tensor:
        """Means of 2 × 2 (He et al. 2019, arXiv:1812.01187); an odd edge is filled with zeros, as padding is."""
        return MEANS[self.axes](_longer(h, [size % 2 for size in h.shape[2:]]), 2)


class PostActivation(nn.Module):
    """Convolutions, each with a norm; added to what came in, and only then activated: He et al. 2015 (arXiv:1512.03385).

    Basic: two of `kernel`. Bottleneck: one of `kernel`, which also halves, between two of 1 × 1, a quarter as wide.
    """

    def __init__(self, config: Config, axes: int, before: int, after: int, stride: int):
        super().__init__()
        self.stride, self.dropout = stride, Dropout(config.dropout)
        if config.block == "basic":
            widths, self.at = [after, after], 0
            convs = [_conv(config, axes, before, after, stride), _conv(config, axes, after, after, 1)]
        else:
            inner = after // 4
            widths, self.at = [inner, inner, after], 1  # the convolution that halves
            first, last = (CONVS[axes](*shape, 1, bias=False) for shape in ((before, inner), (inner, after)))
            convs = [first, _conv(config, axes, inner, inner, stride), last]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(_image_norm(config, width) for width in widths)
        self.shortcut: nn.Module | None = None
        if stride > 1 or before != after:
            self.shortcut = CONVS[axes](before, after, 1, stride=stride, bias=False)
            self.shortcut_norm = _image_norm(config, after)

    def reset_parameters(self) -> None:
        for conv in (*self.convs, self.shortcut):
            if isinstance(conv, nn.Conv2d | nn.Conv3d):
                _fill(conv, gain=1.0 if conv is self.shortcut else math.sqrt(2.0))
        nn.init.zeros_(
            self.norms[-1].get_parameter("weight")
        )  # it begins as its shortcut (Goyal et al. 2017, arXiv:1706.02677)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:  # (B, C, N), (B, 1, N)
        h = x
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = conv(h)
            mask = _halved(mask) if index == self.at and self.stride > 1 else mask
            h = _clear(norm(h), mask)
            h = self.dropout(F.relu(h)) if index < len(self.convs) - 1 else h
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return _clear(F.relu(x + h), mask), mask


class ConvNeXt(nn.Module):
    """A convolution of each channel by itself, then norm and a feed-forward of each pixel, added to what came in.

    Liu et al. 2022 (arXiv:2201.03545), with its scale of each channel that begins near zero. A norm and a convolution of
    2 × 2 stand before the first block of a stage.
    """

    def __init__(self, config: Config, axes: int, before: int, after: int, stride: int):
        super().__init__()
        self.stride = stride
        self.down: nn.Conv2d | None = None
        if stride > 1 or before != after:
            self.down_norm = _image_norm(config, before)
            self.down = nn.Conv2d(before, after, stride, stride=stride)
        self.depthwise = Conv(after, after, config.kernel, 1, groups=after, bias=True)
        self.norm = _image_norm(config, after)
        self.expand = nn.Conv2d(after, 4 * after, 1)
        self.dropout = Dropout(config.dropout)
        self.contract = nn.Conv2d(4 * after, after, 1)
        self.scale = nn.Parameter(torch.empty(after))

    def reset_parameters(self) -> None:
        for conv in (self.depthwise, self.expand, self.contract, self.down):
            if conv is not None:
                _fill(conv, gain=1.0)
        nn.init.constant_(self.scale, 1e-6)

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:  # (B, C, H, W), (B, 1, H, W)
        if self.down is not None:
            x = _clear(self.down_norm(x), mask)
            x = self.down(_longer(x, [size % self.stride for size in x.shape[2:]]))
            mask = _halved(mask) if self.stride > 1 else mask
        h = self.norm(self.depthwise(_clear(x, mask)))
        h = self.contract(self.dropout(F.gelu(self.expand(h))))
        return x + self.scale[:, None, None].to(h.dtype) * h, mask


BLOCKS: dict[str, Callable[[Config, int, int, int, int], nn.Module]] = {
    "preactivation": PreActivation,
    "basic": PostActivation,
    "bottleneck": PostActivation,
    "convnext": ConvNeXt,
}


def _clear(h: Tensor, mask: Tensor | None) -> Tensor:
    """What pads becomes zero, as it is beyond the edge."""
    return h if mask is None else h * mask


def _halved(mask: Tensor | None) -> Tensor | None:  # (B, 1, H, W) bool -> (B, 1, H/2, W/2); a clip has none
    return None if mask is None else F.max_pool2d(mask.float(), 2, ceil_mode=True) > 0


class Conv(nn.Conv2d):
    """A convolution that keeps the grid, or with a stride of 2 halves it, rounded up, whatever the kernel."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, *, groups: int = 1, bias: bool = False):
        padding = (kernel - 1) // 2
        super().__init__(before, after, kernel, stride=stride, padding=padding, groups=groups, bias=bias)

    def reset_parameters(self) -> None:
        _fill(self)

    def forward(self, input: Tensor) -> Tensor:
        return _convolved(super().forward, input, self)


class ClipConv(nn.Conv3d):
    """The same over a clip, with a kernel and a stride for each axis."""

    def __init__(self, before: int, after: int, kernel: tuple[int, ...], stride: tuple[int, ...]):
        padding = tuple((size - 1) // 2 for size in kernel)
        super().__init__(before, after, kernel, stride=stride, padding=padding, bias=False)  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        _fill(self)

    def forward(self, input: Tensor) -> Tensor:
        return _convolved(super().forward, input, self)


class TwoConvs(nn.Sequential):
    """Over a clip: a convolution over each frame, norm, activation, and a convolution over time."""

    def __init__(self, config: Config, before: int, after: int, stride: int):
        size = config.kernel
        frame, time = (1, size, size), (size, 1, 1)
        norm = _image_norm(config, after)
        first = ClipConv(before, after, frame, (1, stride, stride))
        super().__init__(first, norm, nn.ReLU(), ClipConv(after, after, time, (stride, 1, 1)))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that falls back on its running figures where a batch holds a single value for each channel."""

    def _check_input_dim(self, input: Tensor) -> None:
        """A clip has one axis more than an image."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(input, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(input)


class ChannelNorm(LayerNorm):
    """LayerNorm over the channels of each pixel: (B, C, N) -> the same."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


CONVS: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}  # by the axes of a grid
MEANS: dict[int, Callable[..., Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}
FASTEST = {2: torch.channels_last, 3: torch.channels_last_3d}  # the layout that convolutions are fastest in


def _conv(config: Config, axes: int, before: int, after: int, stride: int) -> nn.Module:
    if axes == 2:
        return Conv(before, after, config.kernel, stride)
    if config.over_time == "joint":
        return ClipConv(before, after, (config.kernel,) * 3, (stride,) * 3)
    return TwoConvs(config, before, after, stride)


def _longer(h: Tensor, more: list[int]) -> Tensor:
    """So many zeros at the end of each axis of a grid: (B, C, N) -> the same, or a little more."""
    return F.pad(h, [side for count in reversed(more) for side in (0, count)]) if any(more) else h


def _looking_ahead(h: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """An even kernel looks one further ahead than back."""
    return _longer(h, [1 - size % 2 for size in kernel])


def _convolved(forward: Callable[[Tensor], Tensor], input: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """By its own `forward`; what is shorter than the kernel along an axis, and so is little, in full precision on a CPU.

    torch 2.13's gradients of a kernel's weights in bf16 are wrong there: with avx512_bf16 they hold what was in memory before
    (2 frames and a kernel of 3, images of width 1 and a stride of 2).
    """
    input = _looking_ahead(input, conv.kernel_size)
    short = any(have < size for have, size in zip(input.shape[2:], conv.kernel_size, strict=True))
    if short and input.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            return forward(input.to(conv.weight.dtype))
    return forward(input)


def last_weight(conv: nn.Module) -> Tensor:
    """That of the convolution that a branch ends with."""
    return list(conv.parameters())[-1]


def _unrolled(values: Tensor, mask: Tensor | None) -> Features:
    """(B, C, n) -> features (B, T, C) with their grid."""
    flat = values.flatten(2).transpose(1, 2)
    real = torch.ones(flat.shape[:2], dtype=torch.bool, device=flat.device) if mask is None else mask.flatten(1)
    return Features(flat, real, tuple(values.shape[2:]))


def _image_norm(config: Config, channels: int) -> nn.Module:
    return BatchNorm(channels) if config.norm == "batch" else ChannelNorm(channels)


def _fill(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, gain: float = math.sqrt(2.0)) -> None:
    """Weights of variance gain² / inputs (He et al. 2015: 2 before a ReLU), bias zero."""
    nn.init.normal_(conv.weight, std=gain * conv.weight[0].numel() ** -0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


PRESETS = {
    "tiny": Config(width=16, layers=2),
    "small": Config(),
    "base": Config(width=512, layers=8),
    # He et al. 2015 (arXiv:1512.03385): what follows their stem, in place of which each patch becomes a feature.
    "resnet18": Config(width=512, layers=(2, 2, 2, 2), block="basic"),
    "resnet50": Config(width=2048, layers=(3, 4, 6, 3), block="bottleneck"),
    # Liu et al. 2022 (arXiv:2201.03545), with patch: 4.
    "convnext": Config(width=768, layers=(3, 3, 9, 3), block="convnext", kernel=7, norm="layer"),
}
